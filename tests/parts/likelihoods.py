"""Every likelihood, four entries each, with what its tests need to know: one line gives a likelihood every check."""

from __future__ import annotations

import numpy as np
import torch
from scipy import special, stats

from pyro_vae.models import likelihoods
from pyro_vae.models.likelihoods.base import PositiveParameter

LIKELIHOODS = {
    "Bernoulli": lambda: likelihoods.Bernoulli((2, 2)),
    "Beta": lambda: likelihoods.Beta((2, 2), concentration=6.0),
    "Beta, shared": lambda: likelihoods.Beta((4,), concentration="shared"),
    "Beta, datum": lambda: likelihoods.Beta((4,), concentration="datum"),
    "Binomial": lambda: likelihoods.Binomial((4,), total_count=3),
    "Categorical": lambda: likelihoods.Categorical((2, 2), num_classes=3),
    "ContinuousBernoulli": lambda: likelihoods.ContinuousBernoulli((2, 2)),
    "DiscretizedLogistic": lambda: likelihoods.DiscretizedLogistic((2, 2), num_classes=6),
    "DiscretizedLogistic, datum": lambda: likelihoods.DiscretizedLogistic((2, 2), scale="datum"),
    "Gamma": lambda: likelihoods.Gamma((4,), concentration=2.5),
    "Gamma, dimension": lambda: likelihoods.Gamma((4,), concentration="dimension"),
    "Gamma, datum": lambda: likelihoods.Gamma((2, 2), concentration="datum"),
    "Laplace": lambda: likelihoods.Laplace((2, 2), scale="dimension"),
    "Laplace, datum": lambda: likelihoods.Laplace((4,), scale="datum"),
    "LogNormal": lambda: likelihoods.LogNormal((4,)),
    "LogNormal, datum": lambda: likelihoods.LogNormal((4,), scale="datum"),
    "MixtureOfDiscretizedLogistics": lambda: likelihoods.MixtureOfDiscretizedLogistics((2, 2), 3, num_classes=9),
    "Multinomial": lambda: likelihoods.Multinomial((4,), total=5),
    "NegativeBinomial": lambda: likelihoods.NegativeBinomial((2, 2)),
    "NegativeBinomial, datum": lambda: likelihoods.NegativeBinomial((4,), dispersion="datum"),
    "Normal": lambda: likelihoods.Normal((4,), scale=0.5),
    "Normal, shared": lambda: likelihoods.Normal((2, 2), scale="shared"),
    "Normal, dimension": lambda: likelihoods.Normal((4,), scale="dimension"),
    "Normal, datum": lambda: likelihoods.Normal((4,), scale="datum"),
    "Poisson": lambda: likelihoods.Poisson((2, 2)),
    "StudentT": lambda: likelihoods.StudentT((4,)),
    "StudentT, fixed": lambda: likelihoods.StudentT((4,), scale=0.7, df=3),
    "StudentT, datum": lambda: likelihoods.StudentT((2, 2), scale="datum", df="datum"),
    "ZeroInflatedNegativeBinomial": lambda: likelihoods.ZeroInflatedNegativeBinomial((4,), dispersion="shared"),
    "ZeroInflatedNegativeBinomial, datum": lambda: likelihoods.ZeroInflatedNegativeBinomial((2, 2), "datum"),
}
DEPENDENT = {"Multinomial"}  # the entries of one datum are not independent: these have tests of their own

NUM_VALUES = {
    "Bernoulli": 2,
    "Binomial": 4,
    "Categorical": 3,
    "DiscretizedLogistic": 6,
    "DiscretizedLogistic, datum": 256,
    "MixtureOfDiscretizedLogistics": 9,
    "NegativeBinomial": 3000,
    "NegativeBinomial, datum": 3000,
    "Poisson": 300,
    "ZeroInflatedNegativeBinomial": 3000,
    "ZeroInflatedNegativeBinomial, datum": 3000,
}
"""How many values, from 0 on, hold the mass of each entry up to 1e-9 at the features that the tests draw."""


def family(name):
    return name.split(",")[0]


def _positive(part, name, rest):
    """A positive parameter from the documented formula: a number, exp(log_value) or initial exp(h)."""
    parameter = getattr(part, name)
    if parameter.per_datum:
        return np.exp(next(rest)) * {"df": 5.0, "concentration": 5.0 * isinstance(part, likelihoods.Beta) or 1.0}.get(
            name, 1.0
        )
    value = parameter.fixed if parameter.fixed is not None else parameter.log_value.detach().exp().flatten().numpy()
    return np.broadcast_to(value, 4)


def _student(part, h, x):
    scale, df = (_positive(part, name, rest) for rest in [iter(h[1:])] for name in ("scale", "df"))
    return stats.t.logpdf(x, df, h[0], scale)


def _beta(part, h, x):
    kappa, m = _positive(part, "concentration", iter(h[1:])), special.expit(h[0])
    return stats.beta.logpdf(x, kappa * m, kappa * (1 - m))


def _gamma(part, h, x):
    alpha = _positive(part, "concentration", iter(h[1:]))
    return stats.gamma.logpdf(x, alpha, scale=np.exp(h[0]) / alpha)


def _negative_binomial(part, h, x, features=1):
    r = 1 / _positive(part, "dispersion", iter(h[features:]))
    return stats.nbinom.logpmf(x, r, r / (r + np.exp(h[0])))


def _zero_inflated(part, h, x):
    pi = special.expit(h[1])
    return np.log(pi * (x == 0) + (1 - pi) * np.exp(_negative_binomial(part, h, x, features=2)))


def _continuous_bernoulli(part, h, x):
    # scipy has none: the exponential distribution cut off at 1, turned round where the density rises.
    turned = np.where(h[0] > 0, 1 - x, x)
    return stats.truncexpon.logpdf(turned, np.abs(h[0]), scale=1 / np.abs(h[0]))


def _with_scale(distribution):
    return lambda part, h, x: distribution(x, h[0], _positive(part, "scale", iter(h[1:])))


SCIPY = {
    "Bernoulli": lambda part, h, x: stats.bernoulli.logpmf(x, special.expit(h[0])),
    "Beta": _beta,
    "Binomial": lambda part, h, x: stats.binom.logpmf(x, part.total_count, special.expit(h[0])),
    "Categorical": lambda part, h, x: special.log_softmax(h.reshape(4, 3), 1)[range(4), x.astype(int)],
    "ContinuousBernoulli": _continuous_bernoulli,
    "Gamma": _gamma,
    "Laplace": _with_scale(stats.laplace.logpdf),
    "LogNormal": lambda part, h, x: _with_scale(stats.norm.logpdf)(part, h, np.log(x)) - np.log(x),
    "Multinomial": lambda part, h, x: stats.multinomial.logpmf(x, x.sum(), special.softmax(h[0])),
    "NegativeBinomial": _negative_binomial,
    "Normal": _with_scale(stats.norm.logpdf),
    "Poisson": lambda part, h, x: stats.poisson.logpmf(x, np.exp(h[0])),
    "StudentT": _student,
    "ZeroInflatedNegativeBinomial": _zero_inflated,
}
"""log p(x|z) by scipy, h of shape (features per entry, 4) and x of shape (4,)."""


def perturbed(name):
    """Build a likelihood in float64 whose parameters are not at their initial values."""
    part = LIKELIHOODS[name]().double()
    for parameter in part.modules():
        if isinstance(parameter, PositiveParameter) and list(parameter.parameters()):
            with torch.no_grad():
                parameter.log_value += 0.3 * torch.randn_like(parameter.log_value)
    return part
