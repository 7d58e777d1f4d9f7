"""Counts and words: topics as products of experts, topics word by word, and annotated cells (Xu et al., 2021)."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import nn
from torch.nn.functional import softplus

from programs_of_others.formulas import (
    Published,
    beta,
    categorical,
    integral,
    line,
    log_normal,
    multinomial,
    negative_binomial,
    normal,
    plane,
    zero_inflated,
)
from programs_of_others.images import CLASSES, moments, network, one_hot, proposal

WORDS = 5


def counts(n, words=WORDS, rate=3.0):
    return torch.poisson(torch.full((n, words), rate)).double()


class Topics(nn.Module):
    """Srivastava and Sutton (2017), with batch normalisation; ``dim`` is where the decoder takes its softmax."""

    def __init__(self, dim):
        super().__init__()
        self.beta, self.norm, self.dim = nn.Linear(2, WORDS, bias=False), nn.BatchNorm1d(WORDS, affine=False), dim
        self.encoder = network(WORDS, 6, 4)
        self.double().eval()

    def decode(self, theta, dim):
        h = self.beta(theta)
        return self.norm(h.reshape(-1, WORDS)).reshape(h.shape).softmax(dim)

    def model(self, docs):
        pyro.module("topics", self)
        with pyro.plate("documents", docs.shape[0]):
            loc = docs.new_zeros(docs.shape[0], 2)
            log_theta = pyro.sample("log_theta", dist.Normal(loc, torch.ones_like(loc)).to_event(1))
            total = int(docs.sum(-1).max())  # its log_prob does not look at it
            pyro.sample("words", dist.Multinomial(total, self.decode(log_theta.softmax(-1), self.dim)), obs=docs)

    def guide(self, docs):
        pyro.module("topics", self)
        with pyro.plate("documents", docs.shape[0]):
            pyro.sample("log_theta", dist.Normal(*proposal(self.encoder(docs.log1p()))).to_event(1))

    def terms(self, latents, docs):
        z = latents["log_theta"]
        log_q = normal(z, *proposal(self.encoder(docs.log1p()))).sum(-1)
        return multinomial(docs, self.decode(z.softmax(-1), -1)), normal(z, 0.0, 1.0).sum(-1), log_q


def prodlda(dim):
    def make(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            topics, docs = Topics(dim), counts(7)
        return Published(
            topics.model, topics.guide, docs, topics.terms, lambda x: integral(topics.terms, "log_theta", *plane(), x)
        )

    return make


def word_by_word(summed):
    """Two topics, of which each word of a document has one; words are whole numbers, shape (N, words).

    Args:
        summed: whether the words' topics are summed out by hand; if not, the model marks them for enumeration and
            the guide has none, as in Pyro's example.
    """

    def make(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            topics = torch.randn(2, WORDS).double().softmax(-1)
            predict, words = network(WORDS, 4, 2), torch.randint(WORDS, (7, 6))

        def model(words):
            with pyro.plate("documents", len(words), dim=-2):
                theta = pyro.sample("theta", dist.Beta(torch.tensor(1.5).double(), 1.5))
                with pyro.plate("words", words.shape[1], dim=-1):
                    if summed:
                        probs = theta[..., None] * topics[0] + (1 - theta[..., None]) * topics[1]
                        pyro.sample("word", dist.Categorical(probs), obs=words)
                    else:
                        which = pyro.sample("topic", dist.Bernoulli(theta), infer={"enumerate": "parallel"})
                        pyro.sample("word", dist.Categorical(topics[1 - which.long()]), obs=words)

        def concentrations(words):
            histogram = one_hot_words(words).sum(-2)
            return softplus(predict(histogram)) + 1.0

        def guide(words):
            pyro.module("predict", predict)
            with pyro.plate("documents", len(words), dim=-2):
                a, b = concentrations(words)[:, None].unbind(-1)
                pyro.sample("theta", dist.Beta(a, b))

        def terms(latents, words):
            theta = latents["theta"][..., 0]
            probs = theta[..., None, None] * topics[0] + (1 - theta[..., None, None]) * topics[1]
            log_q = beta(theta, *concentrations(words).unbind(-1))
            return categorical(words, probs.log()).sum(-1), beta(theta, 1.5, 1.5), log_q

        def log_px(words):
            inside, log_length = line(0.0, 1.0, 4001)
            return integral(terms, "theta", inside[1:-1, None], log_length, words)

        return Published(model, guide, words, terms, log_px)

    return make


def one_hot_words(words):
    return nn.functional.one_hot(words, WORDS).double()


def global_topics(seed):
    """Latent Dirichlet allocation as published: the topics are latent too, outside the documents' plate."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        docs = counts(7)

    def model(docs):
        with pyro.plate("topics", 2):
            topics = pyro.sample("topics_words", dist.Dirichlet(torch.ones(WORDS).double()))
        with pyro.plate("documents", len(docs)):
            theta = pyro.sample("theta", dist.Dirichlet(torch.ones(2).double()))
            pyro.sample("words", dist.Multinomial(100, theta @ topics), obs=docs)

    def guide(docs):
        concentration = pyro.param("concentration", torch.ones(2, WORDS).double())
        with pyro.plate("topics", 2):
            pyro.sample("topics_words", dist.Dirichlet(concentration))
        with pyro.plate("documents", len(docs)):
            pyro.sample("theta", dist.Dirichlet(1.0 + docs[:, :2]))

    return Published(model, guide, docs, None)


