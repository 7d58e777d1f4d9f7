"""Likelihoods in a model: refused data and settings, accuracy at the limits, and training on a model's own draws."""

from __future__ import annotations

import itertools

import pytest
import torch
from likelihood_table import LIKELIHOODS
from scipy import special, stats

from pyro_vae.inference import AmortizedGuide, evidence, fit, guides
from pyro_vae.models import VAE, likelihoods, mlp, priors
from pyro_vae.models.distributions.scalar import log_gamma_ratio

OUTSIDE = {
    "Bernoulli": (0.37, r"in \{0, 1\} for Bernoulli; got 0\.37 at index \(0, 0, 1\)\. Grey levels"),
    "Beta": (1.0, r"in \(0, 1\) for Beta; got 1 at index \(0, 0, 1\)\. The density is 0 or infinite"),
    "Binomial": (4.0, r"in \{0, \.\.\., 3\} for Binomial; got 4 at index \(0, 1\)"),
    "Categorical": (3.0, r"in \{0, \.\.\., 2\} for Categorical; got 3 at index \(0, 0, 1\)\. Data are level numbers"),
    "ContinuousBernoulli": (12.0, r"in \[0, 1\] for ContinuousBernoulli; got 12 at index .*dividing by 255"),
    "DiscretizedLogistic": (0.5, r"in \{0, \.\.\., 5\} for DiscretizedLogistic; got 0\.5 at index .* were divided by"),
    "Gamma": (0.0, r"in \(0, inf\) for Gamma; got 0 at index \(0, 1\)\. Zeros have no density here"),
    "LogNormal": (-1.0, r"in \(0, inf\) for LogNormal; got -1 at index \(0, 1\)\. Zeros have no density here"),
    "MixtureOfDiscretizedLogistics": (9.0, r"in \{0, \.\.\., 8\} for MixtureOfDiscretizedLogistics; got 9"),
    "Multinomial": (0.2, r"in \{0, 1, 2, \.\.\.\} for Multinomial; got 0\.2 at index \(0, 1\)\. .*frequencies"),
    "NegativeBinomial": (-2.0, r"in \{0, 1, 2, \.\.\.\} for NegativeBinomial; got -2 at index .*whole numbers"),
    "Poisson": (1.5, r"in \{0, 1, 2, \.\.\.\} for Poisson; got 1\.5 at index \(0, 0, 1\)\. Counts are whole"),
    "ZeroInflatedNegativeBinomial": (0.1, r"in \{0, 1, 2, \.\.\.\} for ZeroInflatedNegativeBinomial; got 0\.1"),
}


def _model(name):
    part = LIKELIHOODS[name]()
    return VAE(priors.StandardNormal(2), part, mlp((8,)))


