"""Figures of calibration and criticism: ranks, ECDF differences, coverage, replicated statistics."""

from __future__ import annotations

import math

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_vae.inference.diagnostics import SBC, Coverage, PredictiveCheck, Uniformity, ecdf_band
from pyro_vae.report.figures import BLUE, GREY, LEGEND, ORANGE, WIDTH, num_bins, single_axes

COLUMNS = 3


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
    rows, columns = math.ceil(len(shown) / COLUMNS), min(COLUMNS, len(shown))
    figure = Figure(figsize=(WIDTH, 0.6 + 1.5 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    for spare in grid[len(shown) :]:
        spare.set_visible(False)
    for axes, j in zip(grid, shown, strict=False):
        axes.set_title(test.labels[j], fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    if len(shown) < len(test.labels):
        figure.suptitle(f"{len(shown)} of {len(test.labels)}, those of the smallest p-values", fontsize="small")
    colours = [ORANGE if bad else BLUE for bad in test.rejected.tolist()]
    return figure, {j: (axes, colours[j]) for axes, j in zip(grid, shown, strict=False)}


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
    rows, columns = math.ceil(len(names) / COLUMNS), min(COLUMNS, len(names))
    figure = Figure(figsize=(WIDTH, 0.6 + 1.9 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    for axes, name in zip(grid, names, strict=False):
        axes.hist(check.replicated[name].numpy(), num_bins(check.num_draws), color=BLUE, alpha=0.75)
        axes.axvline(check.observed[name], color=ORANGE)
        axes.set_title(f"{name}: p = {check.two_sided[name]:.3f}", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supylabel("replicated data sets", fontsize="medium")
    return figure
