"""Ratios of gamma functions."""

from __future__ import annotations

import pytest
import torch
from scipy import special

from pyro_vae.models.distributions.special import log_gamma_ratio


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
