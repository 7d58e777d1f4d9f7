"""What all changes of recorded graphs need: a node's value, and the exchange of a node for a recorded function."""

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
