"""Annealed importance sampling against exact evidence: unbiased weights, bounds that close, modes it must find."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import make_pair
from truth import GammaPoisson, LinearGaussian, Logistic, TwoModes, TwoSites

from pyro_vae.inference import evidence
from pyro_vae.inference.annealing.chains import anneal, anneal_back
from pyro_vae.inference.annealing.path import Annealing, AnnealingPath
from pyro_vae.inference.annealing.tuning import tune
from pyro_vae.inference.programs.simulate import simulate

F64 = torch.float64


def log_mean(log_w):
    return log_w.logsumexp(0) - math.log(len(log_w))


LINEAR = LinearGaussian.random(2, 3)
TRUTHS = {
    "linear Gaussian": (LINEAR, LINEAR.guide(1.4, 0.5), torch.zeros(4, 3, dtype=F64)),
    "gamma Poisson": (GammaPoisson(), GammaPoisson().exact_guide, torch.zeros(4, 3, dtype=F64)),
    "logistic": (Logistic(), Logistic().guide, torch.zeros(4, 5, dtype=F64)),
    "two modes": (TwoModes(), TwoModes().guide, torch.zeros(4, dtype=F64)),
    "two sites": (TwoSites(), TwoSites().guide, torch.zeros(4, 4, dtype=F64)),
}
FROM_GUIDE = ["linear Gaussian", "gamma Poisson", "logistic", "two sites"]
CASES = [(name, "prior") for name in TRUTHS] + [(name, "guide") for name in FROM_GUIDE]


@pytest.mark.parametrize(("name", "start"), CASES)
def test_weights_are_unbiased(name, start):
    """With four temperatures E[w] / p(x) = 1, within 4.5 standard errors of 4,000 chains."""
    truth, guide, like = TRUTHS[name]
    args = simulate(truth.model, like).args
    annealed = anneal(truth.model, guide, args, 4000, settings=Annealing(4, 2, start))
    _check_mean_is_one((annealed.log_w - truth.log_px(args[0])).exp())
    assert ((annealed.acceptance > 0.3) & (annealed.acceptance < 0.99)).all()


@pytest.mark.parametrize(("name", "start"), CASES)
def test_weights_forwards_and_backwards_are_each_others_reversal(name, start):
    """Crooks' identity: the law of r = w / p(x) backwards is r times that forwards, so E[r g(r)] = E'[g(r)] for any g.

    With g(r) = 1 / (1 + r) both sides are bounded, where 1/w itself has no variance; 4.5 standard errors of 4,000
    data and chains. It fails for kernels that are not reversible, and for a start that is not the posterior.
    """
    truth, guide, like = TRUTHS[name]
    drawn = simulate(truth.model, like[:1].expand(4000, *like.shape[1:]))
    settings, exact = Annealing(4, 2, start), truth.log_px(drawn.args[0])
    tuning = tune(truth.model, guide, drawn.args, settings=settings)
    forwards = anneal(truth.model, guide, drawn.args, 1, settings=settings, tuning=tuning)
    backwards = anneal_back(truth.model, guide, drawn.args, drawn.latents, 1, settings=settings, tuning=tuning)
    left, right = (forwards.log_w - exact).sigmoid(), (exact - backwards.log_w).sigmoid()
    error = ((left.var() + right.var()) / 4000).sqrt()
    assert abs(left.mean() - right.mean()) < 4.5 * error + 1e-9
    assert error < 0.01


def _check_mean_is_one(ratio):
    error = ratio.std(0) / len(ratio) ** 0.5
    assert (error > 0).all() or ratio.std(0).max() < 1e-9
    assert ((ratio.mean(0) - 1).abs() < 4.5 * error + 1e-9).all(), (ratio.mean(0), error)


@pytest.mark.parametrize("name", TRUTHS)
def test_the_bound_closes_on_the_exact_evidence(name):
    # Within 4.5 standard errors, which are small.
    truth, _, like = TRUTHS[name]
    args = simulate(truth.model, like).args
    exact = truth.log_px(args[0])
    log_w = anneal(truth.model, None, args, 400, settings=Annealing(30, 3)).log_w
    error = (log_w - exact).exp().std(0) / 20
    assert (error < 0.2).all()
    assert ((log_mean(log_w) - exact).abs() < 4.5 * error).all()
    rough = anneal(truth.model, None, args, 400, settings=Annealing(4, 3)).log_w
    assert rough.mean() < log_w.mean() < exact.mean()


@pytest.mark.parametrize("dim", [10, 100])
def test_many_dimensions(dim):
    """The lower bound falls short, the upper exceeds, and both errors are a small part of log p(x)'s spread."""
    truth = LinearGaussian.random(dim, 20, scale=dim**0.5)
    drawn = simulate(truth.model, torch.zeros(10, 20, dtype=F64))
    settings = Annealing(60, 3)
    tuning = tune(truth.model, None, drawn.args, settings=settings)
    forwards = anneal(truth.model, None, drawn.args, 8, settings=settings, tuning=tuning)
    backwards = anneal_back(truth.model, None, drawn.args, drawn.latents, 8, settings=settings, tuning=tuning)
    exact = truth.marginal.log_prob(drawn.args[0])
    lower, upper = log_mean(forwards.log_w) - exact, -log_mean(-backwards.log_w) - exact
    for error, sign in ((lower, -1), (upper, 1)):
        assert -3 * error.std() / 10**0.5 < sign * error.mean() < 0.5
    assert ((forwards.acceptance - 0.65).abs() < 0.15).all()


