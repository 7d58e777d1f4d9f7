"""Estimates of log p(x) held against annealing: of real data from below, of simulated data from both sides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.core.checks import check_positive_int, check_seed
from pyro_vae.inference.annealing.sandwich import Sandwich, sandwich
from pyro_vae.inference.programs.call import Data, Program, rows
from pyro_vae.inference.programs.standard_errors import monte_carlo_error
from pyro_vae.inference.scoring.ais import AIS
from pyro_vae.inference.scoring.base import Estimator
from pyro_vae.inference.scoring.estimates import Evidence
from pyro_vae.inference.scoring.evidence import evidence

NUM_ERRORS = 3.0
"""Standard errors of a gap within which it is taken for noise."""
TOLERANCE = 0.05
"""Nats of a mean gap that are let pass in any case; of a single datum, four times as much."""


@dataclass(frozen=True)
class Audit:
    """What annealing from the prior finds on a few data drawn at random, against an estimate of their log p(x).

    Attributes:
        index: which data, shape (n,).
        gap: the annealed estimate minus the other, nats, shape (n,): positive is evidence that the other has missed.
        std_error: Monte Carlo standard error of each, shape (n,).
        method: how they were annealed, in words.
        joint: whether the one datum is all data, of a joint estimate.
    """

    index: Tensor
    gap: Tensor
    std_error: Tensor
    method: str
    joint: bool = False

    @property
    def mean(self) -> float:
        """Mean gap, nats per datum."""
        return self.gap.mean().item()

    @property
    def stderr(self) -> float:
        """Its Monte Carlo standard error, for these data."""
        return monte_carlo_error(self.std_error.square()).item()

    @property
    def missed(self) -> bool:
        """Whether annealing found evidence that the estimate has missed, on average or at a single datum."""
        single = self.gap > 4 * TOLERANCE + (NUM_ERRORS + 1) * self.std_error
        return self.mean > TOLERANCE + NUM_ERRORS * self.stderr or bool(single.any())

    def __str__(self) -> str:
        """Return the gap in one line, and what follows from it."""
        line = (
            f"audit: annealing from the prior finds {self.mean:+.2f} +- {self.stderr:.2f} nats on {len(self.gap)} data "
            f"drawn at random, at most {self.gap.max():+.2f}"
            if not self.joint
            else f"audit: annealing from the prior finds {self.mean:+.2f} +- {self.stderr:.2f} nats in all"
        )
        return f"{line}: the estimate misses a part of p(x)" if self.missed else line


def audit(
    estimate: Evidence,
    num_data: int = 16,
    *,
    num_particles: int = 16,
    num_temperatures: int = 500,
    seed: int = 0,
    compile: bool | str = "auto",
    progress: bool = True,
) -> Audit:
    """Hold an estimate against annealed importance sampling from the prior, on data drawn at random.

    No proposal near one mode sees another, and no diagnostic of its weights does; chains from the prior have no
    proposal that could mislead them. They give a stochastic lower bound too: a negative gap says that the chains are
    too short for these data, and nothing against the estimate.

    Args:
        estimate: what ``evidence`` returned.
        num_data: data, at most all; a joint estimate is of all of them.
        num_particles: chains for each of them.
        num_temperatures: steps of the path.
        seed: of the choice and of the chains.
        compile: as in ``evidence``.
        progress: show a progress bar, where there is a terminal to show it.

    Raises:
        ValueError: for an evidence that was loaded from a file, which holds no programs, or latents that
            annealing refuses.
    """
    check_positive_int(num_data, "num_data")
    source = estimate.source
    if source is None:
        raise ValueError("This evidence holds no programs to audit, as one that was loaded from a file. Score anew.")
    generator = torch.Generator().manual_seed(check_seed(seed) % 2**63)
    index = torch.randperm(len(estimate.log_px), generator=generator)[:num_data].sort().values
    annealed = evidence(
        source.model,
        source.guide,
        (source.args if estimate.joint else rows(source.args, index)),
        num_particles,
        method=AIS(num_temperatures),
        joint=bool(estimate.joint),
        seed=seed,
        device=source.device,
        compile=compile,
        progress=progress,
    )
    error = (annealed.std_error.square() + estimate.std_error[index].square()).sqrt()
    return Audit(index, annealed.log_px - estimate.log_px[index], error, annealed.method, bool(estimate.joint))


@dataclass(frozen=True)
class Bracket:
    """Bounds of log p(x) of simulated data from both sides, and the estimate of the same data.

    Attributes:
        bounds: what ``sandwich`` returned.
        estimate: the ``evidence`` of its data.
    """

    bounds: Sandwich
    estimate: Evidence

    @property
    def inside(self) -> bool:
        """Whether the estimate lies between the bounds on average, within three standard errors of the differences."""
        return self.bounds.contains(self.estimate)

    def numbers(self) -> dict[str, Any]:
        """Return the bounds and the estimate, nats per datum, by name."""
        (below, below_error), (above, above_error) = (
            self.bounds.shortfall(self.estimate),
            self.bounds.excess(self.estimate),
        )
        return {
            "lower": self.bounds.mean_lower,
            "upper": self.bounds.mean_upper,
            "log_px": self.estimate.mean,
            "shortfall": below,
            "shortfall_stderr": below_error,
            "excess": above,
            "excess_stderr": above_error,
            "inside": self.inside,
            "num_data": len(self.bounds.lower),
            "method": self.estimate.method,
        }

    def __str__(self) -> str:
        """Return bounds and estimate in one line, which says that they are of simulated data."""
        n = self.numbers()
        where = "inside" if self.inside else "below" if n["shortfall"] > n["excess"] else "above"
        return (
            f"on {n['num_data']} data simulated from the model: {n['lower']:.3f} <= log p(x) <= {n['upper']:.3f}, "
            f"{self.estimate.title} {n['log_px']:.3f}: {where} (lower - estimate {n['shortfall']:+.3f} +- "
            f"{n['shortfall_stderr']:.3f}, estimate - upper {n['excess']:+.3f} +- {n['excess_stderr']:.3f})"
        )


def certify(
    model: Program,
    guide: Program | None,
    num_data: int = 50,
    num_particles: int | None = None,
    *,
    method: str | Estimator = "auto",
    x: Data | None = None,
    num_temperatures: int = 1000,
    num_chains: int = 8,
    chunk_size: int = 10_000,
    seed: int = 0,
    device: str | torch.device = "auto",
    compile: bool | str = "auto",
    progress: bool = True,
) -> Bracket:
    """Bound log p(x) of data simulated from the model from both sides, and score the same data by a method.

    It says whether the method is right for this model on its own data, which real data may not resemble.

    Args:
        model: Pyro program for p(x, z) that observes its data as they were handed in, ``obs=x``.
        guide: Pyro program for q(z | x), or None.
        num_data: data to simulate, at least 2.
        num_particles: K of the method; its default if absent.
        method: as in ``evidence``.
        x: example data, for programs without an ``event_shape``; see ``sandwich``.
        num_temperatures: steps of the path of the bounds; a wide bracket closes as they are added.
        num_chains: chains of the bounds for each datum and direction.
        chunk_size: largest number of (particle, datum) pairs in memory at once.
        seed: seed of data and draws.
        device: "auto" (a GPU where there is one), or a torch device.
        compile: as in ``evidence``.
        progress: show progress bars.

    Raises:
        ValueError: as ``sandwich`` and ``evidence`` do.

    Source: Grosse, Ancha and Roy (2016), Measuring the reliability of MCMC inference with bidirectional Monte Carlo.
    """
    how: dict[str, Any] = {"chunk_size": chunk_size, "seed": seed, "device": device, "progress": progress}
    bounds = sandwich(model, guide, num_data, x=x, num_particles=num_chains, num_temperatures=num_temperatures, **how)
    return Bracket(bounds, evidence(model, guide, bounds.x, num_particles, method=method, compile=compile, **how))
