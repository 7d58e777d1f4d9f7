"""The report of a run: one HTML page with everything in it, to be read by eye."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.core.files import atomic_path
from pyro_vae.inference.programs.call import fork_rng, training_mode
from pyro_vae.inference.scoring.estimates import KHAT_LIMIT, Evidence
from pyro_vae.report import figures as plots
from pyro_vae.report import page as _page
from pyro_vae.report import pictures
from pyro_vae.report import pictures as views

_BLIND = (
    "What k-hat cannot see: a mode of p(z|x) that the guide never visits. No draw lands there, so log p(x) comes "
    "out too low, and neither k-hat, nor the standard error, nor the ESS shows it."
)


def doubts(evidence: Evidence) -> list[str]:
    """Say in sentences what makes an estimate of log p(x) doubtful; empty where nothing does."""
    count, num_data = evidence.num_unreliable, len(evidence.log_px)
    infinite = int((~evidence.log_px.isfinite()).sum())
    gain, k = _last_gain(evidence)
    notes = (
        (
            count > 0,
            f"{count} of {num_data} data have k-hat above {KHAT_LIMIT}: a few draws carry nearly all of their weight, "
            "so that neither their log p(x) nor its Monte Carlo error can be trusted, and log p(x) is most likely too "
            "low. More than a larger K helps a guide with heavier tails, a richer family, or one fitted to each datum "
            "(evaluate --method IW --method.refine 300); annealed importance sampling (--method AIS) does without one.",
        ),
        (
            bool(evidence.khat.isnan().all()),
            "There is no k-hat, since it needs K of at least 26: whether to trust the weights is unknown.",
        ),
        (infinite > 0, f"{infinite} of {num_data} data have log p(x) = -inf: no draw gave them any density."),
        (
            gain > evidence.stderr,
            f"The bound still gained {gain:.2f} nats from k = {k} to {evidence.num_particles}, more than its standard "
            "error over data: K is too small, and log p(x) is an underestimate.",
        ),
        (num_data == 1, "One datum says nothing about others: there is no standard error over data."),
    )
    return [note for holds, note in notes if holds]


def warnings(evidence: Evidence) -> str:
    """Say what makes the result doubtful, and what no diagnostic here would notice."""
    return "".join(_page.paragraph(note, "warning") for note in doubts(evidence)) + _page.paragraph(_BLIND)


def _last_gain(evidence: Evidence) -> tuple[float, int]:
    """Return L_K - L_k for the largest k <= K / 2 on the curve, in nats, and that k; NaN and 0 for K = 1."""
    half = [k for k in evidence.curve if 2 * k <= evidence.num_particles]
    last, _ = evidence.curve[evidence.num_particles]
    return (last - evidence.curve[max(half)][0], max(half)) if half else (math.nan, 0)


def evidence_section(evidence: Evidence) -> str:
    """Return the section on log p(x): its numbers, its histogram, its curve over K, and its k-hat."""
    parts = [_numbers(evidence), _histogram(evidence)]
    if evidence.num_particles > 1:
        parts += [_bound(evidence), _khat(evidence)]
    return _page.section("log p(x)", "".join(parts))


def _numbers(evidence: Evidence) -> str:
    """Tabulate the parts of the result, each with what it means."""
    elbo, share = evidence.elbo.mean().item(), (evidence.ess / evidence.num_particles).median().item()
    rows = [
        ("mean log p(x)", evidence.mean, 3, f"nats per datum, K = {evidence.num_particles}"),
        ("its standard error", evidence.stderr, 3, "nats, over data and Monte Carlo"),
        ("Monte Carlo part", evidence.mc_stderr, 4, "nats, already contained in the line above"),
        (
            "its bias",
            evidence.bias,
            4,
            f"nats, first order, {'taken off' if evidence.debiased else 'not corrected for'}",
        ),
        ("ELBO", elbo, 3, f"nats per datum, {evidence.mean - elbo:.3f} below log p(x)"),
        ("median ESS / K", share, 3, "1 where the guide is the exact posterior"),
    ]
    if evidence.acceptance is not None:
        median = evidence.acceptance.median().item()
        rows.append(("median acceptance", median, 2, "of Hamiltonian Monte Carlo; step sizes were tuned to 0.65"))
    cells = [(name, _page.decimal(value, digits), meaning) for name, value, digits, meaning in rows]
    return _page.table(("quantity", "value", "what it is"), cells)


def _histogram(evidence: Evidence) -> str:
    return _page.figure(
        plots.log_px_histogram(evidence),
        f"Histogram of log p(x) of {len(evidence.log_px)} data, mean {evidence.mean:.2f} nats.",
        "A long left tail is a few data that dominate the mean; several humps are groups that the model finds easier "
        "or harder.",
    )


def _bound(evidence: Evidence) -> str:
    alt = f"The bound over k from {min(evidence.curve)} to {max(evidence.curve)}."
    return _page.figure(plots.bound_curve(evidence), alt, _bound_caption(evidence))


def _bound_caption(evidence: Evidence) -> str:
    """Extrapolate the curve: where the gap at k is c / k, that at K is (L_K - L_k) k / (K - k)."""
    caption = "A curve that has gone flat says that K is large enough for this guide."
    gain, k = _last_gain(evidence)
    if not 0 < gain < math.inf:
        return caption
    missing = gain * k / (evidence.num_particles - k)
    return (
        f"{caption} From k = {k} to {evidence.num_particles} it gained {gain:.3f} nats. If the gap to log p(x) falls "
        f"as 1/k, about {missing:.3f} nats are still missing; with heavy-tailed weights (k-hat above 0.5), more."
    )


def _khat(evidence: Evidence) -> str:
    return _page.figure(
        plots.khat_plot(evidence),
        f"Pareto k-hat of each datum against log p(x); {evidence.num_unreliable} above {KHAT_LIMIT}.",
        f"Each point is a datum. Below 0.5 all is well; above {KHAT_LIMIT} the estimate cannot be trusted. Where "
        "k-hat rises to the left, the data that the model fits worst are also those that the guide covers worst.",
    )


NUM_SHOWN = 12
"""Data in each list of lowest and highest log p(x)."""
NUM_DRAWS = 1000
"""Draws from p(x) behind the predictive check."""
MAX_SCATTER = 2000
"""Data in the latent scatter."""
ACTIVE_VARIANCE = 0.01
"""A latent dimension whose posterior mean varies less over data is inactive (Burda et al., 2016)."""


@dataclass(frozen=True)
class _Scored:
    """The data, and all that the figures need to know about them.

    Attributes:
        x: data, shape (N, *event), on the CPU.
        evidence: their log p(x).
        image_shape: (C, H, W), or None.
        model: p(x, z).
        guide: q(z|x).
        y: what x is conditioned on, on the CPU, or None.
    """

    x: Tensor
    evidence: Evidence
    image_shape: pictures.ImageShape | None
    model: nn.Module
    guide: nn.Module
    y: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Where the programs are."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    def at(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return some of x and y, where the programs are."""
        return self.x[index].to(self.device), None if self.y is None else self.y[index].to(self.device)


