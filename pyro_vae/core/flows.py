"""Normalizing flows, from zuko, as Pyro distributions that score a draw while it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import Distribution, Transform, constraints

from pyro_vae.core.checks import check_positive_int, did_you_mean

FLOW_KINDS = {
    "maf": "masked autoregressive flow: scores in one pass, draws in D (Papamakarios et al., 2017)",
    "iaf": "inverse autoregressive flow: draws in one pass, scores other values in D (Kingma et al., 2016)",
    "nsf": "autoregressive neural spline flow: scores in one pass, draws in D (Durkan et al., 2019)",
    "nsf_inverse": "inverse autoregressive neural spline flow: draws in one pass, scores other values in D",
    "nsf_coupling": "neural spline flow by coupling layers: two passes in either direction at most",
    "realnvp": "affine coupling layers: one pass in either direction (Dinh et al., 2017)",
}
"""The kinds of flow that ``build_flow`` knows, and what each costs: passes of each transform's network."""


class Drawn(NamedTuple):
    """A draw, what tells whether it has been changed since, and its log density.

    Attributes:
        value: the tensor drawn.
        version: its count of changes in place at that time.
        grad_fn: the node of the graph that made it.
        log_prob: log q of it, with the gradient that it has as a function of parameters and noise.
    """

    value: Tensor
    version: int
    grad_fn: Any
    log_prob: Tensor

    def scores(self, value: Tensor) -> bool:
        """Say whether the log density is that of this tensor: the one drawn, neither changed in place nor detached.

        A draw without a graph does not count where gradients are enabled: it has to be scored anew.
        """
        untouched = value is self.value and value._version == self.version and value.grad_fn is self.grad_fn
        return untouched and (self.log_prob.requires_grad or not torch.is_grad_enabled())


class FlowDistribution(TorchDistribution):
    """The distribution of z = f^-1(e), e ~ base.

        log q(z) = log base(f(z)) + log |det df/dz|

    A draw is scored from the noise that made it, so that ``log_prob`` of the very tensor that ``rsample``
    returned runs f in neither direction. It has the gradient of q(z(e)) by all parameters; the gradient by z
    alone is that of a copy, ``log_prob(z.view_as(z))``, which runs f.

    Args:
        transform: f, from z to e, bijective, with zuko's ``call_and_ladj``.
        base: the distribution of e, batch shape (...), event shape (D,).
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, transform: Transform, base: Distribution, validate_args: bool | None = None) -> None:
        self.transform: Any = transform
        self.base = base
        self._drawn: Drawn | None = None
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> FlowDistribution:
        """Return the distribution with a larger batch shape."""
        return type(self)(self.transform, self.base.expand(torch.Size(batch_shape)), self._validate_args)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw z, shape (*sample_shape, *batch_shape, D), reparameterised."""
        noise = self.base.rsample(torch.Size(sample_shape))
        z, log_det = self.transform.inv.call_and_ladj(noise)
        log_prob = self.base.log_prob(noise) - log_det
        z = z.clone()  # not the tensor that log_prob was computed from: a gradient by z alone fails, never errs
        if not z.is_inference():  # those have no version
            self._drawn = Drawn(z, z._version, z.grad_fn, log_prob)
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log q(z) in nats, shape (...), for z of shape (..., D)."""
        if self._drawn is not None and self._drawn.scores(value):
            return self._drawn.log_prob
        if self._validate_args:
            self._validate_sample(value)
        noise, log_det = self.transform.call_and_ladj(value)
        return self.base.log_prob(noise) + log_det

    def __getstate__(self) -> dict[str, Any]:
        """Leave the last draw out of copies."""
        return {**self.__dict__, "_drawn": None}


class Flow(nn.Module):
    """A flow with its parameters; ``forward`` returns the distribution.

    Args:
        flow: a zuko flow over D features, with a context or without.
        num_context: width of the context, 0 for none.
        inverse: use its transform in the other direction, so that drawing is as fast as scoring was.
    """

    def __init__(self, flow: nn.Module, num_context: int, inverse: bool) -> None:
        super().__init__()
        self.flow: Any = flow
        self.num_context, self.inverse = num_context, inverse

    def forward(self, context: Tensor | None = None) -> FlowDistribution:
        """Return the distribution, event shape (D,).

        Args:
            context: what it depends on, shape (..., num_context); None for a flow without one.

        Returns:
            the distribution, batch shape (...), or () without a context.

        Raises:
            ValueError: if the context has another width, or is None where the flow takes one.
        """
        if (0 if context is None else context.shape[-1]) != self.num_context:
            got = "none" if context is None else f"one of width {context.shape[-1]}"
            raise ValueError(f"Expected a context of width {self.num_context} for the flow; got {got}.")
        transform, base = self.flow.transform(context), self.flow.base(context)
        batch_shape = torch.Size() if context is None else context.shape[:-1]
        return FlowDistribution(transform.inv if self.inverse else transform, base.expand(batch_shape))


def build_flow(
    kind: str, dim: int, num_context: int = 0, transforms: int = 3, hidden: Sequence[int] = (64, 64)
) -> Flow:
    """Build a normalizing flow over R^D.

    Args:
        kind: one of ``FLOW_KINDS``.
        dim: D.
        num_context: width of the context, 0 for none.
        transforms: number of transformations in a row.
        hidden: widths of the hidden layers of each one's network.

    Returns:
        module whose ``forward(context)`` returns a ``FlowDistribution``.

    Raises:
        ValueError: for an unknown kind, or sizes that are not positive integers.
    """
    if kind not in FLOW_KINDS:
        raise ValueError(
            f"Expected kind to be one of {', '.join(FLOW_KINDS)}; got {kind!r}.{did_you_mean(str(kind), FLOW_KINDS)}"
        )
    check_positive_int(dim, "dim")
    check_positive_int(transforms, "transforms")
    for width in hidden:
        check_positive_int(width, "hidden")
    if num_context != 0:
        check_positive_int(num_context, "num_context")
    flows = _zuko_flows()
    coupling = getattr(flows, "RealNVP", None) or flows.NICE  # affine too, and its name before zuko 1.5
    family = {"maf": flows.MAF, "iaf": flows.MAF, "realnvp": coupling}.get(kind, flows.NSF)
    passes = {"passes": 2} if kind == "nsf_coupling" and dim > 1 else {}
    flow = family(dim, num_context, transforms=transforms, hidden_features=tuple(hidden), **passes)
    return Flow(flow, num_context, inverse=kind in ("iaf", "nsf_inverse"))


def _zuko_flows() -> ModuleType:
    """Import zuko, which switches the validation of arguments off for the whole process, and switch it back."""
    before = Distribution._validate_args
    try:
        import zuko.flows
    finally:
        Distribution.set_default_validate_args(before)
    return zuko.flows
