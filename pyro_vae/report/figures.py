"""Figures of training, evidence and calibration: numbers in, a matplotlib ``Figure`` out, nothing global touched."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pyro_vae.inference.diagnostics.calibration import SBC, Coverage
from pyro_vae.inference.diagnostics.criticism import PredictiveCheck
from pyro_vae.inference.diagnostics.latent import LatentKL
from pyro_vae.inference.diagnostics.uniformity import Uniformity, ecdf_band
from pyro_vae.inference.scoring.estimates import Evidence
from pyro_vae.inference.scoring.tail import KHAT_LIMIT

if TYPE_CHECKING:
    import pandas as pd

# Okabe and Ito's colours, which colour-blind readers can tell apart.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#767676"
WIDTH = 6.0
"""Width of every figure in inches: narrow, so that its letters stay legible on a phone."""
COLUMNS = 3
"""Panels in a row, where a figure has several."""
NATS = "nats per datum"
LEGEND: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "framealpha": 0.8}


def single_axes(height: float = 3.4) -> tuple[Figure, Axes]:
    """Return a figure with one pair of axes and no frame on its upper and right sides."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def grid_of_axes(num_panels: int, height: float, share_y: bool = False) -> tuple[Figure, list[Axes]]:
    """Return a figure and its panels, at most three in a row, each of a height in inches."""
    rows, columns = math.ceil(num_panels / COLUMNS), min(COLUMNS, num_panels)
    figure = Figure(figsize=(WIDTH, 0.6 + height * rows), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False, sharey=share_y).flatten())
    for spare in grid[num_panels:]:
        spare.set_visible(False)
    for axes in grid:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, grid[:num_panels]


def num_bins(num_data: int) -> int:
    """Return about sqrt(N) bins; rules based on the spread ask for thousands where one datum is far out."""
    return min(max(round(math.sqrt(num_data)), 8), 60)


def learning_curves(history: Sequence[Mapping[str, float]]) -> Figure:
    """Draw the training bound (-loss) and the validation bound against the epoch, in nats per datum.

    Where log p(x) of validation data was estimated too, it is drawn beside them: above the validation bound by the
    inference gap.

    The y-axis follows the later half of the epochs: the first steps gain hundreds of nats, next to
    which what happens at the end would be a flat line. Epochs whose KL weight is still rising are shaded, since
    -loss is no bound there.

    Args:
        history: rows of ``FitResult.history``.
    """
    figure, axes = single_axes()
    epochs = [row["epoch"] for row in history]
    training = np.array([-row["loss"] for row in history])
    validation = np.array([row.get("valid_bound", math.nan) for row in history])
    for name, bound, colour in (("training", training, GREY), ("validation", validation, BLUE)):
        if np.isfinite(bound).any():
            marker = "o" if len(bound) < 20 else ""
            axes.plot(epochs, bound, color=colour, marker=marker, markersize=4, label=name)
    log_px = np.array([row.get("valid_log_px", math.nan) for row in history])
    seen = np.isfinite(log_px)
    if seen.any():
        label = "validation log p(x), estimated"
        axes.plot(np.array(epochs)[seen], log_px[seen], color=ORANGE, marker="o", markersize=3, label=label)
    _shade_warmup(axes, history)
    _settle(axes, np.stack([training, validation, log_px]))
    axes.set(xlabel="epoch", ylabel=f"bound, {NATS}")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.legend(loc="lower right", **LEGEND)
    return figure


def _shade_warmup(axes: Axes, history: Sequence[Mapping[str, float]]) -> None:
    rising = [row["epoch"] for row in history if row.get("kl_weight", 1.0) < 1]
    if rising:
        # A row holds the weight of its last step: in the epoch after, the weight was still below 1.
        end = min(rising[-1] + 1, history[-1]["epoch"]) + 0.5
        axes.axvspan(rising[0] - 0.5, end, color=GREY, alpha=0.15, label="KL weight < 1")


