from __future__ import annotations

import math
from contextlib import nullcontext
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import normal_model
from pyro import poutine
from truth import BernoulliMixture, GammaPoisson, LinearGaussian

from pyro_vae.inference import evidence, log_weights, weight_terms
from pyro_vae.inference.programs.weights import KLWeight

EXACT = {
    "linear-Gaussian": (LinearGaussian.random(3, 5), lambda t: t.sample(7), lambda t, x: t.marginal.log_prob(x)),
    "Gamma-Poisson, nested plate": (
        GammaPoisson(),
        lambda t: torch.poisson(torch.full((7, 4), 3.0, dtype=torch.float64)),
        lambda t, x: t.log_px(x),
    ),
}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("num_particles", [1, 2, 9])
def test_exact_posterior_gives_constant_weights(name, num_particles):
    truth, draw, log_px = EXACT[name]
    x = draw(truth)
    log_w = log_weights(truth.model, truth.exact_guide, x, num_particles)
    assert log_w.shape == (num_particles, 7)
    assert log_w.dtype == torch.float64
    torch.testing.assert_close(log_w, log_px(truth, x).expand(num_particles, -1), atol=1e-9, rtol=0)


def test_discrete_weights_average_to_the_brute_force_sum():
    # 200,000 draws; the bound is 5 standard errors, so a correct library fails once in a million runs per datum.
    truth = BernoulliMixture()
    x = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0], [0, 1, 0, 1]], dtype=torch.float64)
    w = log_weights(truth, truth.guide, x, 200_000).exp()
    error = (w.mean(0) - truth.log_px(x).exp()).abs()
    assert (error < 5 * w.std(0) / 200_000**0.5).all()


def test_scales_are_left_out_and_masks_are_kept():
    truth = LinearGaussian.random(2, 3)
    x = truth.sample(6)
    keep = torch.tensor([True, False, True, True, False, True])

    def masked(x):
        with poutine.mask(mask=keep):
            truth.model(x)

    def masked_guide(x):
        with poutine.mask(mask=keep):
            truth.exact_guide(x)

    scaled = log_weights(poutine.scale(truth.model, 50.0), poutine.scale(truth.exact_guide, 50.0), x, 4)
    torch.testing.assert_close(scaled, truth.marginal.log_prob(x).expand(4, -1), atol=1e-9, rtol=0)
    expected = truth.marginal.log_prob(x) * keep
    for num_particles in (1, 4):
        log_w = log_weights(masked, masked_guide, x, num_particles)
        torch.testing.assert_close(log_w, expected.expand(num_particles, -1), atol=1e-9, rtol=0)


def test_subsampled_plate_is_not_scaled():
    truth = LinearGaussian.random(2, 3)
    x = truth.sample(6)

    def program(guide):
        def run(x):
            with pyro.plate("data", 1000, subsample=torch.arange(len(x))):
                if guide:
                    pyro.sample("z", truth.posterior(x))
                    return
                z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z @ truth.weight.T + truth.bias, truth.scale).to_event(1), obs=x)

        return run

    log_w = log_weights(program(False), program(True), x, 3)
    torch.testing.assert_close(log_w, truth.marginal.log_prob(x).expand(3, -1), atol=1e-9, rtol=0)


def test_terms_are_those_of_the_sites():
    truth = LinearGaussian.random(2, 3)
    x = truth.sample(5)
    terms = weight_terms(truth.model, truth.guide(1.3), x, 4)
    assert set(terms.likelihood) == {"x"}
    assert set(terms.prior) == set(terms.guide) == {"z"}
    z = terms.guide_sites["z"]["value"]
    torch.testing.assert_close(terms.prior["z"], dist.Normal(0.0, 1.0).log_prob(z).sum(-1))
    torch.testing.assert_close(terms.log_w, terms.likelihood["x"] + terms.prior["z"] - terms.guide["z"])


def test_kl_weight_reaches_log_weights_and_pyros_own_objectives_alike():
    truth = LinearGaussian.random(2, 3)
    x = truth.sample(5)
    plain = weight_terms(truth.model, truth.guide(1.3), x)
    torch.manual_seed(3)
    with KLWeight(0.25):
        terms = weight_terms(truth.model, truth.guide(1.3), x)
    torch.manual_seed(3)
    with KLWeight(0.25):
        stock = pyro.infer.Trace_ELBO().loss(truth.model, truth.guide(1.3), x)
    torch.testing.assert_close(-terms.log_w.sum().item(), stock)
    assert plain.likelihood["x"].shape == terms.likelihood["x"].shape
    torch.manual_seed(3)
    reference = weight_terms(truth.model, truth.guide(1.3), x)
    torch.testing.assert_close(terms.prior["z"], 0.25 * reference.prior["z"])
    torch.testing.assert_close(terms.guide["z"], 0.25 * reference.guide["z"])
    torch.testing.assert_close(terms.likelihood["x"], reference.likelihood["x"])


