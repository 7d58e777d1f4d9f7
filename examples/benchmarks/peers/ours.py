"""This library: ``fit`` itself, timed by its own history."""

import warnings
from functools import partial

import torch

from peers.task import IMAGE, PIXELS, Networks, Pass, Task, Unavailable
from pyro_vae.inference import AmortizedGuide, fit, guides, objectives
from pyro_vae.models import VAE, conv, deconv, likelihoods, mlp, priors


class Ours:
    """``fit`` in the given mode. Each call starts anew with Adam's moments at zero, where the last one left off."""

    compile: bool = False

    def __init__(self, task: Task) -> None:
        self.task, self.x, dim = task, task.data(), task.latent_dim
        hidden = (task.width, task.width)
        encoder, decoder = (
            (conv((32, 64), IMAGE), deconv(IMAGE, (64, 32))) if task.network == "conv" else 2 * (mlp(hidden),)
        )
        self.model = VAE(priors.StandardNormal(dim), likelihoods.Bernoulli((PIXELS,)), decoder).to(task.device)
        self.guide = AmortizedGuide((PIXELS,), guides.DiagonalNormal(dim), encoder).to(task.device)
        self._ours().load(task.networks().parameters())
        self.objective = None if task.num_particles == 1 else objectives.IWAE(task.num_particles)

    def train(self, epochs: int) -> list[Pass]:
        """Return what the history says of each epoch; that of the first may hold compilation."""
        with warnings.catch_warnings():
            warnings.simplefilter("default")  # a fall-back to eager is announced, not an error
            try:
                result = fit(
                    self.model,
                    self.guide,
                    self.x,
                    objective=self.objective,
                    epochs=epochs,
                    batch_size=self.task.batch_size,
                    optimizer=partial(torch.optim.Adam, lr=self.task.lr),
                    device=self.task.device,
                    compile=self.compile,
                    progress=False,
                )
            except ValueError as error:
                raise Unavailable(str(error)) from error
        return [Pass(row["seconds"], row["loss"]) for row in result.history]

    def networks(self) -> Networks:
        return self.task.networks().load([p.detach() for p in self._ours().parameters()])

    def _ours(self) -> Networks:
        return Networks(self.guide.encoder, self.model.decoder)


class OursCompiled(Ours):
    """``fit(compile=True)``."""

    compile = True
