"""The report of a run: one HTML page with everything in it, to be read by eye."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from pyro_vae.core.files import atomic_path
from pyro_vae.inference.diagnostics.latent import active_units
from pyro_vae.inference.programs import predictive
from pyro_vae.inference.programs.call import as_args
from pyro_vae.inference.programs.loop import evaluation_mode
from pyro_vae.inference.scoring.estimates import Evidence
from pyro_vae.inference.scoring.tail import KHAT_LIMIT
from pyro_vae.report import figures, pictures
from pyro_vae.report.page import Block, Details, Drawing, Facts, Heading, Section, Table, Text, decimal, render

NUM_SHOWN = 12
"""Data in each list of lowest and highest log p(x)."""
NUM_DRAWS = 1000
"""Draws from p(x) behind the predictive check."""
MAX_SCATTER = 2000
"""Data in the latent scatter."""
_PRIOR = " Grey is the prior p(z): its density, or in two dimensions contours that hold 50, 90 and 99% of it."
_SHOWN = (("log_px", 2), ("std_error", 3), ("seconds", 1))
_BLIND = (
    "What k-hat cannot see: a mode of p(z|x) that the guide never visits. No draw lands there, so log p(x) comes "
    "out too low, and neither k-hat, nor the standard error, nor the ESS shows it."
)


@dataclass(frozen=True)
class Scored:
    """Data and the estimates of their log p(x).

    Attributes:
        evidence: estimates of log p(x_n) of N data.
        x: exactly the data that it scored, shape (N, *event).
        y: what they are conditioned on, shape (N,) or (N, E), where the programs are called as ``model(x, y)``.
        labels: class or value of each datum, shape (N,).
        image_shape: (C, H, W) if the data are pictures; otherwise they are shown as tables and heat maps.
        split: the name of the split that they are.

    Raises:
        ValueError: if evidence, data and labels differ in number.
    """

    evidence: Evidence
    x: Tensor
    y: Tensor | None = None
    labels: Tensor | None = None
    image_shape: pictures.ImageShape | None = None
    split: str = "test"

    def __post_init__(self) -> None:
        for name, values in (("x", self.x), ("labels", self.labels)):
            if values is not None and len(values) != len(self.evidence.log_px):
                raise ValueError(
                    f"Expected {name} of the {len(self.evidence.log_px)} data that evidence scored; got {len(values)}."
                )

    def cpu(self) -> Scored:
        """Return the same with its tensors on the CPU."""
        y, labels = (None if values is None else values.cpu() for values in (self.y, self.labels))
        return replace(self, x=self.x.cpu(), y=y, labels=labels)

    def at(self, index: Tensor, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Return the x and the y of some of the data on a device."""
        return self.x[index].to(device), None if self.y is None else self.y[index].to(device)