def test_several_arguments_several_sites_and_deterministic_sites():
    def model(x, y):
        with pyro.plate("data", x.shape[0]):
            a = pyro.sample("a", dist.Normal(torch.zeros_like(x), 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.deterministic("twice", 2 * b, event_dim=0)
            pyro.factor("tilt", -0.5 * b)
            pyro.sample("x", dist.Normal(a, 1.0), obs=x)
            pyro.sample("y", dist.Normal(b, 1.0), obs=y)

    def guide(x, y):
        with pyro.plate("data", x.shape[0]):
            a = pyro.sample("a", dist.Normal(x, 1.0))
            pyro.sample("b", dist.Normal(a, 2.0))

    x, y = torch.randn(2, 4, dtype=torch.float64)
    terms = weight_terms(model, guide, (x, y), 3)
    nodes = terms.guide_sites
    a, b = nodes["a"]["value"], nodes["b"]["value"]
    normal = lambda value, loc, scale=1.0: dist.Normal(loc, scale).log_prob(value)  # noqa: E731
    joint = normal(a, 0.0) + normal(b, a) - 0.5 * b + normal(x, a) + normal(y, b)
    torch.testing.assert_close(terms.log_w, joint - normal(a, x) - normal(b, a, 2.0))


def _global_latent(x):
    theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
    with pyro.plate("data", x.shape[0]):
        pyro.sample("x", dist.Normal(theta, 1.0), obs=x)


def _global_guide(x):
    pyro.sample("theta", dist.Normal(0.0, 1.0))


def _data_inside(x):
    with pyro.plate("pixels", 2, dim=-2), pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def _data_inside_guide(x):
    with pyro.plate("pixels", 2, dim=-2), pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def _no_plate(x):
    z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.sample("x", dist.Normal(z.sum(), 1.0).expand(x.shape).to_event(1), obs=x)


def _no_plate_guide(x):
    pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))


def _one(x, name="z"):
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample(name, dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def _guide_of(name):
    def guide(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample(name, dist.Normal(0.0, 1.0))
            if name == "extra":
                pyro.sample("z", dist.Normal(0.0, 1.0))

    return guide


@pytest.mark.parametrize("num_particles", [1, 3])
@pytest.mark.parametrize(
    ("model", "guide", "message"),
    [
        (_global_latent, _global_guide, "Expected site 'theta' of the guide inside the data plate 'data'"),
        (
            _data_inside,
            _data_inside_guide,
            r"Expected the value observed at site 'x' of the model of shape \(2, \d\), that of its plates",
        ),
        (_no_plate, _no_plate_guide, "Expected the data inside a vectorised plate"),
        (_one, _guide_of("other"), "'z' of the model is not in the guide"),
        (_one, _guide_of("extra"), "'extra' of the guide is no latent site of the model"),
    ],
)
def test_programs_that_have_no_per_datum_weights_are_refused(model, guide, message, num_particles):
    with pytest.raises(ValueError, match=message):
        log_weights(model, guide, torch.randn(5), num_particles)


@pytest.mark.parametrize("num_particles", [0, -3, 2.0, True])
def test_number_of_particles_is_checked(num_particles):
    with pytest.raises(ValueError, match="Expected num_particles to be an integer >= 1"):
        log_weights(_one, _guide_of("z"), torch.randn(5), num_particles)


def _half_seen(x, seen):
    """A bit that is drawn where it is not seen, of probability s(z)."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
        pyro.sample("x", dist.Bernoulli(logits=z), obs=x, obs_mask=seen)


def _guess(x, seen, mask=False):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.3 * x, 0.9))
        with poutine.mask(mask=~seen) if mask else nullcontext():
            pyro.sample("x_unobserved", dist.Bernoulli(torch.full_like(x, 0.5)))


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("method", ["iw", "auto"])
def test_a_latent_that_the_model_masks_has_no_weight_whatever_the_guide_masks(mask, method):
    """log 2 too much for each observed bit, with a uniform guide that does not mask it."""
    x = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    seen = torch.tensor([True, True, False, False])
    guide = partial(_guess, mask=mask)
    ev = evidence(_half_seen, guide, (x, seen), 20_000, method=method, progress=False)
    exact = torch.tensor([math.log(0.5), math.log(0.5), 0.0, 0.0], dtype=torch.float64)
    assert ((ev.log_px - exact).abs() < 4 * ev.std_error + 1e-6).all()


def test_a_latent_that_the_guide_alone_masks_is_refused():
    def guide(x):
        with pyro.plate("data", len(x)), poutine.mask(mask=x > 0):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    with pytest.raises(ValueError, match="Latent site 'z' is masked in the guide and not in the model"):
        log_weights(normal_model, guide, torch.randn(4), 2)
