"""Priors that make most entries small: a spike and a slab, and the horseshoe."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from pyro_vae.models import priors
from pyro_vae.models.distributions.horseshoe import log_scaled_e1


def test_spike_and_slab_density_is_the_product_over_entries():
    z = np.array([[-0.1, 0.7, 2.0]])
    entry = 0.8 * stats.norm(0, 0.05).pdf(z) + 0.2 * stats.norm(0, 1.5).pdf(z)
    got = priors.SpikeAndSlab(3, p=0.2, slab_scale=1.5).double()().log_prob(torch.tensor(z))
    np.testing.assert_allclose(got, np.log(entry).sum(-1), rtol=1e-6)


@pytest.mark.parametrize("z", [1e-8, 1e-3, 0.5, 1.999, 2.001, 10.0, 1e3])
def test_horseshoe_density_is_the_scale_mixture(z):
    # p(z) = int N(z; 0, l^2 s^2) HalfCauchy(l) dl, over log l.
    s = 0.5

    def integrand(t):
        return stats.norm(0, math.exp(t) * s).pdf(z) * stats.halfcauchy.pdf(math.exp(t)) * math.exp(t)

    edges = [-40.0, -10.0, -2.0, 2.0, 10.0, 40.0]
    expected = sum(
        integrate.quad(integrand, *e, epsabs=0, epsrel=1e-11, limit=200)[0] for e in itertools.pairwise(edges)
    )
    got = priors.Horseshoe(1, scale=s).double()().log_prob(torch.tensor([z], dtype=torch.float64))
    assert got.item() == pytest.approx(math.log(expected), rel=1e-7)  # s in float32 first


@pytest.mark.parametrize(("dtype", "accuracy"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_horseshoe_special_function_keeps_its_accuracy(dtype, accuracy):
    u = torch.cat([torch.logspace(-30, 2.5, 500, dtype=dtype), torch.linspace(1.9, 2.1, 50, dtype=dtype)])
    u.requires_grad_()
    got = log_scaled_e1(u)
    (slope,) = torch.autograd.grad(got.sum(), u)
    exact = u.detach().double().numpy()
    f = special.exp1(exact) * np.exp(exact)
    np.testing.assert_allclose(got.detach().double(), np.log(f), rtol=accuracy, atol=accuracy)
    np.testing.assert_allclose(slope.double(), -special.expn(2, exact) * np.exp(exact) / (exact * f), rtol=accuracy)


def test_horseshoe_is_finite_at_its_pole_and_far_out():
    z = torch.tensor([[0.0], [1e-30], [1e15], [-1e15]], requires_grad=True)
    log_prob = priors.Horseshoe(1)().log_prob(z)
    (gradient,) = torch.autograd.grad(log_prob.sum(), z)
    assert log_prob.isfinite().all()
    assert gradient.isfinite().all()
    twice = torch.rand(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda z: priors.Horseshoe(1).double()().log_prob(z[:, None]), (twice,))
