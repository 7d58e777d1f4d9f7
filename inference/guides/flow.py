"""Normalizing flows that the encoder conditions."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from pyro_vae.core.checks import check_positive_int
from pyro_vae.core.flows import build_flow
from pyro_vae.inference.guides.base import GuideFamily


class Flow(GuideFamily):
    """Flow family, z = f^-1(e; h), e ~ N(0, I): q(z|x) = N(f(z; h); 0, I) |det df/dz|, h a context for every layer.

    A guide is drawn from at each step, so that the kinds that draw in one pass suit it (iaf, nsf_inverse,
    nsf_coupling, realnvp). A draw is scored while it is drawn; other values are scored too, by D passes for iaf and
    nsf_inverse, which the gradients "stl" and "dreg" pay.

    Args:
        dim: latent dimension D.
        kind: iaf, nsf_inverse, nsf_coupling, realnvp, maf or nsf; splines act within [-5, 5].
        transforms: number of transformations in a row.
        hidden: widths of the hidden layers of each one's network.
        num_context: width of h.

    Raises:
        ValueError: for an unknown kind, or sizes that are no positive integers.

    Source: Rezende and Mohamed (2015), Variational Inference with Normalizing Flows; iaf: Kingma et al. (2016);
    library zuko.
    """

    def __init__(
        self,
        dim: int,
        kind: str = "iaf",
        transforms: int = 3,
        hidden: tuple[int, ...] = (64, 64),
        num_context: int = 64,
    ) -> None:
        super().__init__()
        check_positive_int(num_context, "num_context")
        self.num_features = num_context
        self.flow = build_flow(kind, dim, num_context, transforms, hidden)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return q(z|x) for h of shape (..., num_context)."""
        return self.flow(h)
