"""Pictures of data, draws and latent space: tensors in, a matplotlib ``Figure`` out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.data.labels import MAX_CLASSES
from pyro_vae.report.figures import BLUE, GREY, WIDTH, num_bins, single_axes

ImageShape = tuple[int, int, int]
NUM_DRAWS, NUM_POINTS = 4000, 200
"""Draws from which a prior's contours are found, and points of the grid along each dimension."""
MASS = (0.99, 0.9, 0.5)
"""Shares of the prior's mass inside its contours."""


def image_grid(
    x: Tensor,
    image_shape: ImageShape | None,
    titles: Sequence[str] | None = None,
    columns: int = 8,
    *,
    reference: Tensor | None = None,
) -> Figure:
    """Draw data as pictures, or as the rows of a heat map where they are not pictures.

    Three channels are shown as red, green and blue; of any other number, the mean over channels. In the heat
    map each entry of x has its own colour scale, since columns of a table differ in their units.

    Args:
        x: data, shape (N, *event).
        image_shape: (C, H, W), or None for data that are not pictures.
        titles: N titles, or labels of the heat map's rows.
        columns: pictures in a row.
        reference: data whose range is the grey or colour scale, shape (M, *event); ``x`` if absent. Values
            outside it are drawn as its ends.
    """
    shown = x if reference is None else reference
    if image_shape is None:
        return _heat_maps({"": x}, shown, titles)
    rows = math.ceil(len(x) / columns)
    cell = WIDTH / columns
    height = rows * (cell * image_shape[1] / image_shape[2] + (0.32 if titles else 0.0))
    figure = Figure(figsize=(WIDTH, height + 0.1), layout="constrained")
    for index, picture in enumerate(_pictures(x, image_shape, shown)):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        if titles:
            axes.set_title(titles[index], fontsize=8)
    return figure


def _pictures(x: Tensor, image_shape: ImageShape, reference: Tensor) -> np.ndarray:
    """Return values in [0, 1], shape (N, H, W), or (N, H, W, 3) for three channels."""
    low, high = (bound.item() for bound in reference[~reference.isnan()].aminmax())
    scaled = (x.detach().cpu().float() - low) / ((high - low) or 1.0)
    channels = scaled.clamp(0, 1).reshape(-1, *image_shape)
    return (channels.movedim(1, -1) if image_shape[0] == 3 else channels.mean(1)).numpy()


def _heat_maps(panels: Mapping[str, Tensor], reference: Tensor, titles: Sequence[str] | None = None) -> Figure:
    """Draw one heat map above the other, a row for each datum and a column for each entry of x."""
    num_rows = sum(len(x) for x in panels.values())
    figure = Figure(figsize=(WIDTH, 1.2 + 0.5 * len(panels) + 0.16 * num_rows), layout="constrained")
    flat = reference.flatten(1).cpu()
    low = flat.nan_to_num(torch.inf, torch.inf, -torch.inf).amin(0)
    high = flat.nan_to_num(-torch.inf, torch.inf, -torch.inf).amax(0)
    width = torch.where(high > low, high - low, 1)
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
        image_shape: (C, H, W), or None for data that are not pictures.
        reference: data whose range is the grey or colour scale, shape (M, *event); ``x`` if absent.
    """
    shown = x if reference is None else reference
    if image_shape is None:
        return _heat_maps({"x": x, "mean of p(x|z)": mean}, shown)
    figure = image_grid(torch.cat([x, mean]), image_shape, columns=len(x), reference=shown)
    figure.axes[0].set_ylabel("x")
    figure.axes[len(x)].set_ylabel("mean of\np(x|z)")
    return figure


def moment_scatter(x: Tensor, draws: Tensor) -> Figure:
    """Draw the mean and standard deviation of each entry of x, in draws from p(x) against the data.

    Args:
        x: data, shape (N, *event).
        draws: draws from p(x), shape (M, *event).
    """
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    names = ("mean", "standard deviation")
    for axes, name, of_data, of_draws in zip(figure.subplots(1, 2), names, _moments(x), _moments(draws), strict=True):
        axes.scatter(of_data, of_draws, s=9, c=BLUE, alpha=0.6, linewidths=0)
        ends = [min(of_data.min(), of_draws.min()).item(), max(of_data.max(), of_draws.max()).item()]
        axes.plot(ends, ends, color=GREY, linestyle="--", linewidth=1)
        axes.set_aspect("equal")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set(title=name, xlabel="data", ylabel="draws from p(x)")
    return figure


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation of each entry over data."""
    flat = x.detach().cpu().flatten(1).double()
    mean = flat.nanmean(0)
    return mean, (flat - mean).square().nanmean(0).sqrt()


