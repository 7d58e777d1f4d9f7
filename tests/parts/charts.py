"""Charts of supports in one or two dimensions: maps of the square onto them, and probabilities of its cells."""

from __future__ import annotations

import numpy as np
import torch
from torch.distributions import constraints

CELLS, NODES = 14, 12


class Reals:
    """t in (-1, 1)^2 to z = t^3 / (1 - t^2), which tames poles at 0 and Cauchy tails."""

    dim = 2

    def value(self, free):
        return free

    free = value

    def from_square(self, t):
        slope = t**2 * (3 - t**2) / (1 - t**2) ** 2
        return t**3 / (1 - t**2), slope.log().sum(-1)

    def to_square(self, z):
        t = np.linspace(-1, 1, 200_001)[1:-1]
        return np.interp(z, t**3 / (1 - t**2), t)


class Cube(Reals):
    """The unit square by z = sigmoid(20 t^3)."""

    def value(self, free):
        return free.sigmoid()

    def free(self, z):
        return z.logit()

    def from_square(self, t):
        z = (20 * t**3).sigmoid()
        return z, (60 * t**2 * z * (1 - z)).log().sum(-1)

    def to_square(self, z):
        return np.cbrt(torch.as_tensor(z).logit().numpy() / 20)


class Simplex(Cube):
    """Three shares, two of them free: z_1 = a, z_2 = (1 - a) b with (a, b) in the unit square."""

    dim = 3

    def value(self, free):
        return free.softmax(-1)

    def free(self, z):
        return z.log()

    def from_square(self, t):
        square, log_slope = super().from_square(t)
        a, b = square.unbind(-1)
        return torch.stack([a, (1 - a) * b, (1 - a) * (1 - b)], -1), log_slope + torch.log1p(-a)

    def to_square(self, z):
        a = z[..., 0]
        return super().to_square(np.stack([a, z[..., 1] / (z[..., 1] + z[..., 2])], -1))


CHARTS = {constraints.real: Reals(), constraints.unit_interval: Cube(), constraints.simplex: Simplex()}


def chart_of(p):
    """Return the chart of a distribution's support, or of a part's."""
    p = p() if isinstance(p, torch.nn.Module) else p
    support = p.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return CHARTS.get(support, CHARTS[constraints.real])


def cells(p, chart, num_draws):
    """Return the probability of each cell of the square under log_prob, by quadrature, and the count of draws."""
    edges = np.linspace(-1, 1, CELLS + 1)
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    points = ((edges[:-1, None] + edges[1:, None]) / 2 + nodes / CELLS).ravel()
    square = torch.tensor(np.stack(np.meshgrid(points, points, indexing="ij"), -1))
    z, log_slope = chart.from_square(square)
    with torch.no_grad():
        density = (p.log_prob(z) + log_slope).exp().numpy()
        draws = p.sample((num_draws,)).numpy()
    blocks = density.reshape(CELLS, NODES, CELLS, NODES) / CELLS**2
    probability = np.einsum("iajb,a,b->ij", blocks, weights, weights)
    count, *_ = np.histogram2d(*chart.to_square(draws).T, bins=[edges, edges])
    return probability.ravel(), count.ravel()
