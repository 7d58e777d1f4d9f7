"""The signal-to-noise ratio of IWAE gradients over K: the pathwise one loses its signal for the guide, DReG does not.

Rainforth et al. (2018), Tighter Variational Bounds are Not Necessarily Better; Tucker et al. (2019), figure 1.
"""

import torch
from jsonargparse import auto_cli
from matplotlib.figure import Figure

import pyro_vae as pv
from pyro_vae.inference import AmortizedGuide, evidence, fit, gradient_snr, guides
from pyro_vae.inference.objectives import IWAE
from pyro_vae.models import VAE, likelihoods, mlp, priors


def main(epochs: int = 60, num_particles: int = 64, num_repeats: int = 200, out: str = "") -> None:
    splits = pv.load_data("digits", binarize="threshold")
    torch.manual_seed(0)
    model = VAE(priors.StandardNormal(5), likelihoods.Bernoulli((64,)), mlp((64,)))
    guide = AmortizedGuide((64,), guides.DiagonalNormal(5), mlp((64,)))
    fit(model, guide, splits.train, epochs=epochs)
    print("test", evidence(model, guide, splits.test, num_particles))

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    counts = [k for k in (1, 4, 16, 64, 256) if k <= num_particles]
    for gradient in ("pathwise", "dreg"):
        snr = [
            gradient_snr(model, guide, splits.train[:50], IWAE(k, gradient), num_repeats=num_repeats) for k in counts
        ]
        axes.loglog(counts, [s.guide for s in snr], marker="o", label=f"guide, {gradient}")
        print(gradient, "guide", [f"{s.guide:.3f}" for s in snr], "model", [f"{s.model:.3f}" for s in snr])
    axes.set(xlabel="particles K", ylabel="signal-to-noise ratio of the gradient")
    axes.legend()
    if out:
        figure.savefig(out)


if __name__ == "__main__":
    auto_cli(main)
