"""Bidirectional Monte Carlo: bounds on both sides of the exact evidence, and estimates held against them."""

from __future__ import annotations

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import make_pair
from truth import BernoulliMixture, GammaPoisson, LinearGaussian, TwoModes

from pyro_vae.inference import evidence
from pyro_vae.inference.annealing.sandwich import Sandwich, sandwich
from pyro_vae.models import VAE, likelihoods, mlp, priors

F64 = torch.float64
LINEAR = LinearGaussian.random(2, 3)
EXAMPLE = torch.zeros(2, 3, dtype=F64)


def run(model, guide=None, num_data=40, **settings):
    settings = {"num_particles": 4, "num_temperatures": 30, "num_leapfrog": 3, "progress": False} | settings
    return sandwich(model, guide, num_data, device="cpu", **settings)


def exact_of(truth, x):
    return truth.marginal.log_prob(x) if isinstance(truth, LinearGaussian) else truth.log_px(x)


@pytest.mark.parametrize("start", ["prior", "guide"])
@pytest.mark.parametrize("truth", [LINEAR, GammaPoisson()], ids=["linear Gaussian", "gamma Poisson"])
def test_exact_evidence_is_between_the_bounds(truth, start):
    # On average, within 4 standard errors of 40 data; and the gap closes as temperatures are added.
    guide = truth.guide(1.5, 0.5) if truth is LINEAR else truth.exact_guide
    gaps = []
    for num_temperatures in (3, 60):
        found = run(truth.model, guide, x=EXAMPLE, start=start, num_temperatures=num_temperatures)
        exact = exact_of(truth, found.x)
        assert found.contains(exact, 4.0)
        for side, sign in ((found.lower, 1), (found.upper, -1)):
            error = sign * (exact - side)
            assert error.mean() > -4 * error.std() / 40**0.5 - 1e-9
        gaps.append(found.mean_gap)
    assert gaps[1] < 0.3
    assert gaps[1] < 0.5 * gaps[0] or gaps[0] < 1e-6


def test_data_and_seeds():
    model, guide = make_pair()
    state = torch.get_rng_state()
    first, again = (run(model, guide, 6, seed=3, num_temperatures=5) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.lower, again.lower)
    assert torch.equal(first.upper, again.upper)
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.x, run(model, guide, 6, seed=4, num_temperatures=2).x)
    assert set(first.x.unique().tolist()) <= {0.0, 1.0}
    assert first.x.shape == (6, 6)
    assert first.lower.shape == first.upper.shape == first.gap.shape == first.acceptance.shape == (6,)
    assert model.training  # as it was
    chunked = run(model, guide, 6, seed=3, num_temperatures=5, chunk_size=8)
    assert torch.equal(chunked.x, first.x)
    assert chunked.lower.shape == (6,)
    torch.testing.assert_close(chunked.mean_lower, first.mean_lower, atol=0.5, rtol=0)


def test_a_guide_that_misses_a_mode_is_found_out():
    """The estimate of 2,000 particles falls short by about log 2; the sandwich says so and is right itself."""
    truth = TwoModes()
    found = run(truth.model, truth.guide, 60, x=torch.zeros(1, dtype=F64), num_particles=8, num_temperatures=60)
    estimate = evidence(truth.model, truth.guide, found.x, 2000, method="iw", progress=False)
    assert not found.contains(estimate)
    missed, error = found.shortfall(estimate)
    assert 0.2 < missed < math.log(2) + 3 * error
    assert found.excess(estimate)[0] < 0
    z = torch.linspace(-6, 6, 2401, dtype=F64)
    joint = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z.square(), 0.3).log_prob(found.x[:, None])
    exact = joint.logsumexp(1) + math.log(0.005)
    assert found.contains(exact)
    assert not found.contains(exact + found.mean_gap + 0.5)  # and it bounds from above


def test_it_closes_on_a_decoder():
    torch.manual_seed(0)
    model = VAE(priors.StandardNormal(10), likelihoods.Bernoulli((30,)), mlp((20,)))
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(2)
    found = run(model, None, 50, num_particles=8, num_temperatures=60)
    assert -3 * found.stderr_gap < found.mean_gap < 0.05 + 3 * found.stderr_gap
    assert found.stderr_gap < 0.1
    assert (found.acceptance - 0.65).abs().max() < 0.2


