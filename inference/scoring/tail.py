"""Importance weights while they stream by: moments, bounds, and Pareto k-hat of their tail."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.inference.programs.standard_errors import error_of_log_mean, standard_error

KHAT_LIMIT = 0.7
"""Above it importance weights are not to be trusted (Vehtari et al., 2024)."""
LEAST_TAIL = 6
"""Weights that k-hat takes at the least."""
FLAT = 1e-4
"""Nats within which the largest weights count as equal: such a difference is rounding in single precision."""


def tail_length(num_particles: int) -> int:
    """Return M, the number of largest weights that k-hat is fitted to.

    M = ceil(min(K / 5, 3 sqrt(K))).

    Source: Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto Smoothed Importance Sampling, JMLR 25(72).
    """
    return math.ceil(min(num_particles / 5, 3 * math.sqrt(num_particles)))


def pareto_khat(log_w: Tensor) -> Tensor:
    """Return the Pareto shape k-hat of the upper tail of the weights, by ArviZ's own fit.

    Above 0.7 the estimate of log p(x) and its standard error cannot be trusted at this K. Below, they may
    still be wrong where the guide misses a mode: a sample that never visits it cannot show it.

    Args:
        log_w: log weights, shape (K, N).

    Returns:
        k-hat, shape (N,), float64: -inf where the M largest weights are equal to 1e-4 nats, +inf where no more than
        M of them are above 0, NaN where K < 26 leaves a tail of fewer than six.

    Source: Vehtari et al. (2024), Pareto Smoothed Importance Sampling, JMLR 25(72).
    """
    num_particles = log_w.shape[0]
    top = log_w.topk(min(tail_length(num_particles) + 1, num_particles), dim=0).values
    return khat_from_tail(top)


def khat_from_tail(top: Tensor) -> Tensor:
    """Return k-hat from the M + 1 largest log weights, shape (M + 1, N), in descending order.

    Raises nothing for a degenerate tail; see ``pareto_khat`` for what it returns.
    """
    tail = top.detach().double().cpu().T.numpy()
    num_tail = tail.shape[1] - 1
    if num_tail < LEAST_TAIL:
        return torch.full((len(tail),), math.nan, dtype=torch.float64)
    khat = np.full(len(tail), np.inf)  # fewer than M + 1 weights above 0: all rests on a handful of draws
    finite = np.isfinite(tail).all(1)
    # Of the M largest alone: where they tie, as with discrete latents, they are bounded and there is nothing to fit.
    spread = np.subtract(tail[:, 0], tail[:, -2], where=finite, out=np.zeros(len(tail)))
    khat[finite] = -np.inf
    fitted = spread > FLAT
    if fitted.any():
        # ArviZ takes the top M of 5 M weights when r_eff <= 45 / M; those below the cutoff are never looked at.
        padding = np.repeat(tail[fitted, -1:] - 1.0, 4 * num_tail - 1, axis=1)
        khat[fitted] = _arviz_khat(np.concatenate([tail[fitted], padding], axis=1), min(1.0, 40 / num_tail))
    return torch.from_numpy(khat)


def _arviz_khat(log_w: np.ndarray, r_eff: float) -> np.ndarray:
    """Call the Pareto fit of ArviZ 0.x or 1.x on log weights of shape (N, K)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*ArviZ is undergoing", category=FutureWarning)
        import arviz as az
    with np.errstate(over="ignore"):  # in ArviZ's fit: a candidate of weight 1/inf = 0
        if hasattr(az, "psislw"):
            return np.asarray(az.psislw(log_w, reff=r_eff)[1])
        from arviz_stats.base import array_stats

        # ArviZ 1.x takes log likelihoods and negates them; 0.x takes the log weights themselves.
        return np.asarray(array_stats.psislw(-log_w, r_eff=r_eff)[1])


