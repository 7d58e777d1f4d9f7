"""Tables: a causal effect with a hidden confounder (Louizos et al., 2017), and columns of four kinds."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule

from programs_of_others.formulas import Published, bernoulli, categorical, integral, line, normal, poisson
from programs_of_others.images import moments, network, proposal

CAUSES = 3


class Cause(PyroModule):
    """z confounds covariates x, treatment t and outcome y, whose network there is one of for each treatment."""

    def __init__(self):
        super().__init__()
        self.x_nn, self.t_nn = network(1, 5, 2 * CAUSES), network(1, 1)
        self.y0_nn, self.y1_nn = network(1, 4, 2), network(1, 4, 2)

    def outcome(self, z, t):
        first, second = (moments(net(z)) for net in (self.y0_nn, self.y1_nn))
        return [torch.where(t.bool(), b[..., 0], a[..., 0]) for a, b in zip(first, second, strict=True)]

    def forward(self, x, t=None, y=None):
        with pyro.plate("data", x.size(0), subsample=x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(*moments(self.x_nn(z))).to_event(1), obs=x)
            t = pyro.sample("t", dist.Bernoulli(logits=self.t_nn(z)[..., 0]), obs=t)
            pyro.sample("y", dist.Normal(*self.outcome(z, t)), obs=y)


class Effect(PyroModule):
    """q(t | x) q(y | t, x) q(z | y, t, x), of which the first two are for prediction."""

    def __init__(self):
        super().__init__()
        self.t_nn, self.y_nn, self.z_nn = network(CAUSES, 1), network(CAUSES + 1, 2), network(CAUSES + 2, 6, 2)

    def forward(self, x, t=None, y=None):
        auxiliary = {"is_auxiliary": True}
        with pyro.plate("data", x.size(0), subsample=x):
            t = pyro.sample("t", dist.Bernoulli(logits=self.t_nn(x)[..., 0]), obs=t, infer=auxiliary)
            loc, scale = moments(self.y_nn(torch.cat([x, t[..., None]], -1)))
            y = pyro.sample("y", dist.Normal(loc[..., 0], scale[..., 0]), obs=y, infer=auxiliary)
            pyro.sample("z", dist.Normal(*self.of_z(x, t, y)).to_event(1))

    def of_z(self, x, t, y):
        return proposal(self.z_nn(torch.cat([x, t[..., None], y[..., None]], -1)))


def cevae(blocked):
    def make(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model, effect = Cause(), Effect()
            args = torch.randn(7, CAUSES).double(), (torch.rand(7) < 0.5).double(), torch.randn(7).double()

        def terms(latents, x, t, y):
            z = latents["z"]
            likelihood = normal(x, *moments(model.x_nn(z))).sum(-1) + bernoulli(t, model.t_nn(z)[..., 0])
            likelihood = likelihood + normal(y, *model.outcome(z, t))
            return likelihood, normal(z, 0.0, 1.0)[..., 0], normal(z, *effect.of_z(x, t, y))[..., 0]

        def log_px(*args):
            points, log_length = line()
            return integral(terms, "z", points[:, None], log_length, *args)

        guide = poutine.block(effect, hide=["t", "y"]) if blocked else effect
        return Published(model, guide, args, terms, log_px)

    return make


def mixed_columns(seed):
    """Four columns of four kinds in four arguments, one of them with missing entries that a mask leaves out."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        decoder, encoder = network(1, 5, 6), network(3, 6, 2)
        real, bit, count = (
            torch.randn(7).double(),
            (torch.rand(7) < 0.5).double(),
            torch.poisson(2 * torch.ones(7)).double(),
        )
        kind, there = torch.randint(3, (7,)), torch.arange(7) % 3 > 0

    def model(real, bit, count, kind, there):
        pyro.module("decoder", decoder)
        with pyro.plate("rows", len(real)):
            z = pyro.sample("z", dist.Normal(real.new_zeros(1), 1.0).to_event(1))
            h = decoder(z)
            pyro.sample("real", dist.Normal(h[..., 0], 0.8).mask(there), obs=real)
            pyro.sample("bit", dist.Bernoulli(logits=h[..., 1]), obs=bit)
            pyro.sample("count", dist.Poisson(h[..., 2].exp()), obs=count)
            pyro.sample("kind", dist.Categorical(logits=h[..., 3:]), obs=kind)

    def encoded(real, bit, count, there):
        return proposal(encoder(torch.stack([real * there, bit, count.log1p()], -1)))

    def guide(real, bit, count, kind, there):
        pyro.module("encoder", encoder)
        with pyro.plate("rows", len(real)):
            pyro.sample("z", dist.Normal(*encoded(real, bit, count, there)).to_event(1))

    def terms(latents, real, bit, count, kind, there):
        z = latents["z"]
        h = decoder(z)
        likelihood = there * normal(real, h[..., 0], 0.8) + bernoulli(bit, h[..., 1])
        likelihood = likelihood + poisson(count, h[..., 2].exp()) + categorical(kind, h[..., 3:])
        return likelihood, normal(z, 0.0, 1.0)[..., 0], normal(z, *encoded(real, bit, count, there))[..., 0]

    def log_px(*args):
        points, log_length = line()
        return integral(terms, "z", points[:, None], log_length, *args)

    return Published(model, guide, (real, bit, count, kind, there), terms, log_px)


TABLES = {
    "cevae": cevae(True),
    "cevae, treatment scored": cevae(False),
    "mixed columns": mixed_columns,
}
