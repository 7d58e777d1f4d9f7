"""Whether the model fits the data: entry by entry, and by statistics of whole data sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pyro_vae.core.checks import check_positive_int
from pyro_vae.inference.diagnostics.uniformity import (
    RankCounter,
    Tested,
    Uniformity,
    check_level,
    random_ranks,
    uniformity,
)
from pyro_vae.inference.programs.call import Args, Data, Program, as_args, check_data
from pyro_vae.inference.programs.latents import Given, latent_values, unit_labels
from pyro_vae.inference.programs.loop import (
    data_at_once,
    evaluation_on_device,
    progress_bar,
    split_data_with_bar,
    split_particles,
    terms_by_batch,
)
from pyro_vae.inference.programs.places import Place
from pyro_vae.inference.programs.plates import Plates
from pyro_vae.inference.programs.simulate import simulate, with_missing
from pyro_vae.inference.programs.weights import refuse_summed
from pyro_vae.inference.scoring.posterior import Resampler
from pyro_vae.inference.scoring.tail import KHAT_LIMIT, WeightStream

Statistic = Callable[..., Tensor | float]
"""T(x): a whole data set, in the form in which the data were given, to one number."""


@dataclass(frozen=True)
class PIT(Tested):
    """Probability integral transforms of the entries of x under the model's predictive.

    Labels are those of the entries, "x[0]", "x[1]", ...; accepted with probability >= 1 - alpha if the model is true.

    Attributes:
        u: shape (N, M), in (0, 1), of the M entries of a datum.
        num_draws: R.
        test: the test that each column is uniform.
    """

    u: Tensor
    num_draws: int
    test: Uniformity
    subject: ClassVar = "p(x) entry by entry"


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
    with evaluation_on_device(model, model, x, seed, device) as args:
        for batch in split_data_with_bar(args, data_at_once(len(args[0]), num_draws, chunk_size), "PIT", progress):
            places = simulate(model, batch).places
            labels = [label for name, place in places.items() for label in _labels(name, place, batch)]
            counter = RankCounter(_entries(batch, places))
            for count in split_particles(num_draws, len(batch[0]), chunk_size):
                drawn = simulate(model, tuple(arg.repeat(count, *[1] * (arg.ndim - 1)) for arg in batch))
                counter.add(_entries(drawn.args, drawn.places).unflatten(0, (count, -1)))
            parts.append(random_ranks(counter.less, counter.equal, num_draws)[1].cpu())
    u = torch.cat(parts)
    return PIT(u, num_draws, uniformity(u, labels, alpha=alpha))


def _entries(args: Args, places: dict[str, Place]) -> Tensor:
    """Return what the model observes of its arguments, entry by entry, shape (N, M)."""
    return torch.cat([place.of(args).reshape(len(args[0]), -1) for place in places.values()], -1)


def _labels(name: str, place: Place, args: Args) -> list[str]:
    """Name the entries of a datum that a site observes."""
    return unit_labels(name, place.of(args).shape[1:])


@dataclass(frozen=True)
class PredictiveCheck:
    """Test statistics of the data and of R replicated data sets.

    Attributes:
        observed: {name: T(x)}.
        replicated: {name: T(x_rep), shape (R,)}.
        kind: "posterior" or "prior".
        khat: Pareto k-hat of each datum's weights, shape (N,); None for "prior".
    """

    observed: dict[str, float]
    replicated: dict[str, Tensor]
    kind: str
    khat: Tensor | None = None

    @property
    def num_draws(self) -> int:
        """R, the number of replicated data sets."""
        return len(next(iter(self.replicated.values())))

    @property
    def upper(self) -> dict[str, float]:
        """{name: P(T(x_rep) >= T(x))}, as (1 + number of such replicates) / (1 + R)."""
        return {name: self._tail(draws >= self.observed[name]) for name, draws in self.replicated.items()}

    @property
    def lower(self) -> dict[str, float]:
        """{name: P(T(x_rep) <= T(x))}, as (1 + number of such replicates) / (1 + R)."""
        return {name: self._tail(draws <= self.observed[name]) for name, draws in self.replicated.items()}

    @property
    def two_sided(self) -> dict[str, float]:
        """{name: twice the smaller tail, at most 1}."""
        lower = self.lower
        return {name: min(1.0, 2 * min(p, lower[name])) for name, p in self.upper.items()}

    @property
    def mc_error(self) -> dict[str, float]:
        """{name: Monte Carlo standard error of the smaller tail}, sqrt(p (1 - p) / R)."""
        lower = self.lower
        tails = {name: min(p, lower[name]) for name, p in self.upper.items()}
        return {name: (p * (1 - p) / self.num_draws) ** 0.5 for name, p in tails.items()}

    def _tail(self, hits: Tensor) -> float:
        return (1 + int(hits.sum())) / (1 + len(hits))

    def __str__(self) -> str:
        """Return the result in one line."""
        errors = self.mc_error
        p_values = ", ".join(f"{name} p = {p:.3f} +- {2 * errors[name]:.3f}" for name, p in self.two_sided.items())
        khat = (
            ""
            if self.khat is None
            else f", k-hat > {KHAT_LIMIT}: {int((self.khat > KHAT_LIMIT).sum())} of {len(self.khat)}"
        )
        return f"{self.kind} predictive check: {p_values}  (R={self.num_draws}{khat})"


def predictive_check(
    model: Program,
    guide: Program | None,
    x: Data,
    statistics: Mapping[str, Statistic],
    *,
    kind: str = "posterior",
    num_draws: int = 200,
    num_particles: int = 1000,
    chunk_size: int = 10_000,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> PredictiveCheck:
    """Compare test statistics of the data with those of data sets that the model replicates.

        posterior: x_rep_n ~ p(x|z_n), z_n ~ p(z|x_n);   prior: x_rep_n ~ p(x)
        P(T(x_rep) >= T(x)),   both one-sided and two-sided

    Posterior draws do not trust the guide: K of its draws are resampled by their importance weights, whose k-hat says
    where that fails. R data sets are replicated and handed to the statistics one at a time; memory holds one of them,
    R latents for each datum, and ``chunk_size`` pairs.

    A "prior" p-value of the true model is uniform, and the one to judge p(x) by. A "posterior" p-value is conservative
    (Meng, 1994: it crowds around 1/2): each datum chooses the latents that it is then compared with, so that with
    latents of their own for every datum only gross misfit of p(x|z) shows. Neither has its level for data
    that the model was trained on.

    Entries that are missing in the data, NaN, are missing in the replicates too.

    Args:
        model: Pyro program for p(x, z), which observes its data as they were handed in, ``obs=x``.
        guide: Pyro program for q(z | x); not used, and may be None, for kind "prior".
        x: data, shape (N, *event), or a tuple of tensors.
        statistics: {name: T}, called with a data set in the form of x, to return one number.
        kind: "posterior" or "prior".
        num_draws: R.
        num_particles: K, for kind "posterior".
        chunk_size: largest number of (particle, datum) pairs in memory at once.
        seed: seed of the draws; the global generator is left as it was.
        device: "auto" (a GPU where there is one), or a torch device.
        progress: show a progress bar, where there is a terminal to show it.

    Raises:
        ValueError: for another kind, no statistics, one that is not a number, data of probability 0 under every
            particle, or programs that ``simulate`` or ``log_weights`` refuses.

    Source: Gelman, Meng and Stern (1996), Posterior Predictive Assessment of Model Fitness via Realized Discrepancies;
    Box (1980), Sampling and Bayes' Inference in Scientific Modelling and Robustness, for the prior.
    """
    if kind not in ("posterior", "prior"):
        raise ValueError(f'Expected kind to be "posterior" or "prior"; got {kind!r}.')
    if not statistics:
        raise ValueError('Expected at least one statistic, such as {"mean": torch.mean}; got none.')
    if kind == "posterior" and guide is None:
        raise ValueError('Expected a guide for kind "posterior"; got None. Give one, or kind="prior".')
    check_positive_int(num_draws, "num_draws")
    check_positive_int(num_particles, "num_particles")
    check_data(model, x)
    latents, khat, plates = None, None, None
    proposal = model if guide is None else guide
    with evaluation_on_device(model, proposal, x, seed, device) as args:
        observed = _evaluate(statistics, args, x)
        if kind == "posterior":
            found = _posterior(model, proposal, args, num_draws, num_particles, chunk_size, progress)
            latents, khat, plates = found
        rows = []
        with progress_bar(num_draws, progress, "replicates", unit="data set") as bar:
            for draw in range(num_draws):
                chosen = {name: value[draw] for name, value in (latents or {}).items()}
                rows.append(_evaluate(statistics, _replicate(model, args, chosen, plates, chunk_size), x))
                bar.update()
    replicated = {name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in statistics}
    return PredictiveCheck(observed, replicated, kind, khat)


def _evaluate(statistics: Mapping[str, Statistic], args: Args, like: Data) -> dict[str, float]:
    """Return every statistic of a data set, refusing what is not a number."""
    values = {}
    for name, statistic in statistics.items():
        value = torch.as_tensor(statistic(args if isinstance(like, tuple) else args[0]))
        if value.numel() != 1 or value.isnan().any():
            raise ValueError(f"Expected statistic {name!r} to return one number; got {value.tolist()!r:.80}.")
        values[name] = float(value)
    return values


def _posterior(
    model: Program, guide: Program, args: Args, num_draws: int, num_particles: int, chunk_size: int, progress: bool
) -> tuple[dict[str, Tensor], Tensor, Plates | None]:
    """Return {site: draws of p(z|x), shape (R, N, ...)}, k-hat of the weights, shape (N,), and how the plates lie."""
    parts, khats, plates = [], [], None
    for batch, chunks in terms_by_batch(model, guide, args, num_particles, chunk_size, "posterior", progress):
        resampler = Resampler(num_draws, len(batch[0]))
        stream = WeightStream(len(batch[0]), num_particles, batch[0].device)
        for terms in chunks:
            refuse_summed(terms)
            stream.add(terms.log_w)
            plates = terms.plates
            resampler.add(terms.log_w, latent_values(terms))
        if not resampler.log_sum.isfinite().all():
            raise ValueError("A datum has probability 0, or one that is not finite, at every particle: no posterior.")
        parts.append(resampler.latents)
        khats.append(stream.summary().khat)
    return {name: torch.cat([part[name] for part in parts], 1) for name in parts[0]}, torch.cat(khats), plates


def _replicate(model: Program, args: Args, latents: dict[str, Tensor], plates: Plates | None, chunk_size: int) -> Args:
    """Draw a data set at latents of shape (N, ...), or at latents from the prior where there are none."""
    parts = []
    for rows in torch.arange(len(args[0]), device=args[0].device).split(chunk_size):
        batch = tuple(arg[rows] for arg in args)
        one = {name: value[None, rows] for name, value in latents.items()}
        program = model if plates is None else Given(one, plates.single)(model)
        parts.append(with_missing(simulate(program, batch), batch).args)
    return tuple(torch.cat(columns) for columns in zip(*parts, strict=True))
