"""Laplace importance sampling: modes and curvature against closed forms, unbiased weights, latents of any support."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from parts.guides import family_for
from parts.priors import CONTINUOUS, disturbed
from programs import folded, log_px_folded, make_pair, near_one_mode, once_differentiable
from truth import BernoulliMixture, GammaPoisson, LinearGaussian

from pyro_vae.cli import main
from pyro_vae.inference import AmortizedGuide, evidence, guides, methods
from pyro_vae.inference.annealing.unconstrained import Unconstrained
from pyro_vae.inference.scoring.base import Programs
from pyro_vae.inference.scoring.laplace import MOST_DIMENSIONS
from pyro_vae.models import VAE, likelihoods, mlp, priors

QUIET = {"progress": False, "device": "cpu"}


def search(truth, x, guide):
    space = Unconstrained(truth.model, None, (x,), 16)
    return methods.Laplace().modes(Programs(truth.model, guide, 1), space)


@pytest.mark.parametrize("dim", [1, 5])
def test_mode_and_curvature_of_a_normal_posterior_are_its_mean_and_precision(dim):
    truth = LinearGaussian.random(dim, 6)
    x = truth.sample(7)
    modes, posterior = search(truth, x, truth.guide(0.5, 3.0)), truth.posterior(x)
    assert modes.found.all()
    gap = modes.u - posterior.mean  # a search stops where a step promises less than 1e-4 nats
    assert ((gap[..., None, :] @ posterior.precision_matrix @ gap[..., None]).squeeze() / 2 < 1e-4).all()
    mixture = modes.mixture(5.0, 0.05)
    assert mixture.loc.shape == (1, 7, dim)  # six searches that came to one mode
    covariance = mixture.factor[0] @ mixture.factor[0].mT
    torch.testing.assert_close(covariance, posterior.covariance_matrix.expand_as(covariance), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dim", [1, 2, 20])
@pytest.mark.parametrize("defensive", [0.0, 0.2])
def test_evidence_of_the_linear_gaussian_model_whatever_the_guide(dim, defensive):
    """Twelve data, four standard errors each: a false alarm once in 1,300 runs."""
    truth = LinearGaussian.random(dim, dim + 2)
    x = truth.sample(12)
    ev = evidence(truth.model, truth.guide(0.2, 2.0), x, 3000, method=methods.Laplace(defensive=defensive), **QUIET)
    assert ((ev.log_px - truth.log_px(x)).abs() < 4 * ev.std_error).all()
    assert ev.std_error.max() < 0.05
    assert ev.khat.max() < 0.5


def test_weights_are_unbiased_at_few_draws():
    """Mean over 400 seeds of w at K = 2 within four standard errors of p(x)."""
    truth = LinearGaussian.random(2, 3)
    x = truth.sample(3).repeat(400, 1)  # each copy has draws of its own
    ev = evidence(truth.model, truth.exact_guide, x, 2, method="laplace", **QUIET)
    ratio = (ev.log_px - truth.log_px(x)).exp().reshape(400, 3)
    assert ((ratio.mean(0) - 1).abs() < 4 * ratio.std(0) / 20).all()


def test_positive_latents_in_plates_of_their_own():
    truth = GammaPoisson()
    x = torch.tensor([[0.0, 1.0, 3.0, 2.0], [9.0, 7.0, 12.0, 8.0]], dtype=torch.float64)
    ev = evidence(truth.model, truth.exact_guide, x, 4000, method="laplace", **QUIET)
    assert ((ev.log_px - truth.log_px(x)).abs() < 4 * ev.std_error).all()
    assert ev.std_error.max() < 0.05


@pytest.mark.parametrize("name", CONTINUOUS)
def test_every_continuous_prior_gives_what_draws_of_the_prior_give(name):
    """Six data of one seed, four standard errors each; priors with a pole, which have no mode, among them."""
    torch.manual_seed(0)
    prior = disturbed(name, 3)
    model = VAE(prior, likelihoods.Bernoulli(6), mlp((8,))).double()
    guide = AmortizedGuide(6, family_for(prior)(3), mlp((8,))).double()
    x = (torch.rand(6, 6) < 0.5).double()
    ours = evidence(model, guide, x, 5000, method="laplace", **QUIET)
    plain = evidence(model, guide, x, 50_000, method=methods.IW(defensive=0.99), **QUIET)
    error = (ours.std_error.square() + plain.std_error.square()).sqrt()
    assert ((ours.log_px - plain.log_px).abs() < 4 * error).all()
    assert ours.std_error.max() < 0.25


def test_both_modes_are_found_from_several_starts_and_one_is_missed_from_one():
    """x | z ~ N(z^2, 1/4) has two modes of equal mass; a guide at one of them."""
    x = torch.tensor([2.0, 3.0], dtype=torch.float64)
    both = evidence(folded, near_one_mode, x, 20_000, method=methods.Laplace(defensive=0.0), **QUIET)
    assert ((both.log_px - log_px_folded(x)).abs() < 4 * both.std_error).all()
    one = evidence(folded, near_one_mode, x, 20_000, method=methods.Laplace(50.0, 0.0, starts=1), **QUIET)
    assert (log_px_folded(x) - one.log_px).mean() == pytest.approx(math.log(2), abs=0.05)
    shared = evidence(folded, near_one_mode, x, 20_000, method=methods.Laplace(defensive=0.3, starts=1), **QUIET)
    assert ((shared.log_px - log_px_folded(x)).abs() < 4 * shared.std_error).all()  # by the prior's share


def test_a_decoder_agrees_with_annealing_and_with_missing_entries_too():
    torch.manual_seed(0)
    model = VAE(priors.StandardNormal(3), likelihoods.Bernoulli(6), mlp((8,)), missing=True)
    guide = AmortizedGuide(6, guides.DiagonalNormal(3), mlp((8,)), missing=True)
    x = (torch.rand(5, 6) < 0.5).float().masked_fill(torch.rand(5, 6) < 0.2, torch.nan)
    ours = evidence(model, guide, x, 4000, method="laplace", **QUIET)
    annealed = evidence(model, guide, x, 200, method=methods.AIS(40, 2), **QUIET)
    error = (ours.std_error.square() + annealed.std_error.square()).sqrt()
    assert ((ours.log_px - annealed.log_px).abs() < 4 * error).all()


def test_latents_that_have_no_mode_or_are_too_many_are_refused():
    truth = BernoulliMixture()
    with pytest.raises(ValueError, match=r"Latent site 'z' is discrete"):
        evidence(
            truth, truth.guide, torch.ones(2, truth.theta.shape[1], dtype=torch.float64), method="laplace", **QUIET
        )
    wide = MOST_DIMENSIONS + 1
    model = VAE(priors.StandardNormal(wide), likelihoods.Bernoulli(6), mlp((2,)))
    guide = AmortizedGuide(6, guides.DiagonalNormal(wide), mlp((2,)))
    with pytest.raises(ValueError, match=r"Expected at most 200 latent numbers for each datum for Laplace; got 201"):
        evidence(model, guide, torch.ones(2, 6), method="laplace", **QUIET)


def standard_normal_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))


def test_a_likelihood_without_gradient_by_the_latents_is_scored_with_the_prior_as_its_curvature():
    """P(x = 1) is 0.1 or 0.9 by the sign of z: 1/2."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Bernoulli(0.1 + 0.8 * (z > 0)), obs=x)

    ev = evidence(model, standard_normal_guide, torch.tensor([0.0, 1.0]), 5000, method="laplace", **QUIET)
    assert ((ev.log_px - math.log(0.5)).abs() < 4 * ev.std_error).all()


