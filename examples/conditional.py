"""Digits given their class: a convolutional model of p(x|y), whose evidence also says what y is worth.

Bayes' rule turns log p(x|y) for every y into a classifier that was never trained as one.
"""

import torch
from jsonargparse import auto_cli

import pyro_vae as pv
from pyro_vae.inference import evidence, fit
from pyro_vae.inference.guides import ConditionalGuide, DiagonalNormal
from pyro_vae.models import ConditionalVAE, deconv, likelihoods, mlp, priors, start_at_data


def main(epochs: int = 100, num_particles: int = 500) -> None:
    splits = pv.load_data("digits")
    x, y = splits.test, splits.labels["test"]
    torch.manual_seed(0)
    counts = likelihoods.Binomial((64,), total_count=16)
    model = ConditionalVAE(priors.StandardNormal(5), counts, deconv(splits.image_shape, (32, 16)), num_classes=10)
    guide = ConditionalGuide((64,), DiagonalNormal(5), mlp((200, 200)), num_classes=10, loc=8.0, scale=6.0)
    start_at_data(model, (splits.train, splits.labels["train"]))
    fit(model, guide, (splits.train, splits.labels["train"]), epochs=epochs)
    print("test, given y:", evidence(model, guide, (x, y), num_particles))
    every = [evidence(model, guide, (x, torch.full_like(y, c)), 25, progress=False).log_px for c in range(10)]
    accuracy = (torch.stack(every).argmax(0) == y).double().mean()
    print(f"most probable class right for {accuracy:.1%} of {len(y)} data")


if __name__ == "__main__":
    auto_cli(main)
