"""Whether numbers are uniform on (0, 1): randomised ranks, tests with one false-alarm rate, bands of the ECDF."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pyro_vae.core.checks import check_int, check_positive_int
from pyro_vae.inference.programs.latents import listed

_WORDS = (("too high", "too low"), ("too wide", "too narrow"), ("of another shape",) * 2)
"""What a negative and a positive score of each test say of the draws that a value is ranked among."""


class RankCounter:
    """Counts how many draws are less than a value and how many equal to it, as they stream by.

    Args:
        value: what is ranked, any shape.
    """

    def __init__(self, value: Tensor) -> None:
        self.value = value
        self.less = torch.zeros(value.shape, dtype=torch.long, device=value.device)
        self.equal = self.less.clone()

    def add(self, draws: Tensor) -> None:
        """Take in draws, shape (k, *value).

        Raises:
            ValueError: if a draw or the value is NaN, which has no rank.
        """
        if draws.isnan().any() or self.value.isnan().any():
            raise ValueError(
                "Expected draws with a rank; one is NaN: the programs' parameters or densities are not finite."
            )
        self.less += (draws < self.value).sum(0)
        self.equal += (draws == self.value).sum(0)


def random_ranks(less: Tensor, equal: Tensor, num_draws: int) -> tuple[Tensor, Tensor]:
    """Return the rank of a value among R draws, ties broken at random, and a uniform number from it.

        r = less + floor(V (equal + 1)) in {0, ..., R},   u = (r + V') / (R + 1),   V, V' ~ U(0, 1)

    If value and draws are exchangeable, r is uniform on the integers and u on (0, 1), exactly, at every R and for
    discrete values as for continuous ones.

    Args:
        less: number of draws below the value.
        equal: number of draws equal to it, same shape.
        num_draws: R.

    Returns:
        r, int64, and u, float64, both of the shape of ``less``.
    """
    ties = (torch.rand(less.shape, dtype=torch.float64, device=less.device) * (equal + 1)).long()
    ranks = less + ties.minimum(equal)
    return ranks, (ranks + torch.rand_like(ties, dtype=torch.float64)) / (num_draws + 1)


@dataclass(frozen=True)
class Uniformity:
    """Tests of uniformity of M columns of N independent numbers, with one false-alarm rate for all.

    Attributes:
        u: the numbers, shape (N, M).
        location: z-score of the mean of u, shape (M,): sqrt(12 N) (mean u - 1/2).
        spread: z-score of the mean of |2 u - 1|, shape (M,); positive where u crowds at both ends.
        distance: Kolmogorov and Smirnov's largest distance of the ECDF from the diagonal, shape (M,).
        raw_p_values: of the three tests, shape (3, M), before any correction.
        labels: names of the columns.
        alpha: the false-alarm rate.
    """

    u: Tensor
    location: Tensor
    spread: Tensor
    distance: Tensor
    raw_p_values: Tensor
    labels: tuple[str, ...]
    alpha: float

    @property
    def p_values(self) -> Tensor:
        """P-value of each column, Bonferroni's over its three tests and Holm's over columns, shape (M,)."""
        return holm(3 * self.raw_p_values.amin(0))

    @property
    def rejected(self) -> Tensor:
        """Which columns are not uniform, shape (M,), boolean; any at all with probability <= alpha if all are."""
        return self.p_values <= self.alpha

    @property
    def accepted(self) -> bool:
        """Whether no column is rejected."""
        return not self.rejected.any()

    @property
    def faults(self) -> dict[str, str]:
        """{label: how the law that the draws came from fails} of rejected columns, by their most significant test."""
        which = self.raw_p_values.argmin(0).tolist()
        positive = (torch.stack([self.location, self.spread, self.distance]) > 0).long().tolist()
        bad = self.rejected.nonzero()[:, 0].tolist()
        return {self.labels[j]: _WORDS[which[j]][positive[which[j]][j]] for j in bad}

    def __str__(self) -> str:
        """Return the result in one line."""
        if self.accepted:
            return f"uniform in all {len(self.labels)} columns at level {self.alpha:g}, N={len(self.u)}"
        named = [f"{label} {words}" for label, words in self.faults.items()]
        return f"{len(named)} of {len(self.labels)} rejected at level {self.alpha:g}, N={len(self.u)}: {listed(named)}"


class Tested:
    """Base class of results that are judged by a test of uniformity: columns with labels, a verdict, and one line."""

    test: Uniformity
    """The test that each column is uniform."""
    subject: ClassVar[str]
    """What is judged, in words."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the columns."""
        return self.test.labels

    @property
    def accepted(self) -> bool:
        """Whether no column is rejected, which has probability >= 1 - alpha if what is judged is right."""
        return self.test.accepted

    def __str__(self) -> str:
        """Return the result in one line."""
        return f"{self.subject}: {self.test}"


def uniformity(u: Tensor, labels: Sequence[str] | None = None, *, alpha: float = 0.05) -> Uniformity:
    """Test each column of u for uniformity on (0, 1).

    Three tests a column: of the mean of u (a shift), of the mean of |2 u - 1|, itself uniform (too wide or too
    narrow), both by the normal law of a mean of N uniforms, and Kolmogorov and Smirnov's by its exact law (any other
    shape). Columns may depend on each other in any way; rows must be independent.

    Args:
        u: numbers, shape (N, M).
        labels: M names; "u[0]", ... if absent.
        alpha: probability of rejecting anything when all is uniform, at most.

    Raises:
        ValueError: if u is no such tensor or has values outside [0, 1], or alpha is not inside (0, 1).

    Source: Holm (1979), A Simple Sequentially Rejective Multiple Test Procedure.
    """
    from scipy.stats import kstwo, norm

    if u.ndim != 2 or not len(u):
        raise ValueError(f"Expected u of shape (N, M) with N >= 1; got {tuple(u.shape)}.")
    if not ((u >= 0) & (u <= 1)).all():
        raise ValueError("Expected u in [0, 1]; got a value outside, or NaN.")
    check_level(alpha, "alpha")
    u, num_data = u.detach().double().cpu(), len(u)
    location, spread = ((12 * num_data) ** 0.5 * (v.mean(0) - 0.5) for v in (u, (2 * u - 1).abs()))
    distance = _distance(u)
    raw = np.stack([*(2 * norm.sf(z.abs().numpy()) for z in (location, spread)), kstwo.sf(distance.numpy(), num_data)])
    names = tuple(labels) if labels is not None else tuple(f"u[{j}]" for j in range(u.shape[1]))
    return Uniformity(u, location, spread, distance, torch.from_numpy(raw), names, alpha)


def check_level(level: float, name: str) -> None:
    """Refuse what is no probability strictly between 0 and 1."""
    if not 0 < level < 1:
        raise ValueError(f"Expected {name} in (0, 1); got {level!r}.")


def _distance(u: Tensor) -> Tensor:
    """Return Kolmogorov and Smirnov's distance of each column, shape (M,)."""
    steps = torch.arange(len(u) + 1, dtype=u.dtype)[:, None] / len(u)
    ordered = u.sort(0).values
    return torch.maximum(steps[1:] - ordered, ordered - steps[:-1]).amax(0)


def holm(p_values: Tensor) -> Tensor:
    """Return Holm's adjusted p-values, shape (M,): reject those <= alpha for a familywise error rate of alpha."""
    order = p_values.argsort()
    factors = torch.arange(len(p_values), 0, -1, dtype=p_values.dtype)
    adjusted = torch.empty_like(p_values)
    adjusted[order] = (p_values[order] * factors).cummax(0).values.clamp(max=1)
    return adjusted


def ecdf_band(num_data: int, num_points: int = 100, *, level: float = 0.95, seed: int = 0) -> tuple[Tensor, ...]:
    """Return a band that holds the whole ECDF of N uniform numbers with a given probability.

    At the points i / P the counts are binomial; the band takes the central interval of each at one level gamma, which
    is calibrated by simulation so that all P hold at once.

    Args:
        num_data: N.
        num_points: P.
        level: simultaneous coverage.
        seed: seed of the 4,000 simulated ECDFs, which put the coverage within about 0.004 of ``level``.

    Returns:
        the points, lower and upper ends of the ECDF, each of shape (P - 1,), float64.

    Source: Säilynoja, Bürkner and Vehtari (2022), Graphical Test for Discrete Uniformity, Algorithm 1.
    """
    from scipy.stats import binom

    check_positive_int(num_data, "num_data")
    check_int(num_points, "num_points", 2, "The ends, 0 and 1, are no points of the band.")
    check_level(level, "level")
    points = np.arange(1, num_points) / num_points
    cells = np.random.default_rng(seed).multinomial(num_data, np.full(num_points, 1 / num_points), size=4000)
    heights = cells.cumsum(1)[:, :-1]
    tails = np.minimum(binom.cdf(heights, num_data, points), binom.sf(heights - 1, num_data, points))
    gamma = np.quantile(2 * tails.min(1), 1 - level)
    lower, upper = (binom.ppf(p, num_data, points) / num_data for p in (gamma / 2, 1 - gamma / 2))
    return torch.from_numpy(points), torch.from_numpy(lower), torch.from_numpy(upper)
