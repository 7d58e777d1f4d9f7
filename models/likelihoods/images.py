"""Likelihoods of images with a finite number of levels, such as the 256 of 8-bit images."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.core.checks import check_positive_int
from pyro_vae.core.modules import Shape
from pyro_vae.models.distributions import scalar
from pyro_vae.models.likelihoods.base import Likelihood, PositiveParameter, PositiveValue

_HINT = "Data are level numbers, 0 to 255 for 8-bit images: (255 * x).round() where they were divided by 255."


class DiscretizedLogistic(Likelihood):
    """Independent levels, p(x|z) = prod_i P_i(x_i), the logistic distribution's mass in the bin of the level.

        P(x) = sigma((y + d - mu) / s) - sigma((y - d - mu) / s),   y = 2 x / (L - 1) - 1,   d = 1 / (L - 1)

    Levels 0, ..., L - 1 are spread over [-1, 1]; the first and the last bin reach to infinity.

    Args:
        event_shape: shape of one datum.
        scale: s, in units of half the range of levels; the logistic's standard deviation is pi s / sqrt(3). A number
            fixes it; "shared" learns one from 0.1 on, "dimension" one for each entry of x, and "datum" lets the decoder
            give s = 0.1 exp(h).
        num_classes: number of levels L; data are the numbers 0, ..., L - 1 as floating point.

    Raises:
        ValueError: if ``scale`` is neither a positive number nor one of the three names, or L < 2.

    Source: Kingma et al. (2016); Salimans et al. (2017), section 2.1.
    """

    hint = _HINT

    def __init__(self, event_shape: Shape, scale: PositiveValue = "shared", num_classes: int = 256) -> None:
        super().__init__(event_shape)
        _check_classes(num_classes)
        self.num_classes = num_classes
        self.support = constraints.integer_interval(0, num_classes - 1)
        self.scale = PositiveParameter(scale, self.event_shape, "scale", initial=0.1)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) for h = mu, or h = (mu, log(s / 0.1)), of shape (..., num_features)."""
        loc, scale = self._split(h)
        entries = scalar.DiscretizedLogistic(loc=loc, scale=scale, num_classes=self.num_classes)
        return self._independent(entries)


class MixtureOfDiscretizedLogistics(Likelihood):
    """Independent levels, each from a mixture, p(x|z) = prod_i sum_m pi_im P_im(x_i).

    The P_im are those of ``DiscretizedLogistic``. Colour channels are entries like any other; Salimans et al. let
    the means of one depend on the channels before it.

    Args:
        event_shape: shape of one datum.
        num_components: number of components M.
        num_classes: number of levels L; data are the numbers 0, ..., L - 1 as floating point.

    Raises:
        ValueError: if M < 1 or L < 2.

    Source: Salimans et al. (2017), section 2.1.
    """

    hint = _HINT

    def __init__(self, event_shape: Shape, num_components: int = 5, num_classes: int = 256) -> None:
        super().__init__(event_shape)
        check_positive_int(num_components, "num_components")
        _check_classes(num_classes)
        self.num_components, self.num_classes = num_components, num_classes
        self.features_per_entry = 3 * num_components
        self.support = constraints.integer_interval(0, num_classes - 1)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) for h = (logits of pi, mu, log(s / 0.1)), shape (..., num_features)."""
        blocks = h.unflatten(-1, (3, self.num_components, *self.event_shape)).unbind(-2 - len(self.event_shape))
        logits, loc, log_scale = (block.movedim(-1 - len(self.event_shape), -1) for block in blocks)
        components = scalar.DiscretizedLogistic(loc=loc, scale=0.1 * log_scale.exp(), num_classes=self.num_classes)
        return self._independent(dist.MixtureSameFamily(dist.Categorical(logits=logits), components))


def _check_classes(num_classes: int) -> None:
    check_positive_int(num_classes, "num_classes")
    if num_classes == 1:
        raise ValueError("Expected num_classes to be an integer >= 2; got 1.")
