"""Data with missing entries: NaN is left out of the likelihood, as if it had been integrated out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from pyro_vae.core.distributions import as_pyro
from pyro_vae.models.likelihoods.supports import ByColumn, entrywise, some_value


def leave_out_missing(p_x: Distribution, x: Tensor, support: Constraint) -> tuple[Any, Tensor]:
    """Return p(x_obs|z) = prod over observed entries of p(x_i|z), and x with every NaN replaced by a value to score.

    Args:
        p_x: p(x|z), independent over the entries of x, or a distribution with a method ``masked(observed)``.
        x: data, shape (N, *event), NaN where missing.
        support: what the likelihood accepts.

    Raises:
        ValueError: if the likelihood scores an event as one, so that no entry of it can be left out.
    """
    observed = ~x.isnan()
    filled = fill_missing(x, support)
    p_x = as_pyro(p_x)
    if hasattr(p_x, "masked"):
        return p_x.masked(observed), filled
    base = getattr(p_x, "base_dist", None)
    entries = getattr(p_x, "reinterpreted_batch_ndims", 0)
    if base is None or entries != len(p_x.event_shape):
        raise ValueError(
            f"Expected a likelihood of independent entries with missing=True; {type(p_x).__name__} scores a datum as "
            "one. Remove incomplete data, or choose another likelihood."
        )
    return base.mask(observed).to_event(entries), filled


def fill_missing(x: Tensor, support: Constraint) -> Tensor:
    """Return x with every NaN replaced by some value of the support; which one makes no difference to the score."""
    if isinstance(support, ByColumn):
        return torch.where(x.isnan(), x.new_tensor(support.some_values), x)
    return x.masked_fill(x.isnan(), some_value(entrywise(support)))
