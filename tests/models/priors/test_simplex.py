"""Priors of shares."""

from __future__ import annotations

import numpy as np
import torch
from parts.priors import disturbed
from scipy import special, stats

from pyro_vae.models import priors


def test_logistic_normal_of_two_shares_is_the_univariate_one():
    prior = disturbed("LogisticNormal, learnt", 2)
    first = np.linspace(0.05, 0.95, 7)
    loc = (prior.loc[0] - prior.loc[1]).item()
    scale = prior.log_scale.exp().square().sum().sqrt().item()
    expected = stats.norm(loc, scale).logpdf(special.logit(first)) - np.log(first * (1 - first))
    z = torch.tensor(np.stack([first, 1 - first], -1))
    np.testing.assert_allclose(prior().log_prob(z).detach(), expected, rtol=1e-10)


def test_logistic_normal_makes_no_share_special():
    p = priors.LogisticNormal(4).double()()
    z = p.sample((5,))
    torch.testing.assert_close(p.log_prob(z), p.log_prob(z.flip(-1)))
