"""Why the ELBO is below log p(x): a family that is too small, or an encoder that does not reach its best member."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.core.checks import check_positive_int
from pyro_vae.inference.programs.call import Data, Program
from pyro_vae.inference.scoring.compare import check_same_data
from pyro_vae.inference.scoring.estimates import Evidence, standard_error
from pyro_vae.inference.scoring.evidence import evidence
from pyro_vae.inference.scoring.importance import IW


@dataclass(frozen=True)
class Gaps:
    """The inference gap of each datum and its two parts, each of shape (N,), in nats.

        log p(x) - ELBO(q) = [log p(x) - ELBO(q*)] + [ELBO(q*) - ELBO(q)]

    Attributes:
        approximation: log p(x) - ELBO(q*), what the best member q* of the family lacks.
        amortization: ELBO(q*) - ELBO(q), what the encoder loses on the way there.
        log_px: the estimate of log p(x) that the first is held against.
    """

    approximation: Tensor
    amortization: Tensor
    log_px: Evidence

    @property
    def inference(self) -> Tensor:
        """The whole gap log p(x) - ELBO(q), shape (N,)."""
        return self.approximation + self.amortization

    @property
    def means(self) -> dict[str, tuple[float, float]]:
        """{part: (mean over data, its standard error over data and Monte Carlo)}, nats per datum."""
        parts = {"approximation": self.approximation, "amortization": self.amortization, "inference": self.inference}
        return {name: (values.mean().item(), standard_error(values)) for name, values in parts.items()}

    def __str__(self) -> str:
        """Return the means in one line."""
        shown = ", ".join(f"{name} {mean:.2f} +- {error:.2f}" for name, (mean, error) in self.means.items())
        return f"gaps: {shown} nats  (K={self.log_px.num_particles}, N={len(self.approximation)})"


def gaps(
    model: Program,
    guide: Program,
    x: Data,
    num_particles: int = 5000,
    *,
    steps: int = 300,
    log_px: Evidence | None = None,
    chunk_size: int = 10_000,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> Gaps:
    """Decompose the inference gap into approximation gap and amortisation gap.

    q* is fitted to each datum from where the guide puts it, as ``methods.IW(refine=steps)`` does, a local optimum:
    the approximation gap is an upper bound on the family's, the amortisation gap a lower one. log p(x) is a
    stochastic lower bound itself, here with q* as the proposal; a better one, such as that of annealed importance
    sampling, can be handed in.

    Args:
        model: Pyro program for p(x, z) with an outermost data plate.
        guide: Pyro program for q(z | x), continuous.
        x: data, shape (N, *event), or a tuple of tensors with the data first.
        num_particles: K, for both ELBOs and for log p(x).
        steps: gradient steps that fit q*.
        log_px: an estimate of log p(x) of the same data to hold the ELBO against.
        chunk_size: largest number of (particle, datum) pairs in memory at once.
        seed: seed of the draws.
        device: "auto" (a GPU where there is one), or a torch device.
        progress: show progress bars.

    Raises:
        ValueError: for a discrete guide, fewer than 1 step, or a ``log_px`` of other data.

    Source: Cremer, Li and Duvenaud (2018), Inference Suboptimality in Variational Autoencoders, section 3.
    """
    check_positive_int(steps, "steps")
    amortized, best = (
        evidence(
            model,
            guide,
            x,
            num_particles,
            method=IW(refine=refine),
            chunk_size=chunk_size,
            seed=seed,
            device=device,
            progress=progress,
        )
        for refine in (0, steps)
    )
    reference = best if log_px is None else log_px
    check_same_data({"the guide": amortized, "log_px": reference})
    return Gaps(reference.log_px - best.elbo, best.elbo - amortized.elbo, reference)
