"""``fit`` of models whose latents all data share: all data in one minibatch, by Trace_ELBO."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import autoguide

from pyro_vae.inference import fit

ADAM = partial(torch.optim.Adam, lr=0.05)


def separate(x):
    """z_n ~ N(0, 1), x_n | z_n ~ N(z_n, 1 / 100): the posterior mean of z_n is near x_n, and no other datum's."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 0.1), obs=x)


@pytest.mark.parametrize("compile", [False, True])
def test_parameters_of_single_data_meet_their_own(compile):
    """In an order of its own each epoch every parameter would go to the mean of the data."""
    x = torch.tensor([-1.0, 0.0, 1.0, 2.0, 3.0])
    guide = autoguide.AutoNormal(separate)
    guide(x)
    fit(separate, guide, x, batch_size=5, epochs=400, optimizer=ADAM, compile=compile, progress=False, device="cpu")
    assert torch.allclose(guide.median(x)["z"], x * 100 / 101, atol=0.1)


def test_a_regression_with_an_autoguide():
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    y = x @ torch.tensor([1.0, -2.0])

    def model(x, y):
        beta = pyro.sample("beta", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(x @ beta, 0.5), obs=y)

    guide = autoguide.AutoMultivariateNormal(model)
    guide(x, y)
    with pytest.raises(ValueError, match=r"Latent site 'beta' is shared by all data.*Pass batch_size=30"):
        fit(model, guide, (x, y), batch_size=10, epochs=1, progress=False, device="cpu")
    result = fit(model, guide, (x, y), batch_size=30, epochs=400, optimizer=ADAM, progress=False, device="cpu")
    exact = torch.linalg.solve(torch.eye(2) + 4 * x.T @ x, 4 * x.T @ y)
    assert torch.allclose(guide.median(x, y)["beta"], exact, atol=0.2)
    assert result.history[-1]["loss"] < result.history[0]["loss"]