def write_report(
    path: str | Path,
    scored: Scored,
    model: nn.Module,
    guide: nn.Module,
    *,
    title: str,
    facts: Mapping[str, str],
    history: Sequence[Mapping[str, float]] = (),
    further: Sequence[Section] = (),
    seed: int = 0,
) -> None:
    """Write one self-contained HTML page about a trained model: result, warnings, facts and figures.

    The page needs no other file and no network. Programs are run in evaluation mode and on random numbers of
    their own; the same arguments give the same page.

    Args:
        path: the file to write; it appears whole or not at all.
        scored: the data and their log p(x).
        model: p(x, z).
        guide: q(z|x).
        title: the page's heading.
        facts: rows of the table at the top, in order.
        history: rows of ``FitResult.history``; may be empty.
        further: sections to put at its end.
        seed: seed of the draws on the page.

    Raises:
        ValueError: if the file cannot be written.
    """
    scored, device = scored.cpu(), _device(model)
    blocks: list[Block] = [
        Text(f"{scored.split} {scored.evidence}".partition("  next: ")[0], "result"),
        *warnings(scored.evidence),
    ]
    blocks.append(Facts(facts))
    if history:
        blocks.append(_learning(history))
    blocks.append(evidence_section(scored.evidence))
    with evaluation_mode(model, guide, device, seed):
        blocks += [
            _samples(model, scored),
            _reconstructions(model, guide, scored),
            _extremes(scored),
            _latent(model, guide, scored, seed),
        ]
    html = render(title, [*blocks, *further])
    with atomic_path(Path(path)) as temporary:
        temporary.write_text(html, encoding="utf-8")


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def doubts(evidence: Evidence) -> list[str]:
    """Say in sentences what makes an estimate of log p(x) doubtful; empty where nothing does."""
    count, num_data = evidence.num_flagged, len(evidence.log_px)
    infinite = int((~evidence.log_px.isfinite()).sum())
    gain, k = (math.nan, 0) if evidence.estimators else _last_gain(evidence)
    notes = (
        (
            count > 0,
            f"{count} of {num_data} data are flagged, k-hat above {KHAT_LIMIT}: a few draws carry nearly all of their "
            "weight, so that neither their log p(x) nor its Monte Carlo error can be trusted, and log p(x) is most "
            f"likely too low. {_advice(evidence)}",
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


def _advice(evidence: Evidence) -> str:
    """Say what to do about flagged data that was not done yet."""
    if not evidence.estimators:
        return "evaluate --method Auto looks for an estimator that holds for each of them."
    if evidence.many_flagged:
        return "Annealed importance sampling on longer paths is what is left: evaluate --method AIS."
    return "So few of them say nothing against the mean; evaluate --method AIS scores all data in another way."


def warnings(evidence: Evidence) -> list[Text]:
    """Say what makes the result doubtful, and what no diagnostic here would notice."""
    return [*(Text(note, "warning") for note in doubts(evidence)), Text(_BLIND)]


def _last_gain(evidence: Evidence) -> tuple[float, int]:
    """Return L_K - L_k for the largest k <= K / 2 on the curve, in nats, and that k; NaN and 0 for K = 1."""
    half = [k for k in evidence.curve if 2 * k <= evidence.num_particles]
    last, _ = evidence.curve[evidence.num_particles]
    return (last - evidence.curve[max(half)][0], max(half)) if half else (math.nan, 0)


def evidence_section(evidence: Evidence) -> Section:
    """Return the section on log p(x): its numbers, its histogram, its curve over K, and its k-hat."""
    blocks: list[Block] = [_numbers(evidence)]
    if evidence.estimators:
        blocks += [_by_method(evidence), *map(Text, evidence.notes)]
    blocks.append(_histogram(evidence))
    if evidence.num_particles > 1:
        blocks += [_bound(evidence), _khat(evidence)]
    return Section("log p(x)", blocks)


def _numbers(evidence: Evidence) -> Table:
    """Tabulate the parts of the result, each with what it means."""
    elbo = evidence.elbo.mean().item()
    share = (evidence.ess / (evidence.num_particles if evidence.counts is None else evidence.counts)).median().item()
    rows = [
        ("mean log p(x)", evidence.mean, 3, f"nats per datum, {evidence.title}, K = {evidence.num_particles}"),
        ("its standard error", evidence.stderr, 3, "nats, over data and Monte Carlo"),
        ("Monte Carlo part", evidence.mc_stderr, 4, "nats, already contained in the line above"),
        (
            "its bias",
            evidence.bias,
            4,
            f"nats, first order, {'taken off' if evidence.debiased else 'not corrected for'}",
        ),
        ("ELBO", elbo, 3, f"nats per datum, {evidence.mean - elbo:.3f} below log p(x)"),
        ("median ESS / K", share, 3, "1 where the proposal is the exact posterior"),
    ]
    if evidence.many_flagged:
        rows = [row for row in rows if row[0] != "its bias"]  # no expansion in 1/K is known to hold
    if evidence.acceptance is not None:
        median = evidence.acceptance.median().item()
        rows.append(("median acceptance", median, 2, "of Hamiltonian Monte Carlo; step sizes were tuned to 0.65"))
    cells = [(name, decimal(value, digits), meaning) for name, value, digits, meaning in rows]
    return Table(("quantity", "value", "what it is"), cells)


def _by_method(evidence: Evidence) -> Table:
    """Tabulate how many data each estimator took."""
    table = evidence.by_method()
    cells = [
        (str(name), f"{row['data']:.0f}", f"{row['flagged']:.0f}", *(decimal(row[n], d) for n, d in _SHOWN))
        for name, row in table.iterrows()
    ]
    no_mode = table.attrs["no_mode"]
    if no_mode:
        cells.append(("no mode found", f"{no_mode}", "", "", "", ""))
    return Table(("estimator", "data", "flagged", "log p(x)", "SE of one", "seconds"), cells)


def _histogram(evidence: Evidence) -> Drawing:
    return Drawing(
        figures.log_px_histogram(evidence),
        f"Histogram of log p(x) of {len(evidence.log_px)} data, mean {evidence.mean:.2f} nats.",
        "A long left tail is a few data that dominate the mean; several humps are groups that the model finds easier "
        "or harder.",
    )


def _bound(evidence: Evidence) -> Drawing:
    alt = f"The bound over k from {min(evidence.curve)} to {max(evidence.curve)}."
    return Drawing(figures.bound_curve(evidence), alt, _bound_caption(evidence))


def _bound_caption(evidence: Evidence) -> str:
    """Extrapolate the curve: where the gap at k is c / k, that at K is (L_K - L_k) k / (K - k)."""
    if evidence.estimators:
        return (
            "What importance weighting with the guide alone would give, against the estimate: the gap between them is "
            "the guide's, and more draws of it close it slowly if at all."
        )
    caption = "A curve that has gone flat says that K is large enough for this guide."
    gain, k = _last_gain(evidence)
    if not 0 < gain < math.inf:
        return caption
    missing = gain * k / (evidence.num_particles - k)
    return (
        f"{caption} From k = {k} to {evidence.num_particles} it gained {gain:.3f} nats. If the gap to log p(x) falls "
        f"as 1/k, about {missing:.3f} nats are still missing; with heavy-tailed weights (k-hat above 0.5), more."
    )


def _khat(evidence: Evidence) -> Drawing:
    return Drawing(
        figures.khat_plot(evidence),
        f"Pareto k-hat of each datum against log p(x); {evidence.num_flagged} above {KHAT_LIMIT}.",
        f"Each point is a datum. Below 0.5 all is well; above {KHAT_LIMIT} the estimate cannot be trusted. Where "
        "k-hat rises to the left, the data that the model fits worst are also those that the guide covers worst.",
    )


def _learning(history: Sequence[Mapping[str, float]]) -> Section:
    caption = (
        "Still rising at the end: train for longer. A validation bound that falls while the training bound rises: "
        "overfitting, of the encoder first: log p(x) may rise while the bound falls, as --watch evidence shows. The "
        "bound is that of the training objective, at its own number of particles."
    )
    alt = f"Training and validation bound over {len(history)} epochs."
    return Section("Training", [Drawing(figures.learning_curves(history), alt, caption)])


def _samples(model: nn.Module, scored: Scored) -> Section:
    """Show draws from p(x), the means they were drawn around, and their moments beside those of the data."""
    y = scored.y
    if y is not None:
        y = y[torch.randint(len(y), (NUM_DRAWS,))].to(_device(model))
    p_x = predictive.prior_predictive(model, NUM_DRAWS, y)
    draws, means = p_x.sample().cpu(), predictive.mean_of(p_x).cpu()
    return Section("Samples from p(x)", [*_drawn(scored, means, draws), _moments(scored, draws)])


def _drawn(scored: Scored, means: Tensor, draws: Tensor) -> list[Drawing]:
    shown = 24 if scored.image_shape else NUM_SHOWN
    grids = (pictures.image_grid(x[:shown], scored.image_shape, reference=scored.x) for x in (means, draws))
    alts = (f"Means of p(x|z) for {shown} draws of z from the prior.", f"{shown} draws from p(x).")
    captions = (
        "Means of p(x|z), z from the prior: what the decoder says before the likelihood adds its noise.",
        "Draws from p(x), for the same z in the same order. If these look unlike data while the means look fine, "
        "the likelihood's noise is where the model is wrong.",
    )
    return list(map(Drawing, grids, alts, captions))


def _moments(scored: Scored, draws: Tensor) -> Drawing:
    return Drawing(
        pictures.moment_scatter(scored.x, draws),
        "Mean and standard deviation of each entry of x in draws from p(x) against the data.",
        f"Each point is an entry of x, in {NUM_DRAWS} draws from p(x) against the {len(scored.x)} data. Points "
        "off the line are entries whose mean or spread the model gets wrong.",
    )


def _reconstructions(model: nn.Module, guide: nn.Module, scored: Scored) -> Section:
    columns = 8 if scored.image_shape else NUM_SHOWN
    index = torch.randperm(len(scored.x))[:columns]
    p_x = predictive.reconstruction(model, guide, *scored.at(index, _device(model)))
    x, mean = scored.x[index], predictive.mean_of(p_x).cpu()
    caption = (
        "Scored data drawn at random, and the mean of p(x|z) for one z from q(z|x). What differs is what z does not "
        "carry, or carries with noise."
    )
    drawn = pictures.reconstructions(x, mean, scored.image_shape, reference=scored.x)
    return Section("Reconstructions", [Drawing(drawn, f"{len(x)} data and their reconstructions.", caption)])


def _extremes(scored: Scored) -> Section:
    """Show the data with the lowest and the highest log p(x)."""
    order = scored.evidence.log_px.argsort()
    lowest, highest = order[:NUM_SHOWN], order.flip(0)[:NUM_SHOWN]
    return Section(
        "Lowest and highest log p(x)",
        [
            *_ranked(scored, lowest, "lowest", "Look here for data that do not belong, and for what the model misses."),
            *_ranked(scored, highest, "highest", "Often the plainest data, not the most typical ones."),
        ],
    )


def _ranked(scored: Scored, index: Tensor, which: str, caption: str) -> list[Block]:
    table = _data_table(scored.evidence, index)
    heading = f"The {len(index)} data with the {which} log p(x)"
    if scored.image_shape is None:
        return [Heading(heading), Text(caption), table]
    titles = [_score(scored.evidence, n) for n in index.tolist()]
    drawn = pictures.image_grid(scored.x[index], scored.image_shape, titles, columns=6, reference=scored.x)
    note = f"{heading}, in nats, with Monte Carlo standard errors. {caption}"
    return [Drawing(drawn, f"{heading}.", note), Details("as a table", [table])]


def _score(evidence: Evidence, n: int) -> str:
    return f"{evidence.log_px[n]:.1f} ± {decimal(evidence.std_error[n].item(), 2)}"


def _data_table(evidence: Evidence, index: Tensor) -> Table:
    columns = ((evidence.log_px, 2), (evidence.std_error, 3), (evidence.ess, 1), (evidence.khat, 2))
    rows = [[str(n), *(decimal(values[n].item(), digits) for values, digits in columns)] for n in index.tolist()]
    return Table(("index", "log p(x)", "SE", "ESS", "k-hat"), rows)


def _latent(model: nn.Module, guide: nn.Module, scored: Scored, seed: int) -> Section:
    chosen = torch.randperm(len(scored.x))[:MAX_SCATTER]
    device = _device(model)
    posteriors = (predictive.posterior(guide, *scored.at(index, device)) for index in chosen.split(500))
    loc = torch.cat([predictive.mean_of(q).cpu() for q in posteriors])
    labels = None if scored.labels is None else scored.labels[chosen]
    prior = predictive.prior_density(model) if scored.y is None and loc.shape[1] <= 2 else None
    caption = f"Means of q(z|x) of {len(loc)} data."
    caption += _active(model, guide, scored.at(chosen, device), seed)
    caption += "" if prior is None else _PRIOR
    drawn = pictures.latent_scatter(loc, labels, prior)
    return Section("Latent space", [Drawing(drawn, "Scatter of the guide's posterior means.", caption)])


def _active(model: nn.Module, guide: nn.Module, data: tuple[Tensor, Tensor | None], seed: int) -> str:
    """Say how many latent dimensions the guide uses; nothing of a single datum, over which nothing varies."""
    x, y = data
    if len(x) < 2:
        return ""
    args = as_args(x if y is None else (x, y))
    units = active_units(model, guide, args, seed=seed, device=x.device, progress=False)
    return (
        f" {units.count} of {len(units.labels)} latent dimensions are active: the mean's variance over data exceeds "
        f"{units.threshold}, while an unused dimension has the prior as its posterior."
    )
