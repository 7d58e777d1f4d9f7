"""The contract of every likelihood: one line in a table gives a likelihood every check."""

from __future__ import annotations

import inspect
import itertools

import numpy as np
import pytest
import torch
from parts import contract
from parts.likelihoods import DEPENDENT, LIKELIHOODS, NUM_VALUES, SCIPY, family, perturbed
from scipy import stats
from torch.distributions import biject_to, constraints

from pyro_vae.models import likelihoods

INDEPENDENT = [name for name in LIKELIHOODS if name not in DEPENDENT]
CONTINUOUS = [name for name in INDEPENDENT if name not in NUM_VALUES]


def _entries(name):
    """A random p(x|z) as the distribution of its entries, batch shape (4,)."""
    part = perturbed(name)
    with torch.no_grad():
        p = part(0.7 * torch.randn(part.num_features, dtype=torch.float64))
    return p.base_dist.expand(part.event_shape)


def _density_on_a_line(p):
    """Points x(t) that cover the support, shape (points, *event), and p(x) dx/dt there, by the midpoint rule."""
    if p.support is constraints.real:
        t = torch.linspace(-12, 12, 40_001, dtype=torch.float64)
        x, speed = t.sinh(), t.cosh()
    else:
        t = torch.linspace(-80, 36, 40_001, dtype=torch.float64)
        x = biject_to(p.support)(t)
        speed = x if p.support in (constraints.positive, constraints.nonnegative) else x * (-t).sigmoid()
    column = (-1, *[1] * len(p.batch_shape))
    return x, p.log_prob(x.reshape(column)).exp() * (speed * (t[1] - t[0])).reshape(column)


def test_every_likelihood_is_in_the_table():
    shipped = contract.shipped(likelihoods, likelihoods.Likelihood)
    assert shipped - {"Mixed"} == {family(name) for name in LIKELIHOODS}


@pytest.mark.parametrize("name", sorted({family(name) for name in LIKELIHOODS}))
def test_arguments_are_annotated_and_begin_with_the_event_shape(name):
    """The command line fills in ``event_shape`` and builds its options from the annotations."""
    arguments = inspect.signature(getattr(likelihoods, name)).parameters
    assert next(iter(arguments)) == "event_shape"
    assert all(argument.annotation is not argument.empty for argument in arguments.values())


@pytest.mark.parametrize("leading", [(), (5,), (2, 5)])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_shapes_for_any_leading_dimensions(name, leading):
    part = LIKELIHOODS[name]()
    contract.check_shapes(part, leading, part.event_shape)
    p = contract.call(part, leading)
    assert p.mean.shape == leading + part.event_shape
    wider = p.expand((3, *leading))
    assert wider.log_prob(wider.sample()).shape == (3, *leading)


@pytest.mark.parametrize("name", NUM_VALUES)
def test_probabilities_sum_to_one(name):
    p = _entries(name)
    values = torch.arange(NUM_VALUES[name], dtype=torch.float64).reshape(-1, *[1] * len(p.batch_shape))
    total = p.log_prob(values).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_density_integrates_to_one(name):
    total = _density_on_a_line(_entries(name))[1].sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous_draws_agree_with_log_prob(name):
    """Each entry passes Kolmogorov-Smirnov against the integral of its density, at 1e-4 in all."""
    p = _entries(name)
    line, mass = _density_on_a_line(p)
    cdf = mass.cumsum(0).reshape(len(line), -1)
    for i, draws in enumerate(p.sample((4000,)).reshape(4000, -1).T.numpy()):
        exact = stats.kstest(draws, lambda x, i=i: np.interp(x, line, cdf[:, i]))
        assert exact.pvalue > 1e-4 / 4


