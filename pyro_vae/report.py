"""The report of a run: one HTML page with everything in it, to be read by eye."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae import plots
from pyro_vae._files import atomic_path
from pyro_vae.inference.context import fork_rng, training_mode
from pyro_vae.inference.evidence import KHAT_LIMIT, Evidence
from pyro_vae.inference.guides import AmortizedGuide
from pyro_vae.models.vae import VAE

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
    """

    x: Tensor
    evidence: Evidence
    image_shape: plots.ImageShape | None
    model: VAE
    guide: AmortizedGuide

    @property
    def device(self) -> torch.device:
        """Where the programs are."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    def posterior(self, x: Tensor) -> Distribution:
        """Return q(z|x) for x of shape (B, *event)."""
        return self.guide.posterior(x.to(self.device))


def write_report(
    path: str | Path,
    *,
    title: str,
    facts: Mapping[str, str],
    history: Sequence[Mapping[str, float]],
    evidence: Evidence,
    model: VAE,
    guide: AmortizedGuide,
    x: Tensor,
    labels: Tensor | None = None,
    image_shape: plots.ImageShape | None = None,
    best_epoch: int | None = None,
    seed: int = 0,
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
        labels: class or value of each datum, shape (N,).
        image_shape: (C, H, W) if the data are pictures; otherwise they are shown as tables and heat maps.
        best_epoch: the epoch whose parameters were kept.
        seed: seed of the draws on the page.

    Raises:
        ValueError: if evidence, data and labels differ in number, or the file cannot be written.
    """
    _check_numbers(evidence, x, labels)
    data = _Scored(x.cpu(), evidence, image_shape, model, guide)
    with torch.no_grad(), fork_rng(data.device, seed), training_mode(model, guide, False):
        sections = [
            *([_learning(history, best_epoch)] if history else []),
            _evidence_section(evidence),
            _samples(data),
            _reconstructions(data),
            _extremes(data),
            _latent(data, labels),
        ]
    page = _page(title, [_result(evidence), _warnings(evidence), _facts(facts), *sections])
    with atomic_path(Path(path)) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _check_numbers(evidence: Evidence, x: Tensor, labels: Tensor | None) -> None:
    for name, values in (("x", x), ("labels", labels)):
        if values is not None and len(values) != len(evidence.log_px):
            raise ValueError(
                f"Expected {name} of the {len(evidence.log_px)} data that evidence scored; got {len(values)}."
            )


def _result(evidence: Evidence) -> str:
    return f'<p class="result">{escape(f"test {evidence}")}</p>'


def _warnings(evidence: Evidence) -> str:
    """Say what makes the result doubtful, and what no diagnostic here would notice."""
    notes = "".join(f'<p class="warning">{escape(note)}</p>' for note in doubts(evidence))
    blind = (
        "What k-hat cannot see: a mode of p(z|x) that the guide never visits. No draw lands there, so log p(x) comes "
        "out too low, and neither k-hat, nor the standard error, nor the ESS shows it."
    )
    return f"{notes}<p>{escape(blind)}</p>"


def doubts(evidence: Evidence) -> list[str]:
    """Say in sentences what makes an estimate of log p(x) doubtful; empty where nothing does."""
    count, num_data = evidence.num_unreliable, len(evidence.log_px)
    infinite = int((~evidence.log_px.isfinite()).sum())
    gain, k = _last_gain(evidence)
    notes = []
    if count:
        notes.append(
            f"{count} of {num_data} data have k-hat above {KHAT_LIMIT}: a few draws carry nearly all of their weight, "
            "so that neither their log p(x) nor its Monte Carlo error can be trusted, and log p(x) is most likely too "
            "low. A guide with heavier tails or a richer family helps more than a larger K."
        )
    if evidence.khat.isnan().all():
        notes.append("There is no k-hat, since it needs K of at least 21: whether to trust the weights is unknown.")
    if infinite:
        notes.append(f"{infinite} of {num_data} data have log p(x) = -inf: no draw gave them any density.")
    if gain > evidence.stderr:
        notes.append(
            f"The bound still gained {gain:.2f} nats from k = {k} to {evidence.num_particles}, more than its standard "
            "error over data: K is too small, and log p(x) is an underestimate."
        )
    if num_data == 1:
        notes.append("One datum says nothing about others: there is no standard error over data.")
    return notes


def _last_gain(evidence: Evidence) -> tuple[float, int]:
    """Return L_K - L_k for the largest k <= K / 2 on the curve, in nats, and that k; NaN and 0 for K = 1."""
    half = [k for k in evidence.curve if 2 * k <= evidence.num_particles]
    return (evidence.mean - evidence.curve[max(half)][0], max(half)) if half else (math.nan, 0)


