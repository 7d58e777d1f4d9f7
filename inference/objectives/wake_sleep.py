"""Reweighted wake-sleep, per datum: the model follows log p(x), the guide the inclusive divergence."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from pyro import poutine
from torch import Tensor

from pyro_vae.inference.objectives.base import Objective
from pyro_vae.inference.objectives.bounds import log_mean_exp
from pyro_vae.inference.objectives.gradients import at_fixed_draws, weighted_sum, with_gradient_of
from pyro_vae.inference.objectives.pairs import PerPair
from pyro_vae.inference.programs.call import Args, Program, fork_rng
from pyro_vae.inference.programs.simulate import simulate
from pyro_vae.inference.programs.sites import sample_sites
from pyro_vae.inference.programs.vectorize import scored
from pyro_vae.inference.programs.weights import sum_terms


class RWS(Objective):
    """Reweighted wake-sleep; the value is the importance-weighted bound L_K, for any guide, discrete ones too.

    wake-theta: the model ascends sum_k w_k d log p(x, z_k), with w normalised over the particles of each datum.
    wake-phi: the guide ascends sum_k w_k d log q(z_k | x), which lessens KL(p(z|x) || q(z|x)) at the data.
    sleep-phi: the guide ascends d log q(z | x) at (z, x) drawn from the model.

    Args:
        num_particles: K, at least 2 for "wake", whose gradient for the guide has mean 0 at K = 1.
        phi: "wake", "sleep", or "both", their mean.
        chunk_size: largest number of (particle, datum) pairs whose graph is in memory at once, all if absent; see
            ``IWAE``.

    Raises:
        ValueError: for another ``phi``, K = 1 with wake, or with sleep where the model cannot be simulated; see
            ``simulate``.

    Source: Bornschein and Bengio (2015), Reweighted Wake-Sleep, section 2.3; Le et al. (2019), section 3.
    """

    gradients: ClassVar = ("wake-sleep",)

    def __init__(self, num_particles: int = 10, phi: str = "wake", chunk_size: int | None = None) -> None:
        super().__init__(num_particles, "wake-sleep", chunk_size)
        if phi not in ("wake", "sleep", "both"):
            raise ValueError(f'Expected phi to be "wake", "sleep" or "both"; got {phi!r}.')
        if phi == "wake":
            self._check_several(num_particles, 'phi="wake"')
        self.phi, self._num_runs = phi, PerPair[int]()

    def bound(self, log_w: Tensor) -> Tensor:
        """Return log-mean-exp of log w over particles."""
        return log_mean_exp(log_w)

    def surrogate(self, model: Program, guide: Program, args: Args) -> Tensor:
        """Return a tensor of shape (B,) with the value of L_K and the wake and sleep gradients."""
        log_w, log_p, log_q = at_fixed_draws(self, model, guide, args)
        weights = log_w.detach().softmax(0)
        wake_model = weighted_sum(weights, log_p)
        wake = weighted_sum(weights, log_q) if self.phi != "sleep" else 0.0
        sleep = self._sleep(model, guide, args) if self.phi != "wake" else 0.0
        surrogate = wake_model + (wake + sleep) / (2 if self.phi == "both" else 1)
        return with_gradient_of(self.bound(log_w.detach()), surrogate)

    def _sleep(self, model: Program, guide: Program, args: Args) -> Tensor:
        """Return log q(z | x) at as many draws of (z, x) from the model as there are data, shape (B,)."""
        num_runs = self._num_runs.get(model, guide, partial(_runs_of, model, args))
        dream = simulate(model, args, num_runs=num_runs)
        trace = scored(poutine.trace(poutine.condition(guide, data=dream.latents)).get_trace(*dream.args))
        sites = sample_sites(trace).items()
        return sum_terms({name: site["unscaled_log_prob"].reshape(len(args[0]), -1).sum(-1) for name, site in sites})


def _runs_of(model: Program, args: Args) -> int:
    with fork_rng(args[0].device):
        return simulate(model, args).num_runs
