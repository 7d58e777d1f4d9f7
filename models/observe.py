"""What all models share: the last step, x ~ p(x|z), which leaves out what is missing, and the checks of their parts."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from pyro_vae.core.checks import check_event, check_positive_int, check_support, check_tensor
from pyro_vae.core.distributions import as_pyro
from pyro_vae.models.distributions.columns import fill_missing
from pyro_vae.models.likelihoods import Likelihood


class GenerativeModel(nn.Module):
    """Base of the models whose last step is x ~ p(x|h), h the output of a decoder.

    Args:
        likelihood: module whose ``forward(h)`` returns p(x|z), with ``num_features``, the width of h, and
            ``support``, a constraint on the data (that of p(x|z) itself where there is none).
        missing: take NaN in x as missing, and leave it out of the likelihood.
    """

    decoder: nn.Module

    def __init__(self, likelihood: Likelihood, missing: bool = False) -> None:
        super().__init__()
        self.likelihood, self.missing = likelihood, missing
        if not callable(likelihood) or not hasattr(likelihood, "num_features"):
            raise ValueError(
                f"Expected a likelihood with num_features, the width of h, and forward(h); {type(likelihood).__name__} "
                "lacks one of them."
            )
        with torch.no_grad():
            p_x = as_pyro(likelihood(torch.zeros(likelihood.num_features)))
        self.event_shape, self._support = p_x.event_shape, getattr(likelihood, "support", p_x.support)

    @abstractmethod
    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run the generative program."""

    def observe(self, p_x: Distribution, x: Tensor | None) -> Tensor:
        """Run the sample site "x": score x, without what is missing, or draw it where there is none."""
        if x is None or not self.missing:
            return pyro.sample("x", as_pyro(p_x), obs=x)
        p_seen, filled = leave_out_missing(p_x, x, self._support)
        return pyro.sample("x", p_seen, obs=filled, infer={"observes": x})

    def check_data(self, x: Tensor, *, name: str = "x") -> None:
        """Refuse data that p(x) cannot have produced.

        Args:
            x: data, shape (N, *event).
            name: what the message calls them.

        Raises:
            ValueError: for a wrong shape or dtype, NaN unless ``missing``, infinities, or values outside the
                likelihood's support.
        """
        if self.missing and isinstance(x, Tensor) and x.is_floating_point():
            x = fill_missing(x, self._support)
        kind = type(self).__name__
        hint = f", or let NaN be missing: load_data(..., missing=True) and {kind}(..., missing=True)"
        check_tensor(x, name, "" if self.missing else hint)
        check_event(x, self.event_shape, name)
        hint = getattr(self.likelihood, "hint", "")
        check_support(x, self._support, type(self.likelihood).__name__, name, hint)


class UnconditionalModel(GenerativeModel):
    """Base of the models of x alone, whose program is called as ``model(x)`` or, to draw, ``model(num_data=N)``."""

    @torch.no_grad()
    def sample(self, num_data: int = 1) -> Tensor:
        """Draw from p(x).

        Args:
            num_data: number of draws N.

        Returns:
            x, shape (N, *event).
        """
        check_positive_int(num_data, "num_data")
        return self(num_data=num_data)


def check_prior(p_z: object) -> Distribution:
    """Return p(z) as it is, refusing anything but a distribution of batch shape () with a ``ValueError``."""
    if not isinstance(p_z, Distribution) or p_z.batch_shape:
        raise ValueError(
            "Expected prior() to return a distribution with batch shape () and event shape (D,); got "
            f"{p_z}. Declare independent dimensions as an event: dist.Normal(loc, scale).to_event(1)."
        )
    return p_z


def check_latent(z: Tensor, shape: torch.Size, name: str = "z") -> None:
    """Refuse a latent of another event shape than the model's, with a ``ValueError``."""
    if z.shape[z.ndim - len(shape) :] != shape:
        raise ValueError(
            f"Expected {name} of event shape {tuple(shape)}, the prior's; the guide draws {tuple(z.shape)}. "
            "Give prior and guide the same dimension."
        )


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
