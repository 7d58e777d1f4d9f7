"""An amortised guide: what its encoder sees."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pyro_vae.inference import AmortizedGuide, guides


def test_guide_standardises_what_the_encoder_sees_and_nothing_else():
    encoder = nn.Linear(4, 4)
    guide = AmortizedGuide(4, guides.DiagonalNormal(2), encoder, loc=torch.arange(4.0), scale=2.0)
    x = torch.randn(3, 4)
    expected = guide.family(encoder((x - torch.arange(4.0)) / 2))
    torch.testing.assert_close(guide.posterior(x).mean, expected.mean)
    with pytest.raises(ValueError, match=r"Expected x of shape \(N, 4\); got \(3, 5\)"):
        guide.posterior(torch.randn(3, 5))
