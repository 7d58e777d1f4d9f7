"""The report of a run: one HTML page with everything in it, to be read by eye."""

from __future__ import annotations

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
from pyro_vae.report import figures, pictures
from pyro_vae.report.evidence import evidence_section, warnings
from pyro_vae.report.page import Block, Details, Drawing, Facts, Heading, Section, Table, Text, decimal, render

NUM_SHOWN = 12
"""Data in each list of lowest and highest log p(x)."""
NUM_DRAWS = 1000
"""Draws from p(x) behind the predictive check."""
MAX_SCATTER = 2000
"""Data in the latent scatter."""
_PRIOR = " Grey is the prior p(z): its density, or in two dimensions contours that hold 50, 90 and 99% of it."


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
        Text(f"{scored.split} {scored.evidence.line}", "result"),
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
