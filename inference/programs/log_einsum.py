"""A backend of opt_einsum for sums of products of densities given by their logs.

Pyro's own takes the largest of each factor out and multiplies the rest, which is 0 where two factors are far apart in
opposite ways: two observations 100 nats for and against a component are -inf in float32. Here logs are added first.
"""

from __future__ import annotations

from collections import OrderedDict

from pyro.ops.contract import contract_to_tensor
from pyro.ops.einsum.util import Tensordot
from pyro.ops.rings import LogRing
from torch import Tensor


def einsum(equation: str, *operands: Tensor) -> Tensor:
    """Return log sum exp of the sum of the operands, over the symbols that the output has not."""
    inputs, output = equation.split("->")
    summed = sorted(set(inputs) - set(output) - {","})
    order = [*output, *summed]
    total = sum(_aligned(operand, dims, order) for operand, dims in zip(operands, inputs.split(","), strict=True))
    assert isinstance(total, Tensor)  # of at least one operand
    return total.logsumexp(tuple(range(len(output), len(order)))) if summed else total


def _aligned(operand: Tensor, dims: str, order: list[str]) -> Tensor:
    """Return a tensor with its dimensions in this order, the missing ones of size 1."""
    present = [symbol for symbol in order if symbol in dims]
    sizes = dict(zip(dims, operand.shape, strict=True))
    return operand.permute([dims.index(symbol) for symbol in present]).reshape([sizes.get(s, 1) for s in order])


def transpose(operand: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return a tensor with its dimensions in another order."""
    return operand.permute(axes)


tensordot = Tensordot(einsum)


class Ring(LogRing):
    """Pyro's ring of sums and products in log space, with this backend."""

    _backend = __name__


def log_sum(operands: list[Tensor], inputs: list[str], output: str, plates: str) -> Tensor:
    """Return log sum exp of products of densities over all symbols that are neither in the output nor plates.

    Args:
        operands: log densities.
        inputs: a symbol for each dimension of each.
        output: the symbols of the result, plates.
        plates: symbols along which densities are multiplied where the output has them not; a summed symbol that comes
            with a plate is another for each entry of it.
    """
    every = frozenset(plates)
    tree: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
    sizes = {s: n for dims, term in zip(inputs, operands, strict=True) for s, n in zip(dims, term.shape, strict=True)}
    for dims, term in zip(inputs, operands, strict=True):
        fresh = term[...]
        fresh._pyro_dims = dims  # type: ignore[attr-defined]
        tree.setdefault(every.intersection(dims), []).append(fresh)
    summed = set().union(*inputs) - every
    total: Tensor = contract_to_tensor(tree, summed, target_ordinal=every.intersection(output), ring=Ring({}, sizes))
    found: str = total._pyro_dims  # type: ignore[attr-defined]
    return total.permute([found.index(symbol) for symbol in output])
