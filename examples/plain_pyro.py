"""A model and guide written as plain Pyro functions: factor analysis of the digits, whose evidence is known.

With an affine decoder and one noise scale the model is probabilistic PCA, and log p(x) is a normal density:
the estimate can be held against the truth.
"""

from functools import partial

import pyro
import pyro.distributions as dist
import torch
from jsonargparse import auto_cli
from torch import Tensor
from torch.distributions import constraints

import pyro_vae as pv
from pyro_vae.inference import evidence, fit, objectives

D, P = 5, 64


def model(x: Tensor) -> None:
    weight = pyro.param("weight", lambda: 0.1 * torch.randn(P, D))
    loc = pyro.param("loc", lambda: torch.zeros(P))
    scale = pyro.param("scale", lambda: torch.tensor(3.0), constraint=constraints.positive)
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ weight.T + loc, scale).to_event(1), obs=x)


def guide(x: Tensor) -> None:
    slope = pyro.param("slope", lambda: 0.01 * torch.randn(D, P))
    intercept = pyro.param("intercept", lambda: torch.zeros(D))
    spread = pyro.param("spread", lambda: torch.ones(D), constraint=constraints.positive)
    with pyro.plate("data", x.shape[0]):
        pyro.sample("z", dist.Normal(x @ slope.T + intercept, spread).to_event(1))


def exact_log_px(x: Tensor) -> Tensor:
    store = pyro.get_param_store()
    covariance = store["weight"] @ store["weight"].T + store["scale"] ** 2 * torch.eye(P)
    return torch.distributions.MultivariateNormal(store["loc"], covariance).log_prob(x).detach()


def main(epochs: int = 100, num_particles: int = 1000) -> None:
    splits = pv.load_data("digits")
    adam = partial(torch.optim.Adam, lr=0.02)
    fit(model, guide, splits.train, objective=objectives.IWAE(num_particles=5), optimizer=adam, epochs=epochs)
    ev = evidence(model, guide, splits.test, num_particles)
    print("estimated", ev)
    print(f"exact     log p(x) = {exact_log_px(splits.test).mean():.2f} nats")


if __name__ == "__main__":
    auto_cli(main)