def _facts(facts: Mapping[str, str]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(str(name))}</th><td>{escape(str(value))}</td></tr>'
        for name, value in facts.items()
    )
    return f'<div class="wide"><table class="facts"><tbody>{rows}</tbody></table></div>' if rows else ""


def _learning(history: Sequence[Mapping[str, float]], best_epoch: int | None) -> str:
    caption = (
        "Still rising at the end: train for longer. A validation bound that falls while the training bound rises: "
        "overfitting. The bound is that of the training objective, at its own number of particles."
    )
    alt = f"Training and validation bound over {len(history)} epochs."
    return _section("Training", _figure(plots.learning_curves(history, best_epoch), alt, caption))


def _evidence_section(evidence: Evidence) -> str:
    histogram = _figure(
        plots.log_px_histogram(evidence),
        f"Histogram of log p(x) of {len(evidence.log_px)} data, mean {evidence.mean:.2f} nats.",
        "A long left tail is a few data that dominate the mean; several humps are groups that the model finds easier "
        "or harder.",
    )
    bound = _figure(
        plots.bound_curve(evidence),
        f"The bound over k from {min(evidence.curve)} to {max(evidence.curve)}.",
        _bound_caption(evidence),
    )
    khat = _figure(
        plots.khat_plot(evidence),
        f"Pareto k-hat of each datum against log p(x); {evidence.num_unreliable} above {KHAT_LIMIT}.",
        f"Each point is a datum. Below 0.5 all is well; above {KHAT_LIMIT} the estimate cannot be trusted. Where "
        "k-hat rises to the left, the data that the model fits worst are also those that the guide covers worst.",
    )
    return _section("log p(x)", _numbers(evidence) + histogram + bound + khat)


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


def _numbers(evidence: Evidence) -> str:
    """Tabulate the parts of the result, each with what it means."""
    elbo, share = evidence.elbo.mean().item(), (evidence.ess / evidence.num_particles).median().item()
    rows = [
        ["mean log p(x)", _decimal(evidence.mean, 3), f"nats per datum, K = {evidence.num_particles}"],
        ["its standard error", _decimal(evidence.stderr, 3), "nats, over data and Monte Carlo"],
        ["Monte Carlo part", _decimal(evidence.mc_stderr, 4), "nats, already contained in the line above"],
        ["its bias", _decimal(evidence.bias, 4), "nats, first order, not corrected for"],
        ["ELBO", _decimal(elbo, 3), f"nats per datum, {evidence.mean - elbo:.3f} below log p(x)"],
        ["median ESS / K", _decimal(share, 3), "1 where the guide is the exact posterior"],
    ]
    return _table(["quantity", "value", "what it is"], rows)


def _samples(data: _Scored) -> str:
    """Show draws from p(x), the means they were drawn around, and their moments beside those of the data."""
    z = data.model.prior().sample((NUM_DRAWS,))
    p_x = data.model.decode(z)
    draws, means = p_x.sample().cpu(), _mean(p_x).cpu()
    shown = 24 if data.image_shape else NUM_SHOWN
    picture = [plots.image_grid(values[:shown], data.image_shape, reference=data.x) for values in (means, draws)]
    return _section(
        "Samples from p(x)",
        _figure(
            picture[0],
            f"Means of p(x|z) for {shown} draws of z from the prior.",
            "Means of p(x|z), z from the prior: what the decoder says before the likelihood adds its noise.",
        )
        + _figure(
            picture[1],
            f"{shown} draws from p(x).",
            "Draws from p(x), for the same z in the same order. If these look unlike data while the means look fine, "
            "the likelihood's noise is where the model is wrong.",
        )
        + _figure(
            plots.predictive_check(data.x, draws),
            "Mean and standard deviation of each entry of x in draws from p(x) against the data.",
            f"Each point is an entry of x, in {NUM_DRAWS} draws from p(x) against the {len(data.x)} data. Points "
            "off the line are entries whose mean or spread the model gets wrong.",
        ),
    )


def _reconstructions(data: _Scored) -> str:
    columns = 8 if data.image_shape else NUM_SHOWN
    x = data.x[torch.randperm(len(data.x))[:columns]]
    mean = _mean(data.model.decode(data.posterior(x).sample())).cpu()
    figure = plots.reconstructions(x, mean, data.image_shape, reference=data.x)
    caption = (
        "Test data drawn at random, and the mean of p(x|z) for one z from q(z|x). What differs is what z does not "
        "carry, or carries with noise."
    )
    return _section("Reconstructions", _figure(figure, f"{len(x)} test data and their reconstructions.", caption))


