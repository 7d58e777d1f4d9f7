"""Likelihoods of bits, classes and counts."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.core.checks import check_positive_int
from pyro_vae.core.modules import Shape
from pyro_vae.models.distributions import double, scalar
from pyro_vae.models.likelihoods.base import Likelihood, PositiveParameter, PositiveValue, log_mean_of, logit_mean_of

_COUNTS_HINT = "Counts are whole numbers: give them unscaled, or choose a likelihood for continuous data."

SMALL_TOTAL = 128
"""Total up to which log C(n, x) is exact to 1e-4 nats in float32."""


class Bernoulli(Likelihood):
    """Independent Bernoulli pixels, p(x|z) = prod_i pi_i^x_i (1 - pi_i)^(1 - x_i), logit pi = h.

    Args:
        event_shape: shape of one datum.

    Source: Kingma and Welling (2014), appendix C.1.
    """

    support = constraints.boolean
    hint = (
        'Grey levels have no Bernoulli likelihood: binarise them, load_data(..., binarize="static"), '
        "or choose a likelihood for continuous data."
    )

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) for logits h of shape (..., num_features)."""
        return self._independent(dist.Bernoulli(logits=self._to_event(h)))

    def start_at_column(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map to the logit of the share of ones."""
        return self._feature_map(logit_mean_of(x))


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
        return self._independent(scalar.Levels(logits=h.unflatten(-1, (*self.event_shape, self.num_classes))))

    def start_at_column(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map to the logarithms of the levels' counts, each with one more."""
        loc, scale = self._feature_map()
        return (1 + torch.bincount(x.long(), minlength=self.num_classes)).to(loc).log(), scale


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
        return double.Multinomial(self.total, logits=h)


class Binomial(Likelihood):
    """Independent binomial counts out of n, p(x|z) = prod_i C(n, x_i) pi_i^x_i (1 - pi_i)^(n - x_i).

    Args:
        event_shape: shape of one datum.
        total_count: n, the largest possible count.
    """

    def __init__(self, event_shape: Shape, total_count: int) -> None:
        super().__init__(event_shape)
        check_positive_int(total_count, "total_count")
        self.total_count = total_count
        self.support = constraints.integer_interval(0, total_count)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) for logits h of shape (..., num_features)."""
        law = dist.Binomial if self.total_count <= SMALL_TOTAL else double.Binomial
        return self._independent(law(self.total_count, logits=self._to_event(h)))


class Poisson(Likelihood):
    """Independent Poisson counts, p(x|z) = prod_i exp(-lambda_i) lambda_i^x_i / x_i!, log lambda = h.

    Args:
        event_shape: shape of one datum.
    """

    support = constraints.nonnegative_integer
    hint = _COUNTS_HINT

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) for log rates h of shape (..., num_features)."""
        return self._independent(double.Poisson(log_rate=self._to_event(h)))

    def start_at_column(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map to the logarithm of the mean count."""
        return self._feature_map(log_mean_of(x))


class NegativeBinomial(Likelihood):
    """Independent counts of mean mu and variance mu + alpha mu^2, log mu = h, r = 1 / alpha.

        p(x|z) = prod_i Gamma(r + x_i) / (Gamma(r) x_i!) (mu_i / (r + mu_i))^x_i (r / (r + mu_i))^r

    Args:
        event_shape: shape of one datum.
        dispersion: alpha, 0 in the limit of the Poisson: a number fixes it; "shared" learns one, "dimension" one for
            each entry of x, and "datum" lets the decoder give log alpha.

    Raises:
        ValueError: if ``dispersion`` is neither a positive number nor one of the three names.
    """

    support = constraints.nonnegative_integer
    hint = _COUNTS_HINT

    def __init__(self, event_shape: Shape, dispersion: PositiveValue = "dimension") -> None:
        super().__init__(event_shape)
        self.dispersion = PositiveParameter(dispersion, self.event_shape, "dispersion")

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) for h = log mu, or h = (log mu, log alpha), of shape (..., num_features)."""
        log_mean, dispersion = self._split(h)
        return self._independent(double.NegativeBinomial(log_mean=log_mean, dispersion=dispersion))

    def start_at_column(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map to the logarithm of the mean count."""
        return self._feature_map(log_mean_of(x))


class ZeroInflatedNegativeBinomial(Likelihood):
    """Independent counts with more zeros, p(x|z) = prod_i pi_i [x_i = 0] + (1 - pi_i) NB(x_i; mu_i, alpha_i).

    Args:
        event_shape: shape of one datum.
        dispersion: alpha: a number fixes it; "shared" learns one, "dimension" one for each entry of x, and "datum"
            lets the decoder give log alpha.

    Raises:
        ValueError: if ``dispersion`` is neither a positive number nor one of the three names.
    """

    support = constraints.nonnegative_integer
    hint = _COUNTS_HINT
    features_per_entry = 2

    def __init__(self, event_shape: Shape, dispersion: PositiveValue = "dimension") -> None:
        super().__init__(event_shape)
        self.dispersion = PositiveParameter(dispersion, self.event_shape, "dispersion")

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return p(x|z) for h = (log mu, logit pi), and log alpha where the decoder gives it."""
        log_mean, gate, dispersion = self._split(h)
        counts = double.NegativeBinomial(log_mean=log_mean, dispersion=dispersion)
        return self._independent(scalar.ZeroInflated(counts, gate_logits=gate))

    def start_at_column(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map to the logarithm of the mean count."""
        return self._feature_map(log_mean_of(x))