@pytest.mark.parametrize("name", OUTSIDE)
def test_support_is_checked_with_the_first_offender(name):
    value, message = OUTSIDE[name]
    model = _model(name)
    x = model.sample(2)
    model.check_data(x)
    x[0].view(-1)[1] = value
    with pytest.raises(ValueError, match=message):
        model.check_data(x)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: likelihoods.Binomial(4, total_count=0), "Expected total_count to be an integer >= 1"),
        (lambda: likelihoods.Normal(4, scale=-1.0), r'Expected scale > 0, "shared", .*got -1\.0'),
        (lambda: likelihoods.Normal(4, scale="none"), r'"datum"; got .none.'),
        (lambda: likelihoods.Laplace(4, scale=float("nan")), 'Expected scale > 0, "shared", .*got nan'),
        (lambda: likelihoods.StudentT(4, df=0), 'Expected df > 0, "shared", .*got 0'),
        (lambda: likelihoods.LogNormal(4, scale=0.0), 'Expected scale > 0, "shared"'),
        (lambda: likelihoods.Gamma(4, concentration="all"), 'Expected concentration > 0, "shared"'),
        (lambda: likelihoods.Beta(4, concentration=-3), 'Expected concentration > 0, "shared"'),
        (lambda: likelihoods.NegativeBinomial(4, dispersion=0), 'Expected dispersion > 0, "shared"'),
        (lambda: likelihoods.Categorical(4, num_classes=0), "Expected num_classes to be an integer >= 1"),
        (
            lambda: likelihoods.DiscretizedLogistic(4, num_classes=1),
            "Expected num_classes to be an integer >= 2; got 1",
        ),
        (lambda: likelihoods.MixtureOfDiscretizedLogistics(4, 0), "Expected num_components to be an integer >= 1"),
        (lambda: likelihoods.Multinomial(4, total=0), "Expected total to be an integer >= 1"),
        (lambda: likelihoods.Multinomial((2, 2)), r"Expected event_shape \(V,\) for Multinomial; got \(2, 2\)"),
        (lambda: likelihoods.Poisson(()), "Expected event_shape with at least one dimension"),
    ],
)
def test_bad_settings_get_one_clear_line(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_trains_on_draws_of_a_model_and_is_scored(name):
    """A few epochs raise the estimate of log p(x) for data that another model of the same kind drew."""
    x = _model(name).sample(200)
    model = _model(name)
    guide = AmortizedGuide(model.event_shape, guides.DiagonalNormal(2), mlp((8,)), loc=x.mean(), scale=x.std() + 1)
    estimates = [evidence(model, guide, x, 20, progress=False, device="cpu")]
    fit(model, guide, x, epochs=4, batch_size=50, optimizer=_adam, progress=False, device="cpu")
    estimates.append(evidence(model, guide, x, 20, progress=False, device="cpu"))
    assert estimates[1].mean > estimates[0].mean


def _adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01)


@pytest.mark.parametrize("total", [0, 1, 4])
def test_multinomial_sums_to_one_given_any_total(total):
    p = likelihoods.Multinomial(3, total=9).double()(torch.tensor([0.3, -1.0, 0.7], dtype=torch.float64))
    grid = torch.tensor([x for x in itertools.product(range(total + 1), repeat=3) if sum(x) == total])
    assert p.log_prob(grid.double()).exp().sum().item() == pytest.approx(1)


def test_multinomial_scores_each_datum_by_its_own_total():
    h = torch.randn(3, 4, dtype=torch.float64)
    x = torch.tensor([[1.0, 2, 0, 5], [0, 0, 0, 0], [120, 3, 40, 7]], dtype=torch.float64)
    log_prob = likelihoods.Multinomial(4).double()(h).log_prob(x)
    expected = stats.multinomial.logpmf(x.numpy(), x.sum(1).numpy(), h.softmax(1).numpy())
    torch.testing.assert_close(log_prob, torch.from_numpy(expected))


def test_multinomial_draws_have_the_total_and_the_law():
    p = likelihoods.Multinomial(3, total=3).double()(torch.tensor([0.3, -1.0, 0.7], dtype=torch.float64))
    grid = torch.tensor([x for x in itertools.product(range(4), repeat=3) if sum(x) == 3]).double()
    x = p.sample((20_000,))
    assert (x.sum(1) == 3).all()
    observed = [(x == row).all(1).sum().item() for row in grid]
    assert stats.chisquare(observed, 20_000 * p.log_prob(grid).exp().numpy()).pvalue > 1e-4


@pytest.mark.parametrize("x", [0.5, 3.0])
def test_ratio_of_gamma_functions_in_float32(x):
    a = torch.tensor([1e-3, 0.5, 3.0, 15.9, 16.1, 200.0, 1e4, 1e7], requires_grad=True)
    ratio = log_gamma_ratio(a, x)
    (slope,) = torch.autograd.grad(ratio.sum(), a)
    exact = a.detach().double().numpy()
    expected = torch.from_numpy(special.gammaln(exact + x) - special.gammaln(exact))
    torch.testing.assert_close(ratio.double(), expected, rtol=2e-6, atol=2e-6)
    expected_slope = torch.from_numpy(special.digamma(exact + x) - special.digamma(exact))
    torch.testing.assert_close(slope.double(), expected_slope, rtol=1e-3, atol=1e-6)


