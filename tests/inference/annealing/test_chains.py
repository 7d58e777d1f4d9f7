"""Annealed importance sampling against exact evidence: unbiased weights, bounds that close, modes it must find."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from setups import make_pair
from truth import GammaPoisson, LinearGaussian

from pyro_vae.inference import evidence
from pyro_vae.inference.annealing.chains import Annealing, anneal, anneal_back
from pyro_vae.inference.annealing.path import Path, schedule, tune
from pyro_vae.inference.programs.simulate import simulate

F64 = torch.float64


def log_mean(log_w):
    return log_w.logsumexp(0) - math.log(len(log_w))


class Logistic:
    """z ~ N(0, 1), x_i | z ~ Bernoulli(sigmoid(2 z + b_i)), i = 1, ..., 5: no closed form, one dimension."""

    bias = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], dtype=F64)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=F64), 1.0))
            pyro.sample("x", dist.Bernoulli(logits=2 * z[..., None] + self.bias).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.mean(1) * 2 - 1, 0.8))

    def log_px(self, x):
        z = torch.linspace(-10, 10, 2001, dtype=F64)
        values, index = torch.unique(x, dim=0, return_inverse=True)
        likelihood = dist.Bernoulli(logits=2 * z[:, None, None] + self.bias).log_prob(values).sum(-1)
        return ((likelihood + dist.Normal(0.0, 1.0).log_prob(z)[:, None]).logsumexp(0) + math.log(0.01))[index]


class TwoModes:
    """z ~ N(0, 1), x | z ~ N(z^2, 0.3^2): two modes near +-sqrt(x), of which the guide knows one."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=F64), 1.0))
            pyro.sample("x", dist.Normal(z.square(), 0.3), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.clamp(min=0.2).sqrt(), 0.15))

    def log_px(self, x):
        z = torch.linspace(-6, 6, 1201, dtype=F64)
        joint = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z.square(), 0.3).log_prob(x[:, None])
        return joint.logsumexp(1) + math.log(0.01)


class TwoSites:
    """A linear-Gaussian model in which z is drawn as two sites, the second given the first."""

    def __init__(self):
        self.whole = LinearGaussian.random(3, 4)

    def model(self, x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
            b = pyro.sample("b", dist.Normal(a.sum(-1), 1.0))  # b - sum(a) is the third standard normal
            z = torch.cat([a, (b - a.sum(-1))[..., None]], -1)
            loc = z @ self.whole.weight.T + self.whole.bias
            pyro.sample("x", dist.Normal(loc, self.whole.scale).to_event(1), obs=x)

    def guide(self, x):
        mean = self.whole.posterior(x).mean
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(mean[:, :2], 0.5).to_event(1))
            pyro.sample("b", dist.Normal(a.sum(-1) + mean[:, 2], 0.5))

    def log_px(self, x):
        return self.whole.marginal.log_prob(x)


class Linear(LinearGaussian):
    def log_px(self, x):
        return self.marginal.log_prob(x)


LINEAR = Linear(**vars(LinearGaussian.random(2, 3)))
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
    plain = evidence(truth.model, truth.guide, x, 4000, progress=False)
    assert plain.num_unreliable == 0  # nothing warns
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


def test_path_interpolates_between_start_and_joint():
    x = LINEAR.sample(3)
    for start in ("prior", "guide"):
        path = Path(LINEAR.model, LINEAR.exact_guide, (x,), 5, Annealing(start=start), None)
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
    path = Path(model, None, args, 10, Annealing(60, 3), None)
    rates = []
    move = path.move
    path.move = lambda *a: (lambda moved: rates.append(moved[1].mean().item()) or moved)(move(*a))
    path.follow(path.space.start, schedule(60), tuning)
    assert all(0.45 < rate < 0.85 for rate in rates)
    assert sum(rates) / len(rates) == pytest.approx(0.65, abs=0.07)


def test_the_guide_is_never_run_from_the_prior():
    def guide(x):
        raise AssertionError

    x = LINEAR.sample(3)
    assert anneal(LINEAR.model, guide, (x,), 2, settings=Annealing(3, 2)).log_w.shape == (2, 3)


def test_one_run_of_the_model_for_each_leapfrog_step():
    runs = []

    def model(x):
        runs.append(x)
        LINEAR.model(x)

    x = LINEAR.sample(3)
    tuning = tune(LINEAR.model, None, (x,), settings=Annealing(8, 5))
    path = Path(model, None, (x,), 2, Annealing(8, 5), 1)
    runs.clear()
    path.follow(path.space.start, schedule(8), tuning)
    assert len(runs) == 1 + 7 * 5


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
    assert Path(model, None, (x,), 2, Annealing(), None).target(torch.zeros(2, 3, 2))[0].dtype == torch.float32


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
        ("num_pilot", 1, "num_pilot >= 2, since a spread is estimated; got 1"),
        ("start", "posterior", 'start to be "prior" or "guide"; got \'posterior\''),
    ],
)
def test_settings_out_of_range_are_refused(setting, value, message):
    with pytest.raises(ValueError, match=message):
        Annealing(**{setting: value})


def test_a_start_at_no_guide_is_refused():
    with pytest.raises(ValueError, match=r'Expected a guide to start from; got None.*start="prior"'):
        anneal(LINEAR.model, None, (LINEAR.sample(2),), 2, settings=Annealing(2, start="guide"))
