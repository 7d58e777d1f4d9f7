"""Programs and calls of ``fit`` and ``evidence`` that several tests share."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.distributions import constraints
from truth import BernoulliMixture, GammaPoisson

from pyro_vae.inference import AmortizedGuide, evidence, fit, guides
from pyro_vae.inference.guides import HierarchicalGuide, LadderGuide
from pyro_vae.inference.programs.weights import KLWeight
from pyro_vae.models import VAE, HierarchicalVAE, gated_mlp, likelihoods, mlp, priors

PIXELS = (torch.rand(60, 6, generator=torch.Generator().manual_seed(0)) < 0.4).float()
X = torch.tensor([-1.2, 0.3, 2.0], dtype=torch.float64)
quick = partial(fit, progress=False, device="cpu", batch_size=20, epochs=3)
sgd = partial(torch.optim.SGD, lr=0.01)


def normal_model(x):
    """z ~ N(0, 1) and x ~ N(z, 1), so that p(x) is N(0, 2), and p(z | x) is N(x / 2, 1 / 2)."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def make_pair(seed=0, hidden=(8,)):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = VAE(priors.StandardNormal(2), likelihoods.Bernoulli(6), mlp(hidden))
        return model, AmortizedGuide(6, guides.DiagonalNormal(2), mlp(hidden))


def split_evidence(ev, size):
    """Take an estimate of many data apart into estimates of ``size`` data each, as if these had been scored alone."""
    names = ("log_px", "std_error", "ess", "khat", "elbo")
    pieces = zip(*(getattr(ev, name).split(size) for name in names), strict=True)
    return [replace(ev, **dict(zip(names, piece, strict=True))) for piece in pieces]


def double_pair(latent=3):
    """A pair in float64, with data."""
    model = VAE(priors.StandardNormal(latent), likelihoods.Bernoulli(6), mlp((8,))).double()
    guide = AmortizedGuide(6, guides.DiagonalNormal(latent), mlp((8,))).double()
    return model, guide, (torch.rand(20, 6) < 0.4).double()


def deep_pair(kind):
    """Three layers, with a guide from the bottom up or a ladder."""
    model = HierarchicalVAE((3, 2, 2), likelihoods.Bernoulli((2, 3)), (mlp((6,)), mlp((5,)), gated_mlp((4,))))
    networks = (mlp((6,)), mlp((5,)), mlp((4,)))
    if kind == "ladder":
        return model, LadderGuide((2, 3), model, networks, widths=(6, 5, 4), loc=0.3, scale=0.5)
    families = (guides.DiagonalNormal(3), guides.DiagonalNormal(2), guides.DiagonalNormal(2))
    return model, HierarchicalGuide((2, 3), families, networks, loc=0.3, scale=0.5)


def losses_of(result):
    return [row["loss"] for row in result.history]


def weights_of(*modules):
    return torch.cat([p.detach().flatten() for module in modules for p in module.parameters()])


def evidence_of(truth, guide, x, num_particles, method="iw", **settings):
    return evidence(truth.model, guide, x, num_particles, method=method, progress=False, device="cpu", **settings)


def plain_model(x):
    loc = pyro.param("loc", lambda: torch.zeros(x.shape[1]))
    scale = pyro.param("scale", lambda: torch.ones(()), constraint=constraints.positive)
    with pyro.plate("batch", x.shape[0]):
        z = pyro.sample("latent", dist.Normal(0.0, 1.0))
        pyro.sample("obs", dist.Normal(z[..., None] + loc, scale).to_event(1), obs=x)


def plain_guide(x):
    loc = pyro.param("loc", lambda: torch.zeros(x.shape[1]))
    slope = pyro.param("slope", lambda: torch.tensor(0.1))
    spread = pyro.param("spread", lambda: torch.ones(()), constraint=constraints.positive)
    with pyro.plate("batch", x.shape[0]):
        pyro.sample("latent", dist.Normal(slope * (x - loc).mean(1), spread))


def module_programs(decoder):
    """A model that announces a module by name, as Pyro's tutorials do, and a guide that does not."""

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", lambda: torch.zeros(2))
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(loc.expand(len(x), 2), 1.0).to_event(1))

    return model, guide


