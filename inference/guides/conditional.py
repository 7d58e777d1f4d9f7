"""Guides that know more than x: q(z|x, y), and q(y|x) q(z|x, y) where y is known for some data only."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.infer_config_messenger import InferConfigMessenger
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.core.checks import check_event
from pyro_vae.core.conditioning import UNKNOWN, Covariates, join, joint_shape
from pyro_vae.core.distributions import as_pyro
from pyro_vae.core.modules import Network, Shape, as_shape, build_network, expose_parameters
from pyro_vae.inference.guides.amortized import Standardize, seen_shape
from pyro_vae.inference.guides.base import GuideFamily
from pyro_vae.inference.programs.structure import TRAINING_TERM


class ConditionalGuide(nn.Module):
    """Guide z ~ q(z|x, y) of a ``ConditionalVAE``, called as ``guide(x, y)``.

    Args:
        in_shape: event shape of x.
        family: module with ``num_features`` whose ``forward(h)`` returns q(z|x, y).
        encoder: network factory or ready module, for x and y together: a vector x is lengthened by the E entries of
            y, an image (C, H, W) gets E constant channels.
        num_classes: y is a class index, E = num_classes.
        num_covariates: y is a vector of E = num_covariates real numbers.
        loc: subtracted from x before the encoder.
        scale: x - loc is divided by it.
        missing: take NaN in x as missing, and show the encoder the mask of observed entries; y has none.

    Raises:
        ValueError: unless exactly one of ``num_classes`` and ``num_covariates`` is given, or if ``scale`` is not
            positive.
    """

    def __init__(
        self,
        in_shape: Shape,
        family: GuideFamily,
        encoder: Network,
        *,
        num_classes: int | None = None,
        num_covariates: int | None = None,
        loc: float | Tensor = 0.0,
        scale: float | Tensor = 1.0,
        missing: bool = False,
    ) -> None:
        super().__init__()
        self.in_shape, self.family = as_shape(in_shape), family
        self.covariates = Covariates(num_classes, num_covariates)
        self.seen_shape = seen_shape(self.in_shape, missing)
        joint = joint_shape(self.seen_shape, self.covariates.width)
        self.encoder = build_network(encoder, joint, family.num_features)
        self.standardize = Standardize(loc, scale, len(self.in_shape), missing)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Run the guide on x of shape (N, *in_shape) and y of shape (N,) or (N, E); returns z, shape (N, D)."""
        expose_parameters(self)
        with pyro.plate("data", x.shape[0]):
            return pyro.sample("z", as_pyro(self.posterior(x, y)))

    def posterior(self, x: Tensor, y: Tensor) -> Distribution:
        """Return q(z|x, y), batch shape that of x and y together.

        Args:
            x: shape (..., *in_shape).
            y: class indices, shape (...), or covariates, shape (..., E).

        Raises:
            ValueError: if x has another event shape, or y another shape or dtype.
        """
        check_event(x, self.in_shape, leading=None)
        return self.family(self.encoder(join(self.standardize(x), self.covariates.encode(y, x), self.seen_shape)))

    def check_data(self, x: Tensor, y: Tensor | None = None, name: str = "x") -> None:
        """Refuse missing entries unless the guide is made for them.

        Raises:
            ValueError: for NaN in x without ``missing``.
        """
        self.standardize.check_missing(x, name)


