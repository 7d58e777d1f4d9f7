"""The variational mixture of posteriors: a prior made of the guide."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.core.checks import check_positive_int
from pyro_vae.core.distributions import as_pyro
from pyro_vae.models.priors.base import Prior, keep

JITTER = 0.01
"""Noise on the first pseudo-inputs, in standard deviations of the data: two alike would stay alike."""


class VampPrior(Prior):
    """Mixture of the guide's posteriors at C learnt pseudo-inputs, p(z) = sum_c pi_c q(z | u_c), pi_c = 1/C.

    The guide becomes a part of the prior: its parameters are the model's too, and are optimised once. Copy model
    and guide in one call, ``copy.deepcopy((model, guide))``, so that the copy of the prior holds the copied guide.

    Args:
        guide: module whose ``posterior(x)`` returns q(z|x), batch shape (N,), such as ``AmortizedGuide``.
        num_components: C; the guide is run on as many pseudo-inputs at each step.
        data: training data, shape (N, *event), from which the first pseudo-inputs are drawn, by torch's global
            generator; without them they are noise with the mean and scale by which the guide standardises.
        learn_weights: learn the weights pi_c instead of holding them equal.
        bounded: hold each entry of the pseudo-inputs in the range that it has in the data.

    Raises:
        ValueError: if there are no data where they are needed, or the guide has no posterior with a density.

    Source: Tomczak and Welling (2018), VAE with a VampPrior.
    """

    logits: Tensor
    low: Tensor
    width: Tensor

    def __init__(
        self,
        guide: nn.Module,
        num_components: int = 100,
        data: Tensor | None = None,
        learn_weights: bool = False,
        bounded: bool = False,
    ) -> None:
        super().__init__()
        check_positive_int(num_components, "num_components")
        _check_guide(guide)
        self.guide: Any = guide
        self.bounded = bounded
        keep(self, "logits", torch.zeros(num_components), learn_weights)
        start = _noise(guide, num_components) if data is None else _rows(data, num_components)
        self.free = nn.Parameter(self._within_range(start, data) if bounded else start)
        self.to(next(guide.parameters(), start))  # the guide's device and dtype
        self._check_components()

    @property
    def pseudo_inputs(self) -> Tensor:
        """The pseudo-inputs u, shape (C, *event)."""
        return self.low + self.width * self.free.sigmoid() if self.bounded else self.free

    def forward(self) -> dist.TorchDistribution:
        """Return p(z), batch shape (), event shape (D,)."""
        components = as_pyro(self.guide.posterior(self.pseudo_inputs))
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), components)

    def _within_range(self, start: Tensor, data: Tensor | None) -> Tensor:
        """Keep the data's range, and return what the sigmoid maps to the first pseudo-inputs."""
        if data is None:
            raise ValueError("Expected data=... with bounded=True; a VampPrior finds the range there.")
        low, width = data.amin(0), data.amax(0) - data.amin(0)
        self.register_buffer("low", low)
        self.register_buffer("width", width)
        fraction = (start - low) / torch.where(width > 0, width, torch.ones_like(width))
        return fraction.clamp(0.02, 0.98).logit()  # moved in from the ends, to where the sigmoid has a gradient

    @torch.no_grad()
    def _check_components(self) -> None:
        q = self.guide.posterior(self.pseudo_inputs)
        if isinstance(getattr(q, "base_dist", q), dist.Delta):
            raise ValueError("Expected a guide with a density for a VampPrior; got a point mass.")


def _check_guide(guide: nn.Module) -> None:
    if not callable(getattr(guide, "posterior", None)):
        raise ValueError(
            f"Expected a guide with posterior(x), such as AmortizedGuide; got {type(guide).__name__}. "
            "A VampPrior is a mixture of the guide's posteriors."
        )


def _rows(data: Tensor, count: int) -> Tensor:
    """Return as many rows of the data, all different while there are enough, and a little noise on each."""
    rounds = -(-count // len(data))
    index = torch.cat([torch.randperm(len(data)) for _ in range(rounds)])[:count].to(data.device)
    return data[index] + JITTER * data.std(0, unbiased=False) * torch.randn_like(data[index])


def _noise(guide: nn.Module, count: int) -> Tensor:
    shape, standardize = getattr(guide, "in_shape", None), getattr(guide, "standardize", None)
    if shape is None:
        raise ValueError("Expected data=... for a VampPrior whose guide names no in_shape.")
    noise = torch.randn(count, *shape)
    return noise if standardize is None else standardize.loc + standardize.scale * noise
