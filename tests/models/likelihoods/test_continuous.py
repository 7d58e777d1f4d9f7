"""Limits of likelihoods of real numbers in float32."""

from __future__ import annotations

import torch

from pyro_vae.models import likelihoods


def test_heavy_tails_and_overdispersion_have_exact_limits_in_float32():
    """As df grows and the dispersion falls to 0, log p(x) is that of the normal and the Poisson."""
    x = torch.tensor([[0.3, -2.0, 5.0, 0.0]])
    student = likelihoods.StudentT(4, scale=1.5, df=1e7)(torch.zeros(4)).log_prob(x)
    torch.testing.assert_close(student, likelihoods.Normal(4, scale=1.5)(torch.zeros(4)).log_prob(x), rtol=0, atol=1e-5)
    counts, h = torch.tensor([[0.0, 3.0, 20.0, 1.0]]), torch.tensor([0.1, 1.0, 2.8, -3.0])
    poisson = likelihoods.Poisson(4)(h).log_prob(counts)
    binomial = likelihoods.NegativeBinomial(4, dispersion=1e-7)(h).log_prob(counts)
    torch.testing.assert_close(binomial, poisson, rtol=0, atol=1e-4)


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
