"""A model of x whose class y is known for some data and summed out for the others, p(y) p(z|y) p(x|z, y)."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from pyro_vae.core.checks import check_positive_int
from pyro_vae.core.conditioning import UNKNOWN
from pyro_vae.core.modules import Network, expose_parameters
from pyro_vae.models.conditional import ConditionalVAE
from pyro_vae.models.likelihoods import Likelihood


class SemiSupervisedVAE(nn.Module):
    """Generative model y ~ p(y), z ~ p(z), x ~ p(x|z, y), M2 of Kingma et al., called as ``model(x, y)``.

    Labels y are class indices, -1 where the class is not known. The class is a latent site "y" for every datum; the
    label is the observed site "label", which must be the class where it is known. So a datum with its label has the
    evidence log p(x, y), one without log p(x), and ``model(x)`` is the model without any label.

    Args:
        prior: p(z), a module whose ``forward()`` returns it, event shape (D,), or a distribution object; or, for
            p(z|y), a module with ``num_features`` whose ``forward(h)`` returns it, batch shape (...).
        likelihood: p(x|z, y), a module with ``num_features`` whose ``forward(h)`` returns it.
        decoder: network factory called with ((D + num_classes,), likelihood.num_features), or a ready module.
        num_classes: number of classes.
        class_probs: p(y), shape (num_classes,), which is not learnt; uniform if absent.
        prior_network: factory called with ((num_classes,), prior.num_features), where the prior depends on y.
        missing: take NaN in x as missing at random and leave it out of the likelihood; the guide needs it too.

    Raises:
        ValueError: if ``class_probs`` are not probabilities of that many classes.

    Source: Kingma et al. (2014), Semi-supervised Learning with Deep Generative Models, section 2.
    """

    class_logits: Tensor

    def __init__(
        self,
        prior: Any,
        likelihood: Likelihood,
        decoder: Network | None = None,
        *,
        num_classes: int,
        class_probs: Tensor | None = None,
        prior_network: Network | None = None,
        missing: bool = False,
    ) -> None:
        super().__init__()
        self.conditional = ConditionalVAE(
            prior, likelihood, decoder, num_classes=num_classes, prior_network=prior_network, missing=missing
        )
        self.num_classes, self.event_shape = num_classes, self.conditional.event_shape
        self.register_buffer("class_logits", _log_probs(class_probs, num_classes))

    @property
    def decoder(self) -> nn.Module:
        """The decoder (z, y) -> h."""
        return self.conditional.decoder

    @property
    def likelihood(self) -> nn.Module:
        """The likelihood p(x|h)."""
        return self.conditional.likelihood

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, num_data: int = 1) -> Tensor:
        """Run the generative program.

        Args:
            x: data to condition on, shape (N, *event); drawn if absent.
            y: labels, shape (N,), -1 where unknown; none are known if absent.
            num_data: N where no data are given.

        Returns:
            x, shape (N, *event).
        """
        expose_parameters(self)
        with pyro.plate("data", num_data if x is None else x.shape[0]):
            true = pyro.sample("y", dist.Categorical(logits=self.class_logits))
            if y is not None:
                pyro.sample("label", Label(true, self.class_logits), obs=y)
            return self.conditional.given(true, x)

    def decode(self, z: Tensor, y: Tensor) -> Distribution:
        """Return p(x|z, y), batch shape (...), for z of shape (..., D) and classes y of shape (...)."""
        return self.conditional.decode(z, y)

    @torch.no_grad()
    def sample(self, num_data: int = 1, y: Tensor | None = None) -> Tensor:
        """Draw from p(x), or from p(x|y).

        Args:
            num_data: number of draws N, where no classes are given.
            y: classes, shape (N,).

        Returns:
            x, shape (N, *event).

        Raises:
            ValueError: for classes outside {0, ..., num_classes - 1}.
        """
        check_positive_int(num_data, "num_data")
        return self(num_data=num_data) if y is None else self.conditional.sample(y)

    def check_data(self, x: Tensor, y: Tensor | None = None, *, name: str = "x") -> None:
        """Refuse data that p(x) cannot have produced, and labels that name no class.

        Args:
            x: data, shape (N, *event).
            y: labels, shape (N,), -1 where unknown.
            name: what the message calls x.

        Raises:
            ValueError: for a wrong shape or dtype, NaN unless ``missing``, infinities, or values outside the support.
        """
        self.conditional.check_data(x, name=name)
        if y is not None:
            self.conditional.covariates.check(y, lowest=UNKNOWN)


class Label(dist.TorchDistribution):
    """The label of a datum: its class, or -1 where it is unknown, whatever the class.

        log p(label | y) = 0 for label = y and for label = -1,  -inf otherwise

    Args:
        y: classes, any shape.
        like: a tensor of the dtype that log_prob has.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, y: Tensor, like: Tensor) -> None:
        self.y, self.like = y, like
        super().__init__(y.shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        """The classes and -1."""
        return constraints.integer_interval(UNKNOWN, len(self.like) - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(label | y), of the shape that the label and y broadcast to."""
        possible = (value == self.y) | (value == UNKNOWN)
        return self.like.new_zeros(possible.shape).masked_fill(~possible, -torch.inf)

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Return the classes: a drawn datum is labelled."""
        return self.y.expand((*sample_shape, *self.y.shape))

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> Label:
        """Return the distribution with y expanded, batch shape as given."""
        return Label(self.y.expand(batch_shape), self.like)


def _log_probs(probs: Tensor | None, num_classes: int) -> Tensor:
    check_positive_int(num_classes, "num_classes")
    if probs is None:
        return torch.zeros(num_classes).log_softmax(0)
    probs = torch.as_tensor(probs, dtype=torch.get_default_dtype())
    if probs.shape != (num_classes,) or not (probs >= 0).all() or not torch.isclose(probs.sum(), probs.new_ones(())):
        raise ValueError(
            f"Expected class_probs of shape ({num_classes},), none negative, with the sum 1; got shape "
            f"{tuple(probs.shape)} and sum {probs.sum():g}."
        )
    return probs.log()
