"""Log densities, integrals and a Kalman filter in plain tensors: what the programs of others are held against.

Nothing here runs Pyro or a class of torch.distributions. ``normal`` to ``zero_inflated`` are log densities of single
numbers; all that is summed is summed over the last dimension.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

LOG_2PI = math.log(2 * math.pi)


class Published(NamedTuple):
    """A program as ``make(seed)`` returns it, with what is known of it.

    Attributes:
        model: p(x, z) as its authors would write it.
        guide: q(z | x).
        x: data, a tensor or a tuple of tensors.
        terms: {site: value, shape (K, B, ...)} and the arguments -> log p(x | z), log p(z), log q(z | x), each (K, B).
        log_px: the arguments -> the exact log p(x), shape (N,); None where nobody knows it.
    """

    model: object
    guide: object
    x: object
    terms: object
    log_px: object = None

    @property
    def args(self) -> tuple[Tensor, ...]:
        return self.x if isinstance(self.x, tuple) else (self.x,)

    def log_w(self, latents, *args):
        likelihood, prior, log_q = self.terms(latents, *args)
        return likelihood + prior - log_q


def normal(x, loc, scale):
    scale = torch.as_tensor(scale, dtype=torch.float64)
    return -0.5 * ((x - loc) / scale) ** 2 - scale.log() - 0.5 * LOG_2PI


def log_normal(x, loc, scale):
    return normal(x.log(), loc, scale) - x.log()


def student_t(x, df, loc, scale):
    df, scale = (torch.as_tensor(v, dtype=torch.float64) for v in (df, scale))
    u = ((x - loc) / scale) ** 2
    constant = ((df + 1) / 2).lgamma() - (df / 2).lgamma() - 0.5 * (df * math.pi).log() - scale.log()
    return constant - (df + 1) / 2 * torch.log1p(u / df)


def bernoulli(x, logits):
    return x * logsigmoid(logits) + (1 - x) * logsigmoid(-logits)


def poisson(x, rate):
    return x * rate.log() - rate - (x + 1).lgamma()


def gamma(x, shape, rate):
    shape, rate = (torch.as_tensor(v, dtype=torch.float64) for v in (shape, rate))
    return shape * rate.log() - shape.lgamma() + (shape - 1) * x.log() - rate * x


def log_beta(a, b):
    a, b = (torch.as_tensor(v, dtype=torch.float64) for v in (a, b))
    return a.lgamma() + b.lgamma() - (a + b).lgamma()


def beta(x, a, b):
    return (a - 1) * x.log() + (b - 1) * torch.log1p(-x) - log_beta(a, b)


def categorical(x, logits):
    """x are whole numbers, of the shape that the logits have without their last dimension, up to broadcasting."""
    log_p = logits.log_softmax(-1)
    shape = torch.broadcast_shapes(x.shape, log_p.shape[:-1])
    return log_p.expand(*shape, -1).gather(-1, x.long().expand(shape)[..., None])[..., 0]


def multinomial(x, p):
    return (x.sum(-1) + 1).lgamma() - (x + 1).lgamma().sum(-1) + (x * p.log()).sum(-1)


def negative_binomial(x, total, logits):
    """The probability of x successes of log odds ``logits`` before ``total`` failures."""
    return (x + total).lgamma() - (x + 1).lgamma() - total.lgamma() - total * softplus(logits) - x * softplus(-logits)


def zero_inflated(x, gate_logits, log_p):
    mixed = torch.logaddexp(logsigmoid(gate_logits), logsigmoid(-gate_logits) + log_p)
    return torch.where(x == 0, mixed, logsigmoid(-gate_logits) + log_p)


def multivariate_normal(x, loc, covariance):
    """x and loc of shape (N, P), one covariance (P, P)."""
    tril = torch.linalg.cholesky(covariance)
    u = torch.linalg.solve_triangular(tril, (x - loc).T, upper=False)
    return -0.5 * (u**2).sum(0) - tril.diagonal().log().sum() - 0.5 * x.shape[-1] * LOG_2PI


def line(low=-9.0, high=9.0, size=2001):
    """Return points and the log of the length that each stands for, shapes (size,) and ()."""
    points = torch.linspace(low, high, size, dtype=torch.float64)
    return points, math.log((high - low) / (size - 1))


def plane(low=-8.0, high=8.0, size=161):
    """Return points of the plane, shape (size^2, 2), and the log of the area that each stands for."""
    points, log_length = line(low, high, size)
    return torch.cartesian_prod(points, points), 2 * log_length


def integral(published, site, points, log_volume, *args):
    """Return log p(x) by the trapezoidal rule over the values of the one latent site, shape (N,).

    Args:
        points: shape (G,) or (G, D), on which the joint density has fallen to nothing at the border.
    """
    values = points[:, None].expand(len(points), len(args[0]), *points.shape[1:])
    with torch.no_grad():
        likelihood, prior, _ = published({site: values}, *args)
    return (likelihood + prior).logsumexp(0) + log_volume


def kalman(x, length, a, q, h, r):
    """Return log p(x_1, ..., x_L) of z_1 ~ N(0, q^2), z_t = a z_(t-1) + q e, x_t | z_t ~ N(h z_t, r^2), shape (N,).

    Args:
        x: shape (N, T).
        length: how much of each is observed, shape (N,).
    """
    mean, variance, total = torch.zeros(len(x)).double(), torch.full((len(x),), q**2).double(), torch.zeros(len(x))
    for t in range(x.shape[1]):
        s = h**2 * variance + r**2
        total = total + torch.where(t < length, normal(x[:, t], h * mean, s.sqrt()), 0.0)
        gain = h * variance / s
        mean, variance = mean + gain * (x[:, t] - h * mean), (1 - gain * h) * variance
        mean, variance = a * mean, a**2 * variance + q**2
    return total
