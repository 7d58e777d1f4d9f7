"""Normalizing flows as priors."""

from __future__ import annotations

import pyro.distributions as dist

from pyro_vae.core.flows import build_flow
from pyro_vae.models.priors.base import Prior


class Flow(Prior):
    """Learnt normalizing flow, p(z) = N(f(z); 0, I) |det df/dz|.

    A prior is scored at each step and seldom drawn from, so that the kinds that score in one pass (maf, nsf) suit
    it; those of the inverse direction (iaf, nsf_inverse) suit a guide.

    Args:
        dim: latent dimension D.
        kind: maf, nsf, nsf_coupling, realnvp, iaf or nsf_inverse; splines act within [-5, 5].
        transforms: number of transformations in a row.
        hidden: widths of the hidden layers of each one's network.

    Raises:
        ValueError: for an unknown kind, or sizes that are no positive integers.

    Source: Papamakarios et al. (2021), Normalizing Flows for Probabilistic Modeling and Inference; library zuko.
    """

    def __init__(self, dim: int, kind: str = "nsf", transforms: int = 3, hidden: tuple[int, ...] = (64, 64)) -> None:
        super().__init__()
        self.flow = build_flow(kind, dim, transforms=transforms, hidden=hidden)

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), batch shape (), event shape (D,)."""
        return self.flow()
