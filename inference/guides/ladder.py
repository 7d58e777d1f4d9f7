"""Guides for a hierarchy of latent layers: bottom-up, or top-down along the model's own networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.core.checks import check_event, check_positive_int
from pyro_vae.core.distributions import as_pyro
from pyro_vae.core.modules import Network, Shape, as_shape, build_network, expose_parameters
from pyro_vae.inference.guides.amortized import AmortizedGuide, Standardize, seen_shape
from pyro_vae.inference.guides.base import GuideFamily


class HierarchicalGuide(nn.Module):
    """Bottom-up guide q(z_1|x) q(z_2|z_1) ... q(z_L|z_L-1), sites "z_1" to "z_L".

    That of the two-layer architecture of Burda et al. is::

        HierarchicalGuide(784, (DiagonalNormal(100), DiagonalNormal(50)), (mlp((200, 200)), mlp((100, 100))))

    Args:
        in_shape: event shape of x.
        families: modules with ``num_features`` whose ``forward(h)`` returns q(z_1|x), ..., q(z_L|z_L-1).
        encoders: network factories or ready modules x -> z_1, z_1 -> z_2, ...
        loc: subtracted from x before the first encoder.
        scale: x - loc is divided by it.
        missing: take NaN in x as missing, and show encoders the mask of observed entries; see ``AmortizedGuide``.

    Raises:
        ValueError: if there is not one encoder for each family, or ``scale`` is not positive.

    Source: Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, section 5.
    """

    def __init__(
        self,
        in_shape: Shape,
        families: Sequence[GuideFamily],
        encoders: Sequence[Network],
        *,
        loc: float | Tensor = 0.0,
        scale: float | Tensor = 1.0,
        missing: bool = False,
    ) -> None:
        super().__init__()
        _check_one_each(families, encoders)
        bottom = AmortizedGuide(in_shape, families[0], encoders[0], loc=loc, scale=scale, missing=missing)
        above = zip(map(_event_shape, families), families[1:], encoders[1:], strict=False)
        self.layers: Any = nn.ModuleList([bottom, *(AmortizedGuide(*each) for each in above)])

    def forward(self, x: Tensor) -> Tensor:
        """Run the guide on x of shape (N, *in_shape); returns z_L, shape (N, D_L)."""
        expose_parameters(self)
        z = x
        with pyro.plate("data", x.shape[0]):
            for number, layer in enumerate(self.layers, 1):
                z = pyro.sample(f"z_{number}", as_pyro(layer.posterior(z)))
        return z

    def posterior(self, x: Tensor) -> Distribution:
        """Return q(z_1|x), batch shape (N,), for x of shape (N, *in_shape).

        Raises:
            ValueError: if x has another event shape.
        """
        return self.layers[0].posterior(x)

    def check_data(self, x: Tensor, name: str = "x") -> None:
        """Refuse missing entries unless the guide is made for them.

        Raises:
            ValueError: for NaN without ``missing``.
        """
        self.layers[0].check_data(x, name)


class LadderGuide(nn.Module):
    """Top-down guide q(z_L|x) q(z_L-1|z_L, x) ... q(z_1|z_2, x) that joins the model's prior with the data's message.

        d_0 = x,   d_l = network_l(d_l-1),   (m_l, log s_l) = affine(d_l)
        q(z_L|x) = N(m_L, s_L^2)
        q(z_l|z_l+1, x) = N(mu, sigma^2),   sigma^-2 = s_l^-2 + s_p^-2,   mu = sigma^2 (m_l s_l^-2 + m_p s_p^-2)

    with p(z_l|z_l+1) = N(m_p, s_p^2) from the model's own networks, which the guide shares and helps to train.

    Args:
        in_shape: event shape of x.
        model: a ``HierarchicalVAE``, or any module with ``latent_dims`` of z_1, ..., z_L and ``transitions``, each of
            which returns p(z_l|z_l+1), a diagonal normal.
        encoders: network factories or ready modules of the deterministic pass, from the data up.
        widths: widths of d_1, ..., d_L.
        loc: subtracted from x before the first encoder.
        scale: x - loc is divided by it.
        missing: take NaN in x as missing, and show encoders the mask of observed entries; see ``AmortizedGuide``.

    Raises:
        ValueError: if the model has no such members, there is not one encoder and one width for each layer, or
            ``scale`` is not positive.

    Source: Sønderby et al. (2016), Ladder Variational Autoencoders, section 2.
    """

    def __init__(
        self,
        in_shape: Shape,
        model: Any,
        encoders: Sequence[Network],
        *,
        widths: Sequence[int],
        loc: float | Tensor = 0.0,
        scale: float | Tensor = 1.0,
        missing: bool = False,
    ) -> None:
        super().__init__()
        dims = _latent_dims(model)
        _check_one_each(dims, encoders)
        _check_one_each(dims, widths, "width")
        for width in widths:
            check_positive_int(width, "widths")
        self.in_shape = as_shape(in_shape)
        self.standardize = Standardize(loc, scale, len(self.in_shape), missing)
        shapes = [seen_shape(self.in_shape, missing), *(torch.Size((width,)) for width in widths)]
        self.encoders = nn.ModuleList(build_network(*each) for each in zip(encoders, shapes, widths, strict=False))
        self.heads = nn.ModuleList(nn.Linear(width, 2 * dim) for width, dim in zip(widths, dims, strict=True))
        self.transitions = model.transitions

    def forward(self, x: Tensor) -> Tensor:
        """Run the guide on x of shape (N, *in_shape); returns z_1, shape (N, D_1).

        Raises:
            ValueError: if x has another event shape.
        """
        expose_parameters(self)
        *messages, top = self.messages(x)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample(f"z_{len(self.heads)}", dist.Normal(*top).to_event(1))
            for layer in range(len(messages), 0, -1):
                q_z = combine(messages[layer - 1], self.transitions[layer - 1](z))
                z = pyro.sample(f"z_{layer}", q_z.to_event(1))
        return z

    def messages(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return (m_l, s_l) of each layer from the data up, each of shape (N, D_l), for x of shape (N, *in_shape).

        Raises:
            ValueError: if x has another event shape.
        """
        check_event(x, self.in_shape, leading=None)
        d, found = self.standardize(x), []
        for encoder, head in zip(self.encoders, self.heads, strict=True):
            d = encoder(d)
            loc, log_scale = head(d).chunk(2, -1)
            found.append((loc, log_scale.exp()))
        return found

    def check_data(self, x: Tensor, name: str = "x") -> None:
        """Refuse missing entries unless the guide is made for them.

        Raises:
            ValueError: for NaN without ``missing``.
        """
        self.standardize.check_missing(x, name)


