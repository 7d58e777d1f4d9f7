"""Estimators of log p(x) beyond plain importance weighting: jackknife, defensive mixture, guides fitted per datum."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from setups import make_pair
from truth import BernoulliMixture, GammaPoisson, LinearGaussian

from pyro_vae.inference import AmortizedGuide, evidence, guides, log_weights, methods
from pyro_vae.inference.scoring.refinement import refine
from pyro_vae.inference.scoring.tail import JackknifeStream, jackknife
from pyro_vae.models import mlp


def _evidence(truth, guide, x, num_particles, method):
    return evidence(truth.model, guide, x, num_particles, method=method, progress=False, device="cpu")


@pytest.mark.parametrize("spread", [0.1, 1.0, 20.0, 800.0])
def test_jackknife_equals_leaving_out_one_at_a_time(spread):
    log_w = spread * torch.randn(9, 4, dtype=torch.float64) - 1000
    estimate, error = jackknife(log_w)
    bound = log_w.logsumexp(0) - math.log(9)
    without = [torch.cat([log_w[:i], log_w[i + 1 :]]).logsumexp(0) - math.log(8) for i in range(9)]
    pseudo = torch.stack([9 * bound - 8 * left for left in without])
    torch.testing.assert_close(estimate, pseudo.mean(0), atol=1e-6, rtol=1e-9)
    torch.testing.assert_close(error, pseudo.std(0) / 3, atol=1e-6, rtol=1e-9)
    stream = JackknifeStream(4, 9, log_w.device)
    for chunk in log_w.split([2, 6, 1]):
        stream.add(chunk)
    torch.testing.assert_close(stream.summary().log_px, estimate)
    torch.testing.assert_close(stream.summary().bounds[9], bound)


def test_jackknife_takes_off_the_bias_of_first_order():
    # 20,000 data: the mean's Monte Carlo error is a fraction of the plain estimate's bias.
    truth = LinearGaussian.random(1, 2)
    x = truth.sample(20_000)
    plain, corrected = (_evidence(truth, truth.guide(2.0), x, 20, method) for method in ("iw", "jackknife"))
    exact = truth.marginal.log_prob(x).mean().item()
    assert plain.mean - exact == pytest.approx(plain.bias, abs=0.2 * abs(plain.bias))
    assert plain.mean < exact - 6 * plain.mc_stderr
    assert abs(corrected.mean - exact) < 4 * corrected.mc_stderr < 0.4 * abs(plain.bias)
    assert (plain.bias < 0, corrected.bias) == (True, 0.0)
    torch.testing.assert_close(corrected.std_error.mean(), plain.std_error.mean(), rtol=0.05, atol=0)
    assert corrected.curve == plain.curve


def test_jackknife_of_one_particle():
    truth = LinearGaussian.random(1, 2)
    ev = _evidence(truth, truth.guide(1.5), truth.sample(3), 1, "jackknife")
    assert ev.std_error.isnan().all()
    torch.testing.assert_close(ev.log_px, ev.elbo)


class TwoModes:
    """z ~ N(0, 1), x | z ~ N(z^2, 0.3^2): for x > 0 the posterior has two modes, near +-sqrt(x)."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            pyro.sample("x", dist.Normal(z.square(), 0.3), obs=x)

    def one_mode(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.sqrt(), 0.15))

    def log_px(self, x):
        z = torch.linspace(-8, 8, 40_001, dtype=torch.float64)
        joint = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z.square(), 0.3).log_prob(x[:, None])
        return joint.logsumexp(1) + math.log(z[1] - z[0])


def test_defensive_mixture_finds_the_mode_that_the_guide_misses():
    truth, x = TwoModes(), torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    plain = _evidence(truth, truth.one_mode, x, 4000, "iw")
    assert plain.num_unreliable == 0  # nothing warns
    torch.testing.assert_close(plain.log_px, truth.log_px(x) - math.log(2), atol=0.1, rtol=0)
    mixed = _evidence(truth, truth.one_mode, x, 4000, methods.IW(defensive=0.2))
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


