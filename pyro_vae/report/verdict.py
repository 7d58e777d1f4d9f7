"""What the evidence says: doubts about log p(x) in words, its parts in numbers, its figures."""

from __future__ import annotations

import math

from pyro_vae.inference.scoring.estimates import KHAT_LIMIT, Evidence
from pyro_vae.report import figures as plots
from pyro_vae.report import page as _page

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
