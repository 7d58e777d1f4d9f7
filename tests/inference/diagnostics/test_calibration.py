"""Calibration of the guide: accepts an exact one at its level, rejects one too wide, too narrow and shifted."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import counting_programs, make_pair
from truth import BernoulliMixture, GammaPoisson, LinearGaussian

from pyro_vae.inference.diagnostics import expected_coverage, pit, sbc
from pyro_vae.inference.diagnostics.uniformity import RankCounter

quiet = {"progress": False, "device": "cpu"}
once = {**quiet, "alpha": 1e-4}
"""For a single run that must be accepted."""
BOTH = {"sbc": sbc, "coverage": expected_coverage}


def _prior_as_guide(truth):
    return pyro.poutine.block(truth.model, hide=["x"])


def _exact_mixture_guide(mixture):
    def guide(x):
        logits = dist.Bernoulli(logits=mixture.theta).log_prob(x[:, None]).sum(-1) + mixture.logits
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Categorical(logits=logits))

    return guide


@pytest.mark.parametrize("name", BOTH)
def test_false_alarms_of_an_exact_guide(name):
    # 40 repeats at alpha = 0.05: 9 or more have probability 2e-4 if the rate is 0.05.
    truth = LinearGaussian.random(2, 3)
    x = truth.sample(1)
    runs = [
        BOTH[name](truth.model, truth.exact_guide, 100, num_draws=19, x=x, seed=s, **quiet).accepted for s in range(40)
    ]
    assert sum(not run for run in runs) <= 8


GUIDES = {
    "wide": ((1.3, 0.0), "too wide", "conservative"),
    "narrow": ((0.75, 0.0), "too narrow", "overconfident"),
    "right": ((1.0, 0.5), "too high", "overconfident"),
    "left": ((1.0, -0.5), "too low", "overconfident"),
}


@pytest.mark.parametrize("name", GUIDES)
def test_sbc_rejects_and_says_how(name):
    # A power of more than 0.999 for each of two dimensions at N = 500: z-scores of 6 and more against about 2.9.
    truth = LinearGaussian.random(2, 4)
    settings, words, _ = GUIDES[name]
    for seed in range(3):
        result = sbc(truth.model, truth.guide(*settings), 500, x=truth.sample(1), seed=seed, **quiet)
        assert result.test.faults["z[0]"] == result.test.faults["z[1]"] == words


@pytest.mark.parametrize("name", GUIDES)
def test_coverage_rejects_and_says_how(name):
    # A shift by half an sd in each of 2 dimensions changes P(a) by little: it takes N = 4,000 to be seen always.
    truth = LinearGaussian.random(2, 4)
    settings, _, verdict = GUIDES[name]
    num_data = 500 if settings[1] == 0 else 4000
    result = expected_coverage(truth.model, truth.guide(*settings), num_data, x=truth.sample(1), **quiet)
    assert result.verdict == verdict
    assert verdict in str(result)


@pytest.mark.parametrize("widen", [0.5, 1.0, 2.0])
def test_coverage_is_the_closed_form(widen):
    # |z|^2 of D = 2 standard normals is exponential: P(a <= c) = 1 - (1 - c)^(s^2). 4 standard errors, 9 values.
    truth = LinearGaussian.random(2, 3)
    result = expected_coverage(truth.model, truth.guide(widen), 2000, num_draws=199, x=truth.sample(1), **quiet)
    for c in (0.2, 0.5, 0.9):
        expected = 1 - (1 - c) ** widen**2
        assert result.at(c).item() == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 2000) ** 0.5 + 0.005)


def test_counts_do_not_depend_on_chunks():
    value, draws = torch.randint(0, 4, (5, 2)), torch.randint(0, 4, (11, 5, 2))
    counter = RankCounter(value)
    for chunk in draws.split([1, 4, 6]):
        counter.add(chunk)
    assert torch.equal(counter.less, (draws < value).sum(0))
    assert torch.equal(counter.equal, (draws == value).sum(0))
    with pytest.raises(ValueError, match="Expected draws with a rank; one is NaN"):
        RankCounter(torch.zeros(2)).add(torch.tensor([[0.0, math.nan]]))


@pytest.mark.parametrize("chunk_size", [3, 7, 10_000])
def test_ranks_are_those_of_the_truth_among_all_draws(chunk_size):
    # Every draw is 1/2 and the truth a coin: its rank is 0 or L, L with probability 0.3 (5 standard errors).
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(torch.full_like(x, 0.3), validate_args=False))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(torch.full_like(x, 0.5)))

    result = sbc(model, guide, 200, num_draws=11, x=torch.zeros(1), chunk_size=chunk_size, **quiet)
    assert result.ranks.shape == (200, 2)
    assert set(result.ranks[:, 0].tolist()) == {0, 11}
    assert (result.ranks[:, 0] == 11).double().mean().item() == pytest.approx(0.3, abs=5 * (0.21 / 200) ** 0.5)


def test_a_guide_that_ignores_the_data_is_found_by_the_likelihood_alone():
    truth = LinearGaussian.random(2, 4)
    guide = _prior_as_guide(truth)
    result = sbc(truth.model, guide, 500, x=truth.sample(1), **once)
    assert list(result.test.faults) == ["log p(x|z)"]
    assert expected_coverage(truth.model, guide, 500, x=truth.sample(1), **once).accepted


def test_discrete_latents():
    # Ties are the rule: without their random breaking the exact guide would fail at once.
    mixture = BernoulliMixture()
    exact, x = _exact_mixture_guide(mixture), torch.zeros(1, 4, dtype=torch.float64)
    for name in BOTH:
        alarms = [not BOTH[name](mixture, exact, 100, x=x, seed=s, **quiet).accepted for s in range(20)]
        assert sum(alarms) <= 5  # 6 or more of 20 at 0.05: 3e-4
    assert not sbc(mixture, mixture.guide, 500, x=x, **quiet).accepted


def test_ties_survive_rounding_that_depends_on_the_batch():
    # Matrix products round differently in batches of different shape; here z.ndim stands for that.
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(torch.full_like(x, 0.3)))
            pyro.sample("x", dist.Normal(z + 1e-6 * z.ndim, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=math.log(0.3 / 0.7) + x - 0.5 + 1e-6 * x.ndim))

    for check in BOTH.values():
        assert check(model, guide, 500, x=torch.zeros(1, dtype=torch.float64), **once).accepted


def test_inner_plates_and_several_sites():
    gamma = GammaPoisson()
    counts = torch.zeros(1, 3, dtype=torch.float64)
    for check in BOTH.values():
        assert check(gamma.model, gamma.exact_guide, 400, x=counts, **once).accepted

    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))
            b = pyro.sample("b", dist.Normal(a.sum(-1), 1.0))
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    def guide(x, b_scale=0.75**0.5):
        with pyro.plate("data", len(x)):  # b | x ~ N(3x/4, 3/4), a | b ~ N(b/3, I - 11'/3)
            b = pyro.sample("b", dist.Normal(0.75 * x, b_scale))
            cov = torch.eye(2, dtype=x.dtype) - 1 / 3
            pyro.sample("a", dist.MultivariateNormal((b[..., None] / 3).expand(*b.shape, 2), cov))

    x = torch.zeros(1, dtype=torch.float64)
    result = sbc(model, guide, 400, x=x, **once)
    assert result.labels == ("a[0]", "a[1]", "b", "log p(x|z)")
    assert result.accepted
    assert expected_coverage(model, guide, 400, x=x, **once).accepted
    narrow = sbc(model, lambda x: guide(x, 0.5), 400, x=x, **quiet)
    assert narrow.test.faults["b"] == "too narrow"
    assert expected_coverage(model, lambda x: guide(x, 0.5), 400, x=x, **quiet).verdict == "overconfident"


def test_modules_know_their_event_shape():
    model, guide = make_pair()
    model.train()
    before = torch.get_rng_state()
    for check in BOTH.values():
        runs = [check(model, guide, 50, num_draws=19, seed=s, **quiet).test.u for s in (1, 1, 2)]
        assert torch.equal(runs[0], runs[1])
        assert not torch.equal(runs[0], runs[2])
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_covariates_are_kept_beside_what_is_simulated():
    def model(x, t):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z + t, 1.0), obs=x)

    def guide(x, t):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x - t) / 2, 0.5**0.5))

    example = (torch.zeros(6), 10 * torch.arange(6.0))
    for check in BOTH.values():
        assert check(model, guide, 300, x=example, **once).accepted


@pytest.mark.filterwarnings("ignore:The programs do not run with all particles at once")
def test_a_guide_without_inverse_has_sbc_and_no_coverage():
    planar = dist.transforms.Planar(2)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            base = dist.Normal(x / 2, 0.5**0.5).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [planar]))

    x = torch.zeros(1, 2)
    assert sbc(model, guide, 50, num_draws=19, x=x, **quiet).ranks.shape == (50, 3)
    with pytest.raises(ValueError, match="The guide cannot score a value that it did not just draw"):
        expected_coverage(model, guide, 50, num_draws=19, x=x, **quiet)


@pytest.mark.parametrize("name", [*BOTH, "pit"])
def test_no_more_pairs_than_the_chunk_size_exist_at_once(name):
    model, guide, sizes = counting_programs()
    if name == "pit":
        pit(model, torch.randn(50), num_draws=19, chunk_size=40, **quiet)
    else:
        BOTH[name](model, guide, 50, num_draws=19, x=torch.zeros(1), chunk_size=40, **quiet)
    assert max(sizes) <= 40


@pytest.mark.parametrize("name", BOTH)
def test_refusals(name):
    truth = LinearGaussian.random(1, 2)
    check = BOTH[name]
    with pytest.raises(ValueError, match="Expected example data x="):
        check(truth.model, truth.exact_guide, 5, **quiet)
    with pytest.raises(ValueError, match="Expected num_draws to be an integer >= 1; got 0"):
        check(truth.model, truth.exact_guide, 5, num_draws=0, x=truth.sample(1), **quiet)
    with pytest.raises(ValueError, match="Expected num_data"):
        check(truth.model, truth.exact_guide, 0, x=truth.sample(1), **quiet)
    with pytest.raises(ValueError, match="Expected alpha"):
        check(truth.model, truth.exact_guide, 5, alpha=0.0, x=truth.sample(1), **quiet)
