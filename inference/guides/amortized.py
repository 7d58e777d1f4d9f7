"""The guide as a Pyro program: a family behind an encoder that all data share."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.core.checks import check_event
from pyro_vae.core.distributions import as_pyro
from pyro_vae.core.modules import Network, Shape, as_shape, build_network, expose_parameters
from pyro_vae.inference.guides.base import GuideFamily


class AmortizedGuide(nn.Module):
    """Guide z ~ q(z|x) with an encoder shared by all data; ``forward`` is the Pyro program.

    Args:
        in_shape: event shape of x.
        family: module with ``num_features`` whose ``forward(h)`` returns q(z|x).
        encoder: network factory called with (in_shape, family.num_features), or a ready module.
        loc: subtracted from x before the encoder, a number or a tensor that broadcasts with x.
        scale: x - loc is divided by it; the likelihood still scores x itself.
        missing: take NaN in x as missing: the encoder sees 0 in its place, after standardisation, and the mask of
            observed entries beside x, so that it is built for twice the first event dimension.

    Raises:
        ValueError: if ``scale`` is not positive.
    """

    def __init__(
        self,
        in_shape: Shape,
        family: GuideFamily,
        encoder: Network,
        *,
        loc: float | Tensor = 0.0,
        scale: float | Tensor = 1.0,
        missing: bool = False,
    ) -> None:
        super().__init__()
        self.in_shape, self.family = as_shape(in_shape), family
        self.encoder = build_network(encoder, seen_shape(self.in_shape, missing), family.num_features)
        self.standardize = Standardize(loc, scale, len(self.in_shape), missing)

    def forward(self, x: Tensor) -> Tensor:
        """Run the guide on x of shape (N, *in_shape); returns z, shape (N, D)."""
        expose_parameters(self)
        with pyro.plate("data", x.shape[0]):
            return pyro.sample("z", as_pyro(self.posterior(x)))

    def posterior(self, x: Tensor) -> Distribution:
        """Return q(z|x), batch shape (N,), for x of shape (N, *in_shape).

        Raises:
            ValueError: if x has another event shape.
        """
        return self.family(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """Return the encoder's output h, shape (N, family.num_features), for x of shape (N, *in_shape).

        Raises:
            ValueError: if x has another event shape.
        """
        check_event(x, self.in_shape, leading=None)
        return self.encoder(self.standardize(x))

    def check_data(self, x: Tensor, name: str = "x") -> None:
        """Refuse missing entries unless the guide is made for them.

        Raises:
            ValueError: for NaN without ``missing``.
        """
        self.standardize.check_missing(x, name)


def seen_shape(in_shape: torch.Size, missing: bool) -> torch.Size:
    """Return the event shape that an encoder sees: twice the first dimension where the mask stands beside x."""
    return torch.Size((2 * in_shape[0], *in_shape[1:])) if missing else in_shape


class Standardize(nn.Module):
    """The affine map x -> (x - loc) / scale with fixed loc and scale.

    Args:
        loc: subtracted from x.
        scale: x - loc is divided by it.
        event_dim: number of event dimensions of x.
        missing: put 0 in the place of NaN, and the mask of observed entries beside x, along its first event dimension.

    Raises:
        ValueError: for NaN, or a scale that is not positive.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, loc: float | Tensor, scale: float | Tensor, event_dim: int = 1, missing: bool = False) -> None:
        super().__init__()
        self.event_dim, self.missing = event_dim, missing
        loc, scale = (torch.as_tensor(v, dtype=torch.get_default_dtype()) for v in (loc, scale))
        if loc.isnan().any() or scale.isnan().any():
            raise ValueError("Expected loc and scale without NaN for the encoder's input. Use x.nanmean(0).")
        if not (scale > 0).all():
            raise ValueError("Expected scale > 0 for the encoder's input; got a value <= 0.")
        self.register_buffer("loc", loc)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        """Map x of any shape that broadcasts with loc and scale."""
        seen = (x - self.loc) / self.scale
        if not self.missing:
            return seen
        return torch.cat([seen.nan_to_num(0.0), (~x.isnan()).to(seen)], -self.event_dim)

    def check_missing(self, x: Tensor, name: str) -> None:
        """Refuse NaN that the encoder is not made for, with a ``ValueError``."""
        if not self.missing and x.isnan().any():
            raise ValueError(
                f"Expected a guide with missing=True for {name} with NaN, so that it can tell missing entries."
            )