def write_report(
    path: str | Path,
    *,
    title: str,
    facts: Mapping[str, str],
    history: Sequence[Mapping[str, float]],
    evidence: Evidence,
    model: nn.Module,
    guide: nn.Module,
    x: Tensor,
    y: Tensor | None = None,
    labels: Tensor | None = None,
    image_shape: pictures.ImageShape | None = None,
    split: str = "test",
    best_epoch: int | None = None,
    seed: int = 0,
    further: Sequence[str] = (),
) -> None:
    """Write one self-contained HTML page about a trained model: result, warnings, facts and figures.

    The page needs no other file and no network. Programs are run in evaluation mode and on random numbers of
    their own; the same arguments give the same page.

    Args:
        path: the file to write; it appears whole or not at all.
        title: the page's heading.
        facts: rows of the table at the top, in order.
        history: rows of ``FitResult.history``; may be empty.
        evidence: estimates of log p(x) of the data ``x``.
        model: p(x, z).
        guide: q(z|x).
        x: exactly the data that ``evidence`` scored, shape (N, *event).
        y: what they are conditioned on, where the programs are called as ``model(x, y)``.
        labels: class or value of each datum, shape (N,).
        image_shape: (C, H, W) if the data are pictures; otherwise they are shown as tables and heat maps.
        split: the name of the split that was scored.
        best_epoch: the epoch whose parameters were kept.
        seed: seed of the draws on the page.
        further: sections of HTML to put at its end.

    Raises:
        ValueError: if evidence, data and labels differ in number, or the file cannot be written.
    """
    _check_numbers(evidence, x, labels)
    data = _Scored(x.cpu(), evidence, image_shape, model, guide, None if y is None else y.cpu())
    parts = [_page.paragraph(f"{split} {evidence}", "result"), warnings(evidence), _page.fact_table(facts)]
    if history:
        parts.append(_learning(history, best_epoch))
    parts.append(evidence_section(evidence))
    with torch.no_grad(), fork_rng(data.device, seed), training_mode(model, guide, False):
        parts += [_samples(data), _reconstructions(data), _extremes(data), _latent(data, labels)]
    parts += further
    with atomic_path(Path(path)) as temporary:
        temporary.write_text(_page.page(title, parts), encoding="utf-8")


def _check_numbers(evidence: Evidence, x: Tensor, labels: Tensor | None) -> None:
    for name, values in (("x", x), ("labels", labels)):
        if values is not None and len(values) != len(evidence.log_px):
            raise ValueError(
                f"Expected {name} of the {len(evidence.log_px)} data that evidence scored; got {len(values)}."
            )


def _learning(history: Sequence[Mapping[str, float]], best_epoch: int | None) -> str:
    caption = (
        "Still rising at the end: train for longer. A validation bound that falls while the training bound rises: "
        "overfitting. The bound is that of the training objective, at its own number of particles."
    )
    alt = f"Training and validation bound over {len(history)} epochs."
    return _page.section("Training", _page.figure(plots.learning_curves(history, best_epoch), alt, caption))


