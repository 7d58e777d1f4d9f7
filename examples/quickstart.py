"""Fit a VAE to the digits and estimate log p(x) of the test split with its uncertainty: the program of the README."""

from jsonargparse import auto_cli

import pyro_vae as pv
from pyro_vae.inference import AmortizedGuide, evidence, fit, guides, objectives
from pyro_vae.models import VAE, likelihoods, mlp, priors, start_at_data


def main(epochs: int = 200, num_particles: int = 5000) -> None:
    splits = pv.load_data("digits")  # counts 0..16, 1,197 / 300 / 300
    model = VAE(priors.StandardNormal(10), likelihoods.Binomial((64,), total_count=16), mlp((200, 200)))
    guide = AmortizedGuide((64,), guides.DiagonalNormal(10), mlp((200, 200)), loc=8.0, scale=6.0)

    start_at_data(model, splits.train)  # at first the decoder's output is the data's marginal
    fit(model, guide, splits.train, valid=splits.valid, objective=objectives.IWAE(num_particles=5), epochs=epochs)
    ev = evidence(model, guide, splits.test, num_particles=num_particles)
    print(ev)  # log p(x) = ... +- ... nats  (auto, N=300, flagged: ... of 300)
    print(ev.log_px[:3], ev.std_error[:3], ev.khat[:3])  # for each datum


if __name__ == "__main__":
    auto_cli(main)