def with_model(body):
    """Programs of which the model runs ``body(z)`` before it observes."""
    model, guide = make_pair()

    def program(x):
        pyro.module("decoder", model.decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=model.decoder(z) + body(z)).to_event(1), obs=x)

    return program, guide


def branch(z):
    return 1.0 if z.mean() > 0 else 0.0


def counting_programs():
    """z ~ N(0, 1), x | z ~ N(z, 1) and its exact guide, with the numbers of latents that exist at once in each call."""
    sizes = []

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            sizes.append(z.numel())
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            sizes.append(pyro.sample("z", dist.Normal(x / 2, 0.5**0.5)).numel())

    return model, guide, sizes


def decoded(decode, dim=3):
    """z ~ N(0, I), x | z ~ N(decode(z), 0.49 I), as somebody else may write it."""

    def model(x):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(dim, dtype=torch.float64), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decode(z), 0.7).to_event(1), obs=x)

    return model


class TwoLayers(nn.Module):
    """a ~ N(0, 1), b | a ~ N(u a, 1), x | b ~ N(w b, 1); q(b | x) = N(m x, s^2), q(a | b) = N(r b, t^2)."""

    def __init__(self) -> None:
        super().__init__()
        values = {"u": 0.7, "w": 1.3, "m": 0.4, "log_s": -0.2, "r": 0.5, "log_t": 0.1}
        for name, value in values.items():
            setattr(self, name, nn.Parameter(torch.tensor(value, dtype=torch.float64)))

    def model(self, x):
        with pyro.plate("data", x.shape[0]):
            a = pyro.sample("a", dist.Normal(torch.zeros_like(self.u), 1.0))
            b = pyro.sample("b", dist.Normal(self.u * a, 1.0))
            pyro.sample("x", dist.Normal(self.w * b, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", x.shape[0]):
            b = pyro.sample("b", dist.Normal(self.m * x, self.log_s.exp()))
            pyro.sample("a", dist.Normal(self.r * b, self.log_t.exp()))

    def gradient(self, loss):
        grads = torch.autograd.grad(loss, list(self.parameters()), allow_unused=True)
        return torch.stack([torch.zeros_like(loss) if g is None else g for g in grads])


class TopDown(TwoLayers):
    """The same model with a guide in the model's order, q(a | x) = N(r x, t^2), q(b | a, x) = N(m x + a / 4, s^2)."""

    def guide(self, x):
        with pyro.plate("data", x.shape[0]):
            a = pyro.sample("a", dist.Normal(self.r * x, self.log_t.exp()))
            pyro.sample("b", dist.Normal(self.m * x + a / 4, self.log_s.exp()))


class Coin(nn.Module):
    """z ~ Bernoulli(pi), x | z ~ N(mu_z, 1); q(z | x) = Bernoulli(sigmoid(a x + b)): every K-sample mean is a sum."""

    def __init__(self) -> None:
        super().__init__()
        for name, value in {"logit": 0.3, "low": -0.5, "high": 0.8, "a": 0.6, "b": -0.1}.items():
            setattr(self, name, nn.Parameter(torch.tensor(value, dtype=torch.float64)))

    def model(self, x):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Bernoulli(logits=self.logit))
            pyro.sample("x", dist.Normal(torch.where(z > 0, self.high, self.low), 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Bernoulli(logits=self.a * x + self.b))

    def terms(self, x):
        """Return log q and log w of the two values of z, shape (2, N)."""
        z = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        log_q = dist.Bernoulli(logits=self.a * x + self.b).log_prob(z.expand(2, len(x)))
        log_prior = dist.Bernoulli(logits=self.logit).log_prob(z)
        log_lik = dist.Normal(torch.where(z > 0, self.high, self.low), 1.0).log_prob(x)
        return log_q, log_lik + log_prior - log_q

    def exact(self, bound, num_particles, x, beta=1.0):
        """Return E[bound] for each datum by summing over all 2^K draws, differentiable."""
        total = 0.0
        for code in range(2**num_particles):
            z = torch.tensor([(code >> k) & 1 for k in range(num_particles)], dtype=torch.float64)[:, None]
            log_q = dist.Bernoulli(logits=self.a * x + self.b).log_prob(z.expand(-1, len(x)))
            log_prior = dist.Bernoulli(logits=self.logit).log_prob(z)
            log_lik = dist.Normal(torch.where(z > 0, self.high, self.low), 1.0).log_prob(x)
            total = total + log_q.sum(0).exp() * bound(log_lik + beta * (log_prior - log_q))
        return total

    gradient = TwoLayers.gradient


def mean_gradient(program, objective, repeats, copies=200, beta=1.0):
    """Return the mean of the estimator's gradient over repeats, and its standard error, one row per parameter."""
    model, guide = program.model, program.guide
    x = X.repeat(copies)
    with KLWeight(beta):
        draws = torch.stack([program.gradient(-objective.differentiable_loss(model, guide, x)) for _ in range(repeats)])
    return draws.mean(0), draws.std(0) / repeats**0.5


def within_errors(estimate, error, exact):
    assert ((estimate - exact).abs() < 5 * error + 1e-9).all(), (estimate, exact, error)


def nested_model(x):
    """z in a plate of groups inside that of the data."""
    with pyro.plate("data", x.shape[0], dim=-2):
        with pyro.plate("groups", 3, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum((-2, -1), keepdim=False)[..., None], 1.0), obs=x)


def nested_guide(x):
    with pyro.plate("data", x.shape[0], dim=-2), pyro.plate("groups", 3, dim=-1):
        loc = x[..., None] * torch.tensor([0.3, -0.2], dtype=x.dtype)
        pyro.sample("z", dist.Normal(loc.expand(*x.shape[:-1], 3, 2), 0.7).to_event(1))


def chain_model(x):
    """Two latent sites, one given the other; ``chain_guide`` is the exact posterior."""
    with pyro.plate("data", len(x)):
        z1 = pyro.sample("z1", dist.Normal(torch.zeros_like(x), 1.0))
        z2 = pyro.sample("z2", dist.Normal(z1, 1.0))
        pyro.sample("x", dist.Normal(z2, 1.0), obs=x)


def chain_guide(x):
    with pyro.plate("data", len(x)):
        z1 = pyro.sample("z1", dist.Normal(x / 3, (2 / 3) ** 0.5))
        pyro.sample("z2", dist.Normal((z1 + x) / 2, 0.5**0.5))


def assorted_programs():
    """Models with their guides and twelve data: gamma and discrete latents, plain programs, modules."""
    gamma, mixture = GammaPoisson(), BernoulliMixture()
    counts = torch.poisson(torch.full((12, 3), 4.0, dtype=torch.float64))
    model, guide = make_pair()
    return (
        (gamma.model, gamma.exact_guide, counts),
        (mixture, mixture.guide, (torch.rand(12, 4) < 0.5).double()),
        (plain_model, plain_guide, torch.randn(12, 3)),
        (model, guide, model.sample(12)),
    )


def folded(x):
    """x | z ~ N(z^2, 1/4): two posterior modes of equal mass."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
        pyro.sample("x", dist.Normal(z**2, 0.25), obs=x)


def near_one_mode(x):
    """A guide for ``folded`` that never visits the mode below 0."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.clamp(min=0.01).sqrt(), 0.1))


def log_px_folded(x):
    """log p(x) of ``folded`` by quadrature."""
    grid = torch.linspace(-6, 6, 20_001, dtype=torch.float64)[:, None]
    density = dist.Normal(0.0, 1.0).log_prob(grid) + dist.Normal(grid**2, 0.25).log_prob(x.double())
    return density.logsumexp(0) + math.log(12 / 20_000)


def once_differentiable(x):
    """z ~ N(0, 1), x | z ~ N(z, 1), by an operation of which torch has no second derivative."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
        ones = torch.ones(z.numel(), dtype=torch.long)
        loc = torch.segment_reduce(z.reshape(-1), "sum", lengths=ones).reshape(z.shape)
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
