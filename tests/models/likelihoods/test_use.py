"""Likelihoods in a model: refused data and settings, and training on a model's own draws."""

from __future__ import annotations

import pytest
import torch
from parts.likelihoods import LIKELIHOODS

from pyro_vae.inference import AmortizedGuide, evidence, fit, guides
from pyro_vae.models import VAE, likelihoods, mlp, priors

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
    estimates = [evidence(model, guide, x, 20, method="iw", progress=False, device="cpu")]
    fit(model, guide, x, epochs=4, batch_size=50, optimizer=_adam, progress=False, device="cpu")
    estimates.append(evidence(model, guide, x, 20, method="iw", progress=False, device="cpu"))
    assert estimates[1].mean > estimates[0].mean


def _adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01)