@torch.no_grad()
def latent_scatter(loc: Tensor, labels: Tensor | None = None, prior: Distribution | None = None) -> Figure:
    """Draw the guide's posterior means: both dimensions of two, or the first principal components of more.

    A prior of one dimension is a grey curve, one of two grey contours, which hold 50, 90 and 99% of its mass.

    Args:
        loc: means of q(z|x_n), shape (N, D); one dimension is drawn as a histogram.
        labels: class or value of each datum, shape (N,); the colours.
        prior: p(z), event shape (D,), which is drawn for D = 1 and D = 2.
    """
    figure, axes = single_axes(height=4.2)
    z = loc.detach().cpu().double().numpy()
    if z.shape[1] == 1:
        _, edges, _ = axes.hist(z[:, 0], num_bins(len(z)), color=BLUE, alpha=0.75)
        axes.set(xlabel="mean of q(z|x)", ylabel="number of data")
        if prior is not None:
            _density_curve(axes, prior, len(z) * (edges[1] - edges[0]))
        return figure
    if prior is not None and z.shape[1] == 2:
        _density_contours(axes, prior)
    plane, names = _plane(z)
    _coloured_scatter(axes, plane, None if labels is None else labels.cpu().double().numpy())
    axes.set(xlabel=names[0], ylabel=names[1])
    return figure


def _density_curve(axes: Axes, p: Distribution, height: float) -> None:
    """Draw height * p(z): the number of data that a bin of that width would hold under p."""
    (points,) = _sides(_draws(p))
    axes.plot(points.cpu(), height * p.log_prob(points[:, None]).exp().cpu(), color=GREY)


def _density_contours(axes: Axes, p: Distribution) -> None:
    """Draw the edges of the regions of highest density: quantiles of log p(z) over draws."""
    draws = _draws(p)
    first, second = _sides(draws)
    levels = torch.quantile(p.log_prob(draws), draws.new_tensor([1 - share for share in MASS]))
    log_p = p.log_prob(torch.stack(torch.meshgrid(first, second, indexing="xy"), -1))
    log_p = log_p.clamp(min=levels[0].item() - 50)  # a contour cannot run to -inf
    axes.contour(
        first.cpu(),
        second.cpu(),
        log_p.cpu(),
        levels=levels.tolist(),
        colors=GREY,
        linewidths=0.8,
        linestyles="solid",
    )


def _draws(p: Distribution) -> Tensor:
    """Return draws, shape (NUM_DRAWS, D), of a distribution over vectors of batch shape () or (1,)."""
    return p.sample(torch.Size([NUM_DRAWS])).reshape(NUM_DRAWS, -1)


def _sides(draws: Tensor) -> list[Tensor]:
    """Return points along each dimension that span all but the outermost draws, with some room."""
    low, high = draws.quantile(draws.new_tensor([0.005, 0.995]), 0)
    room = 0.1 * (high - low)
    ends = zip((low - room).tolist(), (high + room).tolist(), strict=True)
    return [torch.linspace(*pair, NUM_POINTS, dtype=draws.dtype, device=draws.device) for pair in ends]


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