class WeightStream:
    """Everything that is kept of log w for one chunk of data while particles stream by.

    Memory: a fixed number of vectors of length B, plus M + 1 <= 3 sqrt(K) + 2 of them for the tail and
    log2(K) for the curve; never K of them.

    Args:
        num_data: B.
        num_particles: K, the total to come.
        device: where the log weights are.
    """

    def __init__(self, num_data: int, num_particles: int, device: torch.device) -> None:
        self.num_particles = num_particles
        self.log_sum = torch.full((num_data,), -math.inf, dtype=torch.float64, device=device)
        self.log_sum_squares = self.log_sum.clone()
        self.sum = torch.zeros_like(self.log_sum)
        self.top = torch.empty(0, num_data, dtype=torch.float64, device=device)
        self.curve = BoundCurve()
        self.accepted: Tensor | None = None

    def add(self, log_w: Tensor, acceptance: Tensor | None = None) -> None:
        """Take in a chunk of log weights, shape (k, B), and the rate of acceptance behind them, shape (B,)."""
        log_w = log_w.double()
        if acceptance is not None:
            before = 0.0 if self.accepted is None else self.accepted
            self.accepted = before + acceptance.double() * len(log_w) / self.num_particles
        self.sum += log_w.sum(0)
        self.log_sum = torch.logaddexp(self.log_sum, log_w.logsumexp(0))
        self.log_sum_squares = torch.logaddexp(self.log_sum_squares, (2 * log_w).logsumexp(0))
        top = torch.cat([self.top, log_w])
        self.top = top.topk(min(tail_length(self.num_particles) + 1, len(top)), dim=0).values
        self.curve.add(log_w)

    def summary(self) -> WeightSummary:
        """Return the estimates that the weights so far give; all K must have been added."""
        log_px = self.log_sum - math.log(self.num_particles)
        ess = (2 * self.log_sum - self.log_sum_squares).exp()
        return WeightSummary(
            log_px=log_px.cpu(),
            std_error=error_of_log_mean(self.num_particles / ess, self.num_particles).cpu(),
            ess=ess.cpu(),
            elbo=(self.sum / self.num_particles).cpu(),
            khat=khat_from_tail(self.top),
            counts=torch.full((len(ess),), self.num_particles),
            bounds=self.curve.bounds() | {self.num_particles: log_px.cpu()},
            acceptance=None if self.accepted is None else self.accepted.cpu(),
        )


def summarize(
    log_w: Iterable[Tensor], num_data: int, num_particles: int, device: torch.device, further: int = 0
) -> WeightSummary:
    """Return the summary of K log weights of each of B data, from chunks of shape (k, B).

    Args:
        log_w: the chunks.
        num_data: B.
        num_particles: K.
        device: where they are.
        further: K of draws to come, whose k-hat these are to foretell: it is that of the far tail too, as small a share
            of these draws as M is of those, where that is larger.
    """
    stream = WeightStream(num_data, num_particles, device)
    for chunk in log_w:
        stream.add(chunk)
    summary = stream.summary()
    far = num_particles * tail_length(further) // further if further else 0
    if far < LEAST_TAIL:
        return summary
    return replace(summary, khat=summary.khat.maximum(khat_from_tail(stream.top[: far + 1])))


def summary_of(log_w: Tensor, further: int = 0) -> WeightSummary:
    """Return the summary of all log weights at once, shape (K, B); see ``summarize``."""
    return summarize([log_w], log_w.shape[1], len(log_w), log_w.device, further)


class JackknifeStream(WeightStream):
    """The same with all K weights kept, for the estimate without its bias of first order; see ``Jackknife``."""

    def __init__(self, num_data: int, num_particles: int, device: torch.device) -> None:
        super().__init__(num_data, num_particles, device)
        self.chunks: list[Tensor] = []

    def add(self, log_w: Tensor, acceptance: Tensor | None = None) -> None:
        """Take in a chunk of log weights, shape (k, B), and the rate of acceptance behind them, shape (B,)."""
        super().add(log_w, acceptance)
        self.chunks.append(log_w.double())

    def summary(self) -> WeightSummary:
        """Return the estimates that the weights so far give; all K must have been added."""
        log_px, std_error = jackknife(torch.cat(self.chunks))
        return replace(super().summary(), log_px=log_px.cpu(), std_error=std_error.cpu())


def jackknife(log_w: Tensor) -> tuple[Tensor, Tensor]:
    """Return the jackknife estimate of log p(x) and its standard error, each of shape (B,), in nats.

        J = mean_i p_i,   p_i = K L_K - (K - 1) L_(K-1) without i,   se^2 = Var(p_i) / K

    Args:
        log_w: log weights, shape (K, B).

    Returns:
        L_K itself and NaN for K = 1, and where no more than one weight is above 0.
    """
    count = len(log_w)
    bound = log_w.logsumexp(0) - math.log(count)
    if count == 1:
        return bound, torch.full_like(bound, math.nan)
    left = _sums_without_each(log_w) - math.log(count - 1)
    pseudo = count * bound - (count - 1) * left
    defined = left.isfinite().all(0)
    estimate = torch.where(defined, pseudo.mean(0), bound)
    return estimate, torch.where(defined, standard_error(pseudo), torch.nan)


