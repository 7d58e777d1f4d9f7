"""Changes of recorded graphs: the exchange of a node for a recorded function, and of a selection for a choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

aten = torch.ops.aten
Node = Any  # fx's own type lets arguments be anything, and each would have to be asked what it is


def value_of(graph: GraphModule, node: Node) -> Tensor:
    """Return a tensor of a node's shape, layout, dtype and device."""
    return getattr(graph, str(node.target)) if node.op == "get_attr" else node.meta["val"]


def exchange(
    graph: GraphModule, node: Node, function: Callable[..., Tensor], args: Sequence[Node], before: Node | None = None
) -> None:
    """Let a function of other nodes take a node's place.

    Args:
        graph: the graph.
        node: what is replaced.
        function: returns the node's value.
        args: what it is a function of.
        before: where it is computed; at the node if None.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    given = [value_of(graph, arg) for arg in args]
    recorded = make_fx(function)(
        *(torch.empty_strided(v.shape, v.stride(), dtype=v.dtype, device="meta") for v in given)
    )
    places = dict(zip(recorded.graph.find_nodes(op="placeholder"), args, strict=True))
    with graph.graph.inserting_before(node if before is None else before):
        result: Node = graph.graph.graph_copy(recorded.graph, places)
    result.meta = dict(node.meta)
    node.replace_all_uses_with(result)


def choose_in_place(graph: GraphModule) -> bool:
    """Make of ``y[mask] = x[mask]``, as in Pyro's splines, and of its gradient a choice entry by entry.

    What is selected has a shape that depends on values; where it goes back to the places that it came from, nothing
    else depends on it but how many zeros the gradient by y has there.

    Returns:
        False where other values of that shape are put in such places.
    """
    masks: set[Node] = set()
    for node in graph.graph.find_nodes(op="call_function", target=aten.index.Tensor):
        x, mask = node.args[0], _mask_of(node)
        puts = [user for user in node.users if user.target is not aten.new_zeros.default]  # that asks for the dtype
        if mask is None or not all(_mask_of(put) is mask and put.args[2] is node for put in puts):
            continue
        with graph.graph.inserting_before(node):
            kept = graph.graph.call_function(aten.clone.default, (x,))
            kept.meta = dict(x.meta)
        for put in puts:
            _choose(graph, put, mask, kept)
        node.replace_all_uses_with(kept)
        graph.graph.erase_node(node)
        masks.add(mask)
    for node in list(graph.graph.nodes):
        if node.op == "call_function" and _mask_of(node) in masks and node.args[2].meta["val"].ndim == 1:
            if node.args[2].target is not aten.zeros.default:
                return False
            _choose(graph, node, _mask_of(node), 0.0)
    return True


def _mask_of(node: Node) -> Node:
    """Return the mask by which a node takes or puts single entries, None where it does something else."""
    if node.target not in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
        return None
    y, (mask, *rest) = node.args[:2]
    if rest or mask is None or "val" not in mask.meta or "val" not in y.meta:
        return None
    if mask.meta["val"].dtype is not torch.bool or mask.meta["val"].shape != y.meta["val"].shape:
        return None
    while mask.target is aten.detach.default:
        mask = mask.args[0]
    return mask


def _choose(graph: GraphModule, put: Node, mask: Node, kept: Node) -> None:
    y, added = put.args[0], len(put.args) > 3 and put.args[3]
    with graph.graph.inserting_before(put):
        value = graph.graph.call_function(aten.add.Tensor, (y, kept)) if added else kept
        where = aten.where.ScalarSelf if isinstance(value, float) else aten.where.self
        chosen = graph.graph.call_function(where, (mask, value, y))
        if put.target is aten.index_put_.default:
            chosen = graph.graph.call_function(aten.copy_.default, (y, chosen))
        chosen.meta = dict(put.meta)
    put.replace_all_uses_with(chosen)
    graph.graph.erase_node(put)