def test_a_model_that_torch_cannot_differentiate_twice_is_refused():
    with pytest.raises(ValueError, match=r"Expected a model that torch can differentiate twice .* method=\"iw\""):
        evidence(once_differentiable, standard_normal_guide, torch.ones(2), 100, method="laplace", **QUIET)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"df": 0.0}, "Expected 0 < df < inf"),
        ({"df": math.inf}, "Expected 0 < df < inf"),
        ({"defensive": 1.0}, "Expected 0 <= defensive < 1"),
        ({"steps": 0}, "steps"),
        ({"starts": 0}, "starts"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        methods.Laplace(**settings)


def test_it_is_cited_and_named_on_the_command_line(folder, capsys):
    model, guide = make_pair()
    ev = evidence(model, guide, torch.ones(2, 6), 30, method="laplace", **QUIET)
    assert ev.method == "Laplace importance sampling (df 5.0, defensive 0.05, starts 6, steps 50)"
    options = ["--epochs", "1", "--hidden", "4", "--latent-dim", "2", "--method", "IW", "--batch-size", "20"]
    assert main(["train", "--data", "bits.npy", *options, "--out", "run"]) == 0
    assert main(["evaluate", "run", "--method", "Laplace", "--method.df", "4", "--num-particles", "30"]) == 0
    assert (folder / "run" / "test-laplace-df4.0-K30-seed0" / "result.json").is_file()
