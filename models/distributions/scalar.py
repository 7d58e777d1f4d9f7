"""Distributions of one number that torch and Pyro lack, or that lose their accuracy there."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

SERIES = 0.1
"""|eta| below which power series replace the formulas of the continuous Bernoulli, whose gradients cancel."""
SWITCH = 16.0
"""Argument above which the asymptotic series of log Gamma is exact to 1e-11 with three terms."""


class ScalarDistribution(dist.TorchDistribution):
    """Base class of distributions of one number.

    Args:
        validate_args: whether to check values and parameters; torch's default if absent.
        parameters: tensors, which broadcast to the batch shape, and settings that are not tensors; each becomes an
            attribute of its name.
    """

    def __init__(self, *, validate_args: bool | None = None, **parameters: Any) -> None:
        self._tensors = tuple(name for name, value in parameters.items() if isinstance(value, Tensor))
        self.__dict__.update(parameters)
        shape = torch.broadcast_shapes(*(parameters[name].shape for name in self._tensors))
        self.__dict__.update({name: parameters[name].expand(shape) for name in self._tensors})
        super().__init__(shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> ScalarDistribution:
        """Return the distribution with its parameters expanded."""
        new = self._get_checked_instance(ScalarDistribution, _instance)
        new.__dict__.update(vars(self))
        new.__dict__.update({name: getattr(self, name).expand(batch_shape) for name in self._tensors})
        super(ScalarDistribution, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _uniform(self, sample_shape: tuple[int, ...]) -> Tensor:
        """Return uniform numbers in the open unit interval, of the shape of a draw."""
        like = getattr(self, self._tensors[0])
        eps = torch.finfo(like.dtype).eps
        u = torch.rand(self._extended_shape(sample_shape), dtype=like.dtype, device=like.device)
        return u.clamp(eps / 2, 1 - eps / 2)


class ContinuousBernoulli(ScalarDistribution):
    """Distribution on [0, 1] of density p(x) = exp(eta x) eta / (exp(eta) - 1), with eta = ``logits``.

    torch's own goes through probabilities clamped to the machine's accuracy, so that in float32 its normaliser
    stops at |eta| = 16, where background pixels take eta much further.
    """

    arg_constraints: ClassVar = {"logits": constraints.real}
    support = constraints.unit_interval
    logits: Tensor

    def log_prob(self, value: Tensor) -> Tensor:
        """Return eta x - log((exp(eta) - 1) / eta), in nats."""
        if self._validate_args:
            self._validate_sample(value)
        eta = self.logits
        a = eta.abs().clamp(min=SERIES)
        far = eta * torch.where(eta > 0, value - 1, value) - torch.log(-torch.expm1(-a) / a)
        square = eta.clamp(-SERIES, SERIES) ** 2
        near = eta * (value - 0.5) - square * (1 / 24 - square * (1 / 2880 - square / 181440))
        return torch.where(eta.abs() > SERIES, far, near)

    @property
    def mean(self) -> Tensor:
        """Mean, 1 / (1 - exp(-eta)) - 1 / eta."""
        a = self.logits.abs().clamp(min=SERIES)
        upper = -1 / torch.expm1(-a) - 1 / a
        far = torch.where(self.logits > 0, upper, 1 - upper)
        eta = self.logits.clamp(-SERIES, SERIES)
        near = 0.5 + eta * (1 / 12 - eta**2 * (1 / 720 - eta**2 / 30240))
        return torch.where(self.logits.abs() > SERIES, far, near)

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Draw by inverting the distribution function."""
        with torch.no_grad():
            a = self.logits.abs().clamp(min=1e-6)  # uniform to within 1e-6 at 0
            lower = -torch.log1p(self._uniform(sample_shape) * torch.expm1(-a)) / a
            return torch.where(self.logits > 0, 1 - lower, lower).clamp(0, 1)


class StudentT(dist.StudentT):
    """Student-t whose constant keeps its accuracy as df grows."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(x), in nats."""
        if self._validate_args:
            self._validate_sample(value)
        y = (value - self.loc) / self.scale
        constant = log_gamma_ratio(self.df / 2, 0.5) - (self.df * math.pi).log() / 2 - self.scale.log()
        return constant - (self.df + 1) / 2 * (y**2 / self.df).log1p()


class DiscretizedLogistic(ScalarDistribution):
    """Level x of L, P(x) = sigma((y + d - mu) / s) - sigma((y - d - mu) / s), y = 2 x / (L - 1) - 1, d = 1 / (L - 1).

    The first and the last bin reach to infinity. With a = (y - d - mu) / s, b = a + 2 d / s, the difference is taken
    without cancellation as sigma(b) sigma(-a) (1 - exp(a - b)).
    """

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}
    loc: Tensor
    scale: Tensor
    num_classes: int

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Any:
        """Level numbers."""
        return constraints.integer_interval(0, self.num_classes - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(x), in nats."""
        if self._validate_args:
            self._validate_sample(value)
        last = self.num_classes - 1
        below = logsigmoid(self._standardized(value + 0.5))  # log of the probability of no larger level
        above = logsigmoid(-self._standardized(value - 0.5))
        inside = below + above + torch.log(-torch.expm1(-2 / (last * self.scale)))
        return torch.where(value == 0, below, torch.where(value == last, above, inside))

    @property
    def mean(self) -> Tensor:
        """Mean level, the sum over levels k >= 1 of P(X >= k)."""
        total = torch.zeros_like(self.loc)
        for level in range(1, self.num_classes):
            total = total + (-self._standardized(level - 0.5)).sigmoid()
        return total

    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Draw levels as floating point."""
        with torch.no_grad():
            y = self.loc + self.scale * self._uniform(sample_shape).logit()
            last = self.num_classes - 1
            return ((y + 1) / 2 * last).round().clamp(0, last)

    def _standardized(self, level: Tensor | float) -> Tensor:
        return (2 * level / (self.num_classes - 1) - 1 - self.loc) / self.scale


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


class ZeroInflated(dist.ZeroInflatedDistribution):
    """Pyro's zero-inflated distribution by ``gate_logits``, which it scores by before and after a draw alike.

    There, computing the gate once replaces the logits: ``expand`` then fails, and a gate that rounds to 1 has
    gradient NaN.
    """

    @property
    def gate(self) -> Tensor:
        """Probability of an extra zero."""
        return self.gate_logits.sigmoid()


def log_gamma_ratio(a: Tensor, x: Tensor | float) -> Tensor:
    """Return log Gamma(a + x) - log Gamma(a) for a > 0 and x >= 0.

    The difference of two calls of lgamma loses everything for large a: in float32 it is wrong by whole nats at
    a = 1e7, just where the Student-t nears the normal and the negative binomial the Poisson. There Stirling's
    series is subtracted term by term.
    """
    small, large = a.clamp(max=SWITCH), a.clamp(min=SWITCH)
    series = (large + x - 0.5) * torch.log1p(x / large) + x * (large.log() - 1)
    series = series + _stirling_rest(large + x) - _stirling_rest(large)
    return torch.where(a > SWITCH, series, (small + x).lgamma() - small.lgamma())


def _stirling_rest(a: Tensor) -> Tensor:
    """Return log Gamma(a) - (a - 1/2) log a + a - log(2 pi) / 2 for large a."""
    square = a**-2
    return (1 / 12 - square * (1 / 360 - square / 1260)) / a
