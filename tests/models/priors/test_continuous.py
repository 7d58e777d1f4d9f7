"""Priors over the reals: their densities by scipy's and by sums, and the flat one, which is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from parts.priors import disturbed
from scipy import stats

from pyro_vae.inference import AmortizedGuide, evidence, guides, log_weights
from pyro_vae.models import VAE, likelihoods, mlp, priors

DIM, DRAWS = 3, 60_000
CLOSED_FORMS = {
    "FullNormal": lambda z, p: stats.multivariate_normal(p.mean.detach(), p.covariance_matrix.detach()).logpdf(z),
    "StudentT, learnt": lambda z, p: stats.t(p.base_dist.df.detach(), 0, p.base_dist.scale.detach()).logpdf(z).sum(-1),
    "Laplace, learnt": lambda z, p: stats.laplace(0, p.base_dist.scale.detach()).logpdf(z).sum(-1),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_density_is_scipys(name):
    p = disturbed(name, DIM)()
    z = p.sample((7,))
    np.testing.assert_allclose(p.log_prob(z).detach(), CLOSED_FORMS[name](z.numpy(), p), rtol=1e-10)


def test_mixture_density_is_the_sum_over_components():
    prior = disturbed("Mixture", DIM)
    z = torch.randn(7, DIM, dtype=torch.float64)
    scale, weights = prior.log_scale.exp().detach().numpy(), prior.logits.softmax(0).detach().numpy()
    loc = prior.loc.detach().numpy()
    parts = stats.norm(loc, scale).pdf(z.numpy()[:, None]).prod(-1)
    np.testing.assert_allclose(prior().log_prob(z).exp().detach(), parts @ weights, rtol=1e-10)
    assert not torch.equal(prior.loc[0], prior.loc[1])


def test_flat_prior_has_log_prob_0_and_no_draws():
    p = priors.Flat(DIM)().expand((4,))
    z = torch.randn(2, 4, DIM, dtype=torch.float64)
    torch.testing.assert_close(p.log_prob(z), torch.zeros(2, 4, dtype=torch.float64))
    assert (p.batch_shape, p.event_shape) == ((4,), (DIM,))
    with pytest.raises(ValueError, match=r"A flat prior is improper: it has no draws, .* no probability"):
        p.sample()
    with pytest.raises(ValueError, match="improper"):
        VAE(priors.Flat(2), likelihoods.Bernoulli(4), mlp((3,))).sample()


def test_flat_prior_leaves_the_likelihood_and_the_entropy():
    model = VAE(priors.Flat(2), likelihoods.Bernoulli(4), mlp((3,)))
    guide = AmortizedGuide(4, guides.DiagonalNormal(2), mlp((3,)))
    x = torch.bernoulli(torch.full((5, 4), 0.5))
    log_w = log_weights(model, guide, x, 3)
    assert log_w.shape == (3, 5)
    with pytest.raises(ValueError, match=r"log p\(x\) under it is no probability"):
        evidence(model, guide, x, 10, method="iw", progress=False)
