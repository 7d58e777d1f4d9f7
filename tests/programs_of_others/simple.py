"""Small programs as tutorials write them: conjugate pairs, mixtures, integers through an embedding."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import config_enumerate
from torch import nn
from torch.distributions import constraints

from programs_of_others.formulas import (
    Published,
    bernoulli,
    beta,
    categorical,
    gamma,
    integral,
    line,
    log_beta,
    normal,
    poisson,
)
from programs_of_others.images import bits, network, proposal

N = 7
ZERO, HALF = torch.tensor(0.0).double(), torch.tensor(0.5).double()
MEANS = torch.tensor([-1.5, 0.0, 2.0]).double()
WEIGHTS = torch.tensor([0.5, 0.3, 0.2]).double()
OUTCOMES = 4


def seeded(seed, build):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def reals(*shape):
    return lambda: torch.randn(*shape).double() * 1.3


def on_a_line(terms, site="z"):
    points, log_length = line()
    return lambda *args: integral(terms, site, points, log_length, *args)


def mixture(where):
    """A mixture of three normals whose assignments are latent, each datum's its own.

    Args:
        where: "guide" has an assignment of its own, which objectives may enumerate; "model" sums it out in training.
    """

    def make(seed):
        x, encoder = seeded(seed, lambda: (torch.randn(N).double() * 2, network(1, 5, 3)))

        def parameters():
            weights = pyro.param("weights", lambda: WEIGHTS.clone(), constraint=constraints.simplex)
            return weights, pyro.param("locs", lambda: MEANS.clone())

        @config_enumerate
        def model(x):
            weights, locs = parameters()
            with pyro.plate("data", len(x)):
                k = pyro.sample("assignment", dist.Categorical(weights))
                pyro.sample("x", dist.Normal(locs[k], 0.8), obs=x)

        @config_enumerate
        def guide(x):
            pyro.module("encoder", encoder)
            with pyro.plate("data", len(x)):
                if where == "guide":
                    pyro.sample("assignment", dist.Categorical(logits=encoder(x[:, None])))

        def terms(latents, x):
            k = latents.get("assignment")
            if k is None:  # summed out: the weight is p(x) itself
                return log_px(x), torch.zeros(N).double(), torch.zeros(N).double()
            return normal(x, MEANS[k], 0.8), WEIGHTS[k].log(), categorical(k, encoder(x[:, None]))

        def log_px(x):
            return (normal(x[:, None], MEANS, 0.8) + WEIGHTS.log()).logsumexp(1)

        return Published(model, guide, x, terms, log_px)

    return make


def embedded(first):
    """Categorical outcomes of users known by number, through an embedding; the integers come first, or a float does.

    Args:
        first: "integers" for the arguments (users, outcome), "floats" with a covariate before them.
    """

    def make(seed):
        tables = seeded(seed, lambda: (nn.Embedding(5, 2).double(), network(4, OUTCOMES), network(3, 2)))
        embed, decoder, encoder = tables
        users, y = seeded(seed, lambda: (torch.randint(5, (N,)), torch.randint(OUTCOMES, (N,))))
        covariate = seeded(seed, reals(N))
        args = (users, y) if first == "integers" else (covariate, users, y)

        def features(*args):
            *c, users, y = args
            return (c[0] if c else torch.ones(len(y)).double())[:, None], embed(users), y

        def logits(z, *args):
            c, user, _ = features(*args)
            return decoder(torch.cat([v.expand(*z.shape, -1) for v in (z[..., None], c, user)], -1))

        def q(*args):
            _, user, y = features(*args)
            loc, scale = proposal(encoder(torch.cat([user, y.double()[:, None] / OUTCOMES], -1)))
            return loc[:, 0], scale[:, 0]

        def model(*args):
            pyro.module("embed", embed)
            pyro.module("decoder", decoder)
            with pyro.plate("data", len(args[-1])):
                z = pyro.sample("z", dist.Normal(ZERO, 1.0))
                pyro.sample("y", dist.Categorical(logits=logits(z, *args)), obs=args[-1])

        def guide(*args):
            pyro.module("encoder", encoder)
            with pyro.plate("data", len(args[-1])):
                pyro.sample("z", dist.Normal(*q(*args)))

        def terms(latents, *args):
            z = latents["z"]
            return categorical(args[-1], logits(z, *args)), normal(z, 0.0, 1.0), normal(z, *q(*args))

        return Published(model, guide, args, terms, on_a_line(terms))

    return make


def gamma_poisson(seed):
    """Counts of three periods with a rate of their own for each datum: negative binomial."""
    x = seeded(seed, lambda: torch.poisson(torch.full((N, 3), 4.0)).double())
    shape, rate = 2.0, 0.5

    def model(x):
        with pyro.plate("shops", len(x), dim=-2):
            rates = pyro.sample("rate", dist.Gamma(torch.tensor(shape).double(), rate))
            with pyro.plate("periods", x.shape[1], dim=-1):
                pyro.sample("x", dist.Poisson(rates), obs=x)

    def guide(x):
        with pyro.plate("shops", len(x), dim=-2):
            pyro.sample("rate", dist.Gamma(1.5 + 0.8 * x.sum(1, keepdim=True), 3.0))

    def terms(latents, x):
        v = latents["rate"][..., 0]
        return poisson(x, v[..., None]).sum(-1), gamma(v, shape, rate), gamma(v, 1.5 + 0.8 * x.sum(1), 3.0)

    def log_px(x):
        total = x.sum(1)
        value = shape * math.log(rate) - math.lgamma(shape) + (shape + total).lgamma()
        return value - (shape + total) * math.log(rate + 3) - (x + 1).lgamma().sum(1)

    return Published(model, guide, x, terms, log_px)


def beta_bernoulli(seed):
    """Five tosses of a coin of its own for each datum, as one event."""
    x = seeded(seed, lambda: bits(N, 0.6, 5))

    def model(x):
        with pyro.plate("coins", len(x)):
            p = pyro.sample("p", dist.Beta(torch.full_like(x[:, 0], 2.0), 2.0))
            pyro.sample("x", dist.Bernoulli(p[..., None].expand(*p.shape, 5)).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("coins", len(x)):
            pyro.sample("p", dist.Beta(1.5 + 0.9 * x.sum(1), 1.5 + 0.9 * (1 - x).sum(1)))

    def terms(latents, x):
        p, heads = latents["p"], x.sum(1)
        log_q = beta(p, 1.5 + 0.9 * heads, 1.5 + 0.9 * (5 - heads))
        return bernoulli(x, p.logit()[..., None]).sum(-1), beta(p, 2.0, 2.0), log_q

    def log_px(x):
        heads = x.sum(1)
        return log_beta(2 + heads, 7 - heads) - log_beta(2.0, 2.0)

    return Published(model, guide, x, terms, log_px)


def mixture_prior(seed):
    """A mixture of two normals as the prior, and a normal with outliers as noise, both ``MixtureSameFamily``."""
    x = seeded(seed, reals(N))
    weights, locs, scales = (torch.tensor(v).double() for v in ((0.3, 0.7), (-1.5, 1.0), (0.5, 0.8)))
    clean, spread = torch.tensor([0.9, 0.1]).double(), torch.tensor([0.5, 3.0]).double()

    def model(x):
        with pyro.plate("data", len(x)):
            prior = dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(locs, scales))
            z = pyro.sample("z", prior)
            noise = dist.Normal(z[..., None], spread)
            pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(clean.expand(noise.batch_shape)), noise), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.7 * x, 0.9))

    def terms(latents, x):
        z = latents["z"]
        likelihood = (normal(x[:, None], z[..., None], spread) + clean.log()).logsumexp(-1)
        return likelihood, (normal(z[..., None], locs, scales) + weights.log()).logsumexp(-1), normal(z, 0.7 * x, 0.9)

    return Published(model, guide, x, terms, on_a_line(terms))


SIMPLE = {
    "mixture, assignments in the guide": mixture("guide"),
    "mixture, assignments in the model": mixture("model"),
    "embedding, integers first": embedded("integers"),
    "embedding, floats first": embedded("floats"),
    "gamma and Poisson": gamma_poisson,
    "beta and Bernoulli": beta_bernoulli,
    "MixtureSameFamily": mixture_prior,
}
