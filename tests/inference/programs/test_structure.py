"""Mistakes in a program that would give a wrong number are refused."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import decoded

from pyro_vae.inference import log_weights

D, P = 3, 4
WEIGHT = torch.randn(D, P, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _forgot_to_event(x):
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z[..., None], 1.0), obs=x)


def _forgot_to_squeeze(x):
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def _scalar_guide(x):
    with pyro.plate("data", x.shape[0]):
        pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))


def _inner_subsample(x):
    with pyro.plate("data", x.shape[0], dim=-2):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("counts", x.shape[1], subsample_size=2, dim=-1) as index:
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, index])


def _outer_guide(x):
    with pyro.plate("data", x.shape[0], dim=-2):
        pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))


def _wide_guide(x):
    with pyro.plate("data", x.shape[0]):
        pyro.sample("z", dist.Normal(torch.zeros(1, dtype=x.dtype), 1.0).to_event(1))


def _noisy_guide(x):
    with pyro.plate("data", x.shape[0]):
        u = pyro.sample("u", dist.Normal(torch.zeros(()), 1.0), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Normal(u, 1.0))


def _time_outside(x):
    with pyro.plate("time", x.shape[1], dim=-2), pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)


def _time_outside_guide(x):
    with pyro.plate("time", x.shape[1], dim=-2), pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))


SILENT = {
    "no to_event": (
        _forgot_to_event,
        _scalar_guide,
        (6, 1),
        r"log_prob of shape \(\d,\).*at site 'x' of the model; got",
    ),
    "one batch too many": (_forgot_to_squeeze, _scalar_guide, (6, 1), r"declare them with \.to_event\(n\)"),
    "subsampled inside": (_inner_subsample, _outer_guide, (6, 4), "plate 'counts'; it is subsampled, 2 of 4"),
    "guide narrower": (
        decoded(lambda z: z[..., :1] * WEIGHT[0]),
        _wide_guide,
        (6, P),
        r"event shape at latent site 'z'; model \(3,\)",
    ),
    "auxiliary noise": (_forgot_to_squeeze, _noisy_guide, (6,), "'z' of the guide to be a function of its auxiliary"),
    "plates swapped, square": (_time_outside, _time_outside_guide, (6, 6), "the data plate outermost|to hold the"),
}


@pytest.mark.parametrize("num_particles", [1, 4])
@pytest.mark.parametrize("name", SILENT)
def test_mistakes_that_would_give_a_wrong_number_are_refused(name, num_particles):
    model, guide, shape, message = SILENT[name]
    if "square" in name and num_particles == 1:
        pytest.skip("one run on all data cannot tell a square from its transpose; evidence and K > 1 run on fewer")
    with pytest.raises(ValueError, match=message):
        log_weights(model, guide, torch.randn(shape, dtype=torch.float64), num_particles)
