"""A likelihood and a guide family of one's own: Poisson counts, and a Student-t around the encoder's output.

A likelihood needs ``num_features``, the width of the decoder's output, and ``forward(h)``; the support is that of the
distribution. On the command line, arguments named ``event_shape`` and ``dim`` are filled in from the data and
``--latent-dim``, and the others need annotations:

    pyro-vae train --likelihood custom_likelihood.Poisson --guide custom_likelihood.StudentT --guide.df 6
"""

import math

import pyro.distributions as dist
import torch
from jsonargparse import auto_cli
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.inference import AmortizedGuide, evidence, fit
from pyro_vae.models import VAE, mlp, priors


class Poisson(nn.Module):
    """Independent counts, p(x|z) = prod_i Poisson(x_i; exp h_i)."""

    def __init__(self, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.event_shape = event_shape
        self.num_features = math.prod(event_shape)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) for log rates h of shape (..., num_features)."""
        rate = h.unflatten(-1, self.event_shape).clamp(max=10).exp()
        return dist.Poisson(rate).to_event(len(self.event_shape))


class StudentT(nn.Module):
    """Independent Student-t coordinates, with tails heavy enough for importance weights."""

    def __init__(self, dim: int, df: float = 5.0) -> None:
        super().__init__()
        self.num_features, self.df = 2 * dim, df

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return q(z|x) for h = (location, log scale) of shape (..., 2 D)."""
        loc, log_scale = h.chunk(2, -1)
        return dist.StudentT(self.df, loc, log_scale.exp()).to_event(1)


def main(epochs: int = 200, num_particles: int = 1000) -> None:
    splits = pv.load_data("digits")
    torch.manual_seed(0)
    model = VAE(priors.StandardNormal(10), Poisson((64,)), mlp((200, 200)))
    guide = AmortizedGuide((64,), StudentT(10), mlp((200, 200)), loc=8.0, scale=6.0)
    fit(model, guide, splits.train, epochs=epochs)
    print("test", evidence(model, guide, splits.test, num_particles))


if __name__ == "__main__":
    auto_cli(main)
