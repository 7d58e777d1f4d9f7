"""Pyro's own loop: ``SVI.step`` with ``Trace_ELBO``, or ``RenyiELBO(alpha=0)``, on the program of its VAE example.

Its validation is off, which saves a tenth of a small network's step.
"""

import warnings

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import ELBO, SVI, JitTrace_ELBO, RenyiELBO, Trace_ELBO
from torch import Tensor

from peers.task import Networks, Pass, Task, Unavailable, minibatches, timed


class PyroSVI:
    """The loss is a sum over the minibatch."""

    def __init__(self, task: Task) -> None:
        self.task, self.x, self.learnt = task, task.data(), task.networks()
        if task.natural:
            self.x = self.x.cpu()  # where a DataLoader reads it
        self.store: dict = {}
        self.svi = SVI(self.model, self.guide, pyro.optim.Adam({"lr": task.lr}), self.make_loss())

    def make_loss(self) -> ELBO:
        k = self.task.num_particles
        return Trace_ELBO() if k == 1 else RenyiELBO(0, k, max_plate_nesting=1, vectorize_particles=True)

    def model(self, x: Tensor) -> None:
        decoder = pyro.module("decoder", self.learnt.decoder)
        with pyro.plate("data", len(x)):
            zeros = x.new_zeros(len(x), self.task.latent_dim)
            z = pyro.sample("z", dist.Normal(zeros, torch.ones_like(zeros)).to_event(1))
            logits = decoder(z.flatten(0, -2)).unflatten(0, z.shape[:-1])
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        encoder = pyro.module("encoder", self.learnt.encoder)
        with pyro.plate("data", len(x)):
            loc, log_scale = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    def train(self, epochs: int) -> list[Pass]:
        store = pyro.get_param_store().scope(self.store or None)  # names are shared in one process
        with pyro.validation_enabled(False), store as self.store:
            return [timed(self._epoch, self.task.device) for _ in range(epochs)]

    def _epoch(self) -> float:
        return sum(self.svi.step(x) for x in minibatches(self.x, self.task, self.task.natural)) / len(self.x)

    def networks(self) -> Networks:
        return self.learnt


class PyroJit(PyroSVI):
    """The loss through ``JitTrace_ELBO``, Pyro's own compilation, which there is for the ELBO alone."""

    def make_loss(self) -> ELBO:
        if self.task.num_particles > 1:
            raise Unavailable("Pyro compiles no RenyiELBO")
        return JitTrace_ELBO(ignore_jit_warnings=True)

    def train(self, epochs: int) -> list[Pass]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is to go
            return super().train(epochs)
