"""Products of a recorded graph split by the rows of their weight, so that each of two cores keeps its own rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx import GraphModule

from pyro_vae.inference.compile.graph import aten, exchange, value_of

PARTS = 2
"""Number of threads at which products are split, one part for each; with more, which was not measured, MKL splits."""
FEWEST_ROWS = 64
"""Fewest rows of a weight for each core: a product by fewer takes longer than its share of the whole."""


def split_products(graph: GraphModule) -> None:
    """Split what a layer (in, out) computes by its weight W, (out, in), in place: forwards, and both gradients.

        x W^T = [x W_1^T, x W_2^T],     g W = g_1 W_1 + g_2 W_2,     g^T x = [g_1^T x; g_2^T x]

    A core then reads the rows of W that it updates, as the optimizer's kernel halves a tensor likewise. Where all
    cores read all of W, each of its lines has to be taken back from the other's cache before it can be written. With
    the network of the benchmarks, 100 data a step and two cores that share a cache, a step took 0.95 of the time, and
    0.78 with two that do not.
    """
    if torch.get_num_threads() != PARTS or not torch.backends.mkl.is_available():
        return
    for node in list(graph.graph.nodes):
        way = None
        if node.target is aten.addmm.default and not node.kwargs:
            way = forwards if _fits(*(value_of(graph, arg) for arg in node.args)) else None
        elif node.target is aten.mm.default:
            way = _gradient(*(value_of(graph, arg) for arg in node.args))
        if way is not None:
            exchange(graph, node, way, node.args)


def forwards(bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Return b + x W^T, shape (B, out), from b (out,), x (B, in) and W^T (in, out)."""
    products = torch.bmm(x.expand(PARTS, *x.shape), weight.t().unflatten(0, (PARTS, -1)).transpose(1, 2))
    biases = bias.unflatten(0, (PARTS, -1))
    return torch.cat([products[i] + biases[i] for i in range(PARTS)], 1)


def by_input(g: Tensor, weight: Tensor) -> Tensor:
    """Return g W, shape (B, in), from g (B, out) and W (out, in)."""
    products = torch.bmm(g.unflatten(1, (PARTS, -1)).transpose(0, 1), weight.unflatten(0, (PARTS, -1)))
    return products[0] + products[1]


def by_weight(g: Tensor, x: Tensor) -> Tensor:
    """Return g^T x, shape (out, in), from g^T (out, B) and x (B, in)."""
    return torch.bmm(g.unflatten(0, (PARTS, -1)), x.expand(PARTS, *x.shape)).flatten(0, 1)


def _fits(bias: Tensor, x: Tensor, weight: Tensor) -> bool:
    by_columns = weight.stride() == (1, weight.shape[0])
    return by_columns and bias.shape == weight.shape[1:] and x.stride(1) == 1 and _pays(weight.shape[1], x, weight)


def _gradient(left: Tensor, right: Tensor) -> Callable[..., Tensor] | None:
    """Return the way to split a product without a bias, None for one that stays."""
    if right.stride() != (right.shape[1], 1):
        return None
    if left.stride() == (left.shape[1], 1) and _pays(right.shape[0], left, right):
        return by_input
    if left.stride() == (1, left.shape[0]) and _pays(left.shape[0], right, left):
        return by_weight
    return None


def _pays(rows: int, of_data: Tensor, other: Tensor) -> bool:
    """Say whether a weight has rows enough for each core, and more than there are data: it is what is worth keeping."""
    simple = (
        other.device.type == "cpu" and of_data.dtype is other.dtype and other.dtype in (torch.float32, torch.float64)
    )
    return simple and rows % PARTS == 0 and rows >= max(PARTS * FEWEST_ROWS, len(of_data))
