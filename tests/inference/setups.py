"""Programs and calls of ``fit`` that several tests share."""

from __future__ import annotations

from functools import partial

import pyro
import pyro.distributions as dist
import torch
from torch.distributions import constraints

from pyro_vae.inference import AmortizedGuide, fit, guides
from pyro_vae.models import VAE, likelihoods, mlp, priors

PIXELS = (torch.rand(60, 6, generator=torch.Generator().manual_seed(0)) < 0.4).float()
quick = partial(fit, progress=False, device="cpu", batch_size=20, epochs=3)
sgd = partial(torch.optim.SGD, lr=0.01)


def make_pair(seed=0, hidden=(8,)):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = VAE(priors.StandardNormal(2), likelihoods.Bernoulli(6), mlp(hidden))
        return model, AmortizedGuide(6, guides.DiagonalNormal(2), mlp(hidden))


def losses_of(result):
    return [row["loss"] for row in result.history]


def weights_of(*modules):
    return torch.cat([p.detach().flatten() for module in modules for p in module.parameters()])


def plain_model(x):
    loc = pyro.param("loc", lambda: torch.zeros(x.shape[1]))
    scale = pyro.param("scale", lambda: torch.ones(()), constraint=constraints.positive)
    with pyro.plate("batch", x.shape[0]):
        z = pyro.sample("latent", dist.Normal(0.0, 1.0))
        pyro.sample("obs", dist.Normal(z[..., None] + loc, scale).to_event(1), obs=x)


def plain_guide(x):
    loc = pyro.param("loc", lambda: torch.zeros(x.shape[1]))
    slope = pyro.param("slope", lambda: torch.tensor(0.1))
    spread = pyro.param("spread", lambda: torch.ones(()), constraint=constraints.positive)
    with pyro.plate("batch", x.shape[0]):
        pyro.sample("latent", dist.Normal(slope * (x - loc).mean(1), spread))


def module_programs(decoder):
    """A model that announces a module by name, as Pyro's tutorials do, and a guide that does not."""

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", lambda: torch.zeros(2))
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(loc.expand(len(x), 2), 1.0).to_event(1))

    return model, guide
