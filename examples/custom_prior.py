"""A prior of one's own: a module whose ``forward()`` returns a distribution, learnt with the rest.

The same class works on the command line, from the folder it is in:
    pyro-vae train --prior custom_prior.TwoModes --prior.distance 2.0
"""

import pyro.distributions as dist
import torch
from jsonargparse import auto_cli
from torch import nn

import pyro_vae as pv
from pyro_vae.inference import AmortizedGuide, evidence, fit, guides
from pyro_vae.models import VAE, likelihoods, mlp


class TwoModes(nn.Module):
    """Two normal clusters whose distance and weights are learnt, p(z) = sum_c pi_c N(z; m_c, I)."""

    def __init__(self, dim: int, distance: float = 2.0) -> None:
        super().__init__()
        sign = torch.tensor([[1.0], [-1.0]])
        self.loc = nn.Parameter(0.5 * distance * sign.expand(2, dim) / dim**0.5)
        self.logits = nn.Parameter(torch.zeros(2))

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), batch shape (), event shape (D,)."""
        clusters = dist.Normal(self.loc, torch.ones_like(self.loc)).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), clusters)


def main(epochs: int = 200, num_particles: int = 1000) -> None:
    splits = pv.load_data("digits")
    model = VAE(TwoModes(10), likelihoods.Binomial((64,), total_count=16), mlp((200, 200)))
    guide = AmortizedGuide((64,), guides.DiagonalNormal(10), mlp((200, 200)), loc=8.0, scale=6.0)
    fit(model, guide, splits.train, epochs=epochs)
    print("test", evidence(model, guide, splits.test, num_particles))
    print("cluster weights", model.prior.logits.softmax(0).tolist())


if __name__ == "__main__":
    auto_cli(main)
