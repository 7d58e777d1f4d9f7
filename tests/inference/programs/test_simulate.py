"""Joint draws from any Pyro program."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import make_pair
from truth import GammaPoisson, LinearGaussian

from pyro_vae.inference import AmortizedGuide, guides
from pyro_vae.inference.diagnostics import pit, predictive_check
from pyro_vae.inference.programs.simulate import example_data, simulate, with_missing
from pyro_vae.models import VAE, likelihoods, mlp, priors


def test_draws_have_the_joint_law():
    # The mean of log p(x|z) + log p(z) - log p(x) - log p(z|x) is 0 term by term; moments at 5 standard errors.
    truth = LinearGaussian.random(2, 3)
    drawn = simulate(truth.model, torch.zeros(4000, 3, dtype=torch.float64))
    (x,), z = drawn.args, drawn.latents["z"]
    standardised = torch.linalg.solve_triangular(
        truth.posterior(x).scale_tril, (z - truth.posterior(x).loc)[..., None], upper=False
    )[..., 0]
    for values in (standardised, z):  # z given x, and z: both standard normal
        assert (values.mean(0).abs() < 5 / 4000**0.5).all()
        assert ((values.square().mean(0) - 1).abs() < 5 * (2 / 4000) ** 0.5).all()


def test_inner_plates_and_modules():
    drawn = simulate(GammaPoisson().model, torch.zeros(50, 3, dtype=torch.float64))
    assert drawn.args[0].shape == (50, 3)
    assert drawn.latents["z"].shape == (50, 1)
    model, _ = make_pair()
    drawn = simulate(model, *example_data(model, 7))
    assert drawn.args[0].shape == (7, 6)
    assert drawn.latents.keys() == {"z"}
    assert set(drawn.args[0].unique().tolist()) <= {0.0, 1.0}


def _regression(y, t):
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z + 100 * t, 1.0), obs=y)


def test_covariates_stay():
    t = torch.arange(6.0)
    y, same = simulate(_regression, (torch.zeros(6), t)).args
    assert same is t
    assert ((y - 100 * t).abs() < 10).all()


def test_what_cannot_be_simulated_is_refused():
    def scaled(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x / 2)

    with pytest.raises(ValueError, match="site 'x' observes something computed from the arguments"):
        simulate(scaled, torch.zeros(3))
    with pytest.raises(ValueError, match="Expected a model that observes its data"):
        simulate(lambda x: pyro.sample("z", dist.Normal(0.0, 1.0)), torch.zeros(3))


def test_example_data():
    model, _ = make_pair()
    assert example_data(model.double(), 3)[0].dtype == torch.float64
    assert [len(a) for a in example_data(_regression, 5, (torch.zeros(2), torch.arange(2)))] == [5, 5]
    with pytest.raises(ValueError, match="Expected example data x="):
        example_data(_regression, 5)


def test_data_are_simulated_with_the_holes_of_others():
    model = VAE(priors.StandardNormal(2), likelihoods.Normal(3), mlp((4,)), missing=True)
    x = torch.randn(5, 3)
    x[1, 2] = x[3, 0] = torch.nan
    drawn = with_missing(simulate(model, x), (x,))
    assert torch.equal(drawn.args[0].isnan(), x.isnan())
    guide = AmortizedGuide(3, guides.DiagonalNormal(2), mlp((4,)), missing=True)
    check = predictive_check(
        model, guide, x, {"missing": lambda x: x.isnan().sum()}, kind="prior", num_draws=3, progress=False
    )
    assert set(check.replicated["missing"].tolist()) == {2.0}
    with pytest.raises(ValueError, match="Expected x without missing entries for a PIT"):
        pit(model, x)
