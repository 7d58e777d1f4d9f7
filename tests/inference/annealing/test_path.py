"""The path from a start to the posterior, its schedule and its step sizes, and its record."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import make_pair
from truth import GammaPoisson, LinearGaussian

from pyro_vae.inference.annealing.chains import anneal
from pyro_vae.inference.annealing.path import Annealing, AnnealingPath, schedule
from pyro_vae.inference.annealing.tuning import tune
from pyro_vae.inference.compile.worthwhile import LEAST
from pyro_vae.inference.programs.plates import Plates

F64 = torch.float64


LINEAR = LinearGaussian.random(2, 3)


def test_path_interpolates_between_start_and_joint():
    x = LINEAR.sample(3)
    for start in ("prior", "guide"):
        path = AnnealingPath(LINEAR.model, LINEAR.exact_guide, (x,), 5, Annealing(start=start), None)
        u = torch.randn(5, 3, 2, dtype=F64)
        prior = dist.Normal(0.0, 1.0).log_prob(u).sum(-1)
        first = prior if start == "prior" else LINEAR.posterior(x).log_prob(u)
        joint = LINEAR.posterior(x).log_prob(u) + LINEAR.log_px(x)
        terms, gradients = path.target(u)
        for beta in (0.0, 0.3, 1.0):
            mixed = sum(c * t for c, t in zip(path.coefficients(beta), terms, strict=True))
            torch.testing.assert_close(mixed, (1 - beta) * first + beta * joint)
        h = 1e-6 * torch.tensor([1.0, 0.0], dtype=F64)
        slopes = (path.target(u + h)[0] - path.target(u - h)[0]) / 2e-6
        torch.testing.assert_close(gradients[..., 0], slopes, atol=1e-6, rtol=1e-6)


def test_schedule():
    betas = schedule(200)
    assert (betas[0], betas[100], betas[-1], len(betas)) == (0.0, pytest.approx(0.5), 1.0, 201)
    steps = torch.tensor(betas).diff()
    assert (steps > 0).all()
    torch.testing.assert_close(steps, steps.flip(0), atol=1e-6, rtol=1e-4)
    # The slope in the middle over that at the ends is s'(0) / s'(4).
    ends = math.exp(-4) / (1 + math.exp(-4)) ** 2
    assert (steps[100] / steps[0]).item() == pytest.approx(0.25 / ends, rel=0.05)
    assert schedule(1) == (0.0, 1.0)


def test_step_sizes_follow_the_posterior_and_hold_the_acceptance():
    # Data of two kinds: five times as informative is a smaller step; every temperature is accepted about as often.
    def model(x, scale):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3, dtype=F64), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, scale[:, None]).to_event(1), obs=x)

    args = torch.zeros(40, 3, dtype=F64), torch.tensor([0.1, 0.5], dtype=F64).repeat(20)
    tuning = tune(model, None, args, settings=Annealing(60, 3))
    precise, vague = tuning.step_sizes[-1].view(20, 2).mean(0)
    assert 2 < vague / precise < 6
    path = AnnealingPath(model, None, args, 10, Annealing(60, 3), None)
    rates = []
    move = path.move
    path.move = lambda *a: (lambda moved: rates.append(moved[1].mean().item()) or moved)(move(*a))
    path.follow(path.start, schedule(60), tuning)
    assert all(0.45 < rate < 0.85 for rate in rates)
    assert sum(rates) / len(rates) == pytest.approx(0.65, abs=0.07)


def test_one_run_of_the_model_for_each_leapfrog_step():
    runs = []

    def model(x):
        runs.append(x)
        LINEAR.model(x)

    x = LINEAR.sample(3)
    tuning = tune(LINEAR.model, None, (x,), settings=Annealing(8, 5))
    path = AnnealingPath(model, None, (x,), 2, Annealing(8, 5), Plates(1, 1))
    runs.clear()
    path.follow(path.start, schedule(8), tuning)
    assert len(runs) == 1 + 7 * 5


LONG = Annealing(LEAST["calls"], 1)


def _pairs():
    yield GammaPoisson().model, GammaPoisson().exact_guide, torch.ones(3, 4, dtype=torch.float64)
    yield *make_pair(), torch.ones(3, 6)


@pytest.mark.parametrize("start", ["prior", "guide"])
@pytest.mark.parametrize("pair", range(2))
def test_recorded_path_has_the_values_and_gradients_of_the_program(pair, start):
    model, guide, x = list(_pairs())[pair]
    path = AnnealingPath(model, guide, (x,), 4, Annealing(LEAST["calls"], 1, start), None)
    assert path.target != path.evaluate
    u = 3 * torch.randn_like(path.start)
    u[0, 0] = torch.nan
    for recorded_value, value in zip(path.target(u), path.evaluate(u), strict=True):
        torch.testing.assert_close(recorded_value, value, equal_nan=True)
        assert not recorded_value.requires_grad


def test_recorded_chains_are_the_same_chains(monkeypatch):
    truth, x = GammaPoisson(), torch.ones(3, 4, dtype=torch.float64)
    log_w = []
    for _ in range(2):
        torch.manual_seed(0)
        log_w.append(anneal(truth.model, None, (x,), 4, settings=LONG).log_w)
        monkeypatch.setattr("pyro_vae.inference.annealing.path.record_if_worthwhile", lambda function, *rest: function)
    torch.testing.assert_close(*log_w, rtol=1e-9, atol=0)
