"""Figures of priors show the density that the prior has."""

from __future__ import annotations

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from helpers import render

from pyro_vae.models import priors
from pyro_vae.report.prior_pictures import prior_density


@pytest.mark.parametrize("prior", [priors.Laplace(1, scale=0.5), dist.Laplace(torch.zeros(1), 0.5).to_event(1)])
def test_curve_of_one_dimension_is_the_density(prior):
    (line,) = render(prior_density(prior)).axes[0].get_lines()
    z, density = line.get_data()
    np.testing.assert_allclose(density, np.exp(-np.abs(z) / 0.5), rtol=1e-4)
    assert z[0] < 0.5 * math.log(0.01) < 0.5 * -math.log(0.01) < z[-1]  # the inner 99 %


def test_contours_of_two_dimensions_hold_the_mass_they_name():
    # A disc of radius r holds 1 - exp(-r^2 / 2) of N(0, I); 4,000 draws place it within 5 %.
    axes = render(prior_density(priors.StandardNormal(2))).axes[0]
    (contours,) = axes.collections
    assert {text.get_text() for text in axes.texts} >= {"50 %", "90 %"}
    for path, share in zip(contours.get_paths(), (0.99, 0.9, 0.5), strict=True):
        radius = np.linalg.norm(path.vertices, axis=1)
        np.testing.assert_allclose(radius, math.sqrt(-2 * math.log(1 - share)), rtol=0.06)


@pytest.mark.parametrize(
    "build",
    [
        lambda: priors.Mixture(2, 3),
        lambda: priors.Flow(2, kind="maf", hidden=(8,)),
        lambda: priors.Horseshoe(2),
        lambda: priors.RelaxedBernoulli(2, temperature=0.4),
        lambda: priors.RelaxedBernoulli(1, temperature=0.4),
        lambda: priors.SpikeAndSlab(1),
    ],
)
def test_priors_of_one_and_two_dimensions_are_drawn(build):
    prior = build()
    state = torch.get_rng_state()
    axes = render(prior_density(prior)).axes[0]
    assert torch.equal(state, torch.get_rng_state())
    assert axes.get_lines() or axes.collections[0].get_paths()


@pytest.mark.parametrize("prior", [priors.StandardNormal(3), priors.Bernoulli(2), priors.LogisticNormal(2)])
def test_what_has_no_such_density_is_refused(prior):
    with pytest.raises(ValueError, match="Expected a prior with a density over one or two dimensions; got event shape"):
        prior_density(prior)
