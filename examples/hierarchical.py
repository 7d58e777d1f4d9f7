"""Two layers of latents, with a guide that climbs from the data and one that comes down along the model's networks.

The bottom-up guide is that of Burda et al. (2016), the ladder that of Sønderby et al. (2016).
"""

import torch
from jsonargparse import auto_cli

import pyro_vae as pv
from pyro_vae.inference import evidence, fit, objectives
from pyro_vae.inference.guides import DiagonalNormal, HierarchicalGuide, LadderGuide
from pyro_vae.models import HierarchicalVAE, likelihoods, mlp, start_at_data


def main(epochs: int = 200, num_particles: int = 1000) -> None:
    splits = pv.load_data("digits")
    for kind in ("bottom-up", "ladder"):
        torch.manual_seed(0)
        layers = (mlp((100, 100)), mlp((50, 50)))
        model = HierarchicalVAE((10, 5), likelihoods.Binomial((64,), total_count=16), layers)
        start_at_data(model, splits.train)
        if kind == "bottom-up":
            guide = HierarchicalGuide((64,), (DiagonalNormal(10), DiagonalNormal(5)), layers, loc=8.0, scale=6.0)
        else:
            guide = LadderGuide((64,), model, layers, widths=(100, 50), loc=8.0, scale=6.0)
        fit(model, guide, splits.train, objective=objectives.ELBO(num_particles=5), epochs=epochs)
        print(kind, "test", evidence(model, guide, splits.test, num_particles))


if __name__ == "__main__":
    auto_cli(main)
