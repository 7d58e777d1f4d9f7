"""Probability integral transform: whether each entry of x is distributed as the model says."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.core.checks import check_positive_int
from pyro_vae.inference.diagnostics.calibration import Counter
from pyro_vae.inference.diagnostics.uniformity import Uniformity, check_level, random_ranks, uniformity
from pyro_vae.inference.programs.call import Data, Program, as_args, check_data
from pyro_vae.inference.programs.loop import batches, counts, evaluating, unit_labels
from pyro_vae.inference.programs.simulate import simulate


@dataclass(frozen=True)
class PIT:
    """Probability integral transforms of the entries of x under the model's predictive.

    Attributes:
        u: shape (N, M), in (0, 1), of the M entries of a datum.
        num_draws: R.
        test: the test that each column is uniform.
    """

    u: Tensor
    num_draws: int
    test: Uniformity

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the entries, "x[0]", "x[1]", ..."""
        return self.test.labels

    @property
    def accepted(self) -> bool:
        """Whether the model passed; if it is true, it does with probability >= 1 - alpha."""
        return self.test.accepted

    def __str__(self) -> str:
        """Return the result in one line."""
        return f"p(x) entry by entry: {self.test}"


def pit(
    model: Program,
    x: Data,
    *,
    num_draws: int = 99,
    alpha: float = 0.05,
    chunk_size: int = 10_000,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> PIT:
    """Place each entry of each datum among draws of the model's predictive p(x).

        u_ni = (#{r: x'_rni < x_ni} + V (#{r: x'_rni = x_ni} + 1)) / (R + 1),   x'_rn ~ p(x),   V ~ U(0, 1)

    is exactly uniform if the model is true, whatever R is, for discrete data as for continuous ones. Every datum has
    draws of its own, so that its u are independent of those of other data. Draws are of the model's own p(x), latents
    and all, and covariates stay with their datum.

    The test has its level for data that the model was not trained on. It looks at one entry at a time: what entries
    have to do with each other is left to ``predictive_check``. Entries under a mask in the model are judged like
    others; leave them out of x or ignore their columns.

    Args:
        model: Pyro program for p(x, z), which observes its data as they were handed in, ``obs=x``.
        x: data, shape (N, *event), or a tuple of tensors.
        num_draws: R.
        alpha: probability of rejecting the true model, at most; see ``uniformity``.
        chunk_size: largest number of (draw, datum) pairs in memory at once.
        seed: seed of the draws; the global generator is left as it was.
        device: "auto" (a GPU where there is one), or a torch device.
        progress: show a progress bar, where there is a terminal to show it.

    Raises:
        ValueError: for data that the model cannot have produced, or a model that ``simulate`` refuses.

    Source: Dawid (1984), Present Position and Potential Developments: the Prequential Approach; for discrete data,
    Czado, Gneiting and Held (2009), Predictive Model Assessment for Count Data, in its randomised form.
    """
    check_data(model, x)
    if any(arg.isnan().any() for arg in as_args(x)):
        raise ValueError("Expected x without missing entries for a PIT, which judges each entry over all data.")
    check_positive_int(num_draws, "num_draws")
    check_level(alpha, "alpha")
    parts, labels = [], []
    with evaluating(model, model, x, seed, device) as args:
        for batch in batches(args, num_draws, chunk_size, "PIT", progress):
            places = simulate(model, batch).places
            labels = [label for name, i in places.items() for label in unit_labels(name, args[i].shape[1:])]
            counter = Counter(_entries(batch, places))
            for count in counts(num_draws, chunk_size // len(batch[0])):
                drawn = simulate(model, tuple(arg.repeat(count, *[1] * (arg.ndim - 1)) for arg in batch))
                counter.add(_entries(drawn.args, places).unflatten(0, (count, -1)))
            parts.append(random_ranks(counter.less, counter.equal, num_draws)[1].cpu())
    u = torch.cat(parts)
    return PIT(u, num_draws, uniformity(u, labels, alpha=alpha))


def _entries(args: tuple[Tensor, ...], places: dict[str, int]) -> Tensor:
    """Return what the model observes of its arguments, entry by entry, shape (N, M)."""
    return torch.cat([args[i].reshape(len(args[i]), -1) for i in places.values()], -1)
