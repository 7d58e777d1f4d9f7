"""Discrete guide sites summed over all their values, against sums by brute force."""

from __future__ import annotations

from functools import partial
from itertools import product

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

from pyro_vae.inference import fit, schedules
from pyro_vae.inference.objectives import ELBO
from pyro_vae.inference.programs.weights import KLWeight

X = torch.tensor([-1.2, 0.3, 2.0], dtype=torch.float64)
DOUBLE = {"dtype": torch.float64}


def params(*shape, seed=0):
    return nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **DOUBLE))


class Code(nn.Module):
    """z ~ p(z), x | z ~ N(w . z, 1) and q(z | x), laws of one family whose parameters h are learnt; all z are listed.

    Args:
        law: h -> the distribution of z.
        shape: that of h.
        entry: the values of one entry of z.
        event: how many entries there are.
    """

    def __init__(self, law, shape, entry, event):
        super().__init__()
        self.law, self.event = law, event
        self.prior, self.slope, self.shift = (params(*shape, seed=seed) for seed in (1, 2, 3))
        number = torch.Size(event).numel()
        self.values = torch.stack([torch.stack(z) for z in product(entry, repeat=number)])  # (V, number, ...)
        self.w = params(*self.values.shape[1:], seed=4)

    def mean(self, z):
        leading = z.shape[: z.ndim - len(self.event) - (self.w.ndim - 1)]
        return (z.reshape(*leading, *self.w.shape).to(torch.float64) * self.w).flatten(len(leading)).sum(-1)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.law(self.prior))
            pyro.sample("x", dist.Normal(self.mean(z), 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.law(self.slope * x.reshape(-1, *[1] * self.slope.ndim) + self.shift))

    def exact(self, x, beta=1.0):
        total = 0.0
        q, p = self.law(self.slope * x.reshape(-1, *[1] * self.slope.ndim) + self.shift), self.law(self.prior)
        for z in self.values.reshape(-1, *q.event_shape):
            log_q = q.log_prob(z.expand(len(x), *z.shape))
            log_lik = dist.Normal(self.mean(z), 1.0).log_prob(x)
            total = total + log_q.exp() * (log_lik + beta * (p.log_prob(z) - log_q))
        return total


BITS, COUNTS = torch.arange(2, **DOUBLE), torch.arange(3, **DOUBLE)
CODES = {
    "bits": lambda: Code(lambda h: dist.Bernoulli(logits=h).to_event(1), (3,), BITS, (3,)),
    "a matrix of bits": lambda: Code(lambda h: dist.Bernoulli(logits=h).to_event(2), (2, 2), BITS, (2, 2)),
    "event by event": lambda: Code(lambda h: dist.Bernoulli(logits=h).to_event(1).to_event(1), (2, 2), BITS, (2, 2)),
    "classes": lambda: Code(lambda h: dist.Categorical(logits=h).to_event(1), (2, 3), COUNTS, (2,)),
    "one-hot": lambda: Code(
        lambda h: dist.OneHotCategorical(logits=h).to_event(1), (2, 3), torch.eye(3, **DOUBLE), (2,)
    ),
    "counts": lambda: Code(lambda h: dist.Binomial(2, logits=h).to_event(1), (2,), COUNTS, (2,)),
    "one class": lambda: Code(lambda h: dist.Categorical(logits=h), (3,), COUNTS, ()),
    "masked by True": lambda: Code(lambda h: dist.Bernoulli(logits=h).to_event(1).mask(True), (3,), BITS, (3,)),
}


def equal_with_gradients(value, expected, module):
    torch.testing.assert_close(value, expected)
    for got, wanted in zip(
        *(torch.autograd.grad(v, list(module.parameters())) for v in (value, expected)), strict=True
    ):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize(("beta", "weight"), [(1.0, 1.0), (2.5, 1.0), (2.0, 0.3)])
@pytest.mark.parametrize("name", CODES)
def test_an_event_is_summed_over_the_values_of_all_its_entries(name, beta, weight):
    code = CODES[name]()
    with KLWeight(weight):
        loss = ELBO(beta=beta, gradient="enumerate").differentiable_loss(code.model, code.guide, X)
    equal_with_gradients(-loss, code.exact(X, beta * weight).mean(), code)


class Several(nn.Module):
    """Bits a, a class b given a, and x given both; the guide draws b given a and x."""

    def __init__(self):
        super().__init__()
        self.prior_a, self.prior_b = params(2, seed=1), params(2, 3, seed=2)
        self.guide_a, self.guide_b, self.loc = params(2, seed=3), params(2, 3, seed=4), params(2, 2, 3, seed=5)

    def q(self, x, a):
        return dist.Categorical(logits=a @ self.guide_b + x[:, None])

    def p(self, a, b):
        one, two = (a[..., i].long() for i in (0, 1))
        return dist.Categorical(logits=a @ self.prior_b), dist.Normal(self.loc[one, two, b.long()], 1.0)

    def model(self, x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(logits=self.prior_a).to_event(1))
            b = pyro.sample("b", dist.Categorical(logits=a @ self.prior_b))
            pyro.sample("x", self.p(a, b)[1], obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(logits=self.guide_a * x[:, None]).to_event(1))
            pyro.sample("b", self.q(x, a))

    def exact(self, x):
        total = 0.0
        q_a = dist.Bernoulli(logits=self.guide_a * x[:, None]).to_event(1)
        for bits in product((0.0, 1.0), repeat=2):
            a = torch.tensor(bits, **DOUBLE)
            log_q_a = q_a.log_prob(a.expand(len(x), 2))
            log_p_a = dist.Bernoulli(logits=self.prior_a).to_event(1).log_prob(a)
            for b in torch.arange(3):
                p_b, p_x = self.p(a, b)
                log_q = log_q_a + self.q(x, a).log_prob(b)
                total = total + log_q.exp() * (log_p_a + p_b.log_prob(b) + p_x.log_prob(x) - log_q)
        return total


def test_several_sites_are_summed_over_jointly():
    program = Several()
    loss = ELBO(gradient="enumerate").differentiable_loss(program.model, program.guide, X)
    equal_with_gradients(-loss, program.exact(X).mean(), program)


class Groups(nn.Module):
    """Two bits for each of three groups of a datum, and an observation of each group, or one of all together."""

    def __init__(self, together=False):
        super().__init__()
        self.prior, self.slope, self.w, self.together = (
            params(2, seed=1),
            params(2, seed=2),
            params(2, seed=3),
            together,
        )

    def model(self, x):
        with pyro.plate("data", len(x), dim=-2):
            with pyro.plate("groups", 3, dim=-1):
                z = pyro.sample("z", dist.Bernoulli(logits=self.prior).to_event(1))
                if not self.together:
                    pyro.sample("x", dist.Normal(z @ self.w, 1.0), obs=x)
            if self.together:
                pyro.sample("x", dist.Normal((z @ self.w).sum(-1, keepdim=True), 1.0), obs=x[:, :1])

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("groups", 3, dim=-1):
            pyro.sample("z", dist.Bernoulli(logits=self.slope * x[..., None]).to_event(1))

    def exact(self, x):
        total, q = 0.0, dist.Bernoulli(logits=self.slope * x[..., None]).to_event(1)
        for bits in product((0.0, 1.0), repeat=2):
            z = torch.tensor(bits, **DOUBLE)
            log_q = q.log_prob(z.expand(*x.shape, 2))
            log_p = dist.Bernoulli(logits=self.prior).to_event(1).log_prob(z) + dist.Normal(z @ self.w, 1.0).log_prob(x)
            total = total + log_q.exp() * (log_p - log_q)
        return total.sum(1)


def test_sites_in_an_inner_plate_are_summed_over_one_by_one():
    program, x = Groups(), torch.randn(4, 3, **DOUBLE)
    loss = ELBO(gradient="enumerate").differentiable_loss(program.model, program.guide, x)
    equal_with_gradients(-loss, program.exact(x).mean(), program)


def test_what_a_whole_plate_of_enumerated_values_may_explain_is_refused():
    program, x = Groups(together=True), torch.randn(4, 3, **DOUBLE)
    with pytest.raises(ValueError, match=r"Site 'x' of the model lies outside plate 'groups' of the guide's site 'z'"):
        ELBO(gradient="enumerate").differentiable_loss(program.model, program.guide, x)


class Beside(nn.Module):
    """Bits z and a normal c, x | z, c ~ N(w . z + c, 1), q(c | x, z) = N(m x + r . z, s^2)."""

    def __init__(self):
        super().__init__()
        self.prior, self.slope, self.w, self.r = (params(2, seed=seed) for seed in range(4))
        self.m, self.log_s = nn.Parameter(torch.tensor(0.4, **DOUBLE)), nn.Parameter(torch.tensor(-0.3, **DOUBLE))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(logits=self.prior).to_event(1))
            c = pyro.sample("c", dist.Normal(torch.zeros((), **DOUBLE), 1.0))
            pyro.sample("x", dist.Normal(z @ self.w + c, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(logits=self.slope * x[:, None]).to_event(1))
            pyro.sample("c", dist.Normal(self.m * x + z @ self.r, self.log_s.exp()))

    def exact(self, x):
        total, variance = 0.0, (2 * self.log_s).exp()
        for bits in product((0.0, 1.0), repeat=2):
            z = torch.tensor(bits, **DOUBLE)
            q, p = (dist.Bernoulli(logits=h).to_event(1) for h in (self.slope * x[:, None], self.prior))
            log_q, loc = q.log_prob(z.expand(len(x), 2)), self.m * x + z @ self.r
            log_lik = dist.Normal(z @ self.w + loc, 1.0).log_prob(x) - variance / 2
            kl = 0.5 * (loc**2 + variance - 1) - self.log_s
            total = total + log_q.exp() * (log_lik - kl + p.log_prob(z) - log_q)
        return total


def test_a_continuous_site_beside_it_stays_monte_carlo():
    """The mean of 40 repeats x 600 data: 9 numbers at 5 standard errors, one false alarm in 190,000."""
    program, runs = Beside(), []
    for _ in range(40):
        loss = ELBO(gradient="enumerate").differentiable_loss(program.model, program.guide, X.repeat(200))
        gradients = torch.autograd.grad(-loss, list(program.parameters()))
        runs.append(torch.cat([-loss[None], *[g.flatten() for g in gradients]]).detach())
    runs = torch.stack(runs)
    bound = program.exact(X).mean()
    exact = torch.cat([bound[None], *[g.flatten() for g in torch.autograd.grad(bound, list(program.parameters()))]])
    assert runs.std(0).max() > 1e-4
    assert ((runs.mean(0) - exact).abs() < 5 * runs.std(0) / 40**0.5 + 1e-9).all()


@pytest.mark.parametrize("weight", [1.0, 0.4])
def test_fit_follows_the_exact_gradient(weight):
    fitted, by_hand = CODES["bits"](), CODES["bits"]()
    sgd = partial(torch.optim.SGD, lr=0.1)
    objective = ELBO(beta=1.5, gradient="enumerate")
    once = {"epochs": 5, "batch_size": 3, "kl_warmup": schedules.constant(weight), "progress": False}
    fit(fitted.model, fitted.guide, X, objective=objective, optimizer=sgd, **once)
    optimizer = sgd(by_hand.parameters())
    for _ in range(5):
        optimizer.zero_grad()
        (-by_hand.exact(X, 1.5 * weight).mean()).backward()
        optimizer.step()
    for got, wanted in zip(fitted.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(got, wanted)


def masked_in_the_model():
    code = CODES["bits"]()
    return poutine.mask(code.model, mask=torch.tensor([True, False, True])), code.guide


def pair_of(law, shape=(2,)):
    code = Code(law, shape, BITS[:1], shape)
    return code.model, code.guide


REFUSED = {
    "no end of values": (
        lambda: pair_of(lambda h: dist.Poisson(h.exp()).to_event(1)),
        r"Guide site 'z' \(Poisson\) has no finite list of values to sum over. Use gradient=\"score\"",
    ),
    "numbers of their own": (
        lambda: pair_of(lambda h: dist.Binomial(torch.tensor([2.0, 3.0]), logits=h).to_event(1)),
        r"Guide site 'z' \(Binomial\) has no finite list of values",
    ),
    "draws that sum to a number": (
        lambda: pair_of(lambda h: dist.Multinomial(3, logits=h)),
        r"Guide site 'z' \(Multinomial\) has no finite list of values",
    ),
    "too many": (
        lambda: pair_of(lambda h: dist.Bernoulli(logits=h).to_event(1), (17,)),
        r"at most 65,536 values to sum over at guide site 'z'; got 131,072, 2 for each of 17 entries. Use gradient",
    ),
    "a mask inside the event": (
        lambda: pair_of(lambda h: dist.Bernoulli(logits=h).mask(torch.tensor([True, False])).to_event(1)),
        r"no mask inside the event of guide site 'z'",
    ),
    "a mask in the model alone": (
        masked_in_the_model,
        r"one mask at site 'z' in model and guide",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_summed_over_is_refused_by_name(name):
    build, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        ELBO(gradient="enumerate").differentiable_loss(*build(), X)
