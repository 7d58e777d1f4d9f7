"""Every estimator against exact gradients: in closed form, by brute force, or by its own definition."""

from __future__ import annotations

import math
from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae.inference import fit
from pyro_vae.inference.objectives import CIWAE, ELBO, IWAE, MIWAE, Renyi
from pyro_vae.inference.programs.weights import KLWeight

X = torch.tensor([-1.2, 0.3, 2.0], dtype=torch.float64)


class TwoLayers(nn.Module):
    """a ~ N(0, 1), b | a ~ N(u a, 1), x | b ~ N(w b, 1); q(b | x) = N(m x, s^2), q(a | b) = N(r b, t^2)."""

    def __init__(self) -> None:
        super().__init__()
        values = {"u": 0.7, "w": 1.3, "m": 0.4, "log_s": -0.2, "r": 0.5, "log_t": 0.1}
        for name, value in values.items():
            setattr(self, name, nn.Parameter(torch.tensor(value, dtype=torch.float64)))

    def model(self, x):
        with pyro.plate("data", x.shape[0]):
            a = pyro.sample("a", dist.Normal(torch.zeros_like(self.u), 1.0))
            b = pyro.sample("b", dist.Normal(self.u * a, 1.0))
            pyro.sample("x", dist.Normal(self.w * b, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", x.shape[0]):
            b = pyro.sample("b", dist.Normal(self.m * x, self.log_s.exp()))
            pyro.sample("a", dist.Normal(self.r * b, self.log_t.exp()))

    def gradient(self, loss):
        grads = torch.autograd.grad(loss, list(self.parameters()), allow_unused=True)
        return torch.stack([torch.zeros_like(loss) if g is None else g for g in grads])


class Coin(nn.Module):
    """z ~ Bernoulli(pi), x | z ~ N(mu_z, 1); q(z | x) = Bernoulli(sigmoid(a x + b)): every K-sample mean is a sum."""

    def __init__(self) -> None:
        super().__init__()
        for name, value in {"logit": 0.3, "low": -0.5, "high": 0.8, "a": 0.6, "b": -0.1}.items():
            setattr(self, name, nn.Parameter(torch.tensor(value, dtype=torch.float64)))

    def model(self, x):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Bernoulli(logits=self.logit))
            pyro.sample("x", dist.Normal(torch.where(z > 0, self.high, self.low), 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Bernoulli(logits=self.a * x + self.b))

    def exact(self, bound, num_particles, x, beta=1.0):
        """Return E[bound] for each datum by summing over all 2^K draws, differentiable."""
        total = 0.0
        for code in range(2**num_particles):
            z = torch.tensor([(code >> k) & 1 for k in range(num_particles)], dtype=torch.float64)[:, None]
            log_q = dist.Bernoulli(logits=self.a * x + self.b).log_prob(z.expand(-1, len(x)))
            log_prior = dist.Bernoulli(logits=self.logit).log_prob(z)
            log_lik = dist.Normal(torch.where(z > 0, self.high, self.low), 1.0).log_prob(x)
            total = total + log_q.sum(0).exp() * bound(log_lik + beta * (log_prior - log_q))
        return total

    gradient = TwoLayers.gradient


class TopDown(TwoLayers):
    """The same model with a guide in the model's order, q(a | x) = N(r x, t^2), q(b | a, x) = N(m x + a / 4, s^2)."""

    def guide(self, x):
        with pyro.plate("data", x.shape[0]):
            a = pyro.sample("a", dist.Normal(self.r * x, self.log_t.exp()))
            pyro.sample("b", dist.Normal(self.m * x + a / 4, self.log_s.exp()))


def _mean_gradient(program, objective, repeats, copies=200, beta=1.0):
    """Return the mean of the estimator's gradient over repeats, and its standard error, one row per parameter."""
    model, guide = program.model, program.guide
    x = X.repeat(copies)
    with KLWeight(beta):
        draws = torch.stack([program.gradient(-objective.differentiable_loss(model, guide, x)) for _ in range(repeats)])
    return draws.mean(0), draws.std(0) / repeats**0.5


def _agree(estimate, error, exact):
    assert ((estimate - exact).abs() < 5 * error + 1e-9).all(), (estimate, exact, error)


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
    # 80 repeats x 600 data each way; 6 parameters, 5 combined standard errors: one false alarm in 300,000.
    program = TopDown() if "analytic" in name else TwoLayers()
    one, other = REPARAMETERISED[name]
    (a, error_a), (b, error_b) = (_mean_gradient(program, o, 80, beta=beta) for o in (one, other))
    _agree(a, (error_a**2 + error_b**2).sqrt(), b)


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
    _agree(*_mean_gradient(program, objective, 60, beta=beta), exact)


@pytest.mark.parametrize("beta", [1.0, 2.5])
def test_enumeration_is_exact(beta):
    program = Coin()
    objective = ELBO(beta=beta, gradient="enumerate")
    loss = objective.differentiable_loss(program.model, program.guide, X)
    exact = program.exact(lambda log_w: log_w.mean(0), 1, X, beta).mean()
    torch.testing.assert_close(loss, -exact)
    torch.testing.assert_close(program.gradient(loss), program.gradient(-exact))


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


def test_values_do_not_depend_on_the_estimator():
    program = TwoLayers()
    model, guide = program.model, program.guide
    for objectives in (
        [ELBO(3, gradient=g) for g in ("pathwise", "stl", "dreg", "score", "vimco")],
        [IWAE(3, g) for g in ("pathwise", "dreg", "score", "vimco")],
        [Renyi(3, 0.3, g) for g in ("pathwise", "dreg", "score", "vimco")],
    ):
        values = []
        for objective in objectives:
            objective.loss(model, guide, X)
            torch.manual_seed(1)
            values.append(objective.differentiable_loss(model, guide, X).item())
            torch.manual_seed(1)
            assert values[-1] == pytest.approx(objective.loss(model, guide, X), abs=1e-12)
        assert values == pytest.approx([values[0]] * len(values), abs=1e-12)


def test_bounds_meet_where_theory_says():
    log_w = torch.randn(6, 50, dtype=torch.float64) * 2
    same = torch.testing.assert_close
    same(IWAE(1).bound(log_w[:1]), ELBO(1).bound(log_w[:1]))
    same(Renyi(6, 0.0).bound(log_w), IWAE(6).bound(log_w))
    same(Renyi(6, 1.0).bound(log_w), ELBO(6).bound(log_w))
    same(Renyi(6, 1 - 1e-5).bound(log_w), ELBO(6).bound(log_w), atol=1e-3, rtol=0)
    same(Renyi(6, -math.inf).bound(log_w), log_w.max(0).values)
    same(Renyi(6, -400.0).bound(log_w), log_w.max(0).values, atol=0.01, rtol=0)
    same(CIWAE(6, 1.0).bound(log_w), ELBO(6).bound(log_w))
    same(CIWAE(6, 0.0).bound(log_w), IWAE(6).bound(log_w))
    same(MIWAE(6, 1).bound(log_w), IWAE(6).bound(log_w))
    same(MIWAE(1, 6).bound(log_w), ELBO(6).bound(log_w))
    rising = [Renyi(6, alpha).bound(log_w) for alpha in (1.0, 0.5, 0.0, -1.0, -math.inf)]
    assert all((low <= high + 1e-12).all() for low, high in pairwise(rising))


@pytest.mark.parametrize("objective", [IWAE(5), MIWAE(3, 2), CIWAE(4, 0.3), Renyi(4, 0.5), Renyi(4, -2.0), ELBO(3)])
def test_derivatives_are_those_of_the_bound(objective):
    log_w = torch.randn(objective.num_particles, 4, dtype=torch.float64)
    first, second = objective.derivatives(log_w)
    for n in range(4):
        single = log_w[:, n : n + 1]
        jacobian = torch.autograd.functional.jacobian(lambda w: objective.bound(w)[0], single)[:, 0]
        hessian = torch.autograd.functional.hessian(lambda w: objective.bound(w)[0], single)[:, 0, :, 0]
        torch.testing.assert_close(first[:, n], jacobian)
        torch.testing.assert_close(second[:, n], hessian.diagonal())


def test_analytic_kl_has_the_closed_form_value_and_says_where_it_has_none():
    program = Coin()
    objective = ELBO(kl="analytic")
    torch.manual_seed(2)
    value = objective.value(program.model, program.guide, (X,))
    torch.manual_seed(2)
    terms = objective.weight_terms(program.model, program.guide, X[None].unbind(0))
    kl = torch.distributions.kl_divergence(
        dist.Bernoulli(logits=program.a * X + program.b), dist.Bernoulli(logits=program.logit)
    )
    torch.testing.assert_close(value, terms.likelihood["x"][0] - kl)

    def model(x):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.StudentT(torch.tensor(3.0)))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    layers = TwoLayers()
    with pytest.warns(UserWarning, match="No closed KL for site '[ab]'"):
        upside_down = ELBO(kl="analytic").value(layers.model, layers.guide, (X,))
    assert upside_down.shape == (3,)

    x = X.float()
    with pytest.warns(UserWarning, match=r"No closed KL for site 'z' \(Normal\)"):
        objective.loss(model, guide, x)
    torch.manual_seed(0)
    told = objective.loss(model, guide, x)  # once for each site: no second warning
    torch.manual_seed(0)
    assert told == pytest.approx(ELBO().loss(model, guide, x))


def test_particles_that_run_one_by_one_have_the_same_estimators():
    program = TwoLayers()

    def picky(x):
        with pyro.plate("data", x.shape[0]):
            a = pyro.sample("a", dist.Normal(torch.zeros_like(program.u), 1.0))
            b = pyro.sample("b", dist.Normal(program.u * a.view(len(x)), 1.0))
            pyro.sample("x", dist.Normal(program.w * b, 1.0), obs=x)

    guide = program.guide
    for gradient in ("dreg", "vimco"):
        objective = IWAE(3, gradient)
        with pytest.warns(UserWarning, match="one by one"):
            objective.loss(picky, guide, X)
        runs = [program.gradient(objective.differentiable_loss(picky, guide, X)) for _ in range(1500)]
        draws = torch.stack(runs)
        exact, error = _mean_gradient(program, IWAE(3), 80)
        _agree(draws.mean(0), (draws.std(0) ** 2 / 1500 + error**2).sqrt(), -exact)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: IWAE(5, gradient="stl"), "gradient of IWAE to be one of pathwise, dreg, score, vimco; got 'stl'"),
        (lambda: IWAE(5, gradient="dregs"), "Did you mean dreg?"),
        (lambda: IWAE(1, gradient="vimco"), r"Expected num_particles >= 2 for IWAE\('vimco'\); got 1"),
        (lambda: MIWAE(3, 0), "Expected num_bounds to be an integer >= 1"),
        (lambda: CIWAE(3, 1.5), r"Expected alpha in \[0, 1\]; got 1\.5"),
        (lambda: Renyi(3, math.inf), "Expected alpha < inf"),
        (lambda: Renyi(3, math.nan), "Expected alpha < inf"),
        (lambda: Renyi(3, -math.inf, "dreg"), "for VR-max, which has no second derivative"),
        (lambda: ELBO(kl="exact"), 'Expected kl="mc" or "analytic"'),
        (lambda: ELBO(kl="analytic", gradient="stl"), 'Expected gradient="pathwise" with kl="analytic"'),
    ],
)
def test_settings_are_checked(build, message):
    with pytest.raises(ValueError, match=message):
        build()


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
