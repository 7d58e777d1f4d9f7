"""Selections by a mask in a recorded graph, whose shapes depend on values, exchanged for choices of one shape."""

from __future__ import annotations

import torch
from torch.fx import GraphModule

from pyro_vae.inference.compile.graph import Node, aten


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
