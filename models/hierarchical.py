"""A hierarchy of latent layers, p(z_L) p(z_L-1|z_L) ... p(z_1|z_2) p(x|z_1), as a Pyro program."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.core.checks import check_positive_int
from pyro_vae.core.distributions import as_part, as_pyro
from pyro_vae.core.modules import Network, build_network, expose_parameters
from pyro_vae.models.likelihoods import Likelihood
from pyro_vae.models.networks import mlp
from pyro_vae.models.observe import UnconditionalModel, check_latent, check_prior
from pyro_vae.models.priors import Prior, StandardNormal


class HierarchicalVAE(UnconditionalModel):
    """Generative model z_L ~ p(z_L), z_l ~ N(mu(z_l+1), diag sigma(z_l+1)^2), x ~ p(x|z_1).

    The sites are "z_1", nearest to the data, to "z_L", the top. The two-layer architecture of Burda et al.,
    784-200-200-100-100-100-50 with the stochastic layers 100 and 50, is::

        HierarchicalVAE((100, 50), likelihoods.Bernoulli(784), (mlp((200, 200)), mlp((100, 100))))

    Args:
        latent_dims: dimensions of z_1, ..., z_L.
        likelihood: p(x|z_1), a module with ``num_features`` whose ``forward(h)`` returns it, event shape that of x.
        networks: network factories or ready modules, from the data up: the decoder z_1 -> x, then z_2 -> z_1, ...,
            z_L -> z_L-1; one factory serves all layers.
        prior: p(z_L), a module whose ``forward()`` returns it, event shape (latent_dims[-1],), or a distribution
            object; N(0, I) if absent.
        missing: take NaN in x as missing at random and leave it out of the likelihood; the guide needs it too.

    Raises:
        ValueError: if a dimension is not a positive integer, the networks are not one for each layer, or the prior
            has another event shape than (latent_dims[-1],).

    Source: Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, section 5; Sønderby et al.
    (2016), Ladder Variational Autoencoders.
    """

    def __init__(
        self,
        latent_dims: Sequence[int],
        likelihood: Likelihood,
        networks: Network | Sequence[Network] | None = None,
        *,
        prior: Prior | Distribution | Callable[[], Distribution] | None = None,
        missing: bool = False,
    ) -> None:
        super().__init__(likelihood, missing)
        self.latent_dims = _check_dims(latent_dims)
        self.prior = as_part(StandardNormal(self.latent_dims[-1]) if prior is None else prior)
        _check_top(check_prior(self.prior()), self.latent_dims[-1])
        decoder, *others = _one_each(networks or mlp(), len(self.latent_dims))
        self.decoder = build_network(decoder, self.latent_dims[0], likelihood.num_features)
        triples = zip(self.latent_dims[1:], self.latent_dims[:-1], others, strict=True)
        self.transitions = nn.ModuleList(NormalTransition(above, below, n) for above, below, n in triples)

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
            z = self._draw(len(self.latent_dims), as_pyro(self.prior()))
            for layer in range(len(self.latent_dims) - 1, 0, -1):
                z = self._draw(layer, self.transitions[layer - 1](z))
            return self.observe(self.decode(z), x)

    def _draw(self, layer: int, p_z: Distribution) -> Tensor:
        z = pyro.sample(f"z_{layer}", p_z)
        check_latent(z, torch.Size((self.latent_dims[layer - 1],)), f"z_{layer}")
        return z

    def decode(self, z: Tensor) -> Distribution:
        """Return p(x|z_1), batch shape (...), for z_1 of shape (..., latent_dims[0])."""
        return self.likelihood(self.decoder(z))


class NormalTransition(nn.Module):
    """One step down the hierarchy, p(z_l|z_l+1) = N(mu, diag sigma^2), (mu, log sigma) = network(z_l+1).

    Args:
        above: dimension of z_l+1.
        below: dimension of z_l.
        network: factory or ready module, (above,) -> 2 below.
    """

    def __init__(self, above: int, below: int, network: Network) -> None:
        super().__init__()
        self.network = build_network(network, above, 2 * below)

    def forward(self, z: Tensor) -> dist.TorchDistribution:
        """Return p(z_l|z_l+1), batch shape (...), for z_l+1 of shape (..., above)."""
        loc, log_scale = self.network(z).chunk(2, -1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)


def _check_dims(latent_dims: Sequence[int]) -> tuple[int, ...]:
    if isinstance(latent_dims, int) or not latent_dims:
        raise ValueError(f"Expected latent_dims as dimensions of z_1, ..., z_L, such as (100, 50); got {latent_dims}.")
    for dim in latent_dims:
        check_positive_int(dim, "latent_dims")
    return tuple(latent_dims)


def _check_top(p_z: Distribution, dim: int) -> None:
    if p_z.event_shape != (dim,):
        raise ValueError(
            f"Expected a prior of event shape ({dim},), the last of latent_dims; got {tuple(p_z.event_shape)}."
        )


def _one_each(networks: Network | Sequence[Network], layers: int) -> list[Network]:
    if not isinstance(networks, Sequence):
        if isinstance(networks, nn.Module) and layers > 1:
            raise ValueError(
                f"Expected {layers} networks, or a factory for all; got one module. Give one for each layer."
            )
        return [networks] * layers
    if len(networks) != layers:
        raise ValueError(f"Expected {layers} networks, one for each layer from the data up; got {len(networks)}.")
    return list(networks)
