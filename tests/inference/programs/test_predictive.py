"""The distributions at the sites of a pair of programs."""

from __future__ import annotations

import pytest
import torch

from pyro_vae.inference import AmortizedGuide, guides
from pyro_vae.inference.programs.predictive import posterior, prior_density, prior_predictive, reconstruction
from pyro_vae.models import VAE, HierarchicalVAE, likelihoods, mlp, priors


def test_distributions_are_those_of_the_programs():
    model = VAE(priors.StandardNormal(2), likelihoods.Bernoulli(6), mlp((4,)))
    guide = AmortizedGuide((6,), guides.DiagonalNormal(2), mlp((4,)))
    torch.manual_seed(0)
    z = model.prior().sample((5,))
    torch.manual_seed(0)
    assert torch.equal(prior_predictive(model, 5).mean, model.decode(z).mean)
    x = torch.ones(5, 6)
    assert torch.equal(posterior(guide, x).mean, guide.posterior(x).mean)
    torch.manual_seed(0)
    z = guide.posterior(x).sample()
    torch.manual_seed(0)
    assert torch.equal(reconstruction(model, guide, x).mean, model.decode(z).mean)


def _model(prior):
    return VAE(prior, likelihoods.Bernoulli(4), mlp((4,)))


@pytest.mark.parametrize(
    "model",
    [
        _model(priors.Bernoulli(2)),
        _model(priors.LogisticNormal(2)),
        HierarchicalVAE((2, 2), likelihoods.Bernoulli(4), mlp((4,))),
    ],
)
def test_what_is_no_single_density_of_real_numbers_is_none(model):
    assert prior_density(model) is None
