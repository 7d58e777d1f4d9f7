"""The multinomial given totals, and limits of counts in float32."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy import stats

from pyro_vae.models import likelihoods


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