def test_covariates_stay_with_their_data():
    def model(y, t):
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=F64), 1.0))
            pyro.sample("y", dist.Normal(z + 10 * t, 0.5), obs=y)

    t = torch.arange(10, dtype=F64)
    found = run(model, None, 10, x=(torch.zeros(10, dtype=F64), t), chunk_size=12)
    y, same = found.x
    assert torch.equal(same, t)
    assert found.contains(dist.Normal(10 * t, 1.25**0.5).log_prob(y), 4.0)


def _made_up(lower, upper, **changed):
    lower, upper = (torch.tensor(v, dtype=F64) for v in (lower, upper))
    facts = {"num_particles": 4, "settings": None, "seed": 0} | changed
    return Sandwich(lower, upper, 0 * lower, 0 * upper, 0 * lower, (torch.zeros(len(lower)),), **facts)


def test_summaries_by_hand():
    found = _made_up([-4.0, -2.0], [-3.0, -2.0])
    assert (found.mean_lower, found.mean_upper, found.mean_gap) == (-3.0, -2.5, 0.5)
    assert (found.stderr_lower, found.stderr_upper, found.stderr_gap) == pytest.approx((1.0, 0.5, 0.5))
    assert found.shortfall(torch.tensor([-5.0, -2.0])) == pytest.approx((0.5, 0.5))
    assert found.excess(torch.tensor([-5.0, -2.0])) == pytest.approx((-1.0, 1.0))
    assert found.contains(torch.tensor([-3.5, -2.0]))
    assert not found.contains(torch.tensor([-3.5, -2.0]) - 2, 1.0)
    assert not found.contains(torch.tensor([-3.5, -2.0]) + 2, 1.0)
    with pytest.raises(ValueError, match=r"estimate for each of the 2 simulated data; got shape \(3,\)"):
        found.contains(torch.zeros(3))


def test_standard_errors_and_the_line():
    # The lower bound's error by the delta method: over repetitions, its spread on one and the same datum.
    found = run(LINEAR.model, x=EXAMPLE, num_data=30, num_particles=50, num_temperatures=10)
    exact = exact_of(LINEAR, found.x)
    standardised = (found.lower - exact) / found.lower_std_error
    assert 0.6 < standardised.std() < 1.7
    assert (found.upper_std_error > 0).all()
    line = str(found)
    assert "\n" not in line
    assert f"{found.mean_lower:.3f}" in line
    assert "K=50, N=30, T=10" in line
    assert run(LINEAR.model, x=EXAMPLE, num_data=2, num_particles=1).lower_std_error.isnan().all()


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"num_data to be an integer >= 2; got 1\. The spread over data gives"):
        run(LINEAR.model, num_data=1, x=EXAMPLE)
    with pytest.raises(ValueError, match="Expected example data x="):
        run(LINEAR.model)
    with pytest.raises(ValueError, match="Latent site 'z' is discrete"):
        run(BernoulliMixture(), x=torch.zeros(2, 4, dtype=F64))
    with pytest.raises(ValueError, match="Expected a guide to start from"):
        run(LINEAR.model, x=EXAMPLE, start="guide")
    with pytest.raises(ValueError, match="num_temperatures to be an integer >= 1"):
        run(LINEAR.model, x=EXAMPLE, num_temperatures=0)


def test_progress_counts_to_the_end(monkeypatch):
    bars = []

    class Bar:
        def __init__(self, total, **_):
            self.total, self.done = total, 0
            bars.append(self)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self, n):
            self.done += n

    monkeypatch.setattr("pyro_vae.inference.programs.loop.tqdm", Bar)
    run(LINEAR.model, x=EXAMPLE, num_data=5, num_temperatures=4, chunk_size=8)
    assert [(bar.done, bar.total) for bar in bars] == [(2 * 5 * 4 * 4,) * 2]


def test_estimates_of_other_data_are_refused_and_so_are_those_in_another_order():
    truth = LinearGaussian.random(2, 3)
    s = sandwich(truth.model, None, 12, x=truth.sample(1), num_particles=3, num_temperatures=20, progress=False)
    score = partial(evidence, truth.model, truth.exact_guide, num_particles=30, progress=False, device="cpu")
    assert s.contains(score(s.x))
    for other in (truth.sample(12), s.x.flip(0)):
        for judge in (s.contains, s.shortfall, s.excess):
            with pytest.raises(ValueError, match="Expected estimates of the simulated data in their order"):
                judge(score(other))
    assert s.contains(score(s.x).log_px)  # a tensor says nothing of its data
    assert s.contains(score(s.x).log_px.numpy())