def _extremes(data: _Scored) -> str:
    """Show the data with the lowest and the highest log p(x)."""
    order = data.evidence.log_px.argsort()
    lowest, highest = order[:NUM_SHOWN], order.flip(0)[:NUM_SHOWN]
    return _section(
        "Lowest and highest log p(x)",
        _ranked(data, lowest, "lowest", "Look here for data that do not belong, and for what the model misses.")
        + _ranked(data, highest, "highest", "Often the plainest data, not the most typical ones."),
    )


def _ranked(data: _Scored, index: Tensor, which: str, caption: str) -> str:
    table = _data_table(data.evidence, index)
    heading = f"The {len(index)} data with the {which} log p(x)"
    if data.image_shape is None:
        return f"<h3>{heading}</h3><p>{escape(caption)}</p>{table}"
    titles = [_score(data.evidence, n) for n in index.tolist()]
    figure = plots.image_grid(data.x[index], data.image_shape, titles, columns=6, reference=data.x)
    note = f"{heading}, in nats, with Monte Carlo standard errors. {caption}"
    return f"{_figure(figure, f'{heading}.', note)}<details><summary>as a table</summary>{table}</details>"


def _score(evidence: Evidence, n: int) -> str:
    return f"{evidence.log_px[n]:.1f} ± {_decimal(evidence.std_error[n].item(), 2)}"


def _data_table(evidence: Evidence, index: Tensor) -> str:
    columns = ((evidence.log_px, 2), (evidence.std_error, 3), (evidence.ess, 1), (evidence.khat, 2))
    rows = [[str(n), *(_decimal(values[n].item(), digits) for values, digits in columns)] for n in index.tolist()]
    return _table(["index", "log p(x)", "SE", "ESS", "k-hat"], rows)


def _latent(data: _Scored, labels: Tensor | None) -> str:
    chosen = torch.randperm(len(data.x))[:MAX_SCATTER]
    parts = data.x[chosen].split(500)
    loc = torch.cat([_mean(data.posterior(x)).cpu() for x in parts])
    active = int((loc.var(0, correction=0) > ACTIVE_VARIANCE).sum())
    caption = (
        f"Means of q(z|x) of {len(loc)} test data. {active} of {loc.shape[1]} latent dimensions are active: the mean's "
        f"variance over data exceeds {ACTIVE_VARIANCE}, while an unused dimension has the prior as its posterior."
    )
    figure = plots.latent_scatter(loc, None if labels is None else labels[chosen.to(labels.device)])
    return _section("Latent space", _figure(figure, "Scatter of the guide's posterior means.", caption))


def _mean(distribution: Distribution) -> Tensor:
    """Return the mean, batch shape + event shape; that of 100 draws where there is no formula, as for flows."""
    try:
        return distribution.mean
    except NotImplementedError:
        return distribution.sample(torch.Size([100])).mean(0)


def _decimal(value: float, digits: int) -> str:
    return "unknown" if math.isnan(value) else f"{value:.{digits}f}"


def _section(heading: str, body: str) -> str:
    return f"<section><h2>{escape(heading)}</h2>{body}</section>"


def _figure(figure: Figure, alt: str, caption: str) -> str:
    """Inline a figure as PNG: unlike SVG, its size does not grow with the number of data."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=180, facecolor="white")
    source = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<figure><img src="data:image/png;base64,{source}" alt="{escape(alt)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1e; --paper: #fff; --quiet: #5f6368; --line: #dadce0; --alarm: #b3400a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8ea; --paper: #17181a; --quiet: #a5a8ad; --line: #3a3d42; --alarm: #ff9a62; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 46rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; }
.result { font-size: 1.3rem; font-weight: 600; line-height: 1.35; margin: 0 0 1rem;
  font-variant-numeric: tabular-nums; }
.warning { border-left: 4px solid var(--alarm); padding: .25rem 0 .25rem .8rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .3rem 1rem .3rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
.facts th { white-space: nowrap; color: var(--quiet); }
.facts td { overflow-wrap: anywhere; }
figure { margin: 1.25rem 0; }
figure img { display: block; width: 100%; height: auto; border-radius: 6px; background: #fff; }
figcaption, summary { color: var(--quiet); font-size: .9rem; margin-top: .4rem; }
"""


def _page(title: str, parts: Iterable[str]) -> str:
    """Put the parts on a page whose own policy forbids it to load anything."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
{chr(10).join(parts)}
</body>
</html>
"""
