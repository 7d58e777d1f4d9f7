"""Figures of training, evidence and data: arrays in, a matplotlib ``Figure`` out, nothing global touched."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from pyro_vae.inference.evidence import KHAT_LIMIT, Evidence

# Okabe and Ito's colours, which colour-blind readers can tell apart.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#767676"
WIDTH = 6.0
"""Width of every figure in inches: narrow, so that its letters stay legible on a phone."""
NATS = "nats per datum"
LEGEND: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "framealpha": 0.8}
MAX_CLASSES = 20

ImageShape = tuple[int, int, int]


def learning_curves(history: Sequence[Mapping[str, float]], best_epoch: int | None = None) -> Figure:
    """Draw the training bound (-loss) and the validation bound against the epoch, in nats per datum.

    The y-axis follows the later half of the epochs: the first steps gain hundreds of nats, next to
    which what happens at the end would be a flat line. Epochs whose KL weight is still rising are shaded, since
    -loss is no bound there.

    Args:
        history: rows of ``FitResult.history``.
        best_epoch: the epoch whose parameters were kept; marked if given.
    """
    figure, axes = _single()
    epochs = np.array([row["epoch"] for row in history])
    curves = {
        "training": np.array([-row["loss"] for row in history]),
        "validation": np.array([row.get("valid_bound", math.nan) for row in history]),
    }
    for (name, bound), colour in zip(curves.items(), (GREY, BLUE), strict=True):
        if np.isfinite(bound).any():
            marker = "o" if len(bound) < 20 else ""
            axes.plot(epochs, bound, color=colour, marker=marker, markersize=4, label=name)
    _shade_warmup(axes, history)
    if best_epoch is not None:
        axes.axvline(best_epoch, color=ORANGE, linestyle=":", label=f"epoch kept: {best_epoch}")
    _settle(axes, np.stack(list(curves.values())))
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
    figure, axes = _single()
    counts = sorted(evidence.curve)
    means = [evidence.curve[k][0] for k in counts]
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.plot(counts, means, color=BLUE, marker="o", markersize=4, label="$L_k$, mean over data")
    error = evidence.curve[counts[-1]][1]
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
    figure, axes = _single()
    log_px, khat = evidence.log_px.numpy(), evidence.khat.numpy()
    finite = np.isfinite(log_px)
    poor = log_px[finite & (khat > KHAT_LIMIT)]
    rest = log_px[finite & ~(khat > KHAT_LIMIT)]
    edges = np.histogram_bin_edges(log_px[finite], bins=_num_bins(len(log_px))).tolist()
    axes.hist(
        [rest, poor], edges, stacked=True, color=[BLUE, ORANGE], alpha=0.75,
        label=["other data" if len(poor) else "data", rf"$\hat{{k}}$ > {KHAT_LIMIT}" if len(poor) else "_none"],
    )  # fmt: skip
    if len(poor):
        below = np.full(len(poor), -0.02)
        axes.plot(poor, below, "|", color=ORANGE, transform=axes.get_xaxis_transform(), clip_on=False)
        axes.tick_params("x", pad=9)
    _mark_mean(axes, evidence)
    axes.set(xlabel="log p(x), nats", ylabel="number of data")
    axes.legend(**LEGEND)
    return figure


def _num_bins(num_data: int) -> int:
    """Return about sqrt(N) bins; rules based on the spread ask for thousands where one datum is far out."""
    return min(max(round(math.sqrt(num_data)), 8), 60)


def _mark_mean(axes: Axes, evidence: Evidence) -> None:
    mean, error = evidence.mean, evidence.stderr
    if math.isfinite(mean):
        axes.axvline(mean, color="black", linewidth=1.2, label=f"mean {mean:.2f}")
    if math.isfinite(mean) and math.isfinite(error):
        axes.axvspan(mean - error, mean + error, color="black", alpha=0.15, label=f"± {error:.2f}, its standard error")


def khat_plot(evidence: Evidence) -> Figure:
    """Draw the k-hat of each datum against its log p(x_n), with lines at 0.5 and 0.7.

    A k-hat of -inf (weights without any spread, the best there is) is a triangle at the lower edge; where K < 21
    there is no k-hat, and the figure says so.
    """
    figure, axes = _single()
    log_px, khat = evidence.log_px.numpy(), evidence.khat.numpy()
    finite = np.isfinite(khat)
    colours = np.where(khat > KHAT_LIMIT, ORANGE, BLUE)
    axes.scatter(log_px[finite], khat[finite], s=9, c=colours[finite], alpha=0.6, linewidths=0)
    floor = min(khat[finite].min(initial=0.0), 0.0) - 0.1
    constant = np.isneginf(khat)
    if constant.any():
        label = r"no spread, $\hat{k}$ = -inf"
        axes.scatter(log_px[constant], np.full(constant.sum(), floor), s=16, marker="v", c=BLUE, label=label)
        axes.legend(**LEGEND)
    if np.isnan(khat).all():
        axes.text(0.5, 0.25, "no k-hat: it needs K of at least 21", transform=axes.transAxes, ha="center")
    for limit, style in ((0.5, ":"), (KHAT_LIMIT, "--")):
        axes.axhline(limit, color=GREY, linestyle=style, linewidth=1)
        axes.text(1.01, limit, f"{limit}", transform=axes.get_yaxis_transform(), va="center", color=GREY)
    axes.set(xlabel="log p(x), nats", ylabel=r"Pareto $\hat{k}$")
    axes.set_ylim(floor - 0.05, max(khat[finite].max(initial=0.8), 0.8) + 0.1)
    return figure


def image_grid(
    x: Tensor,
    image_shape: ImageShape | None,
    titles: Sequence[str] | None = None,
    columns: int = 8,
    *,
    reference: Tensor | None = None,
) -> Figure:
    """Draw data as pictures, or as the rows of a heat map where they are none.

    Three channels are shown as red, green and blue; of any other number, the mean over channels. In the heat
    map each entry of x has its own colour scale, since columns of a table differ in their units.

    Args:
        x: data, shape (N, *event).
        image_shape: (C, H, W), or None for data that are no pictures.
        titles: N titles, or labels of the heat map's rows.
        columns: pictures in a row.
        reference: data whose range is the grey or colour scale, shape (M, *event); ``x`` if absent. Values
            outside it are drawn as its ends.
    """
    shown = x if reference is None else reference
    if image_shape is None:
        return _heat_maps({"": x}, shown, titles)
    pictures = _pictures(x, image_shape, shown)
    rows = math.ceil(len(pictures) / columns)
    cell = WIDTH / columns
    height = rows * (cell * image_shape[1] / image_shape[2] + (0.32 if titles else 0.0))
    figure = Figure(figsize=(WIDTH, height + 0.1), layout="constrained")
    for index, picture in enumerate(pictures):
        axes = figure.add_subplot(rows, columns, index + 1)
        _show(axes, picture)
        if titles:
            axes.set_title(titles[index], fontsize=8)
    return figure


def _show(axes: Axes, picture: np.ndarray) -> None:
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _pictures(x: Tensor, image_shape: ImageShape, reference: Tensor) -> np.ndarray:
    """Return values in [0, 1], shape (N, H, W), or (N, H, W, 3) for three channels."""
    low, high = reference.min().item(), reference.max().item()
    scaled = (x.detach().cpu().float() - low) / ((high - low) or 1.0)
    channels = scaled.clamp(0, 1).reshape(-1, *image_shape)
    return (channels.movedim(1, -1) if image_shape[0] == 3 else channels.mean(1)).numpy()


def _heat_maps(panels: Mapping[str, Tensor], reference: Tensor, titles: Sequence[str] | None = None) -> Figure:
    """Draw one heat map above the other, a row for each datum and a column for each entry of x."""
    num_rows = sum(len(x) for x in panels.values())
    figure = Figure(figsize=(WIDTH, 1.2 + 0.5 * len(panels) + 0.16 * num_rows), layout="constrained")
    low, high = reference.flatten(1).amin(0).cpu(), reference.flatten(1).amax(0).cpu()
    width = torch.where(high > low, high - low, torch.ones_like(high))
    grid = figure.subplots(len(panels), squeeze=False, sharex=True)[:, 0]
    for axes, (name, x) in zip(grid, panels.items(), strict=True):
        scaled = (x.detach().cpu().flatten(1) - low) / width
        image = axes.imshow(scaled.numpy(), vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        axes.set(title=name, ylabel="datum")
        axes.set_yticks(range(len(x)) if titles else [], titles or [], fontsize=8)
    grid[-1].set_xlabel("entry of x")
    bar = figure.colorbar(image, ax=list(grid), ticks=[0, 1], aspect=30)
    bar.ax.set_yticklabels(["lowest", "highest"])
    return figure


def reconstructions(
    x: Tensor, mean: Tensor, image_shape: ImageShape | None, *, reference: Tensor | None = None
) -> Figure:
    """Draw data above and the means of p(x|z) below them, on one scale.

    Args:
        x: data, shape (N, *event).
        mean: mean of p(x|z) with z from q(z|x), shape (N, *event).
        image_shape: as in ``image_grid``.
        reference: as in ``image_grid``.
    """
    shown = x if reference is None else reference
    if image_shape is None:
        return _heat_maps({"x": x, "mean of p(x|z)": mean}, shown)
    figure = image_grid(torch.cat([x, mean]), image_shape, columns=len(x), reference=shown)
    figure.axes[0].set_ylabel("x")
    figure.axes[len(x)].set_ylabel("mean of\np(x|z)")
    return figure


def predictive_check(x: Tensor, draws: Tensor) -> Figure:
    """Draw the mean and standard deviation of each entry of x, in draws from p(x) against the data.

    Args:
        x: data, shape (N, *event).
        draws: draws from p(x), shape (M, *event).
    """
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    in_data, in_draws = (values.detach().cpu().flatten(1).double() for values in (x, draws))
    moments = {
        "mean": (in_data.mean(0), in_draws.mean(0)),
        "standard deviation": (in_data.std(0, correction=0), in_draws.std(0, correction=0)),
    }
    for axes, (name, (of_data, of_draws)) in zip(figure.subplots(1, 2), moments.items(), strict=True):
        axes.scatter(of_data, of_draws, s=9, c=BLUE, alpha=0.6, linewidths=0)
        ends = [min(of_data.min(), of_draws.min()).item(), max(of_data.max(), of_draws.max()).item()]
        axes.plot(ends, ends, color=GREY, linestyle="--", linewidth=1)
        axes.set_aspect("equal")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set(title=name, xlabel="data", ylabel="draws from p(x)")
    return figure


def latent_scatter(loc: Tensor, labels: Tensor | None = None) -> Figure:
    """Draw the guide's posterior means: both dimensions of two, or the first principal components of more.

    Args:
        loc: means of q(z|x_n), shape (N, D); one dimension is drawn as a histogram.
        labels: class or value of each datum, shape (N,); the colours.
    """
    figure, axes = _single(height=4.2)
    z = loc.detach().cpu().double().numpy()
    if z.shape[1] == 1:
        axes.hist(z[:, 0], _num_bins(len(z)), color=BLUE, alpha=0.75)
        axes.set(xlabel="mean of q(z|x)", ylabel="number of data")
        return figure
    plane, names = _plane(z)
    _coloured_scatter(axes, plane, None if labels is None else labels.cpu().double().numpy())
    axes.set(xlabel=names[0], ylabel=names[1])
    return figure


def _plane(z: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return two coordinates of each datum, shape (N, 2), and what they are."""
    if z.shape[1] == 2:
        return z, ["mean of q(z|x), dimension 1", "mean of q(z|x), dimension 2"]
    if len(z) < 2 or not z.std(0).any():  # no spread, no principal components
        return z[:, :2], [f"mean of q(z|x), dimension {d} of {z.shape[1]}" for d in (1, 2)]
    from sklearn.decomposition import PCA

    pca = PCA(2, svd_solver="full")
    plane = pca.fit_transform(z)
    shares = pca.explained_variance_ratio_
    return plane, [f"principal component {d + 1} of E[z|x] ({s:.0%} of variance)" for d, s in enumerate(shares)]


def _coloured_scatter(axes: Axes, plane: np.ndarray, labels: np.ndarray | None) -> None:
    """Scatter with a legend for up to 20 classes, a colour bar for values, one colour without labels."""
    scatter = partial(axes.scatter, s=12, alpha=0.75, linewidths=0)
    if labels is None:
        scatter(*plane.T, color=BLUE)
        return
    classes = np.unique(labels)
    if len(classes) > MAX_CLASSES:
        axes.figure.colorbar(scatter(*plane.T, c=labels, cmap="viridis"), ax=axes, label="label")
        return
    palette = colormaps["tab10" if len(classes) <= 10 else "tab20"]
    for index, name in enumerate(classes):
        scatter(*plane[labels == name].T, color=palette(index), label=f"{name:g}")
    axes.legend(title="label", loc="upper left", bbox_to_anchor=(1, 1), frameon=False, markerscale=2)


def _single(height: float = 3.4) -> tuple[Figure, Axes]:
    """Return a figure with one pair of axes and no frame on its upper and right sides."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