class SemiSupervisedGuide(nn.Module):
    """Guide y ~ q(y|x), z ~ q(z|x, y) of a ``SemiSupervisedVAE``, called as ``guide(x, y)``.

    Where the label is known q(y|x) gives way to a point mass at it, so that the class is drawn, or enumerated, for
    the other data alone. ``objectives.ELBO(gradient="enumerate")`` sums over the classes and is exact in y, as is
    ``pyro.infer.TraceEnum_ELBO()`` with ``pyro.infer.config_enumerate(guide)`` for the guide.

    By that bound a labelled datum teaches q(y|x) nothing; so, in training mode, it adds alpha log q(y|x) to the
    objective. In evaluation mode, as in ``evidence`` and for ``fit``'s validation bound, there is no such term, and
    log w is that of the programs.

    Args:
        in_shape: event shape of x.
        family: module with ``num_features`` whose ``forward(h)`` returns q(z|x, y).
        encoder: network factory or ready module, for x and y together; see ``ConditionalGuide``.
        classifier: network factory called with (in_shape, num_classes), or a ready module; logits of q(y|x).
        num_classes: number of classes.
        alpha: weight of log q(y|x) for a labelled datum. With the objective a mean over data, that of the paper is
            0.1 N / N_l, N_l of the N data being labelled.
        loc: subtracted from x before encoder and classifier.
        scale: x - loc is divided by it.
        missing: take NaN in x as missing, and show encoder and classifier the mask of observed entries.

    Raises:
        ValueError: for alpha < 0, or if ``scale`` is not positive.

    Source: Kingma et al. (2014), Semi-supervised Learning with Deep Generative Models, equations 6 to 9.
    """

    def __init__(
        self,
        in_shape: Shape,
        family: GuideFamily,
        encoder: Network,
        classifier: Network,
        *,
        num_classes: int,
        alpha: float = 0.0,
        loc: float | Tensor = 0.0,
        scale: float | Tensor = 1.0,
        missing: bool = False,
    ) -> None:
        super().__init__()
        if not alpha >= 0:
            raise ValueError(f"Expected alpha >= 0; got {alpha!r}.")
        self.conditional = ConditionalGuide(
            in_shape, family, encoder, num_classes=num_classes, loc=loc, scale=scale, missing=missing
        )
        self.classifier = build_network(classifier, self.conditional.seen_shape, num_classes)
        self.alpha = alpha

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Run the guide on x of shape (N, *in_shape) and labels y of shape (N,), -1 where unknown; returns z."""
        expose_parameters(self)
        q_y = self.class_posterior(x)
        with pyro.plate("data", x.shape[0]):
            if y is not None:
                if self.training and self.alpha > 0:
                    with InferConfigMessenger(lambda site: {TRAINING_TERM: True}):
                        pyro.factor("classifier", -self.alpha * _log_prob_of_known(q_y, y), has_rsample=True)
                q_y = _at_known(q_y, y)
            drawn = pyro.sample("y", q_y)
            return pyro.sample("z", as_pyro(self.conditional.posterior(x, drawn)))

    def class_posterior(self, x: Tensor) -> dist.Categorical:
        """Return q(y|x), batch shape (N,), for x of shape (N, *in_shape)."""
        return dist.Categorical(logits=self.classifier(self.conditional.standardize(x)))

    def check_data(self, x: Tensor, y: Tensor | None = None, name: str = "x") -> None:
        """Refuse missing entries unless the guide is made for them.

        Raises:
            ValueError: for NaN in x without ``missing``.
        """
        self.conditional.check_data(x, y, name)

    @torch.no_grad()
    def classify(self, x: Tensor) -> Tensor:
        """Return the most probable class of each datum, shape (N,), for x of shape (N, *in_shape)."""
        return self.class_posterior(x).logits.argmax(-1)


def _log_prob_of_known(q_y: dist.Categorical, y: Tensor) -> Tensor:
    """Return log q(y|x) where y is known and 0 elsewhere, shape (N,)."""
    return torch.where(y == UNKNOWN, 0.0, q_y.log_prob(y.clamp(min=0)))


def _at_known(q_y: dist.Categorical, y: Tensor) -> dist.Categorical:
    """Return q(y|x) with a point mass in its place where y is known."""
    classes = torch.arange(q_y.logits.shape[-1], device=y.device)
    elsewhere = torch.where(classes == y[..., None], 0.0, -torch.inf).to(q_y.logits)
    return dist.Categorical(logits=torch.where((y == UNKNOWN)[..., None], q_y.logits, elsewhere))
