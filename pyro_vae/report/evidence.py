"""What the page says of log p(x): its numbers, by which estimator, what makes them doubtful, and their figures."""

from __future__ import annotations

import math

from pyro_vae.inference.scoring.estimates import Evidence
from pyro_vae.inference.scoring.tail import KHAT_LIMIT
from pyro_vae.report import figures
from pyro_vae.report.page import Block, Drawing, Section, Table, Text, decimal

_SHOWN = (("log_px", 2), ("std_error", 3), ("seconds", 1))
_BLIND = (
    "What k-hat cannot see: a mode of p(z|x) that the guide never visits. No draw lands there, so log p(x) comes "
    "out too low, and neither k-hat, nor the standard error, nor the ESS shows it."
)


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
