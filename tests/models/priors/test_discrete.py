"""Relaxations of discrete priors."""

from __future__ import annotations

import torch

from pyro_vae.models import priors

DIM = 3


def test_relaxed_categorical_is_torchs_where_that_is_defined_and_stays_defined_beyond():
    prior = priors.RelaxedCategorical(DIM, temperature=0.6, learnable=True)
    prior.logits.data += torch.randn(DIM)
    torchs = torch.distributions.RelaxedOneHotCategorical(torch.tensor(0.6), logits=prior.logits, validate_args=False)
    z = torchs.sample((50,))
    z = z / z.sum(-1, keepdim=True)
    torch.testing.assert_close(prior().log_prob(z), torchs.log_prob(z), rtol=1e-4, atol=1e-4)
    cold = priors.RelaxedCategorical(20, temperature=0.05)()
    z = cold.sample((1000,))  # with entries that would underflow to 0, and validated
    assert 0 < z.min() < 1e-25
    assert cold.log_prob(z).isfinite().all()
