"""Plates of every kind, automatic guides, a parameter for each datum, and Pyro's modules, as tutorials write them."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import autoguide
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints

from programs_of_others.formulas import Published, gamma, normal, student_t
from programs_of_others.simple import HALF, ZERO, N, on_a_line, reals, seeded


def normal_normal(sized=True):
    """z ~ N(0, 1), x | z ~ N(z, 1), with a guide that is not the posterior N(x / 2, 1 / 2)."""

    def make(seed):
        x = seeded(seed, reals(N))

        def plate(x):
            return pyro.plate("data", len(x)) if sized else pyro.plate("data")

        def model(x):
            with plate(x):
                z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(x):
            with plate(x):
                pyro.sample("z", dist.Normal(0.4 * x, 0.8))

        def terms(latents, x):
            z = latents["z"]
            return normal(x, z, 1.0), normal(z, 0.0, 1.0), normal(z, 0.4 * x, 0.8)

        return Published(model, guide, x, terms, lambda x: normal(x, 0.0, math.sqrt(2)))

    return make


def inner_plate(dims):
    """theta_n ~ N(0, 1), x_nm ~ N(theta_n, 1), m = 1, ..., 3, with plates whose dims are said, or left to Pyro.

    Left to Pyro the outer plate takes dim -1, so that the inner one lies to its left and the data have shape (3, N).
    """

    def make(seed):
        x = seeded(seed, reals(N, 3))
        outer, inner = (-2, -1) if dims else (None, None)

        def model(x):
            with pyro.plate("groups", len(x), dim=outer):
                theta = pyro.sample("theta", dist.Normal(ZERO, 1.0))
                with pyro.plate("members", x.shape[1], dim=inner):
                    pyro.sample("x", dist.Normal(theta, 1.0), obs=x if dims else x.T)

        def guide(x):
            with pyro.plate("groups", len(x), dim=outer):
                loc = x.mean(1, keepdim=True) if dims else x.mean(1)
                pyro.sample("theta", dist.Normal(0.7 * loc, 0.6))

        def terms(latents, x):
            theta = latents["theta"].reshape(-1, len(x))
            log_q = normal(theta, 0.7 * x.mean(1), 0.6)
            return normal(x, theta[..., None], 1.0).sum(-1), normal(theta, 0.0, 1.0), log_q

        def log_px(x):  # the covariance I + 1 1' of the members of a group
            square = (x**2).sum(1) - x.sum(1) ** 2 / 4
            return -0.5 * square - 0.5 * math.log(4) - 1.5 * math.log(2 * math.pi)

        return Published(model, guide, x, terms, log_px)

    return make


def automatic(kind):
    """An automatic guide of a latent scale for each datum, a positive one: x ~ N(0, s^2), s^-2 ~ Gamma(2, 2)."""

    def make(seed):
        x = seeded(seed, reals(N))

        def model(x):
            with pyro.plate("data", len(x)):
                precision = pyro.sample("precision", dist.Gamma(torch.full_like(x, 2.0), 2.0))
                pyro.sample("x", dist.Normal(ZERO, precision.rsqrt()), obs=x)

        start = 1 / (HALF + x**2 / 3)
        init = autoguide.init_to_value(values={"precision": start})
        guide = getattr(autoguide, kind)(model, init_loc_fn=init, init_scale=0.8)
        seeded(seed, lambda: guide(x))

        def terms(latents, x):
            v = latents["precision"]
            log_q = normal(v.log(), start.log(), 0.8) - v.log()
            return normal(x, 0.0, v.rsqrt()), gamma(v, 2.0, 2.0), log_q

        return Published(model, guide, x, terms, lambda x: student_t(x, 4.0, 0.0, 1.0))

    return make


def by_parameter(seed):
    """A guide without an encoder: a location and a scale for each datum in Pyro's store."""
    x = seeded(seed, reals(N))
    start = 0.5 * x + 0.2

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        loc = pyro.param("loc of each", lambda: start.clone())
        scale = pyro.param("scale of each", lambda: torch.full((N,), 0.8).double(), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, scale))

    def terms(latents, x):
        return normal(x, latents["z"], 1.0), normal(latents["z"], 0.0, 1.0), normal(latents["z"], start, 0.8)

    return Published(model, guide, x, terms, lambda x: normal(x, 0.0, math.sqrt(2)))


class Robust(PyroModule):
    """Student-t noise whose scale is a ``PyroParam``; the prior's mean is a buffer."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(1.5).double())
        self.scale = PyroParam(torch.tensor(0.7).double(), constraints.positive)
        self.register_buffer("zero", ZERO.clone())

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.zero, 1.0))
            pyro.sample("x", dist.StudentT(3.0, self.slope * z, self.scale), obs=x)


class Linear(PyroModule):
    """q(z | x) = N(a x, s^2)."""

    def __init__(self):
        super().__init__()
        self.a = PyroParam(torch.tensor(0.4).double())
        self.s = PyroParam(torch.tensor(0.8).double(), constraints.positive)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.a * x, self.s))


def robust(seed):
    model, guide, x = Robust(), Linear(), seeded(seed, reals(N))

    def terms(latents, x):
        z = latents["z"]
        return student_t(x, 3.0, 1.5 * z, 0.7), normal(z, 0.0, 1.0), normal(z, 0.4 * x, 0.8)

    return Published(model, guide, x, terms, on_a_line(terms))


PLATES = {
    "plate": normal_normal(),
    "plate without size": normal_normal(sized=False),
    "inner plate": inner_plate(True),
    "inner plate without dims": inner_plate(False),
    "AutoNormal": automatic("AutoNormal"),
    "AutoDiagonalNormal": automatic("AutoDiagonalNormal"),
    "a parameter for each datum": by_parameter,
    "PyroModule": robust,
}
