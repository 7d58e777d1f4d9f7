"""A model of x given y, p(z|y) p(x|z, y), as a Pyro program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.core.conditioning import Covariates, join, joint_shape
from pyro_vae.core.distributions import as_part, as_pyro
from pyro_vae.core.modules import Network, build_network, expose_parameters
from pyro_vae.models.likelihoods import Likelihood
from pyro_vae.models.networks import mlp
from pyro_vae.models.observe import GenerativeModel, check_latent, check_prior


class ConditionalVAE(GenerativeModel):
    """Generative model z ~ p(z|y) or p(z), x ~ p(x|z, y), called as ``model(x, y)``.

    With ``fit`` and ``evidence`` the data are the tuple (x, y), and the evidence is log p(x|y).

    Args:
        prior: p(z), a module whose ``forward()`` returns it, event shape (D,), or a distribution object; or, for
            p(z|y), a module with ``num_features`` whose ``forward(h)`` returns it, batch shape (...),
            such as a guide family, ``guides.DiagonalNormal(10)``.
        likelihood: p(x|z, y), a module with ``num_features`` whose ``forward(h)`` returns it.
        decoder: network factory called with ((D + E,), likelihood.num_features), or a ready module; z and then y.
        num_classes: y is a class index, which networks see as a one-hot vector of E = num_classes entries.
        num_covariates: y is a vector of E = num_covariates real numbers.
        prior_network: factory called with ((E,), prior.num_features), where the prior depends on y.
        missing: take NaN in x as missing at random and leave it out of the likelihood; the guide needs it too.
            NaN in y is refused.

    Raises:
        ValueError: unless exactly one of ``num_classes`` and ``num_covariates`` is given, or if the prior is not a
            distribution over vectors.

    Source: Sohn, Lee and Yan (2015), Learning Structured Output Representation using Deep Conditional Generative
    Models, section 4.
    """

    def __init__(
        self,
        prior: Any,
        likelihood: Likelihood,
        decoder: Network | None = None,
        *,
        num_classes: int | None = None,
        num_covariates: int | None = None,
        prior_network: Network | None = None,
        missing: bool = False,
    ) -> None:
        super().__init__(likelihood, missing)
        self.covariates = Covariates(num_classes, num_covariates)
        width = self.covariates.width
        self.prior: Callable[..., Distribution] = as_part(prior)
        self.prior_network: nn.Module | None = None
        if hasattr(prior, "num_features"):
            self.prior_network = build_network(prior_network or mlp(), width, prior.num_features)
            with torch.no_grad():
                p_z = self.prior(torch.zeros(prior.num_features))
        elif prior_network is not None:
            raise ValueError("Expected a prior with num_features for prior_network, such as guides.DiagonalNormal(10).")
        else:
            p_z = self.prior()
        self.latent_shape = _vector_shape(check_prior(p_z))
        self.decoder = build_network(decoder or mlp(), joint_shape(self.latent_shape, width), likelihood.num_features)

    def forward(self, x: Tensor | None, y: Tensor) -> Tensor:
        """Run the generative program.

        Args:
            x: data to condition on, shape (N, *event); drawn where it is None.
            y: class indices, shape (N,), or covariates, shape (N, E).

        Returns:
            x, shape (N, *event).
        """
        expose_parameters(self)
        with pyro.plate("data", len(y)):
            return self.given(y, x)

    def given(self, y: Tensor, x: Tensor | None) -> Tensor:
        """Run the sites "z" and "x" inside the caller's data plate, with y of any leading dimensions."""
        z = pyro.sample("z", as_pyro(self.latent(y)))
        check_latent(z, self.latent_shape)
        return self.observe(self.decode(z, y), x)

    def latent(self, y: Tensor) -> Distribution:
        """Return p(z|y), batch shape (N,), or p(z), batch shape ()."""
        if self.prior_network is None:
            return self.prior()
        return self.prior(self.prior_network(self.covariates.encode(y, like=next(self.parameters()))))

    def decode(self, z: Tensor, y: Tensor) -> Distribution:
        """Return p(x|z, y), batch shape (...), for z of shape (..., D) and y of shape (...) or (..., E)."""
        return self.likelihood(self.decoder(join(z, self.covariates.encode(y, z), self.latent_shape)))

    @torch.no_grad()
    def sample(self, y: Tensor) -> Tensor:
        """Draw from p(x|y).

        Args:
            y: class indices, shape (N,), or covariates, shape (N, E).

        Returns:
            x, shape (N, *event).

        Raises:
            ValueError: for values that y cannot have.
        """
        self.covariates.check(y)
        return self(None, y)

    def check_data(self, x: Tensor, y: Tensor | None = None, *, name: str = "x") -> None:
        """Refuse data that p(x|y) cannot have produced, and values that y cannot have.

        Args:
            x: data, shape (N, *event).
            y: class indices, shape (N,), or covariates, shape (N, E).
            name: what the message calls x.

        Raises:
            ValueError: for a wrong shape or dtype, NaN unless ``missing``, infinities, or values outside the support.
        """
        super().check_data(x, name=name)
        if y is not None:
            self.covariates.check(y)


def _vector_shape(p_z: Distribution) -> torch.Size:
    if len(p_z.event_shape) != 1:
        raise ValueError(f"Expected a prior of event shape (D,); got {tuple(p_z.event_shape)}.")
    return p_z.event_shape