def test_heavy_tails_and_overdispersion_have_exact_limits_in_float32():
    """As df grows and the dispersion falls to 0, log p(x) is that of the normal and the Poisson."""
    x = torch.tensor([[0.3, -2.0, 5.0, 0.0]])
    student = likelihoods.StudentT(4, scale=1.5, df=1e7)(torch.zeros(4)).log_prob(x)
    torch.testing.assert_close(student, likelihoods.Normal(4, scale=1.5)(torch.zeros(4)).log_prob(x), rtol=0, atol=1e-5)
    counts, h = torch.tensor([[0.0, 3.0, 20.0, 1.0]]), torch.tensor([0.1, 1.0, 2.8, -3.0])
    poisson = likelihoods.Poisson(4)(h).log_prob(counts)
    binomial = likelihoods.NegativeBinomial(4, dispersion=1e-7)(h).log_prob(counts)
    torch.testing.assert_close(binomial, poisson, rtol=0, atol=1e-4)


@pytest.mark.parametrize("eta", [-60.0, -16.5, -0.11, -0.09, -1e-4, 0.0, 1e-4, 0.09, 0.11, 16.5, 60.0])
def test_continuous_bernoulli_in_float32(eta):
    """Value, gradient and mean, far beyond where probabilities round to 0 or 1, and where its formulas meet."""
    h, x = torch.tensor([eta], requires_grad=True), torch.tensor([0.25])
    p = likelihoods.ContinuousBernoulli(1)(h)
    (slope,) = torch.autograd.grad(p.log_prob(x), h)
    wide = torch.tensor(eta or 1e-6, dtype=torch.float64)
    log_norm = wide.relu() + torch.log(-torch.expm1(-wide.abs()) / wide.abs())
    mean = 0.5 + 0.5 / torch.tanh(wide / 2) - 1 / wide
    torch.testing.assert_close(p.log_prob(x).double(), wide * 0.25 - log_norm, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(p.mean[0].double(), mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(slope[0].double(), 0.25 - mean, rtol=1e-5, atol=1e-5)


def test_continuous_bernoulli_does_not_see_where_its_formulas_meet():
    eta = torch.tensor([-0.1, 0.1], dtype=torch.float64)[:, None] * torch.tensor([1 - 1e-9, 1 + 1e-9])
    p = likelihoods.ContinuousBernoulli(2)(eta)
    entry = p.base_dist.log_prob(torch.zeros_like(eta))
    for value in (entry, p.mean):
        torch.testing.assert_close(value[:, 0], value[:, 1], rtol=0, atol=1e-9)
    half = 0.5 * eta.abs() - torch.log(2 * torch.sinh(eta.abs() / 2) / eta.abs())
    torch.testing.assert_close(entry, half - torch.where(eta > 0, eta, 0), rtol=0, atol=1e-13)


def test_zero_inflation_scores_alike_before_and_after_a_draw():
    """A gate that rounds to 1 in float32 still leaves the other counts a probability, and a gradient."""
    h = torch.tensor([[1.0, 30.0]]).requires_grad_()
    p = likelihoods.ZeroInflatedNegativeBinomial(1, dispersion=0.5)(h)
    x = torch.tensor([[0.0], [4.0]])
    before = p.log_prob(x)
    p.sample()
    assert p.mean.isfinite().all()
    torch.testing.assert_close(p.log_prob(x), before)
    assert before[1] < -30
    assert torch.autograd.grad(p.log_prob(x).sum(), h)[0].isfinite().all()
    assert p.expand((3,)).sample().shape == (3, 1)


def test_beta_draws_stay_inside_the_support_in_float32():
    part = likelihoods.Beta(1, concentration=0.01)
    x = part(torch.zeros(1)).sample((10_000,))
    assert part.support.check(x).all()
    assert part(torch.zeros(1)).log_prob(x).isfinite().all()


def test_beta_keeps_its_second_parameter_where_the_mean_rounds_to_one():
    h, x = torch.tensor([25.0]), torch.tensor([0.75])
    single = likelihoods.Beta(1, concentration=3.0)(h).log_prob(x)
    exact = likelihoods.Beta(1, concentration=3.0)(h.double()).log_prob(x.double())
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=1e-5)
