"""Digits with 100 labels: classes are summed out where they are unknown (M2 of Kingma et al., 2014)."""

import torch
from jsonargparse import auto_cli

import pyro_vae as pv
from pyro_vae.inference import evidence, fit, objectives
from pyro_vae.inference.guides import DiagonalNormal, SemiSupervisedGuide
from pyro_vae.models import SemiSupervisedVAE, likelihoods, mlp, priors, start_at_data


def main(epochs: int = 100, num_particles: int = 500, num_labels: int = 100) -> None:
    splits = pv.load_data("digits")
    labels = splits.labels["train"].clone()
    labels[num_labels:] = -1  # unknown
    torch.manual_seed(0)
    counts = likelihoods.Binomial((64,), total_count=16)
    model = SemiSupervisedVAE(priors.StandardNormal(5), counts, mlp((200,)), num_classes=10)
    guide = SemiSupervisedGuide(
        (64,),
        DiagonalNormal(5),
        encoder=mlp((200,)),
        classifier=mlp((200,)),
        num_classes=10,
        alpha=100.0,  # nats: of the order of log p(x), which would otherwise decide alone what a class is
        loc=8.0,
        scale=6.0,
    )
    start_at_data(model, (splits.train, labels))
    fit(model, guide, (splits.train, labels), objective=objectives.ELBO(gradient="enumerate"), epochs=epochs)
    accuracy = (guide.classify(splits.test) == splits.labels["test"]).double().mean()
    print(f"{num_labels} labels: {accuracy:.1%} of the test split classified correctly")
    print("test, without labels:", evidence(model, guide, splits.test, num_particles))


if __name__ == "__main__":
    auto_cli(main)
