"""Zero inflation of negative binomials."""

from __future__ import annotations

import torch

from pyro_vae.models import likelihoods


def test_zero_inflation_scores_alike_before_and_after_a_draw():
    """A gate that rounds to 1 in float32 still leaves the other counts a probability, and a gradient."""
    h = torch.tensor([[1.0, 30.0]]).requires_grad_()
    p = likelihoods.ZeroInflatedNegativeBinomial(1, dispersion=0.5)(h)
    x = torch.tensor([[0.0], [4.0]])
    before = p.log_prob(x)
    p.sample()
    assert p.mean.isfinite().all()
    torch.testing.assert_close(p.log_prob(x), before)
    assert before[1] < -30
    assert torch.autograd.grad(p.log_prob(x).sum(), h)[0].isfinite().all()
    assert p.expand((3,)).sample().shape == (3, 1)