@pytest.mark.parametrize("name", NUM_VALUES)
def test_discrete_draws_agree_with_log_prob(name):
    """Each entry passes a chi-squared test, values expected less than 5 times taken together, at 1e-4 in all."""
    p, number = _entries(name), 20_000
    values = torch.arange(NUM_VALUES[name], dtype=torch.float64).reshape(-1, *[1] * len(p.batch_shape))
    expected = number * p.log_prob(values).exp().reshape(NUM_VALUES[name], -1)
    draws = p.sample((number,)).reshape(number, -1)
    for i in range(4):
        observed = torch.bincount(draws[:, i].long(), minlength=NUM_VALUES[name])
        often = expected[:, i] >= 5
        tables = [torch.cat([t[often].double(), t[~often].sum()[None].double()]) for t in (observed, expected[:, i])]
        kept = [t[:-1] if tables[1][-1] < 1e-3 else t for t in tables]
        assert stats.chisquare(*[t.numpy() for t in kept], sum_check=False).pvalue > 1e-4 / 4


@pytest.mark.parametrize("name", [name for name in LIKELIHOODS if family(name) in SCIPY])
def test_constants_are_those_of_scipy(name):
    """A dropped binomial coefficient or 2 pi would pass every test of shape."""
    part = perturbed(name)
    h = torch.randn(part.num_features, dtype=torch.float64)
    p = part(h)
    for x in p.sample((5,)):
        expected = SCIPY[family(name)](part, h.reshape(-1, 4).numpy(), x.flatten().numpy())
        assert p.log_prob(x).item() == pytest.approx(expected.sum(), rel=1e-11, abs=1e-9)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_mean_is_that_of_the_draws(name):
    """Within 5 standard errors; 16 degrees of freedom and more where the tails would be too heavy for one."""
    part = perturbed(name)
    h = 0.5 * torch.randn(part.num_features, dtype=torch.float64)
    if name == "StudentT, datum":
        h[8:] += 2.0
    p = part(h)
    x = p.sample((20_000,))
    assert ((x.mean(0) - p.mean).abs() < 5 * x.std(0) / 20_000**0.5 + 1e-9).all()


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_gradient_reaches_every_parameter_and_feature(name):
    contract.check_gradients(LIKELIHOODS[name]())


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_gradients_are_finite_in_float32_at_extreme_features(name):
    """Every corner h = -15, 0, 15 of up to three features an entry, for common data and after a draw."""
    part = LIKELIHOODS[name]()
    x = part(torch.zeros(part.num_features)).sample((3,))
    corners = torch.tensor(list(itertools.product((-15.0, 0.0, 15.0), repeat=3)))
    h = corners.repeat(1, part.num_features)[:, : part.num_features].sort(-1).values
    blocks = corners.repeat_interleave(part.num_features // 3 + 1, dim=1)[:, : part.num_features]
    h = torch.cat([h, blocks])[:, None].requires_grad_()
    p = part(h)
    p.sample()
    log_prob = p.log_prob(x)
    assert log_prob.isfinite().all()
    log_prob.sum().backward()
    assert h.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in part.parameters())


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_float32_agrees_with_float64(name):
    part = perturbed(name)
    h = 0.7 * torch.randn(50, part.num_features, dtype=torch.float64)
    x = part(h).sample((20,)).float()
    x = x.clamp(1e-6, 1 - 1e-6) if family(name) in ("Beta", "ContinuousBernoulli") else x
    exact = part(h.float().double()).log_prob(x.double())
    single = part.float()(h.float()).log_prob(x)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=2e-5, atol=2e-4)


@pytest.mark.parametrize("name", INDEPENDENT)
def test_entries_can_be_masked(name):
    """Each entry has a score of its own, whatever the value of the others."""
    part = perturbed(name)
    p = contract.call(part, (3,))
    x = p.sample()
    observed = torch.rand(3, *part.event_shape) < 0.5
    entry = p.base_dist.log_prob(x)
    assert entry.shape == x.shape
    masked = p.base_dist.mask(observed).to_event(len(part.event_shape)).log_prob(x)
    torch.testing.assert_close(masked, (entry * observed).flatten(1).sum(1))


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_state_dict_round_trip_and_device(name, device):
    contract.check_round_trip(LIKELIHOODS[name], device)
