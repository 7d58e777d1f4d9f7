"""Likelihoods of levels, one of several for each entry, and of their counts."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.core.checks import check_positive_int
from pyro_vae.core.modules import Shape
from pyro_vae.models.likelihoods.base import Likelihood


class Categorical(Likelihood):
    """Independent entries with one of C levels each, p(x|z) = prod_i pi_i[x_i], pi_i = softmax(h_i).

    The default C is that of 8-bit images. The distribution's mean is that of the level's number, for levels in an
    order such as grey; its mode is the most probable level.

    Args:
        event_shape: shape of one datum.
        num_classes: number of levels C; data are the numbers 0, ..., C - 1 as floating point.

    Source: van den Oord, Kalchbrenner and Kavukcuoglu (2016), for images.
    """

    hint = "Data are level numbers, 0 to 255 for 8-bit images: (255 * x).round() where they were divided by 255."

    def __init__(self, event_shape: Shape, num_classes: int = 256) -> None:
        super().__init__(event_shape)
        check_positive_int(num_classes, "num_classes")
        self.num_classes = num_classes
        self.features_per_entry = num_classes
        self.support = constraints.integer_interval(0, num_classes - 1)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) for logits h of shape (..., num_features), all levels of an entry side by side."""
        return self._independent(Levels(logits=h.unflatten(-1, (*self.event_shape, self.num_classes))))


class Levels(dist.Categorical):
    """Categorical whose draws have the dtype of its parameters, as data have, and whose mean is defined."""

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Draw level numbers as floating point."""
        return super().sample(torch.Size(sample_shape)).to(self.logits.dtype)

    @property
    def mean(self) -> Tensor:
        """Mean of the level's number, sum_c c pi_c."""
        numbers = torch.arange(self.probs.shape[-1], dtype=self.probs.dtype, device=self.probs.device)
        return (self.probs * numbers).sum(-1)


class Multinomial(Likelihood):
    """Counts of V kinds given their total, p(x|z, n) = n! prod_v pi_v^x_v / x_v!, pi = softmax(h).

    The total n = sum_v x_v of each datum is taken from the data, and may differ from one to the next: log p(x|z)
    and log p(x) are conditional on it, as in topic models, where nobody models the length of a document. Draws
    have ``total`` counts each. The entries are dependent, so that there is no score for each.

    Args:
        event_shape: (V,), the number of kinds.
        total: n of the draws that ``sample`` makes.

    Raises:
        ValueError: if the event has more than one dimension.

    Source: Miao, Yu and Blunsom (2016); Liang et al. (2018), section 2.1.
    """

    support = constraints.nonnegative_integer
    hint = "Counts are whole numbers: give them unscaled, not as frequencies."

    def __init__(self, event_shape: Shape, total: int = 100) -> None:
        super().__init__(event_shape)
        check_positive_int(total, "total")
        if len(self.event_shape) != 1:
            raise ValueError(f"Expected event_shape (V,) for Multinomial; got {tuple(self.event_shape)}.")
        self.total = total

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return p(x|z, n) for logits h of shape (..., V)."""
        return _MultinomialGivenTotal(self.total, logits=h)


class _MultinomialGivenTotal(dist.Multinomial):
    """Multinomial that scores counts of any total, and draws those of one."""

    support = constraints.independent(constraints.nonnegative_integer, 1)
