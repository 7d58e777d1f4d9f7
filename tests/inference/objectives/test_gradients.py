"""Every estimator against exact gradients: in closed form, by brute force, or by its own definition."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from parts.objectives import of_one_particle
from programs import Coin, TopDown, TwoLayers, X, mean_gradient, within_errors
from torch import nn

from pyro_vae.inference import fit
from pyro_vae.inference.objectives import CIWAE, ELBO, IWAE, MIWAE, Renyi

REPARAMETERISED = {
    "ELBO stl": (ELBO(3, gradient="stl"), ELBO(3)),
    "ELBO dreg": (ELBO(2, gradient="dreg"), ELBO(2)),
    "ELBO score": (ELBO(4, gradient="score"), ELBO(4)),
    "ELBO score, K=1": (ELBO(1, gradient="score"), ELBO(1)),
    "beta-ELBO dreg": (ELBO(2, beta=2.0, gradient="dreg"), ELBO(2, beta=2.0)),
    "beta-ELBO score": (ELBO(2, beta=0.5, gradient="score"), ELBO(2, beta=0.5)),
    "ELBO analytic": (ELBO(2, kl="analytic"), ELBO(2)),
    "beta-ELBO analytic": (ELBO(2, beta=3.0, kl="analytic"), ELBO(2, beta=3.0)),
    "IWAE dreg": (IWAE(5, gradient="dreg"), IWAE(5)),
    "IWAE dreg, K=1": (IWAE(1, gradient="dreg"), IWAE(1)),
    "IWAE score": (IWAE(4, gradient="score"), IWAE(4)),
    "IWAE vimco": (IWAE(4, gradient="vimco"), IWAE(4)),
    "MIWAE dreg": (MIWAE(3, 2, gradient="dreg"), MIWAE(3, 2)),
    "CIWAE dreg": (CIWAE(4, 0.3, gradient="dreg"), CIWAE(4, 0.3)),
    "Renyi dreg": (Renyi(4, 0.5, gradient="dreg"), Renyi(4, 0.5)),
    "Renyi dreg, negative": (Renyi(4, -1.0, gradient="dreg"), Renyi(4, -1.0)),
    "Renyi vimco": (Renyi(4, 0.5, gradient="vimco"), Renyi(4, 0.5)),
}


@pytest.mark.parametrize("beta", [1.0, 0.4])
@pytest.mark.parametrize("name", REPARAMETERISED)
def test_estimators_of_one_bound_have_one_mean(name, beta):
    # 40 repeats x 1,200 data each way; 6 parameters, 5 combined standard errors: one false alarm in 50,000.
    program = TopDown() if "analytic" in name else TwoLayers()
    one, other = REPARAMETERISED[name]
    (a, error_a), (b, error_b) = (mean_gradient(program, o, 40, copies=400, beta=beta) for o in (one, other))
    within_errors(a, (error_a**2 + error_b**2).sqrt(), b)


DISCRETE = {
    "ELBO score": ELBO(3, gradient="score"),
    "ELBO score, K=1": ELBO(1, gradient="score"),
    "ELBO vimco": ELBO(2, gradient="vimco"),
    "IWAE score": IWAE(3, gradient="score"),
    "IWAE vimco": IWAE(3, gradient="vimco"),
    "IWAE vimco, K=2": IWAE(2, gradient="vimco"),
    "MIWAE vimco": MIWAE(2, 2, gradient="vimco"),
    "CIWAE vimco": CIWAE(3, 0.4, gradient="vimco"),
    "Renyi score": Renyi(3, 0.5, gradient="score"),
}


@pytest.mark.parametrize("beta", [1.0, 0.4])
@pytest.mark.parametrize("name", DISCRETE)
def test_discrete_gradients_have_the_mean_that_brute_force_gives(name, beta):
    # 60 repeats x 600 data; 5 parameters at 5 standard errors: one false alarm in 300,000.
    program, objective = Coin(), DISCRETE[name]
    exact = program.gradient(program.exact(objective.bound, objective.num_particles, X, beta).mean())
    within_errors(*mean_gradient(program, objective, 60, beta=beta), exact)


ONE_PARTICLE = of_one_particle()
NOISE_ALONE = {f"{name}, vimco" for name in ("ELBO", "IWAE", "MIWAE", "CIWAE", "Renyi", "TVO")}
NOISE_ALONE |= {"TVO, covariance", "RWS, wake"}


class Wide(nn.Module):
    """z ~ N(0, I_2), x | z ~ N(z_1 + z_2, 1), with a guide q(z | x) = N(m x, s^2 I) that is far off."""

    def __init__(self):
        super().__init__()
        self.m = nn.Parameter(torch.tensor([1.5, -0.5], dtype=torch.float64))
        self.log_s = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(self.m), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.m * x[:, None], self.log_s.exp()).to_event(1))

    def gradient(self, loss):
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(self.parameters()))])


@pytest.mark.filterwarnings("ignore:CUBO fits the guide alone")
@pytest.mark.parametrize("name", ONE_PARTICLE)
def test_one_particle_has_a_gradient_for_the_guide_or_is_refused(name):
    """The mean of 40 repeats x 600 data; a gradient of mean zero is 6 standard errors off once in 10^8 times."""
    if name in NOISE_ALONE:
        with pytest.raises(ValueError, match="Expected num_particles >= 2"):
            ONE_PARTICLE[name]()
        return
    program = Coin() if "enumerate" in name else Wide()
    mean, error = mean_gradient(program, ONE_PARTICLE[name](), 40)
    of_guide = slice(-2, None) if isinstance(program, Coin) else slice(None)
    assert (mean.abs() > 6 * error + 1e-6)[of_guide].any(), (mean, error)


@pytest.mark.parametrize("beta", [1.0, 2.5])
def test_enumeration_is_exact(beta):
    program = Coin()
    objective = ELBO(beta=beta, gradient="enumerate")
    loss = objective.differentiable_loss(program.model, program.guide, X)
    exact = program.exact(lambda log_w: log_w.mean(0), 1, X, beta).mean()
    torch.testing.assert_close(loss, -exact)
    torch.testing.assert_close(program.gradient(loss), program.gradient(-exact))


def test_enumeration_is_unscaled_validates_and_takes_one_particle():
    program = Coin()
    exact = program.exact(lambda log_w: log_w.mean(0), 1, X).mean().item()

    def scaled(x):
        with pyro.poutine.scale(scale=10.0):
            program.model(x)

    def scaled_guide(x):
        with pyro.poutine.scale(scale=10.0):
            program.guide(x)

    objective = ELBO(gradient="enumerate")
    with pytest.warns(UserWarning, match="The scale that poutine.scale sets at 'z', 'x' is left out"):
        assert objective.loss(scaled, scaled_guide, X) == pytest.approx(-exact)
    result = fit(program.model, program.guide, X, objective=objective, valid=X, batch_size=3, epochs=2, progress=False)
    assert math.isfinite(result.history[-1]["valid_bound"])
    with pytest.raises(ValueError, match='Expected num_particles=1 with gradient="enumerate"'):
        ELBO(3, gradient="enumerate")


def test_sticking_the_landing_has_no_variance_at_the_exact_posterior():
    class Exact(nn.Module):
        def __init__(self):
            super().__init__()
            self.loc = nn.Parameter(X / 2)
            self.log_scale = nn.Parameter(torch.full((3,), 0.5, dtype=torch.float64).log() / 2)

        def forward(self, x):
            with pyro.plate("data", x.shape[0]):
                pyro.sample("z", dist.Normal(self.loc, self.log_scale.exp()))

    def model(x):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    guide = Exact()

    def spread(objective):
        runs = [torch.autograd.grad(objective.differentiable_loss(model, guide, X), guide.loc)[0] for _ in range(20)]
        return torch.stack(runs).std(0).max().item()

    assert spread(ELBO(gradient="stl")) < 1e-12
    assert spread(IWAE(4, gradient="dreg")) < 1e-12
    assert spread(ELBO()) > 0.1


class Affine(nn.Module):
    """A flow guide whose parameters live in its transform, and which caches what it drew, as Pyro's flows do."""

    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(0.5, dtype=torch.float64).log() / 2)

    def forward(self, x):
        base = dist.Normal(torch.zeros_like(x), 1.0)
        flow = torch.distributions.AffineTransform(x / 2, self.log_scale.exp(), cache_size=1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.TransformedDistribution(base, [flow]))


