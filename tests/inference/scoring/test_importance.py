"""Importance weighting beyond the plain mean: the jackknife and the defensive mixture."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import evidence_of, make_pair
from truth import BernoulliMixture, GammaPoisson, LinearGaussian, TwoModes

from pyro_vae.inference import evidence, methods


def test_jackknife_takes_off_the_bias_of_first_order():
    # 20,000 data: the mean's Monte Carlo error is a fraction of the plain estimate's bias.
    truth = LinearGaussian.random(1, 2)
    x = truth.sample(20_000)
    plain, corrected = (evidence_of(truth, truth.guide(2.0), x, 20, method) for method in ("iw", "jackknife"))
    exact = truth.marginal.log_prob(x).mean().item()
    assert plain.mean - exact == pytest.approx(plain.bias, abs=0.2 * abs(plain.bias))
    assert plain.mean < exact - 6 * plain.mc_stderr
    assert abs(corrected.mean - exact) < 4 * corrected.mc_stderr < 0.4 * abs(plain.bias)
    assert (plain.bias < 0, corrected.bias) == (True, 0.0)
    torch.testing.assert_close(corrected.std_error.mean(), plain.std_error.mean(), rtol=0.05, atol=0)
    assert corrected.curve == plain.curve


def test_jackknife_of_one_particle():
    truth = LinearGaussian.random(1, 2)
    ev = evidence_of(truth, truth.guide(1.5), truth.sample(3), 1, "jackknife")
    assert ev.std_error.isnan().all()
    torch.testing.assert_close(ev.log_px, ev.elbo)


def test_defensive_mixture_finds_the_mode_that_the_guide_misses():
    truth, x = TwoModes(), torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    plain = evidence_of(truth, truth.guide, x, 4000, "iw")
    assert plain.num_flagged == 0  # nothing warns
    torch.testing.assert_close(plain.log_px, truth.log_px(x) - math.log(2), atol=0.1, rtol=0)
    mixed = evidence_of(truth, truth.guide, x, 4000, methods.IW(defensive=0.2))
    assert ((mixed.log_px - truth.log_px(x)).abs() < 4 * mixed.std_error).all()
    assert (mixed.std_error < 0.2).all()  # against log 2 = 0.69 that the plain estimate lacks


@pytest.mark.parametrize("truth", [LinearGaussian.random(2, 3), GammaPoisson(), BernoulliMixture()])
def test_defensive_weights_are_unbiased_and_bounded(truth):
    # The mean weight over p(x), 20,000 particles, within 4.5 standard errors; no weight above max p(x|z) / share.
    x = {"LinearGaussian": truth.sample(4) if isinstance(truth, LinearGaussian) else None}.get(
        type(truth).__name__, torch.ones(4, 4, dtype=torch.float64)
    )
    guide = getattr(truth, "exact_guide", None) or truth.guide
    ev = evidence(truth.model if not isinstance(truth, BernoulliMixture) else truth, guide, x, 20_000,
                  method=methods.IW(defensive=0.5), progress=False)  # fmt: skip
    exact = truth.marginal.log_prob(x) if isinstance(truth, LinearGaussian) else truth.log_px(x)
    assert ((ev.log_px - exact).abs() < 4.5 * ev.std_error).all()
    assert (ev.std_error > 0).all()
    assert (ev.khat < 0.5).all()


def test_defensive_share_chooses_whole_particles():
    """Two latent sites of one particle come from the same source."""

    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            b = pyro.sample("b", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(a.sum(-1) + b, 1.0), obs=x)
            pairs.append((a, b))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.Normal(torch.full((2,), 100.0), 1.0).to_event(1))
            pyro.sample("b", dist.Normal(100.0, 1.0))

    pairs = []
    evidence(model, guide, torch.zeros(5), 400, method=methods.IW(defensive=0.3), progress=False)
    a, b = pairs[-1]
    from_guide = a > 50
    assert (from_guide.all(-1) == from_guide.any(-1)).all()
    assert torch.equal(from_guide[..., 0], b > 50)
    assert from_guide[..., 0].double().mean().item() == pytest.approx(0.7, abs=5 * (0.21 / 2000) ** 0.5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: methods.IW(defensive=1.0), r"Expected 0 <= defensive < 1.*got 1\.0"),
        (lambda: methods.Jackknife(refine=-1), "Expected refine to be an integer >= 0.*got -1"),
        (lambda: evidence(*make_pair(), torch.ones(2, 6), method="jacknife"), "Did you mean jackknife"),
    ],
)
def test_bad_settings_get_one_clear_line(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("narrow", [lambda x: dist.Uniform(x - 1, x + 1), lambda x: dist.LogNormal(0 * x, 1.0)])
def test_defensive_mixture_helps_a_guide_that_is_narrower_than_the_prior(narrow):
    x = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)
    truth = LinearGaussian(torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64), 1.0)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", narrow(x))

    with pytest.warns(UserWarning, match=r"cannot reach values of 'z'.*methods\.IW\(defensive=0\.1\)"):
        ev = evidence(model, guide, x, 20_000, method=methods.IW(defensive=0.3), progress=False)
    assert ((ev.log_px - truth.marginal.log_prob(x[:, None])).abs() < 5 * ev.std_error).all()
    assert torch.distributions.Distribution._validate_args
