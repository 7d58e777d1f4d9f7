"""What a prior is: a module whose ``forward()`` returns p(z), batch shape (), event shape (D,)."""

from __future__ import annotations

from abc import abstractmethod

import pyro.distributions as dist
from torch import nn


class Prior(nn.Module):
    """Base class of the priors shipped here; any module whose ``forward()`` returns a distribution will do."""

    @abstractmethod
    def forward(self) -> dist.TorchDistribution:
        """Return p(z), batch shape (), event shape (D,)."""