@pytest.mark.parametrize("gradient", ["stl", "dreg"])
def test_flows_that_cache_have_the_gradient_of_the_frozen_guide(gradient):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    guide = Affine()  # the exact posterior, where the gradient without the score is 0 at every draw
    loss = ELBO(gradient=gradient).differentiable_loss(model, guide, X)
    (grad,) = torch.autograd.grad(loss, guide.log_scale)
    assert abs(grad.item()) < 1e-12


def test_a_pathwise_gradient_through_a_discrete_site_is_refused_with_what_is_offered():
    program = Coin()
    for objective, offer in ((IWAE(3, "dreg"), 'gradient="score" or gradient="vimco"'), (ELBO(), "enumerate")):
        with pytest.raises(ValueError, match=rf"'z' \(Bernoulli\) cannot be reparameterised.*{offer}"):
            objective.differentiable_loss(program.model, program.guide, X)


@pytest.mark.parametrize("objective", [IWAE(4, "vimco"), ELBO(4, gradient="score"), ELBO(gradient="enumerate")])
def test_discrete_models_are_fitted(objective):
    program = Coin()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, generator=generator, dtype=torch.float64)
    x += torch.where(torch.rand(400, generator=generator) < 0.3, 3.0, -2.0)
    adam = lambda p: torch.optim.Adam(p, lr=0.05)  # noqa: E731
    fit(program.model, program.guide, x, objective=objective, epochs=60, optimizer=adam, progress=False)
    assert program.high.item() == pytest.approx(3.0, abs=0.4)
    assert program.low.item() == pytest.approx(-2.0, abs=0.4)