def combine(message: tuple[Tensor, Tensor], p_z: Distribution) -> dist.TorchDistribution:
    """Return the normalised product of two normal densities, entry by entry, event shape ().

    Args:
        message: mean and scale of the one, each of shape (..., D).
        p_z: the other, batch shape (...), event shape (D,).
    """
    loc, precision = message[0], message[1] ** -2
    prior_precision = p_z.variance.reciprocal()
    variance = (precision + prior_precision).reciprocal()
    return dist.Normal(variance * (loc * precision + p_z.mean * prior_precision), variance.sqrt())


def _latent_dims(model: Any) -> tuple[int, ...]:
    if not hasattr(model, "latent_dims") or not hasattr(model, "transitions"):
        raise ValueError(
            f"Expected a model with latent_dims and transitions, as HierarchicalVAE has; got {type(model).__name__}."
        )
    return model.latent_dims


def _check_one_each(layers: Sequence[Any], given: Sequence[Any], what: str = "encoder") -> None:
    if not isinstance(given, Sequence) or len(layers) != len(given):
        got = len(given) if isinstance(given, Sequence) else repr(given)
        raise ValueError(f"Expected one {what} for each of the {len(layers)} layers, from the data up; got {got}.")


@torch.no_grad()
def _event_shape(family: GuideFamily) -> torch.Size:
    return family(torch.zeros(family.num_features)).event_shape
