"""The generative model p(z) p(x|z) as a Pyro program."""

from __future__ import annotations

from collections.abc import Callable

import pyro
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.core.distributions import as_part, as_pyro
from pyro_vae.core.modules import Network, build_network, expose_parameters
from pyro_vae.models.likelihoods import Likelihood
from pyro_vae.models.networks import mlp
from pyro_vae.models.observe import UnconditionalModel, check_latent, check_prior
from pyro_vae.models.priors import Prior


class VAE(UnconditionalModel):
    """Generative model z ~ p(z), x ~ p(x|z); ``forward`` is the Pyro program.

    Args:
        prior: module whose ``forward()`` returns p(z), event shape (D,), or a distribution object.
        likelihood: module whose ``forward(h)`` returns p(x|z), with ``num_features``, the width of h, and
            ``support``, a constraint on the data (that of p(x|z) itself where there is none).
        decoder: network factory called with ((D,), likelihood.num_features), or a ready module.
        missing: take NaN in x as missing at random and leave it out of the likelihood, p(x_obs|z); the guide needs
            ``missing=True`` too, so that its encoder sees which entries there are.

    Raises:
        ValueError: if the prior is not a distribution of batch shape ().
    """

    def __init__(
        self,
        prior: Prior | Distribution | Callable[[], Distribution],
        likelihood: Likelihood,
        decoder: Network | None = None,
        *,
        missing: bool = False,
    ) -> None:
        super().__init__(likelihood, missing)
        self.prior = as_part(prior)
        self.latent_shape = check_prior(self.prior()).event_shape
        self.decoder = build_network(decoder or mlp(), self.latent_shape, likelihood.num_features)

    def forward(self, x: Tensor | None = None, num_data: int = 1) -> Tensor:
        """Run the generative program.

        Args:
            x: data to condition on, shape (N, *event); drawn if absent.
            num_data: N where no data are given.

        Returns:
            x, shape (N, *event).
        """
        expose_parameters(self)
        with pyro.plate("data", num_data if x is None else x.shape[0]):
            z = pyro.sample("z", as_pyro(self.prior()))
            check_latent(z, self.latent_shape)
            return self.observe(self.decode(z), x)

    def decode(self, z: Tensor) -> Distribution:
        """Return p(x|z), batch shape (...), for z of shape (..., D)."""
        return self.likelihood(self.decoder(z))
