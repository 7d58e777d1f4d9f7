"""Schedules of the KL weight, functions of the number of epochs gone by, and one of the learning rate."""

from __future__ import annotations

from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from pyro_vae.core.checks import check_positive_int

Schedule = Callable[[float], float]


def constant(weight: float = 1.0) -> Schedule:
    """Return a schedule that stays at one weight."""
    return lambda epoch: weight


def linear(epochs: int) -> Schedule:
    """Return a schedule that rises from 0 to 1 over a number of epochs, and stays.

    Source: Bowman et al. (2016), Generating Sentences from a Continuous Space, section 3.1.
    """
    check_positive_int(epochs, "epochs of the warm-up")
    return lambda epoch: min(1.0, epoch / epochs)


def cyclical(period: int, ramp: float = 0.5) -> Schedule:
    """Return a schedule that rises from 0 to 1 over the first part of each period, and stays for the rest.

    Args:
        period: epochs of one cycle.
        ramp: the part of a period over which it rises, in (0, 1].

    Source: Fu et al. (2019), Cyclical Annealing Schedule, equation 6.
    """
    check_positive_int(period, "period")
    if not 0 < ramp <= 1:
        raise ValueError(f"Expected ramp in (0, 1]; got {ramp!r}.")
    return lambda epoch: min(1.0, (epoch % period) / (ramp * period))


def as_schedule(warmup: int | Schedule) -> Schedule:
    """Return a schedule as given, or the linear one over that number of epochs; 0 is none.

    Raises:
        ValueError: for a negative number of epochs.
    """
    if callable(warmup):
        return warmup
    return constant() if warmup == 0 else linear(warmup)


class Cosine(CosineAnnealingWarmRestarts):
    """A learning rate that falls to 0 as half a cosine over the epochs, and starts again where training goes on.

    Args:
        optimizer: what it is the learning rate of.
        epochs: epochs until it is 0; in a config those of the training if absent.

    Raises:
        ValueError: without a number of epochs.

    Source: Loshchilov and Hutter (2017), SGDR: Stochastic Gradient Descent with Warm Restarts.
    """

    def __init__(self, optimizer: Optimizer, epochs: int | None = None) -> None:
        if epochs is None:
            raise ValueError("Expected the number of epochs over which the learning rate falls; got None.")
        check_positive_int(epochs, "epochs")
        super().__init__(optimizer, T_0=epochs)
