"""The latents of a program as a vector of real numbers: densities, Jacobians, layout, and what is refused."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from truth import BernoulliMixture, GammaPoisson, LinearGaussian

from pyro_vae.inference.annealing.unconstrained import Unconstrained
from pyro_vae.inference.programs.plates import Plates
from pyro_vae.inference.programs.simulate import simulate
from pyro_vae.inference.programs.vectorize import find_plates

F64 = torch.float64
COUNTS = torch.tensor([[0.0, 2.0, 1.0], [5.0, 3.0, 8.0]], dtype=F64)


def _many_sites(x):
    """Supports of every kind: simplex, a bound that is another latent, a plate inside the data plate."""
    with pyro.plate("data", len(x), dim=-2):
        p = pyro.sample("p", dist.Dirichlet(torch.tensor([2.0, 3.0, 1.5], dtype=F64)))
        a = pyro.sample("a", dist.Gamma(torch.tensor(2.0, dtype=F64), 1.0))
        with pyro.plate("inner", 4, dim=-1):
            b = pyro.sample("b", dist.Uniform(torch.zeros_like(a), a))
            pyro.sample("x", dist.Normal(b + p[..., 0], 1.0), obs=x)


def _many_guide(x):
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("p", dist.Dirichlet(torch.tensor([1.0, 1.0, 1.0], dtype=F64)))
        a = pyro.sample("a", dist.Gamma(torch.tensor(3.0, dtype=F64), 2.0))
        with pyro.plate("inner", 4, dim=-1):
            pyro.sample("b", dist.Uniform(torch.zeros_like(a), a))


def test_values_and_gradients_of_a_conjugate_model():
    truth = GammaPoisson()
    space = Unconstrained(truth.model, truth.exact_guide, (COUNTS,), 5)
    u = torch.randn(5, 2, 1, dtype=F64, requires_grad=True)
    log = space(u)
    z = u.exp()
    expected = {
        "prior": dist.Gamma(torch.tensor(2.0, dtype=F64), 0.5).log_prob(z)[..., 0] + u[..., 0],
        "likelihood": dist.Poisson(z).log_prob(COUNTS).sum(-1),
        "guide": dist.Gamma(2.0 + COUNTS.sum(1), 3.5).log_prob(z[..., 0]) + u[..., 0],
    }
    for name, value in expected.items():
        torch.testing.assert_close(getattr(log, name), value)
        gradients = [torch.autograd.grad(v.sum(), u, retain_graph=True)[0] for v in (getattr(log, name), value)]
        torch.testing.assert_close(*gradients)
    posterior = log.prior + log.likelihood - log.guide
    torch.testing.assert_close(posterior, truth.log_px(COUNTS).expand(5, 2))


PRIORS = {
    "gamma": dist.Gamma(torch.tensor(1.5, dtype=F64), 2.0),
    "beta": dist.Beta(torch.tensor(1.5, dtype=F64), 2.5),
    "uniform": dist.Uniform(torch.tensor(-1.0, dtype=F64), 3.0),
    "half normal": dist.HalfNormal(torch.tensor(2.0, dtype=F64)),
    "lognormal": dist.LogNormal(torch.tensor(0.5, dtype=F64), 0.7),
    "cauchy": dist.StudentT(torch.tensor(3.0, dtype=F64)),
}


@pytest.mark.parametrize("name", PRIORS)
def test_prior_integrates_to_one_over_the_reals(name):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", PRIORS[name])
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    grid = torch.linspace(-60, 60, 24_001, dtype=F64)
    space = Unconstrained(model, None, (torch.zeros(2, dtype=F64),), len(grid))
    log = space(grid[:, None, None].expand(-1, 2, 1)).prior.nan_to_num(nan=-torch.inf)
    torch.testing.assert_close(log.exp().sum(0) * 0.005, torch.ones(2, dtype=F64), atol=1e-4, rtol=0)


def test_two_dimensional_prior_with_a_support_that_depends_integrates_to_one():
    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Gamma(torch.tensor(2.0, dtype=F64), 1.0))
            b = pyro.sample("b", dist.Uniform(torch.zeros_like(a), a))
            pyro.sample("x", dist.Normal(a + b, 1.0), obs=x)

    line = torch.linspace(-20, 20, 201, dtype=F64)
    grid = torch.cartesian_prod(line, line)[:, None]
    space = Unconstrained(model, None, (torch.zeros(1, dtype=F64),), len(grid))
    assert abs(space(grid).prior.exp().sum().item() * 0.2**2 - 1) < 1e-3


@pytest.mark.parametrize("guide", [None, _many_guide])
def test_many_sites_are_laid_side_by_side(guide):
    x = torch.randn(3, 4, dtype=F64)
    space = Unconstrained(_many_sites, guide, (x,), 6)
    assert {name: tuple(shape) for name, shape in space.shapes.items()} == {"p": (1, 2), "a": (1,), "b": (4,)}
    assert space.start.shape == (6, 3, space.dim) == (6, 3, 2 + 1 + 4)
    log = space(space.start)
    assert log.prior.shape == log.likelihood.shape == log.guide.shape == (6, 3)
    parts = space.split(space.start)
    a = parts["a"].exp()
    b = a * parts["b"].sigmoid()
    p = torch.distributions.biject_to(torch.distributions.constraints.simplex)(parts["p"])
    torch.testing.assert_close(log.likelihood, dist.Normal(b + p[..., :1].squeeze(-1), 1.0).log_prob(x).sum(-1))
    # Under the uniform given a, b's density and Jacobian leave sum log sigmoid'(u).
    logistic = (parts["b"].sigmoid() * (1 - parts["b"].sigmoid())).log().sum(-1)
    gamma = dist.Gamma(2.0, 1.0).log_prob(a)[..., 0] + parts["a"][..., 0]
    simplex = torch.distributions.biject_to(torch.distributions.constraints.simplex)
    dirichlet = dist.Dirichlet(torch.tensor([2.0, 3.0, 1.5], dtype=F64)).log_prob(p)[..., 0]
    dirichlet = dirichlet + simplex.log_abs_det_jacobian(parts["p"], p)[..., 0]
    torch.testing.assert_close(log.prior, logistic + gamma + dirichlet)
    if guide is not None:
        other = dist.Gamma(3.0, 2.0).log_prob(a)[..., 0] + parts["a"][..., 0] + logistic
        flat = math.log(2) + simplex.log_abs_det_jacobian(parts["p"], p)[..., 0]
        torch.testing.assert_close(log.guide, other + flat)


def test_inverse_takes_latents_to_where_they_were():
    drawn = simulate(_many_sites, torch.zeros(3, 4, dtype=F64))
    space = Unconstrained(_many_sites, None, drawn.args, 4)
    u = space.inverse(drawn.latents)
    assert u.shape == (3, 7)
    parts = space.split(u[None])  # as a run of one particle has it
    torch.testing.assert_close(parts["a"].exp(), drawn.latents["a"])
    torch.testing.assert_close(drawn.latents["a"] * parts["b"].sigmoid(), drawn.latents["b"])


def test_particles_that_cannot_run_together_are_scored_alike():
    truth = LinearGaussian.random(2, 3)

    def from_the_left(x):
        with pyro.plate("data", 4):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
            loc = z.view(4, -1) @ truth.weight.T + truth.bias
            pyro.sample("x", dist.Normal(loc, truth.scale).to_event(1), obs=x)

    x = truth.sample(4)
    with pytest.warns(UserWarning, match="one by one"):
        alone = Unconstrained(from_the_left, truth.exact_guide, (x,), 3)
    together = Unconstrained(truth.model, truth.exact_guide, (x,), 3)
    u = torch.randn(3, 4, 2, dtype=F64)
    for name in ("prior", "likelihood", "guide"):
        torch.testing.assert_close(getattr(alone(u), name), getattr(together(u), name))
    single = Unconstrained(truth.model, truth.exact_guide, (x,), 1)
    torch.testing.assert_close(single(u[:1]).guide, together(u).guide[:1])
    assert alone.start.shape == together.start.shape == (3, 4, 2)


def test_the_guide_runs_no_more_than_it_must():
    truth, runs = LinearGaussian.random(2, 3), []
    x = truth.sample(4)

    def guide(x):
        runs.append(x)
        truth.exact_guide(x)

    space = Unconstrained(truth.model, guide, (x,), 3, plates=Plates(1, 1))
    before = len(runs)
    for _ in range(5):
        space(space.start)
    assert len(runs) == before  # one latent site: its distribution is kept
    assert find_plates(truth.model, None, (x,)) == Plates(1, 1)


def test_no_value_is_an_error():
    truth = GammaPoisson()
    space = Unconstrained(truth.model, truth.exact_guide, (COUNTS,), 6)
    u = torch.tensor([1e4, -1e4, torch.nan, torch.inf, -torch.inf, 0.3], dtype=F64)[:, None, None].expand(6, 2, 1)
    log = space(u)
    joint = log.prior + log.likelihood
    assert not joint[:5].isfinite().any()
    assert joint[5].isfinite().all()
    torch.testing.assert_close(joint[5], space(torch.full((6, 2, 1), 0.3, dtype=F64)).prior[0] + log.likelihood[5])


def _with_site(draw, **infer):
    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", draw, infer=infer)
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    return program


REFUSED = {
    "discrete": (_with_site(dist.Bernoulli(0.3)), "Latent site 'z' is discrete.*method=\"iw\""),
    "poisson": (_with_site(dist.Poisson(0.3)), "Latent site 'z' is discrete"),
    "point mass": (_with_site(dist.Delta(torch.tensor(0.3))), "Latent site 'z' is a point mass"),
    "improper": (
        _with_site(dist.ImproperUniform(dist.constraints.real, (), ())),
        "Latent site 'z' is improper.*proper prior",
    ),
    "no density": (_with_site(dist.Normal(0.0, 1.0).mask(False)), "Latent site 'z' is improper"),
    "mixture": (BernoulliMixture(), "Latent site 'z' is discrete"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_latents_that_cannot_be_moved_are_refused(name):
    model, message = REFUSED[name]
    x = torch.zeros(3, 4, dtype=F64) if name == "mixture" else torch.zeros(3)
    with pytest.raises(ValueError, match=message):
        Unconstrained(model, None, (x,), 2)


def test_a_guide_of_auxiliary_sites_is_refused_as_a_start():
    truth = LinearGaussian.random(2, 3)
    x = truth.sample(3)
    guide = AutoNormal(truth.model)
    guide(x)
    with pytest.raises(ValueError, match=r'auxiliary.*start="prior"'):
        Unconstrained(truth.model, guide, (x,), 2)
