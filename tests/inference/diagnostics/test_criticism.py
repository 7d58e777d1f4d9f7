"""Criticism of the model: predictive checks and PIT accept the true model and reject others."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import assorted_programs, make_pair
from scipy import stats
from truth import BernoulliMixture, GammaPoisson, LinearGaussian

from pyro_vae.inference.diagnostics import PredictiveCheck, pit, predictive_check
from pyro_vae.inference.programs.simulate import simulate

quiet = {"progress": False, "device": "cpu"}
MOMENTS = {"mean": torch.mean, "sd": torch.std}


def _true_models():
    truth, gamma, mixture = LinearGaussian.random(2, 3), GammaPoisson(), BernoulliMixture()
    zeros = torch.zeros(200, 1, dtype=torch.float64)
    return {
        "real": (truth.model, zeros.expand(200, 3)),
        "counts": (gamma.model, zeros.expand(200, 4)),
        "binary": (mixture, zeros.expand(200, 4)),
    }


@pytest.mark.parametrize("name", ["real", "counts", "binary"])
@pytest.mark.parametrize("num_draws", [1, 9])
def test_pit_of_the_true_model_is_exactly_uniform(name, num_draws):
    # 20 data sets: u pooled over data by KS at 1e-4 an entry; more than 6 of 20 alarms at 0.05 are 3e-5.
    model, like = _true_models()[name]
    runs = []
    for seed in range(20):
        torch.manual_seed(100 + seed)
        (x,) = simulate(model, like).args
        runs.append(pit(model, x, num_draws=num_draws, seed=seed, **quiet))
    assert sum(not run.accepted for run in runs) <= 6
    u = torch.cat([run.u for run in runs])
    assert all(stats.kstest(column, "uniform").pvalue > 1e-4 for column in u.T.numpy())
    # Data are independent of each other: neighbours' u do not correlate (5 standard errors).
    assert (((u[1:] - 0.5) * (u[:-1] - 0.5)).mean(0).abs() < 5 / 12 / len(u) ** 0.5).all()


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("too narrow", lambda x: 1.4 * (x - x.mean(0)) + x.mean(0)),
        ("too wide", lambda x: 0.7 * (x - x.mean(0)) + x.mean(0)),
        ("too low", lambda x: x + 0.5 * x.std(0)),
        ("too high", lambda x: x - 0.5 * x.std(0)),
    ],
)
def test_pit_rejects_and_says_how(words, change):
    truth = LinearGaussian.random(2, 3)
    result = pit(truth.model, change(truth.sample(500)), **quiet)
    assert result.test.faults == {f"x[{i}]": words for i in range(3)}
    assert f"x[0] {words}" in str(result)


def test_pit_with_covariates_and_modules():
    def model(y, t):
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(y), 1.0))
            pyro.sample("y", dist.Normal(z + t, 1.0), obs=y)

    t = 20 * torch.randn(300)
    y = t + 2**0.5 * torch.randn(300)
    assert pit(model, (y, t), alpha=1e-4, **quiet).accepted
    assert not pit(model, (y, t.flip(0)), **quiet).accepted
    assert pit(model, (y, t), **quiet).labels == ("y",)
    vae, _ = make_pair()
    assert pit(vae, vae.sample(300), alpha=1e-4, **quiet).accepted
    with pytest.raises(ValueError, match="for Bernoulli"):
        pit(vae, vae.sample(3) + 2, **quiet)
    with pytest.raises(ValueError, match="Expected num_draws"):
        pit(vae, vae.sample(3), num_draws=0, **quiet)


def test_prior_p_values_of_the_true_model_are_uniform():
    # 40 data sets: KS at 1e-4.
    truth = LinearGaussian.random(2, 3)
    check = [
        predictive_check(truth.model, None, truth.sample(20, seed=s), MOMENTS, kind="prior", num_draws=49, **quiet)
        for s in range(40)
    ]
    for name in MOMENTS:
        assert stats.kstest([c.upper[name] for c in check], "uniform").pvalue > 1e-4


@pytest.mark.parametrize("kind", ["prior", "posterior"])
def test_a_wrong_likelihood_is_found(kind):
    # p(x|z) is half as wide as the truth's: the residuals of the last entries, that z cannot follow, show it.
    truth = LinearGaussian.random(1, 6, scale=1.0)
    narrow = LinearGaussian(truth.weight, truth.bias, 0.5)
    x = truth.sample(200)
    check = predictive_check(narrow.model, narrow.exact_guide, x, MOMENTS, kind=kind, num_draws=99, **quiet)
    assert check.two_sided["sd"] == pytest.approx(0.02)
    right = predictive_check(truth.model, truth.exact_guide, x, MOMENTS, kind=kind, num_draws=99, **quiet)
    assert right.two_sided["sd"] > 0.02


@pytest.mark.parametrize(("widen", "shift"), [(1.0, 0.0), (1.6, 0.0), (1.3, 0.7)])
def test_posterior_replicates_do_not_trust_the_guide(widen, shift):
    # x_rep_n ~ N(W m_n + b, W S W' + s^2): mean over data and over replicates at 5 standard errors.
    truth = LinearGaussian.random(2, 3)
    x = truth.sample(50)
    q = truth.posterior(x)
    loc = q.loc @ truth.weight.T + truth.bias
    variance = (truth.weight @ q.covariance_matrix @ truth.weight.T).diagonal(dim1=-2, dim2=-1) + truth.scale**2
    statistics = {"loc": lambda y: (y - loc).mean(), "square": lambda y: (y - loc).square().mean()}
    check = predictive_check(truth.model, truth.guide(widen, shift), x, statistics, num_particles=2000, **quiet)
    for name, expected in (("loc", 0.0), ("square", variance.mean().item())):
        draws = check.replicated[name]
        assert draws.mean().item() == pytest.approx(expected, abs=5 * draws.std().item() / 200**0.5)
    assert check.khat.shape == (50,)
    assert (check.khat < 0.7).all()


def test_posterior_p_values_are_conservative():
    truth = LinearGaussian.random(2, 3)
    p_values = torch.tensor(
        [
            predictive_check(
                truth.model,
                truth.exact_guide,
                truth.sample(20, seed=s),
                MOMENTS,
                num_draws=49,
                num_particles=50,
                **quiet,
            ).upper["sd"]
            for s in range(30)
        ]
    )
    assert p_values.std() < 0.7 * (1 / 12) ** 0.5  # of 30 uniforms it has an sd of 8%
    assert p_values.mean().item() == pytest.approx(0.5, abs=0.15)


def test_tails_by_hand():
    draws = torch.tensor([1.0, 2.0, 2.0, 3.0], dtype=torch.float64)
    check = PredictiveCheck({"T": 2.0, "U": 9.0}, {"T": draws, "U": draws}, "prior")
    assert check.upper == {"T": 4 / 5, "U": 1 / 5}
    assert check.lower == {"T": 4 / 5, "U": 1.0}
    assert check.two_sided == {"T": 1.0, "U": 2 / 5}
    assert check.mc_error == pytest.approx({"T": 0.2, "U": 0.2})
    assert str(check) == "prior predictive check: T p = 1.000 +- 0.400, U p = 0.400 +- 0.400  (R=4)"


def test_any_pair_of_programs_and_data_in_their_form():
    for programs in assorted_programs():
        settings = {"num_draws": 5, "num_particles": 20, "chunk_size": 30, **quiet}
        assert "\n" not in str(predictive_check(*programs, MOMENTS, **settings))
        runs = [predictive_check(*programs, MOMENTS, seed=s, **settings).replicated["mean"] for s in (1, 1, 2)]
        assert torch.equal(runs[0], runs[1])
        assert not torch.equal(runs[0], runs[2])

    def regression(y, t):
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(y), 1.0))
            pyro.sample("y", dist.Normal(z + t, 1.0), obs=y)

    slope = {"slope": lambda data: (data[0] * data[1]).sum() / data[1].square().sum()}
    t = torch.randn(100)
    check = predictive_check(regression, None, (t + torch.randn(100), t), slope, kind="prior", **quiet)
    assert check.replicated["slope"].mean().item() == pytest.approx(1.0, abs=0.1)


def test_refusals():
    truth = LinearGaussian.random(1, 2)
    x = truth.sample(4)
    cases = {
        'Expected kind to be "posterior" or "prior"': {"kind": "mixed"},
        "Expected at least one statistic": {"statistics": {}},
        "Expected a guide": {"guide": None},
        "Expected statistic 'T' to return one number": {"statistics": {"T": lambda x: x}},
        "Expected num_draws": {"num_draws": 0},
        "Expected num_particles": {"num_particles": 0},
    }
    for words, change in cases.items():
        arguments = {"guide": truth.exact_guide, "statistics": MOMENTS, **change}
        with pytest.raises(ValueError, match=words):
            predictive_check(truth.model, x=x, **arguments, **quiet)

    def impossible(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Uniform(0.0, 1.0, validate_args=False), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="A datum has probability 0"):
        predictive_check(impossible, guide, torch.tensor([0.5, 3.0]), MOMENTS, **quiet)