def _settle(axes: Axes, bounds: np.ndarray) -> None:
    """Fit the y-axis to the later half of the epochs; say so if that hides earlier ones."""
    num_epochs = bounds.shape[1]
    settled = bounds[:, num_epochs // 2 if num_epochs > 3 else 0 :]
    settled = settled[np.isfinite(settled)]
    if not settled.size:
        return
    low, high = settled.min(), settled.max()
    margin = 0.08 * (high - low) or 1.0
    axes.set_ylim(low - margin, high + margin)
    if (bounds[np.isfinite(bounds)] < low - margin).any():
        axes.set_title("earlier epochs lie below the axis", loc="left", fontsize="small", color=GREY)


def bound_curve(evidence: Evidence) -> Figure:
    """Draw the bound L_k against the number of importance samples k, in nats per datum.

    The standard errors in ``evidence.curve`` are over data, and the data are the same at every k: they move the
    curve up or down as a whole and say little about its shape, so that a bar at every point would
    make differences between points look far less certain than they are. One bar, beside the last point,
    shows them once.
    """
    figure, axes = single_axes()
    counts = sorted(evidence.curve)
    means = [evidence.curve[k][0] for k in counts]
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.plot(
        counts,
        means,
        color=BLUE,
        marker="o",
        markersize=4,
        label="$L_k$ of the guide" if evidence.estimators else "$L_k$, mean over data",
    )
    error = evidence.curve[counts[-1]][1]
    if evidence.estimators:
        axes.axhline(evidence.mean, color="black", linewidth=1.2, label=f"{evidence.title}: {evidence.mean:.2f}")
    if math.isfinite(error):
        label = f"± {error:.2f} over data, moves all points together"
        beside = [1.6 * counts[-1]]
        axes.errorbar(beside, means[-1:], [error], color=GREY, marker="_", capsize=4, linestyle="none", label=label)
    axes.set(xlabel="k, importance samples per datum", ylabel=f"$L_k$, {NATS}")
    axes.legend(loc="lower right", **LEGEND)
    return figure


def log_px_histogram(evidence: Evidence) -> Figure:
    """Draw a histogram of the log p(x_n), in nats, with their mean and its standard error.

    Data with k-hat above 0.7 have a colour of their own and, since a few of them among thousands would not
    show, a tick each below the axis. Estimates of -inf are left out.
    """
    figure, axes = single_axes()
    finite = evidence.log_px.isfinite()
    unreliable = evidence.khat > KHAT_LIMIT
    poor, rest = (evidence.log_px[finite & chosen].numpy() for chosen in (unreliable, ~unreliable))
    edges = np.histogram_bin_edges(evidence.log_px[finite].numpy(), bins=num_bins(len(finite))).tolist()
    names = ["other data", rf"$\hat{{k}}$ > {KHAT_LIMIT}"] if len(poor) else ["data", "_none"]
    axes.hist([rest, poor], edges, stacked=True, color=[BLUE, ORANGE], alpha=0.75, label=names)
    if len(poor):
        below = np.full(len(poor), -0.02)
        axes.plot(poor, below, "|", color=ORANGE, transform=axes.get_xaxis_transform(), clip_on=False)
        axes.tick_params("x", pad=9)
    _mark_mean(axes, evidence.mean, evidence.stderr)
    axes.set(xlabel="log p(x), nats", ylabel="number of data")
    axes.legend(**LEGEND)
    return figure


def _mark_mean(axes: Axes, mean: float, error: float) -> None:
    if math.isfinite(mean):
        axes.axvline(mean, color="black", linewidth=1.2, label=f"mean {mean:.2f}")
    if math.isfinite(mean) and math.isfinite(error):
        axes.axvspan(mean - error, mean + error, color="black", alpha=0.15, label=f"± {error:.2f}, its standard error")


def khat_plot(evidence: Evidence) -> Figure:
    """Draw the k-hat of each datum against its log p(x_n), with lines at 0.5 and 0.7.

    A k-hat of -inf (weights without any spread, the best there is) is a triangle at the lower edge; where K < 26
    there is no k-hat, and the figure says so.
    """
    figure, axes = single_axes()
    log_px, khat = evidence.log_px.numpy(), evidence.khat.numpy()
    finite, constant = np.isfinite(khat), np.isneginf(khat)
    colours = np.where(khat > KHAT_LIMIT, ORANGE, BLUE)
    axes.scatter(log_px[finite], khat[finite], s=9, c=colours[finite], alpha=0.6, linewidths=0)
    floor = khat[finite].min(initial=0.0) - 0.1
    if constant.any():
        label = r"no spread, $\hat{k}$ = -inf"
        axes.scatter(log_px[constant], np.full(constant.sum(), floor), s=16, marker="v", c=BLUE, label=label)
        axes.legend(**LEGEND)
    if np.isnan(khat).all():
        axes.text(0.5, 0.25, "no k-hat: it needs K of at least 26", transform=axes.transAxes, ha="center")
    _mark_limits(axes)
    axes.set(xlabel="log p(x), nats", ylabel=r"Pareto $\hat{k}$")
    axes.set_ylim(floor - 0.05, khat[finite].max(initial=0.8) + 0.1)
    return figure


def _mark_limits(axes: Axes) -> None:
    for limit, style in ((0.5, ":"), (KHAT_LIMIT, "--")):
        axes.axhline(limit, color=GREY, linestyle=style, linewidth=1)
        axes.text(1.01, limit, f"{limit}", transform=axes.get_yaxis_transform(), va="center", color=GREY)


def comparison_plot(table: pd.DataFrame) -> Figure:
    """Draw how far each model is below the best, with two standard errors of the paired difference.

    Args:
        table: what ``compare`` returned.
    """
    figure, axes = single_axes(1.2 + 0.4 * len(table))
    places = list(range(len(table)))[::-1]
    axes.errorbar(-table["diff"], places, xerr=2 * table["diff_stderr"], fmt="o", color=BLUE, capsize=3)
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set_yticks(places, list(table.index))
    axes.set_ylim(-0.6, len(table) - 0.4)
    axes.set_xlabel(f"log p(x) below that of {table.index[0]}, nats per datum, two standard errors")
    return figure


def kl_bars(latents: LatentKL) -> Figure:
    """Draw the KL of each latent dimension from the largest to the smallest, with two standard errors."""
    order = latents.kl.argsort(descending=True)
    figure, axes = single_axes()
    heights, errors = ((values[order].cpu().numpy()) for values in (latents.kl, 2 * latents.std_error))
    axes.bar(range(len(order)), heights, yerr=errors, color=BLUE, ecolor=GREY)
    axes.set(xlabel="latent dimensions, in order of their KL", ylabel="KL, nats per datum")
    return figure


def rank_histograms(result: SBC, *, max_panels: int = 12, level: float = 0.99) -> Figure:
    """Draw the ranks of each latent dimension, with the band that holds a bin's count with probability ``level``.

    The band is binomial and bin by bin, to guide the eye: one bar of a hundred lies outside at 0.99, calibrated or not.
    Columns that ``sbc`` rejects are orange. High at both ends: the guide is too narrow; in the middle: too wide; on
    one side: shifted.

    Args:
        result: what ``sbc`` returned.
        max_panels: the most panels drawn, those of the smallest p-values.
        level: coverage of the band.
    """
    from scipy.stats import binom

    count, num_data = result.num_draws + 1, len(result.ranks)
    edges = np.linspace(0, count, _rank_bins(count) + 1).round()
    low, high = (binom.ppf(p, num_data, np.diff(edges) / count) for p in ((1 - level) / 2, (1 + level) / 2))
    band = [np.append(end, end[-1]) for end in (low, high)]
    figure, panels = _panels(result.test, max_panels)
    for j, (axes, colour) in panels.items():
        axes.fill_between(edges, band[0], band[1], step="post", color=GREY, alpha=0.3, linewidth=0)
        heights, _ = np.histogram(result.ranks[:, j].numpy(), edges)
        axes.stairs(heights, edges, color=colour)
    figure.axes[0].set_ylim(bottom=0)  # last: it holds the shared axis still
    figure.supxlabel("rank of the truth among the guide's draws", fontsize="medium")
    return figure


def _rank_bins(count: int) -> int:
    """Return a number of bins, at most 20, that divides the number of ranks where one of 5 or more does."""
    return next((bins for bins in range(min(20, count), 4, -1) if count % bins == 0), min(20, count))


def ecdf_differences(test: Uniformity, *, max_panels: int = 12, level: float = 0.95) -> Figure:
    """Draw the ECDF of each column minus the diagonal, with a band that holds all of it with probability ``level``.

    Columns that the test rejects are orange. The band is for one column; where many are drawn, some leave it by chance.

    Args:
        test: ``sbc(...).test``, ``pit(...).test`` or that of any other numbers.
        max_panels: the most panels drawn, those of the smallest p-values.
        level: coverage of the band, over the whole curve.

    Source: Säilynoja, Bürkner and Vehtari (2022), Graphical Test for Discrete Uniformity, section 2.
    """
    points, low, high = (end.numpy() for end in ecdf_band(len(test.u), level=level))
    figure, panels = _panels(test, max_panels)
    for j, (axes, colour) in panels.items():
        axes.fill_between(points, low - points, high - points, color=GREY, alpha=0.3, linewidth=0)
        axes.plot(points, _ecdf(test.u[:, j].numpy(), points) - points, color=colour)
        axes.set_xlim(0, 1)
    figure.supylabel("ECDF minus uniform", fontsize="medium")
    return figure


def _ecdf(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.sort(values), points, side="right") / len(values)


def _panels(test: Uniformity, max_panels: int) -> tuple[Figure, dict[int, tuple[Axes, str]]]:
    """Return a figure and {column: (axes, colour)}, in the columns' order."""
    shown = sorted(test.p_values.argsort(stable=True)[:max_panels].tolist())
    figure, grid = grid_of_axes(len(shown), 1.5, share_y=True)
    for axes, j in zip(grid, shown, strict=True):
        axes.set_title(test.labels[j], fontsize=8)
    if len(shown) < len(test.labels):
        figure.suptitle(f"{len(shown)} of {len(test.labels)}, those of the smallest p-values", fontsize="small")
    colours = [ORANGE if bad else BLUE for bad in test.rejected.tolist()]
    return figure, {j: (axes, colours[j]) for axes, j in zip(grid, shown, strict=True)}


def coverage_curve(coverage: Coverage, *, level: float = 0.95) -> Figure:
    """Draw the coverage of the guide's credible regions against their nominal level.

    Above the diagonal the regions are too large (conservative), below too small (overconfident). The band holds all of
    the curve with probability ``level`` if the guide is the posterior.
    """
    figure, axes = single_axes(height=4.2)
    nominal, low, high = ecdf_band(len(coverage.level), level=level)
    axes.fill_between(
        nominal.numpy(), low.numpy(), high.numpy(), color=GREY, alpha=0.3, linewidth=0, label=f"{level:.0%} if exact"
    )
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    ends = torch.cat([torch.zeros(1), nominal, torch.ones(1)])
    colour = BLUE if coverage.accepted else ORANGE
    axes.plot(ends.numpy(), coverage.at(ends).numpy(), color=colour, label=coverage.verdict)
    axes.set(xlabel="credible level", ylabel="share of truths inside", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.legend(loc="upper left", **LEGEND)
    return figure


def replicated_statistics(check: PredictiveCheck) -> Figure:
    """Draw a histogram of each statistic over the replicated data sets, with a line at its value in the data."""
    names = list(check.observed)
    figure, grid = grid_of_axes(len(names), 1.9)
    for axes, name in zip(grid, names, strict=True):
        axes.hist(check.replicated[name].numpy(), num_bins(check.num_draws), color=BLUE, alpha=0.75)
        axes.axvline(check.observed[name], color=ORANGE)
        axes.set_title(f"{name}: p = {check.two_sided[name]:.3f}", fontsize=8)
    figure.supylabel("replicated data sets", fontsize="medium")
    return figure
