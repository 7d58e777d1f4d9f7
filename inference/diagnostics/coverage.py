"""Expected coverage: whether the guide's credible regions hold the truth as often as they say."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.core.checks import check_positive_int
from pyro_vae.inference.diagnostics.calibration import Counter, rounded, simulations
from pyro_vae.inference.diagnostics.uniformity import Uniformity, check_level, random_ranks, uniformity
from pyro_vae.inference.objectives.penalised import refuse_auxiliary
from pyro_vae.inference.programs.call import Data, Program
from pyro_vae.inference.programs.loop import evaluating, particle_terms, terms_at
from pyro_vae.inference.programs.simulate import example_data


@dataclass(frozen=True)
class Coverage:
    """Coverage of the guide's regions of highest density.

    Attributes:
        level: the smallest credible level whose region holds the truth, of each simulated datum, shape (N,).
        test: the test that it is uniform.
    """

    level: Tensor
    test: Uniformity

    def at(self, nominal: Tensor | float) -> Tensor:
        """Return the share of data whose truth is in the region of credible level ``nominal``, same shape."""
        nominal = torch.as_tensor(nominal, dtype=self.level.dtype)
        return (self.level <= nominal[..., None]).double().mean(-1)

    @property
    def accepted(self) -> bool:
        """Whether the guide passed; if it is the posterior, it does with probability >= 1 - alpha."""
        return self.test.accepted

    @property
    def verdict(self) -> str:
        """One of calibrated, conservative (regions too large), overconfident (too small) and miscalibrated."""
        if self.accepted:
            return "calibrated"
        fault = next(iter(self.test.faults.values()))
        return {"too high": "conservative", "too low": "overconfident"}.get(fault, "miscalibrated")

    def __str__(self) -> str:
        """Return the result in one line."""
        shares = ", ".join(f"{100 * self.at(a).item():.0f}% at {a:.0%}" for a in (0.5, 0.9))
        return f"coverage of q(z|x): {self.verdict} at level {self.test.alpha:g}, {shares}, N={len(self.level)}"


def expected_coverage(
    model: Program,
    guide: Program,
    num_data: int = 1000,
    *,
    num_draws: int = 99,
    x: Data | None = None,
    alpha: float = 0.05,
    chunk_size: int = 10_000,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> Coverage:
    """Measure how often a region of highest density of q(z|x) holds the z that x was drawn with.

        (z*, x) ~ p(z) p(x|z),   a = P_q(q(z|x) > q(z*|x)),   coverage at level c = P(a <= c)

    The region of credible level c holds z* if a <= c, and a is the rank of log q(z*|x) among L draws. If q is the
    posterior, coverage at c is c. A guide too wide covers more, above the diagonal, which is called conservative; one
    too narrow or shifted covers less. All dimensions are judged at once. A small shift changes coverage only to
    second order, and ``sbc`` sees it sooner. Coverage is an average over x: a guide that ignores x, q(z|x) = p(z),
    has it too, which the column of log p(x|z) in ``sbc`` finds out.

    Args:
        model: Pyro program for p(x, z), which observes its data as they were handed in, ``obs=x``.
        guide: Pyro program for q(z | x), which can score a z that it did not draw.
        num_data: N, the number of simulated data.
        num_draws: L.
        x: example data, shape (M, *event), or a tuple of tensors, for a model without ``event_shape``; covariates
            are taken from it in turn.
        alpha: probability of rejecting an exact guide, at most; see ``uniformity``.
        chunk_size: largest number of (draw, datum) pairs in memory at once.
        seed: seed of the draws; the global generator is left as it was.
        device: "auto" (a GPU where there is one), or a torch device.
        progress: show a progress bar, where there is a terminal to show it.

    Raises:
        ValueError: for programs that ``simulate`` or ``log_weights`` refuses, or a guide with auxiliary sites or
            without an inverse.

    Source: Hermans, Delaunoy, Rozet, Wehenkel, Begy and Louppe (2022), A Crisis in Simulation-Based Inference? Beware,
    Your Posterior Approximations Can Be Unfaithful.
    """
    check_positive_int(num_draws, "num_draws")
    check_level(alpha, "alpha")
    levels = []
    with evaluating(model, guide, example_data(model, num_data, x), seed, device) as args:
        for drawn, plan in simulations(model, guide, args, num_draws, chunk_size, "coverage", progress):
            truth = terms_at(model, guide, drawn.args, drawn.latents, score_guide=True)
            refuse_auxiliary(truth)
            counter = Counter(-rounded(truth.log_q[0]))
            for terms in particle_terms(model, guide, drawn.args, num_draws, chunk_size, plan):
                counter.add(-rounded(terms.log_q))
            levels.append(random_ranks(counter.less, counter.equal, num_draws)[1].cpu())
    level = torch.cat(levels)
    return Coverage(level, uniformity(level[:, None], ["level"], alpha=alpha))
