"""Fit a VAE to the digits and estimate log p(x) of the test split with its uncertainty."""

from jsonargparse import auto_cli

import pyro_vae as pv
from pyro_vae.inference import AmortizedGuide, evidence, fit, guides
from pyro_vae.models import VAE, likelihoods, mlp, priors


def main(epochs: int = 200, num_particles: int = 1000) -> None:
    splits = pv.load_data("digits")
    model = VAE(priors.StandardNormal(10), likelihoods.Binomial((64,), total_count=16), mlp((200, 200)))
    guide = AmortizedGuide((64,), guides.DiagonalNormal(10), mlp((200, 200)), loc=8.0, scale=6.0)
    result = fit(model, guide, splits.train, valid=splits.valid, epochs=epochs)
    print(f"bound on the validation split: {result.history[-1]['valid_bound']:.2f} nats per datum")
    print("test", evidence(model, guide, splits.test, num_particles))


if __name__ == "__main__":
    auto_cli(main)