class Cells(nn.Module):
    """z1 -> z2 given the kind of a cell, l the size of its library, zero-inflated counts; every site is scaled."""

    genes = 4

    def __init__(self):
        super().__init__()
        self.z2_decoder, self.x_decoder = network(1 + CLASSES, 5, 2), network(1, 5, 2 * self.genes)
        self.encoder, self.classifier, self.z1_encoder = (
            network(self.genes, 6, 4),
            network(1, CLASSES),
            network(4, 5, 2),
        )

    def of_genes(self, z2, size, theta):
        gate, mu = self.x_decoder(z2).chunk(2, -1)
        return gate, (size * mu.softmax(-1) + 5e-3).log() - (theta + 5e-3).log()

    def dispersion(self, x):
        positive = torch.distributions.constraints.positive
        return pyro.param("inverse_dispersion", lambda: 10.0 * x.new_ones(self.genes), constraint=positive)

    def model(self, x, y):
        pyro.module("cells", self)
        theta = self.dispersion(x)
        with pyro.plate("batch", len(x)), poutine.scale(scale=0.01):
            z1 = pyro.sample("z1", dist.Normal(0, x.new_ones(1)).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(CLASSES)), obs=y)
            h = torch.cat([z1, y.expand(*z1.shape[:-1], CLASSES)], -1)
            z2 = pyro.sample("z2", dist.Normal(*moments(self.z2_decoder(h))).to_event(1))
            size = pyro.sample("l", dist.LogNormal(2.0, 0.5 * x.new_ones(1)).to_event(1))
            gate, logits = self.of_genes(z2, size, theta)
            genes = dist.ZeroInflatedNegativeBinomial(gate_logits=gate, total_count=theta, logits=logits)
            pyro.sample("x", genes.to_event(1), obs=x)

    def heads(self, x):
        loc, scale = moments(self.encoder(x.log1p()))
        return (loc[..., :1], scale[..., :1]), (2.0 + 0.2 * loc[..., 1:], 0.6 * scale[..., 1:])

    def guide(self, x, y):
        pyro.module("cells", self)
        of_z2, of_l = self.heads(x)
        with pyro.plate("batch", len(x)), poutine.scale(scale=0.01):
            pyro.sample("l", dist.LogNormal(*of_l).to_event(1))
            z2 = pyro.sample("z2", dist.Normal(*of_z2).to_event(1))
            loss = -0.1 * dist.OneHotCategorical(logits=self.classifier(z2)).log_prob(y)
            pyro.factor("classification_loss", loss, has_rsample=False)
            h = torch.cat([z2, y.expand(*z2.shape[:-1], CLASSES)], -1)
            pyro.sample("z1", dist.Normal(*proposal(self.z1_encoder(h))).to_event(1))

    def terms(self, latents, x, y):
        z1, z2, size = (latents[name] for name in ("z1", "z2", "l"))
        known = y.expand(*z1.shape[:-1], CLASSES)
        theta = torch.full((self.genes,), 10.0).double()
        gate, logits = self.of_genes(z2, size, theta)
        likelihood = zero_inflated(x, gate, negative_binomial(x, theta, logits)).sum(-1)
        likelihood = likelihood - torch.tensor(float(CLASSES)).log()
        of_z2, of_l = self.heads(x)
        prior = normal(z1, 0.0, 1.0) + normal(z2, *moments(self.z2_decoder(torch.cat([z1, known], -1))))
        log_q = log_normal(size, *of_l) + normal(z2, *of_z2)
        log_q = log_q + normal(z1, *proposal(self.z1_encoder(torch.cat([z2, known], -1))))
        return likelihood, (prior + log_normal(size, 2.0, 0.5))[..., 0], log_q[..., 0]


def cells(blocked):
    def make(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            both, x, y = Cells(), counts(7, Cells.genes), one_hot(torch.randint(CLASSES, (7,)))
        guide = poutine.block(both.guide, hide=["classification_loss"]) if blocked else both.guide
        return Published(both.model, guide, (x, y), both.terms)

    return make


TEXT = {
    "prodlda": prodlda(-1),
    "prodlda, softmax from the left": prodlda(1),
    "topics, summed out": word_by_word(True),
    "topics, enumerated by the model": word_by_word(False),
    "topics, global": global_topics,
    "cells, loss in the guide": cells(False),
    "cells, loss blocked": cells(True),
}
