"""Sequences: a deep Markov model of ragged sequences (Krishnan et al., 2017), and attend, infer, repeat (2016)."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import nn

from programs_of_others.formulas import Published, bernoulli, kalman, multivariate_normal, normal
from programs_of_others.images import moments, network

STEPS = 4
A, Q, H, R = 0.8, 0.7, 1.3, 0.5
WHERE = torch.tensor([1.0, -0.5, 0.8]).double()


def seen(x, length):
    return (torch.arange(x.shape[1]) < length[:, None]).to(x.dtype)


def ragged(masked):
    """A deep Markov model whose transition is linear, so that a Kalman filter knows log p(x).

    Args:
        masked: how a step past the end of a sequence is left out: "entries" masks the entries of the event, as the
            published program does, "event" the whole event, and "handler" is ``poutine.mask``.
    """

    def sample(name, loc, scale, mask, obs=None):
        normal = dist.Normal(loc, scale)
        if masked == "entries":
            return pyro.sample(name, normal.mask(mask[..., None]).to_event(1), obs=obs)
        if masked == "event":
            return pyro.sample(name, normal.to_event(1).mask(mask), obs=obs)
        with pyro.poutine.mask(mask=mask):
            return pyro.sample(name, normal.to_event(1), obs=obs)

    def make(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            rnn, combine, first = (
                nn.RNN(1, 5, batch_first=True).double(),
                network(6, 4, 2),
                nn.Parameter(torch.zeros(1)),
            )
            first.data = first.data.double()
            x, length = torch.randn(7, STEPS).double(), torch.tensor([4, 4, 3, 2, 2, 1, 3])

        def summary(x, length):
            """Run backwards over what is observed of each sequence: h_t has seen x_t, ..., x_L."""
            steps = (length[:, None] - 1 - torch.arange(STEPS)).clamp(min=0)
            backwards = x.gather(1, steps) * seen(x, length)
            return rnn(backwards[..., None])[0].gather(1, steps[..., None].expand(-1, -1, 5))

        def q(z, h, x):
            """The mean leans on x_t, by less than the posterior's, so that few draws suffice; z_(t-1) and h move it."""
            loc, log_scale = combine(torch.cat([z, h.expand(*z.shape[:-1], 5)], -1)).chunk(2, -1)
            return 0.5 * x[:, None] + 0.3 * loc, (0.3 * log_scale - 0.5).exp()

        def model(x, length):
            mask, z = seen(x, length).bool(), x.new_zeros(len(x), 1)
            with pyro.plate("sequences", len(x)):
                for t in pyro.markov(range(STEPS)):
                    z = sample(f"z_{t + 1}", A * z, Q, mask[:, t])
                    sample(f"x_{t + 1}", H * z, R, mask[:, t], obs=x[:, t : t + 1])

        def guide(x, length):
            pyro.module("rnn", rnn)
            pyro.module("combine", combine)
            mask, h, z = seen(x, length).bool(), summary(x, length), first.expand(len(x), 1)
            with pyro.plate("sequences", len(x)):
                for t in pyro.markov(range(STEPS)):
                    z = sample(f"z_{t + 1}", *q(z, h[:, t], x[:, t]), mask[:, t])

        def terms(latents, x, length):
            mask, h = seen(x, length), summary(x, length)
            likelihood = prior = log_q = 0.0
            before, guided = torch.zeros(1).double(), first
            for t in range(STEPS):
                z = latents[f"z_{t + 1}"]
                log_q = log_q + mask[:, t] * normal(z, *q(guided.expand_as(z), h[:, t], x[:, t]))[..., 0]
                prior = prior + mask[:, t] * normal(z, A * before, Q)[..., 0]
                likelihood = likelihood + mask[:, t] * normal(x[:, t], H * z[..., 0], R)
                before = guided = z
            return likelihood, prior, log_q

        return Published(model, guide, (x, length), terms, lambda x, length: kalman(x, length, A, Q, H, R))

    return make


def attend(seed):
    """Two steps, each of which adds an object or ends the picture: what follows an end is masked.

    An object is a pattern of random brightness, so that the picture is normal given how many there are.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        presence, content, x = network(3, 4, 2), network(4, 4, 2), torch.randn(7, 3).double()
        with torch.no_grad():
            content[-1].bias.copy_(torch.tensor([0.0, -0.3]))
    p = 0.6

    def model(x):
        with pyro.plate("data", x.size(0)) as index:
            batch = x[index]
            picture, present = torch.zeros_like(batch), batch.new_ones(len(batch), 1)
            for t in range(2):
                present = pyro.sample(f"present_{t}", dist.Bernoulli(p * present).to_event(1))
                what = dist.Normal(torch.zeros_like(batch[:, :1]), 1.0).mask(present.bool()).to_event(1)
                picture = picture + present * pyro.sample(f"what_{t}", what) * WHERE
            pyro.sample("picture", dist.Normal(picture, 0.6).to_event(1), obs=batch)

    def guide(x):
        pyro.module("presence", presence)
        pyro.module("content", content)
        with pyro.plate("data", x.size(0)) as index:
            batch = x[index]
            present = batch.new_ones(len(batch), 1)
            for t in range(2):
                probs = presence(batch).sigmoid()[:, t : t + 1] * present
                present = pyro.sample(f"present_{t}", dist.Bernoulli(probs).to_event(1))
                both = torch.cat([batch.expand(*present.shape[:-1], 3), present], -1)
                what = dist.Normal(*moments(content(both))).mask(present.bool()).to_event(1)
                pyro.sample(f"what_{t}", what)

    def terms(latents, x):
        picture = prior = log_q = 0.0
        before = torch.ones(len(x)).double()
        for t in range(2):
            present, what = latents[f"present_{t}"][..., 0], latents[f"what_{t}"][..., 0]
            both = torch.cat([x.expand(*present.shape, 3), present[..., None]], -1)
            loc, scale = (v[..., 0] for v in moments(content(both)))
            log_odds = torch.tensor(p).double().logit()
            prior = prior + before * bernoulli(present, log_odds) + present * normal(what, 0.0, 1.0)
            log_q = log_q + before * bernoulli(present, presence(x)[:, t]) + present * normal(what, loc, scale)
            picture = picture + (present * what)[..., None] * WHERE
            before = present
        return normal(x, picture, 0.6).sum(-1), prior, log_q

    def log_px(x):
        pattern, noise = torch.outer(WHERE, WHERE), 0.36 * torch.eye(3).double()
        number = torch.tensor([1 - p, p * (1 - p), p * p]).double()
        return torch.stack(
            [number[n].log() + multivariate_normal(x, torch.zeros(3).double(), n * pattern + noise) for n in range(3)]
        ).logsumexp(0)

    return Published(model, guide, x, terms, log_px)


SEQUENCES = {
    "deep Markov, entries masked": ragged("entries"),
    "deep Markov, events masked": ragged("event"),
    "deep Markov, mask by a handler": ragged("handler"),
    "attend, infer, repeat": attend,
}