def _samples(data: _Scored) -> str:
    """Show draws from p(x), the means they were drawn around, and their moments beside those of the data."""
    y = None if data.y is None else data.y[torch.randint(len(data.y), (NUM_DRAWS,))].to(data.device)
    p_x = views.predictive(data.model, NUM_DRAWS, y)
    draws, means = p_x.sample().cpu(), _mean(p_x).cpu()
    return _page.section("Samples from p(x)", _drawn(data, means, draws) + _moments(data, draws))


def _drawn(data: _Scored, means: Tensor, draws: Tensor) -> str:
    shown = 24 if data.image_shape else NUM_SHOWN
    grids = (pictures.image_grid(x[:shown], data.image_shape, reference=data.x) for x in (means, draws))
    alts = (f"Means of p(x|z) for {shown} draws of z from the prior.", f"{shown} draws from p(x).")
    captions = (
        "Means of p(x|z), z from the prior: what the decoder says before the likelihood adds its noise.",
        "Draws from p(x), for the same z in the same order. If these look unlike data while the means look fine, "
        "the likelihood's noise is where the model is wrong.",
    )
    return "".join(map(_page.figure, grids, alts, captions))


def _moments(data: _Scored, draws: Tensor) -> str:
    return _page.figure(
        pictures.predictive_check(data.x, draws),
        "Mean and standard deviation of each entry of x in draws from p(x) against the data.",
        f"Each point is an entry of x, in {NUM_DRAWS} draws from p(x) against the {len(data.x)} data. Points "
        "off the line are entries whose mean or spread the model gets wrong.",
    )


def _reconstructions(data: _Scored) -> str:
    columns = 8 if data.image_shape else NUM_SHOWN
    index = torch.randperm(len(data.x))[:columns]
    x, mean = data.x[index], _mean(views.reconstruction(data.model, data.guide, *data.at(index))).cpu()
    drawn = pictures.reconstructions(x, mean, data.image_shape, reference=data.x)
    caption = (
        "Scored data drawn at random, and the mean of p(x|z) for one z from q(z|x). What differs is what z does not "
        "carry, or carries with noise."
    )
    alt = f"{len(x)} data and their reconstructions."
    return _page.section("Reconstructions", _page.figure(drawn, alt, caption))


def _extremes(data: _Scored) -> str:
    """Show the data with the lowest and the highest log p(x)."""
    order = data.evidence.log_px.argsort()
    lowest, highest = order[:NUM_SHOWN], order.flip(0)[:NUM_SHOWN]
    return _page.section(
        "Lowest and highest log p(x)",
        _ranked(data, lowest, "lowest", "Look here for data that do not belong, and for what the model misses.")
        + _ranked(data, highest, "highest", "Often the plainest data, not the most typical ones."),
    )


def _ranked(data: _Scored, index: Tensor, which: str, caption: str) -> str:
    table = _data_table(data.evidence, index)
    heading = f"The {len(index)} data with the {which} log p(x)"
    if data.image_shape is None:
        return f"<h3>{heading}</h3>{_page.paragraph(caption)}{table}"
    titles = [_score(data.evidence, n) for n in index.tolist()]
    drawn = pictures.image_grid(data.x[index], data.image_shape, titles, columns=6, reference=data.x)
    note = f"{heading}, in nats, with Monte Carlo standard errors. {caption}"
    return f"{_page.figure(drawn, f'{heading}.', note)}<details><summary>as a table</summary>{table}</details>"


def _score(evidence: Evidence, n: int) -> str:
    return f"{evidence.log_px[n]:.1f} ± {_page.decimal(evidence.std_error[n].item(), 2)}"


def _data_table(evidence: Evidence, index: Tensor) -> str:
    columns = ((evidence.log_px, 2), (evidence.std_error, 3), (evidence.ess, 1), (evidence.khat, 2))
    rows = [[str(n), *(_page.decimal(values[n].item(), digits) for values, digits in columns)] for n in index.tolist()]
    return _page.table(["index", "log p(x)", "SE", "ESS", "k-hat"], rows)


def _latent(data: _Scored, labels: Tensor | None) -> str:
    chosen = torch.randperm(len(data.x))[:MAX_SCATTER]
    loc = torch.cat([_mean(views.codes(data.guide, *data.at(index))).cpu() for index in chosen.split(500)])
    active = int((loc.var(0, correction=0) > ACTIVE_VARIANCE).sum())
    caption = (
        f"Means of q(z|x) of {len(loc)} data. {active} of {loc.shape[1]} latent dimensions are active: the mean's "
        f"variance over data exceeds {ACTIVE_VARIANCE}, while an unused dimension has the prior as its posterior."
    )
    drawn = pictures.latent_scatter(loc, None if labels is None else labels[chosen.to(labels.device)])
    return _page.section("Latent space", _page.figure(drawn, "Scatter of the guide's posterior means.", caption))


def _mean(distribution: Distribution) -> Tensor:
    """Return the mean, batch shape + event shape; that of 100 draws where there is no formula, as for flows."""
    try:
        return distribution.mean
    except NotImplementedError:
        return distribution.sample(torch.Size([100])).mean(0)