def test_refinement_reaches_the_best_of_the_family():
    """A full-rank guide, shifted and widened, is fitted back to the exact posterior by shift and scale."""
    truth = LinearGaussian(torch.eye(3, 2, dtype=torch.float64) * 2, torch.zeros(3, dtype=torch.float64), 0.8)
    x = truth.sample(6)
    poor = truth.guide(2.5, 1.5)
    fitted = refine(truth.model, poor, (x,), 300)
    exact = truth.marginal.log_prob(x)
    before = log_weights(truth.model, poor, x, 2000).mean(0)
    after = log_weights(truth.model, fitted, x, 2000)
    assert (before < exact - 1).all()
    torch.testing.assert_close(after.mean(0), exact, atol=0.01, rtol=0)
    assert (after.std(0) < 0.1).all()


def test_refinement_of_an_amortised_guide_and_of_positive_latents():
    model, guide = make_pair()
    x = torch.bernoulli(torch.full((5, 6), 0.5))
    weights = [p.clone() for p in guide.parameters()]
    fitted = refine(model, guide, (x,), 100)
    gain = log_weights(model, fitted, x, 2000).mean(0) - log_weights(model, guide, x, 2000).mean(0)
    assert (gain > 0).all()
    assert all(torch.equal(a, b) and b.requires_grad for a, b in zip(weights, guide.parameters(), strict=True))
    assert all(p.grad is None for p in [*model.parameters(), *guide.parameters()])

    truth = GammaPoisson()

    def wide(x):
        with pyro.plate("data", x.shape[0], dim=-2):
            pyro.sample("z", dist.LogNormal(torch.zeros(len(x), 1, dtype=x.dtype), 1.0))

    counts = torch.tensor([[0.0, 3.0, 2.0], [9.0, 8.0, 12.0]], dtype=torch.float64)
    ev = evidence(truth.model, wide, counts, 2000, method=methods.IW(refine=300), progress=False)
    assert ((ev.log_px - truth.log_px(counts)).abs() < 4.5 * ev.std_error).all()
    assert (ev.elbo > truth.log_px(counts) - 0.1).all()  # the best log-normal is close to a gamma
    plain = evidence(truth.model, wide, counts, 2000, progress=False)
    assert (plain.elbo < truth.log_px(counts) - 0.3).all()


def test_refined_evidence_closes_the_amortisation_gap():
    model, guide = make_pair()
    x = torch.bernoulli(torch.full((5, 6), 0.5))
    plain, refined = (
        evidence(model, guide, x, 500, method=methods.IW(refine=steps), progress=False) for steps in (0, 100)
    )
    assert (refined.elbo > plain.elbo).all()
    assert ((refined.log_px - plain.log_px).abs() < 5 * plain.std_error + 1e-3).all()
    assert refined.method == "importance weighting (refine 100)"
    assert plain.method == "importance weighting"


def test_discrete_guides_cannot_be_refined():
    truth = BernoulliMixture()
    x = torch.ones(2, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"site 'z' \(Categorical\) cannot be reparameterised.*Score it as it is"):
        evidence(truth, truth.guide, x, 10, method=methods.IW(refine=5), progress=False)


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


def test_jackknife_of_weights_that_are_nearly_all_0():
    log_w = torch.tensor([[-1.0, -math.inf], [-math.inf, -math.inf], [-math.inf, -math.inf]], dtype=torch.float64)
    estimate, error = jackknife(log_w)
    torch.testing.assert_close(estimate, torch.tensor([-1.0 - math.log(3), -math.inf], dtype=torch.float64))
    assert error.isnan().all()


def test_a_guide_is_fitted_in_bounded_memory():
    sizes = []

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            sizes.append(z.numel())
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 3, 1.0))

    evidence(model, guide, torch.randn(40), 2, method=methods.IW(refine=3), chunk_size=64, progress=False)
    assert max(sizes) <= 64


def test_auxiliary_guides_cannot_be_refined():
    model, _ = make_pair()
    guide = AmortizedGuide(6, guides.PointMass(2), mlp((8,)))
    with pytest.raises(ValueError, match="Guide site 'z' is a point mass or auxiliary"):
        refine(model, lambda x: guide(x), (torch.ones(2, 6),), 3)
