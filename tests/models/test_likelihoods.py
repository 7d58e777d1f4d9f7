"""The contract of every likelihood: one line in a table gives a likelihood every check."""

from __future__ import annotations

import itertools

import contract
import pytest
import torch
from scipy import stats

from pyro_vae.models import VAE, likelihoods, mlp, priors

LIKELIHOODS = {
    "Bernoulli": lambda: likelihoods.Bernoulli((2, 2)),
    "Binomial": lambda: likelihoods.Binomial((4,), total_count=3),
    "Normal, fixed": lambda: likelihoods.Normal((4,), scale=0.5),
    "Normal, shared": lambda: likelihoods.Normal((2, 2), scale="shared"),
    "Normal, dimension": lambda: likelihoods.Normal((4,), scale="dimension"),
    "Normal, datum": lambda: likelihoods.Normal((4,), scale="datum"),
}
FINITE = {"Bernoulli": range(2), "Binomial": range(4)}
OUTSIDE = {
    "Bernoulli": (0.37, r"in \{0, 1\} for Bernoulli; got 0\.37 at index \(0, 1, 0\)"),
    "Binomial": (4.0, r"in \{0, \.\.\., 3\} for Binomial; got 4 at index \(0, 1\)"),
}


def _grid(name, event_shape):
    values = torch.tensor(list(itertools.product(FINITE[name], repeat=4)), dtype=torch.float64)
    return values.reshape(-1, *event_shape)


def test_every_likelihood_is_in_the_table():
    shipped = contract.shipped(likelihoods, likelihoods.Likelihood)
    assert shipped == {name.split(",")[0] for name in LIKELIHOODS}


@pytest.mark.parametrize("leading", [(), (5,), (2, 5)])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_shapes_for_any_leading_dimensions(name, leading):
    part = LIKELIHOODS[name]()
    contract.check_shapes(part, leading, part.event_shape)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_log_prob_normalises(name):
    p = contract.call(LIKELIHOODS[name]().double())
    if name in FINITE:
        contract.check_sums_to_one(p, _grid(name, p.event_shape))
    else:
        contract.check_integrates_to_one(p)


@pytest.mark.parametrize("name", [name for name in LIKELIHOODS if name.startswith("Normal")])
def test_normal_draws_agree_with_log_prob(name):
    """Each coordinate passes Kolmogorov-Smirnov, at 1e-4 a part."""
    p = contract.call(LIKELIHOODS[name]().double())
    x = p.sample((4000,)).flatten(1)
    for i, (loc, scale) in enumerate(zip(p.base_dist.loc.flatten(), p.base_dist.scale.flatten(), strict=True)):
        assert stats.kstest(x[:, i].numpy(), stats.norm(loc.item(), scale.item()).cdf).pvalue > 1e-4 / x.shape[1]


@pytest.mark.parametrize("name", FINITE)
def test_discrete_draws_agree_with_log_prob(name):
    p = contract.call(LIKELIHOODS[name]().double())
    contract.check_counts(p, _grid(name, p.event_shape))


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_constants_are_those_of_scipy(name):
    """A dropped binomial coefficient or 2 pi would pass every test of shape."""
    part = LIKELIHOODS[name]().double()
    h = torch.randn(part.num_features, dtype=torch.float64)
    p = part(h)
    x = p.sample()
    if name.startswith("Normal"):
        sd = h[4:].exp() if name.endswith("datum") else part.log_scale.exp().expand(part.event_shape).flatten()
        expected = stats.norm.logpdf(x.flatten(), h[:4], sd.detach())
    else:
        count = getattr(part, "total_count", 1)
        expected = stats.binom.logpmf(x.flatten(), count, torch.sigmoid(h))
    assert p.log_prob(x).item() == pytest.approx(expected.sum(), abs=1e-9)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_gradient_reaches_every_parameter_and_feature(name):
    contract.check_gradients(LIKELIHOODS[name]())


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_state_dict_round_trip_and_device(name, device):
    contract.check_round_trip(LIKELIHOODS[name], device)


@pytest.mark.parametrize("name", OUTSIDE)
def test_support_is_checked_with_the_first_offender(name):
    value, message = OUTSIDE[name]
    part = LIKELIHOODS[name]()
    x = torch.zeros(2, *part.event_shape)
    model = VAE(priors.StandardNormal(2), part, mlp((3,)))
    model.check_data(x)
    x[0].view(-1)[1 if name == "Binomial" else 2] = value
    with pytest.raises(ValueError, match=message):
        model.check_data(x)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: likelihoods.Binomial(4, total_count=0), "Expected total_count to be an integer >= 1"),
        (lambda: likelihoods.Normal(4, scale=-1.0), r'Expected scale > 0, "shared", .*got -1\.0'),
        (lambda: likelihoods.Normal(4, scale="none"), r'"datum"; got .none.'),
    ],
)
def test_bad_settings_get_one_clear_line(build, message):
    with pytest.raises(ValueError, match=message):
        build()
