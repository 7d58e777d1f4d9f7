"""A guide family of one's own: latent coordinates that form a chain, each correlated with the one before it given x.

A family needs ``num_features``, the width of the encoder's output, and ``forward(h)``, which returns a distribution
with event shape (D,). What it draws must be differentiable in h, or the objective's gradient one that does without
("score", "vimco"). On the command line ``dim`` is filled in from ``--latent-dim``; other arguments need annotations:

    pyro-vae train --guide custom_guide.MarkovNormal --guide.scale 0.3
"""

import pyro.distributions as dist
import torch
from jsonargparse import auto_cli
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.inference import AmortizedGuide, evidence, fit
from pyro_vae.models import VAE, likelihoods, mlp, priors


class MarkovNormal(nn.Module):
    """A chain, z_i = mu_i + a_i (z_(i-1) - mu_(i-1)) + sigma_i e_i with e_i ~ N(0, 1), of 3 D features."""

    def __init__(self, dim: int, scale: float = 0.5) -> None:
        super().__init__()
        self.num_features, self.scale = 3 * dim, scale

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return q(z|x) for h = (mu, log (sigma / scale), a) of shape (..., 3 D); the first a has nothing to act on."""
        loc, log_scale, coupling = h.chunk(3, -1)
        chain = torch.eye(loc.shape[-1]).to(h) - torch.diag_embed(coupling[..., 1:], offset=-1)
        noise = torch.diag_embed(self.scale * log_scale.exp())
        return dist.MultivariateNormal(loc, scale_tril=torch.linalg.solve_triangular(chain, noise, upper=False))


def main(epochs: int = 200, num_particles: int = 1000) -> None:
    splits = pv.load_data("digits")
    torch.manual_seed(0)
    model = VAE(priors.StandardNormal(10), likelihoods.Binomial((64,), total_count=16), mlp((200, 200)))
    guide = AmortizedGuide((64,), MarkovNormal(10), mlp((200, 200)), loc=8.0, scale=6.0)
    fit(model, guide, splits.train, epochs=epochs)
    print("test", evidence(model, guide, splits.test, num_particles))


if __name__ == "__main__":
    auto_cli(main)
