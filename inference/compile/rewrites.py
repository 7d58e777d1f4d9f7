"""A recorded graph on the CPU with some of its operations exchanged for cheaper ones of the same value."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule

from pyro_vae.inference.compile.graph import Node, aten, exchange, value_of
from pyro_vae.inference.compile.splitting import split_products

MANY = 30_000_000
"""Multiplications of a matrix product from which oneDNN's own start no longer counts against its faster kernels."""
FUSED: dict[Any, str] = {aten.tanh.default: "tanh", aten.sigmoid.default: "sigmoid"}
"""Activations that oneDNN takes with a product. Its relu makes 0 of NaN, and saves nothing."""
VIEWS = (aten.view.default, aten._unsafe_view.default)


def rewrite(graph: GraphModule) -> None:
    """Exchange operations of a graph in place; what runs on another device, or in another precision, stays."""
    for node in list(graph.graph.nodes):
        if node.target is aten.sum.dim_IntList:
            _sum_of_log_bernoullis(graph, node)
        elif node.target is aten.addmm.default and not node.kwargs:
            _layer(graph, node)
        elif node.target is aten.mm.default:
            _product(graph, node)
    split_products(graph)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def sum_of_log_bernoullis(logits: Tensor, x: Tensor) -> Tensor:
    """Return the sum over the last dimension of log Bernoulli(x; logits), with few logarithms.

        sum_i x_i l_i - softplus(l_i) = sum_i min(l_i, 0) - (1 - x_i) l_i - log prod_i (1 + exp(-|l_i|))

    No factor exceeds 2, so that the product of 64 is far from overflow. What a factor has of 1 is rounded as in
    torch's own formula, which adds it to 1 before it takes the logarithm too.

    Args:
        logits: shape (..., D).
        x: the same shape.

    Returns:
        shape (...).
    """
    columns = _columns(logits.shape[-1])
    logits, x = (value.unflatten(-1, (-1, columns)) for value in (logits, x))
    factors = (1 + (-logits.abs()).exp()).prod(-2)
    return ((logits.clamp(max=0) - (1 - x) * logits).sum(-2) - factors.log()).sum(-1)


def _columns(size: int) -> int:
    """Return the number of products for D factors, at most 64 in each: the least multiple of 16, a vector register.

    Where no such multiple divides D, the least divisor from 16 on, or below.
    """
    divisors = [n for n in range(1, size + 1) if size % n == 0 and size <= 64 * n]
    return min(divisors, key=lambda n: (n % 16 > 0, n < 16, n), default=0)


def _sum_of_log_bernoullis(graph: GraphModule, total: Node) -> None:
    """Exchange what log_prob of independent Bernoulli variables records: -bce, flattened, summed."""
    flat, dims = total.args[:2]
    neg = flat.args[0] if flat.target in VIEWS else flat
    if neg.target is not aten.neg.default or len(total.args) > 2 or total.kwargs or dims != [-1]:
        return
    bce = neg.args[0]
    only = all(len(node.users) == 1 for node in {flat, neg, bce})
    if bce.target is not aten.binary_cross_entropy_with_logits.default or bce.args[2:] != (None, None, 0) or not only:
        return
    shape, inputs = flat.meta["val"].shape, [arg.meta["val"] for arg in bce.args[:2]]
    exact = inputs[0].dtype is inputs[1].dtype and inputs[0].dtype in (torch.float32, torch.float64)
    if inputs[0].device.type != "cpu" or not exact or _columns(shape[-1]) == shape[-1]:
        return
    # At bce, where both are what they were, should something overwrite them later.
    exchange(graph, total, lambda *args: sum_of_log_bernoullis(*(a.reshape(shape) for a in args)), bce.args[:2], bce)


def _layer(graph: GraphModule, node: Node) -> None:
    """Exchange b + x W for oneDNN's product, with the activation that is its only use, reshaped or not."""
    bias, x, weight = node.args
    if not _is_faster(graph, x, weight) or not _is_row(value_of(graph, bias), value_of(graph, weight)):
        return
    last = _only_user(node)
    if last is not None and last.target in VIEWS:
        last = _only_user(last)
    activation = FUSED.get(last.target, "none") if last is not None else "none"
    _exchange(graph.graph, node, bias, activation)
    if last is not None and activation != "none":
        last.replace_all_uses_with(last.args[0])


def _product(graph: GraphModule, node: Node) -> None:
    if _is_faster(graph, *node.args):
        _exchange(graph.graph, node, None, "none")


def _exchange(graph: Graph, node: Node, bias: Node | None, activation: str) -> None:
    x, weight = node.args[-2:]
    with graph.inserting_before(node):
        product = graph.call_function(_linear(), (x, graph.call_function(aten.t.default, (weight,)), bias, activation))
        product.meta = dict(node.meta)
    node.replace_all_uses_with(product)


def _only_user(node: Node) -> Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _is_faster(graph: GraphModule, x: Node, weight: Node) -> bool:
    """Say whether oneDNN takes a product and is faster at it; where x lies by columns, as in gradients, it is not."""
    left, right = value_of(graph, x), value_of(graph, weight)
    simple = left.device.type == "cpu" and left.dtype is right.dtype is torch.float32 and left.stride(-1) == 1
    onednn = torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)
    return simple and onednn and left.numel() * right.shape[-1] >= MANY


def _is_row(bias: Tensor, weight: Tensor) -> bool:
    """Say whether oneDNN takes a bias: it reads one number a column from contiguous memory, and ignores strides."""
    return bias.shape == weight.shape[-1:] and bias.is_contiguous()


def _linear() -> Any:
    _library()
    return torch.ops.pyro_vae.linear.default


@cache
def _library() -> torch.library.Library:
    """Define oneDNN's x W^T + b with an activation as an operation that inductor leaves as it is.

    Inductor's own rule for it takes no other weights than constants.
    """
    product = torch.ops.mkldnn._linear_pointwise.default
    library = torch.library.Library("pyro_vae", "FRAGMENT")
    library.define("linear(Tensor x, Tensor weight, Tensor? bias, str activation) -> Tensor")
    library.impl("linear", lambda x, w, b, activation: product(x, w, b, activation, [], ""), "CPU")
    library.impl("linear", lambda x, w, b, activation: x.new_empty(len(x), len(w)), "Meta")
    return library