def _sums_without_each(log_w: Tensor) -> Tensor:
    """Return logsumexp of the others for each particle, shape (K, B); the largest is not subtracted but left out."""
    total = log_w.logsumexp(0)
    largest = log_w.argmax(0, keepdim=True)
    share = (log_w - total).exp().scatter(0, largest, 0.0)
    others = log_w.scatter(0, largest, -math.inf).logsumexp(0, keepdim=True)
    return (total + torch.log1p(-share)).scatter(0, largest, others)


@dataclass(frozen=True)
class WeightSummary:
    """What a stream of weights comes down to, each of shape (B,) and on the CPU; see ``Evidence``.

    ``counts`` is K of each datum; where there are several estimators, ``choice`` is the number of each datum's and
    ``no_mode`` whether no mode of its posterior was found, and ``seconds`` says how long each estimator took.
    """

    log_px: Tensor
    std_error: Tensor
    ess: Tensor
    elbo: Tensor
    khat: Tensor
    counts: Tensor
    bounds: dict[int, Tensor]
    acceptance: Tensor | None = None
    choice: Tensor | None = None
    no_mode: Tensor | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """Return all of it by name, for a file."""
        named = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        named |= {f"bounds:{k}": bound for k, bound in self.bounds.items()}
        return named | {f"seconds:{name}": torch.tensor(value) for name, value in self.seconds.items()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> WeightSummary:
        """Take up what ``tensors`` returned."""
        bounds = {int(name[7:]): value for name, value in tensors.items() if name.startswith("bounds:")}
        seconds = {name[8:]: value.item() for name, value in tensors.items() if name.startswith("seconds:")}
        return cls(**{n: v for n, v in tensors.items() if ":" not in n}, bounds=bounds, seconds=seconds)

    @classmethod
    def join(cls, parts: list[WeightSummary]) -> WeightSummary:
        """Return the summary of the data of several, one after another, with their seconds added up."""
        first = parts[0]
        named = [n for n, value in vars(first).items() if isinstance(value, Tensor)]
        seconds = {name: sum(part.seconds[name] for part in parts) for name in first.seconds}
        return cls(
            **{name: torch.cat([getattr(part, name) for part in parts]) for name in named},
            bounds={k: torch.cat([part.bounds[k] for part in parts]) for k in first.bounds},
            seconds=seconds,
        )

    def put(self, chosen: Tensor, other: WeightSummary) -> WeightSummary:
        """Return the summary with that of others in the place of the data that are chosen, shape (B,)."""
        named: dict[str, Any] = {n: v.clone() for n, v in vars(self).items() if isinstance(v, Tensor)}
        for name, values in named.items():
            values[chosen] = getattr(other, name)
        return WeightSummary(**named, bounds=self.bounds)

    def at(self, index: Tensor) -> WeightSummary:
        """Return the summary of some of the data, without the seconds."""
        named: dict[str, Any] = {n: value[index] for n, value in vars(self).items() if isinstance(value, Tensor)}
        return WeightSummary(**named, bounds={k: bound[index] for k, bound in self.bounds.items()})


class BoundCurve:
    """The bounds L_1, L_2, L_4, ... from one stream of log weights, each the mean over disjoint blocks.

    Blocks of 2^j particles are merged in pairs like the carries of a binary counter, so that log2(K) partial
    blocks are all that is kept. Particles that fill no whole block of a size are left out at that size.
    """

    def __init__(self) -> None:
        self._sums: list[Tensor] = []
        self._counts: list[int] = []
        self._open: dict[int, Tensor] = {}

    def add(self, log_w: Tensor) -> None:
        """Take in a chunk of log weights, shape (k, B)."""
        level, blocks = 0, log_w
        while len(blocks):
            self._record(level, blocks)
            if level in self._open:
                blocks = torch.cat([self._open.pop(level)[None], blocks])
            if len(blocks) % 2:
                self._open[level] = blocks[-1]
            pairs = len(blocks) // 2
            blocks = blocks[: 2 * pairs].unflatten(0, (pairs, 2)).logsumexp(1) if pairs else blocks[:0]
            level += 1

    def _record(self, level: int, blocks: Tensor) -> None:
        bounds = (blocks - level * math.log(2)).sum(0)
        if level == len(self._sums):
            self._sums.append(torch.zeros_like(bounds))
            self._counts.append(0)
        self._sums[level] = self._sums[level] + bounds
        self._counts[level] += len(blocks)

    def bounds(self) -> dict[int, Tensor]:
        """Return {k: estimate of L_k for each datum, shape (B,)}."""
        pairs = zip(self._sums, self._counts, strict=True)
        return {2**level: (total / count).cpu() for level, (total, count) in enumerate(pairs)}
