"""Laplace importance sampling: modes and curvature against closed forms, unbiased weights, latents of any support."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from parts.guides import family_for
from parts.priors import CONTINUOUS, disturbed
from programs import make_pair
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from truth import BernoulliMixture, GammaPoisson, LinearGaussian

from pyro_vae.cli import main
from pyro_vae.inference import AmortizedGuide, evidence, guides, methods
from pyro_vae.inference.programs.vectorize import find_plate_depth
from pyro_vae.inference.scoring.base import Programs
from pyro_vae.inference.scoring.laplace import MOST_DIMENSIONS, _Mode
from pyro_vae.models import VAE, likelihoods, mlp, priors

QUIET = {"progress": False, "device": "cpu"}


def search(truth, x, guide):
    return _Mode.search(Programs(truth.model, guide, 1), (x,), 50, find_plate_depth(truth.model, None, (x,)))


@pytest.mark.parametrize("dim", [1, 5])
def test_mode_and_curvature_of_a_normal_posterior_are_its_mean_and_precision(dim):
    truth = LinearGaussian.random(dim, 6)
    x = truth.sample(7)
    mode, posterior = search(truth, x, truth.guide(0.5, 3.0)), truth.posterior(x)
    gap = mode.loc - posterior.mean  # the search stops where a step promises less than 1e-4 nats
    assert ((gap[:, None] @ posterior.precision_matrix @ gap[..., None]).squeeze() / 2 < 1e-4).all()
    precision = mode.eigenvectors @ torch.diag_embed(mode.eigenvalues) @ mode.eigenvectors.mT
    torch.testing.assert_close(precision, posterior.precision_matrix.expand_as(precision), rtol=1e-6, atol=1e-6)


def test_its_density_is_that_of_a_multivariate_student_t_and_its_draws_follow_it():
    """40,000 draws: means within four standard errors, covariances within 8%."""
    torch.manual_seed(0)
    truth = LinearGaussian.random(3, 4)
    mode = search(truth, truth.sample(2), truth.exact_guide)
    covariance = mode.eigenvectors @ torch.diag_embed(mode.eigenvalues.reciprocal()) @ mode.eigenvectors.mT
    law = dist.MultivariateStudentT(torch.tensor(7.0).double(), mode.loc, torch.linalg.cholesky(covariance))
    u = mode.draw(40_000, 7.0)
    torch.testing.assert_close(mode.log_density(u[:50], 7.0), law.log_prob(u[:50]), rtol=1e-9, atol=1e-9)
    error = u.std(0) / math.sqrt(len(u))
    assert ((u.mean(0) - mode.loc).abs() < 4 * error).all()
    for n in range(2):
        torch.testing.assert_close(torch.cov(u[:, n].T), covariance[n] * 7 / 5, rtol=0.08, atol=0.02)


class _Sizes(TorchDispatchMode):
    """Keeps the largest number of entries of a tensor that an operation made."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.most = max([self.most, *(t.numel() for t in tree_leaves(made) if isinstance(t, torch.Tensor))])
        return made


def test_no_draw_has_a_copy_of_the_curvature_of_its_datum():
    dim, num_particles = 30, 100
    mode = _Mode(torch.zeros(2, dim).double(), torch.ones(2, dim).double(), torch.eye(dim).double().expand(2, dim, dim))
    with _Sizes() as sizes:
        mode.log_density(mode.draw(num_particles, 5.0), 5.0)
    assert sizes.most == num_particles * 2 * dim


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


def test_the_share_of_the_prior_finds_a_second_mode_that_the_search_does_not():
    """x | z ~ N(z^2, 1/4) has two modes of equal mass: the search finds one, and half of p(x) is missed without."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
            pyro.sample("x", dist.Normal(z**2, 0.25), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.full_like(x, 1.5), 0.1))

    x = torch.tensor([2.0, 3.0], dtype=torch.float64)
    grid = torch.linspace(-6, 6, 20_001, dtype=torch.float64)[:, None]
    density = dist.Normal(0.0, 1.0).log_prob(grid) + dist.Normal(grid**2, 0.25).log_prob(x)
    exact = (density.logsumexp(0) + math.log(12 / 20_000)).to(torch.float64)
    both = evidence(model, guide, x, 20_000, method=methods.Laplace(defensive=0.3), **QUIET)
    assert ((both.log_px - exact).abs() < 4 * both.std_error).all()
    one = evidence(model, guide, x, 20_000, method=methods.Laplace(df=50.0, defensive=0.0), **QUIET)
    assert (exact - one.log_px).mean() == pytest.approx(math.log(2), abs=0.05)


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
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            ones = torch.ones(z.numel(), dtype=torch.long)
            loc = torch.segment_reduce(z.reshape(-1), "sum", lengths=ones).reshape(z.shape)
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    with pytest.raises(ValueError, match=r"Expected a model that torch can differentiate twice .* method=\"iw\""):
        evidence(model, standard_normal_guide, torch.ones(2), 100, method="laplace", **QUIET)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"df": 0.0}, "Expected 0 < df < inf"),
        ({"df": math.inf}, "Expected 0 < df < inf"),
        ({"defensive": 1.0}, "Expected 0 <= defensive < 1"),
        ({"steps": 0}, "steps"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        methods.Laplace(**settings)


def test_it_is_cited_and_named_on_the_command_line(folder, capsys):
    model, guide = make_pair()
    ev = evidence(model, guide, torch.ones(2, 6), 30, method="laplace", **QUIET)
    assert ev.method == "Laplace importance sampling (df 5.0, defensive 0.05, steps 50)"
    options = ["--epochs", "1", "--hidden", "4", "--latent-dim", "2", "--num-particles", "20", "--batch-size", "20"]
    assert main(["train", "--data", "bits.npy", *options, "--out", "run"]) == 0
    assert main(["evaluate", "run", "--method", "Laplace", "--method.df", "4", "--num-particles", "30"]) == 0
    assert (folder / "run" / "test-laplace-df4.0-K30-seed0" / "result.json").is_file()