def test_from_the_prior_it_finds_the_mode_that_importance_weighting_misses():
    truth, x = TwoModes(), torch.tensor([1.0, 2.0, 4.0], dtype=F64)
    plain = evidence(truth.model, truth.guide, x, 4000, method="iw", progress=False)
    assert plain.num_flagged == 0  # nothing warns
    torch.testing.assert_close(plain.log_px, truth.log_px(x) - math.log(2), atol=0.1, rtol=0)
    annealed = anneal(truth.model, truth.guide, (x,), 200, settings=Annealing(40, 3))
    torch.testing.assert_close(log_mean(annealed.log_w), truth.log_px(x), atol=0.3, rtol=0)


def test_one_temperature_is_importance_sampling():
    # From the exact posterior every weight is p(x); from the prior a weight is the likelihood at its draw.
    x = LINEAR.sample(3)
    exact = anneal(LINEAR.model, LINEAR.exact_guide, (x,), 5, settings=Annealing(1, start="guide"))
    torch.testing.assert_close(exact.log_w, LINEAR.log_px(x).expand(5, 3))
    torch.manual_seed(3)
    prior = anneal(LINEAR.model, None, (x,), 20_000, settings=Annealing(1))
    _check_mean_is_one((prior.log_w - LINEAR.log_px(x)).exp())
    assert (prior.acceptance == 1).all()


def test_the_guide_is_never_run_from_the_prior():
    def guide(x):
        raise AssertionError

    x = LINEAR.sample(3)
    assert anneal(LINEAR.model, guide, (x,), 2, settings=Annealing(3, 2)).log_w.shape == (2, 3)


def test_progress_dtype_gradients_and_repetition():
    model, guide = make_pair()
    x, done = torch.ones(3, 6), []
    for start in ("prior", "guide"):
        torch.manual_seed(1)
        first = anneal(model, guide, (x,), 4, settings=Annealing(5, 2, start), advance=done.append)
        torch.manual_seed(1)
        again = anneal(model, guide, (x,), 4, settings=Annealing(5, 2, start))
        assert torch.equal(first.log_w, again.log_w)
        assert not first.log_w.requires_grad
        assert all(p.grad is None for p in model.parameters())
    assert done == [12] * 10
    assert AnnealingPath(model, None, (x,), 2, Annealing(), None).target(torch.zeros(2, 3, 2))[0].dtype == torch.float32


def test_a_likelihood_that_does_not_depend_on_z():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros((), dtype=F64), 1.0))
            pyro.sample("x", dist.Normal(torch.zeros((), dtype=F64), 1.0), obs=x)

    x = torch.randn(3, dtype=F64)
    log_w = anneal(model, None, (x,), 4, settings=Annealing(5, 2)).log_w
    torch.testing.assert_close(log_w, dist.Normal(0.0, 1.0).log_prob(x).expand(4, 3))


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("num_temperatures", 0, "num_temperatures to be an integer >= 1; got 0"),
        ("num_leapfrog", 2.5, "num_leapfrog to be an integer >= 1; got 2.5"),
        ("num_pilot", 1, r"num_pilot to be an integer >= 2; got 1\. A variance takes two"),
        ("start", "posterior", 'start to be "prior" or "guide"; got \'posterior\''),
    ],
)
def test_settings_out_of_range_are_refused(setting, value, message):
    with pytest.raises(ValueError, match=message):
        Annealing(**{setting: value})


def test_a_start_at_no_guide_is_refused():
    with pytest.raises(ValueError, match=r'Expected a guide to start from; got None.*start="prior"'):
        anneal(LINEAR.model, None, (LINEAR.sample(2),), 2, settings=Annealing(2, start="guide"))
