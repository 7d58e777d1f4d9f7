"""Likelihoods of levels, against the difference of distribution functions that they stand for."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from pyro_vae.models import VAE, likelihoods, mlp, priors

LEVELS = torch.arange(256.0, dtype=torch.float64)


def _cdf_differences(loc, scale):
    """P(x) of all 256 levels by scipy, the first and last bin open, accurate in the upper tail too."""
    inner = (torch.arange(1.0, 256, dtype=torch.float64) - 0.5) / 127.5 - 1
    below = torch.tensor([0.0, *stats.logistic.cdf(inner, loc, scale), 1.0])
    above = torch.tensor([1.0, *stats.logistic.sf(inner, loc, scale), 0.0])
    return torch.where(below[1:] < 0.5, below.diff(), -above.diff())


def _entry(loc, scale, dtype=torch.float64):
    return likelihoods.DiscretizedLogistic(1, scale="datum")(_features(loc, scale, dtype))


def _features(loc, scale, dtype):
    return torch.stack([torch.tensor(loc, dtype=dtype), (torch.tensor(scale, dtype=dtype) / 0.1).log()])


@pytest.mark.parametrize(("loc", "scale"), [(0.0, 0.1), (0.3, 0.02), (-1.2, 0.3), (0.9, 1.5)])
def test_probabilities_are_cdf_differences(loc, scale):
    expected = _cdf_differences(loc, scale)
    log_prob = _entry(loc, scale).log_prob(LEVELS[:, None])
    torch.testing.assert_close(log_prob.exp(), expected, rtol=1e-9, atol=1e-300)
    single = _entry(loc, scale, torch.float32).log_prob(LEVELS[:, None].float())
    torch.testing.assert_close(single.double(), log_prob, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("loc", "scale"), [(0.1, 1e-3), (-0.7, 1e-5), (5.0, 0.01)])
def test_narrow_and_distant_logistics_have_finite_scores_in_float32(loc, scale):
    """Where both distribution functions round to 0 or 1: the tail decays as exp(-distance / scale)."""
    h = _features(loc, scale, torch.float32).requires_grad_()
    log_prob = likelihoods.DiscretizedLogistic(1, scale="datum")(h).log_prob(LEVELS[:, None].float())
    exact = _entry(loc, scale).log_prob(LEVELS[:, None])
    torch.testing.assert_close(log_prob.double(), exact, rtol=1e-3, atol=1e-2)
    assert (log_prob.exp().sum() - 1).abs() < 1e-3
    assert torch.autograd.grad(log_prob.sum(), h)[0].isfinite().all()


@pytest.mark.parametrize(("loc", "scale"), [(0.0, 0.1), (-1.2, 0.3), (0.9, 1.5)])
def test_mean_is_the_sum_over_levels(loc, scale):
    p = _entry(loc, scale)
    expected = (p.log_prob(LEVELS[:, None]).exp() * LEVELS).sum()
    assert p.mean.item() == pytest.approx(expected.item(), rel=1e-12)


def test_scale_is_in_units_of_half_the_range():
    """Doubling the scale doubles the spread of a logistic well inside the range: sd = 127.5 pi s / sqrt(3)."""
    for scale in (0.02, 0.04):
        p = likelihoods.DiscretizedLogistic(1, scale=scale).double()(torch.zeros(1, dtype=torch.float64))
        probability = p.log_prob(LEVELS[:, None]).exp()
        variance = (probability * (LEVELS - 127.5) ** 2).sum()
        expected = (127.5 * torch.pi * scale) ** 2 / 3 + 1 / 12  # a bin's own variance on top
        assert variance.item() == pytest.approx(expected, rel=1e-3)


def test_mixture_is_the_weighted_sum_of_its_components():
    part = likelihoods.MixtureOfDiscretizedLogistics((2, 1), num_components=3).double()
    h = torch.randn(part.num_features, dtype=torch.float64)
    logits, loc, log_scale = h.reshape(3, 3, 2)
    x = torch.tensor([[0.0], [130.0]], dtype=torch.float64)
    by_hand = 0.0
    for entry, level in enumerate((0, 130)):
        scales = (0.1 * log_scale[:, entry].exp()).tolist()
        masses = [_cdf_differences(m, s)[level] for m, s in zip(loc[:, entry].tolist(), scales, strict=True)]
        by_hand += (logits[:, entry].softmax(0) * torch.stack(masses)).sum().log()
    torch.testing.assert_close(part(h).log_prob(x), by_hand)


@pytest.mark.parametrize(
    "part",
    [
        likelihoods.Categorical((1, 3, 3)),
        likelihoods.DiscretizedLogistic((1, 3, 3), scale="dimension"),
        likelihoods.MixtureOfDiscretizedLogistics((1, 3, 3)),
    ],
    ids=lambda part: type(part).__name__,
)
def test_eight_bit_images_in_a_model(part):
    model = VAE(priors.StandardNormal(2), part, mlp((5,)))
    x = model.sample(7)
    assert x.dtype == torch.float32
    assert (x == x.round()).all()
    model.check_data(x)
    assert model.decode(torch.zeros(7, 2)).mean.shape == (7, 1, 3, 3)
    message = (
        rf"in \{{0, \.\.\., 255\}} for {type(part).__name__}; got 0\.50* at index \(0, 0, 0, 1\)\. .*were divided by"
    )
    x[0, 0, 0, 1] = 0.5
    with pytest.raises(ValueError, match=message):
        model.check_data(x)


def test_categorical_has_the_most_probable_level_as_its_mode():
    p = likelihoods.Categorical(2, num_classes=3)(torch.tensor([0.0, 5.0, 1.0, 3.0, 0.0, 1.0]))
    assert p.mode.tolist() == [1, 0]
    torch.testing.assert_close(p.mean, p.base_dist.probs @ torch.arange(3.0))
