"""Bounds as functions of log w: where they meet, their order, and their derivatives."""

from __future__ import annotations

import math
from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import PIXELS, TwoLayers, X, make_pair, quick, weights_of
from truth import LinearGaussian

from pyro_vae.inference.objectives import CIWAE, CUBO, ELBO, IWAE, MIWAE, RWS, Renyi


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


def test_bounds_rise_with_k_and_stay_below_log_px():
    # Means over 4,000 data; gaps between successive K are over ten standard errors, so chance failure is negligible.
    truth = LinearGaussian.random(2, 4)
    x = truth.sample(4000)
    bounds = [-IWAE(k).loss(truth.model, truth.guide(1.5), x) for k in (1, 4, 16, 64)]
    exact = truth.marginal.log_prob(x).mean().item()
    assert bounds == sorted(bounds)
    assert bounds[-1] < exact
    # ELBO: unbiased for its closed form; the sample mean lies within 4 standard errors but once in 16,000.
    elbo = truth.elbo(x, 1.5).mean().item()
    assert -ELBO(64).loss(truth.model, truth.guide(1.5), x) == pytest.approx(elbo, abs=4 * 1.5 / (4000 * 64) ** 0.5)


@pytest.mark.filterwarnings("ignore:CUBO fits the guide alone")
def test_cubo_bounds_from_above_and_trains_the_guide_alone():
    truth = LinearGaussian.random(1, 2)
    x = truth.sample(50)
    exact = truth.marginal.log_prob(x).mean().item()
    # A guide that is too wide keeps E[w^2] finite; 20,000 particles leave a bias far below the gap of about 0.1.
    upper = CUBO(20_000).loss(truth.model, truth.guide(1.5), x)
    lower = -IWAE(50).loss(truth.model, truth.guide(1.5), x)
    assert lower < exact + 0.01
    assert upper > exact + 0.02
    assert CUBO(5).loss(truth.model, truth.exact_guide, x) == pytest.approx(exact, abs=1e-9)
    program = TwoLayers()
    gradient = program.gradient(CUBO(5).differentiable_loss(program.model, program.guide, X))
    assert gradient[:2].abs().sum() == 0
    assert (gradient[2:].abs() > 0).all()


def _uniform_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
        pyro.factor("x", torch.where((x - z).abs() < 1.0, 0.0, -math.inf), has_rsample=True)


@pytest.mark.filterwarnings("ignore:Encountered .inf:UserWarning")  # Pyro points them out
@pytest.mark.parametrize(
    "objective", [IWAE(20, "dreg"), IWAE(20, "vimco"), IWAE(20, "score"), RWS(20)], ids=lambda o: o.gradient
)
def test_particles_of_weight_zero_do_not_spoil_a_finite_bound(objective):
    program = TwoLayers()

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(program.m * x, program.log_s.exp()))

    loss = objective.differentiable_loss(_uniform_model, guide, X[:2])
    assert loss.isfinite()
    assert torch.autograd.grad(loss, program.m)[0].isfinite()


def test_cubo_leaves_the_model_as_it_is_and_says_so():
    model, guide = make_pair()
    before = weights_of(model).clone(), weights_of(guide).clone()
    with pytest.warns(UserWarning, match="CUBO fits the guide alone"):
        quick(model, guide, PIXELS, objective=CUBO(3))
    assert torch.equal(weights_of(model), before[0])
    assert not torch.equal(weights_of(guide), before[1])
