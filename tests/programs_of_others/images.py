"""Autoencoders of images: Kingma and Welling's (2014), M2, and a conditional one."""

from __future__ import annotations

from itertools import pairwise

import pyro
import pyro.distributions as dist
import torch
from torch import nn

from programs_of_others.formulas import Published, bernoulli, categorical, integral, normal, plane

PIXELS, CLASSES = 6, 3


def network(*widths):
    layers = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.Softplus())]
    return nn.Sequential(*layers[:-1]).double()


def bits(n, p=0.4, width=PIXELS):
    return (torch.rand(n, width) < p).double()


def moments(h):
    """Split the output of a network into mean and scale."""
    loc, log_scale = h.chunk(2, -1)
    return loc, log_scale.exp()


def proposal(h):
    """Split the output of an encoder into a mean and a scale about that of the prior, so that few draws suffice."""
    loc, log_scale = h.chunk(2, -1)
    return 0.5 * loc, (0.2 + 0.3 * log_scale).exp()


def one_hot(y):
    return nn.functional.one_hot(y, CLASSES).double()


def vae(seed):
    """Model and guide are functions that announce their networks, the plate is named and sized."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        decoder, encoder, x = network(2, 8, PIXELS), network(PIXELS, 8, 4), bits(7)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            z_loc = torch.zeros(x.shape[0], 2, dtype=x.dtype)
            z = pyro.sample("latent", dist.Normal(z_loc, torch.ones_like(z_loc)).to_event(1))
            probs = decoder(z).sigmoid()
            pyro.sample("obs", dist.Bernoulli(probs, validate_args=False).to_event(1), obs=x.reshape(-1, PIXELS))
            return probs

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("latent", dist.Normal(*proposal(encoder(x))).to_event(1))

    def terms(latents, x):
        z = latents["latent"]
        log_q = normal(z, *proposal(encoder(x))).sum(-1)
        return bernoulli(x, decoder(z)).sum(-1), normal(z, 0.0, 1.0).sum(-1), log_q

    return Published(model, guide, x, terms, lambda x: integral(terms, "latent", *plane(), x))


class M2(nn.Module):
    """Kingma et al. (2014): labels are observed or not, by whether they are handed in."""

    def __init__(self, sized=True):
        super().__init__()
        self.decoder, self.sized = network(1 + CLASSES, 8, PIXELS), sized
        self.encoder_y, self.encoder_z = network(PIXELS, 8, CLASSES), network(PIXELS + CLASSES, 8, 2)

    def plate(self, x):
        return pyro.plate("data", len(x)) if self.sized else pyro.plate("data")

    def model(self, x, y=None):
        pyro.module("ss_vae", self)
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), x.new_ones(len(x), 1)).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(x.new_ones(len(x), CLASSES) / CLASSES), obs=y)
            logits = self.decoder(torch.cat([z, y.expand(*z.shape[:-1], CLASSES)], -1))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x, y=None):
        with self.plate(x):
            if y is None:
                y = pyro.sample("y", dist.OneHotCategorical(logits=self.encoder_y(x)))
            h = self.encoder_z(torch.cat([x.expand(*y.shape[:-1], PIXELS), y], -1))
            pyro.sample("z", dist.Normal(*proposal(h)).to_event(1))

    def terms(self, latents, x, y=None):
        z = latents["z"]
        drawn = latents["y"] if y is None else y.expand(*z.shape[:-1], CLASSES)
        likelihood = bernoulli(x, self.decoder(torch.cat([z, drawn], -1))).sum(-1)
        prior_y = torch.full_like(likelihood, 1 / CLASSES).log()
        h = self.encoder_z(torch.cat([x.expand(*drawn.shape[:-1], PIXELS), drawn], -1))
        log_q, prior = normal(z, *proposal(h)).sum(-1), normal(z, 0.0, 1.0).sum(-1)
        if y is not None:
            return likelihood + prior_y, prior, log_q
        return likelihood, prior + prior_y, log_q + categorical(drawn.argmax(-1), self.encoder_y(x))

    def log_px(self, x, y=None):
        z = torch.linspace(-9, 9, 1001, dtype=torch.float64)
        each = []
        for label in range(CLASSES):
            known = one_hot(torch.full((len(x),), label)) if y is None else y
            values = {"z": z[:, None, None].expand(-1, len(x), 1)}
            likelihood, prior, _ = self.terms(values, x, known)
            each.append((likelihood + prior).logsumexp(0) + torch.tensor(18 / 1000).log())
        return torch.stack(each).logsumexp(0) if y is None else each[0]


def m2(labelled, sized=True):
    def make(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            both = M2(sized)
            x, y = bits(7), one_hot(torch.randint(CLASSES, (7,)))
        return Published(both.model, both.guide, (x, y) if labelled else x, both.terms, torch.no_grad()(both.log_px))

    return make


def partly_labelled(seed):
    """M2 with the labels of some data in one minibatch, by ``obs_mask``; a label is a whole number."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        decoder, encoder_y, encoder_z = network(1 + CLASSES, 8, PIXELS), network(PIXELS, CLASSES), network(PIXELS, 8, 2)
        x, y, known = bits(7), torch.randint(CLASSES, (7,)), torch.arange(7) % 2 == 0
    logits = torch.zeros(CLASSES, dtype=torch.float64)

    def model(x, y, known):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            y = pyro.sample("y", dist.Categorical(logits=logits), obs=y, obs_mask=known)
            h = torch.cat([z, one_hot(y).expand(*z.shape[:-1], CLASSES)], -1)
            pyro.sample("x", dist.Bernoulli(logits=decoder(h)).to_event(1), obs=x)

    def guide(x, y, known):
        with pyro.plate("data", len(x)):
            pyro.sample("y_unobserved", dist.Categorical(logits=encoder_y(x)))
            pyro.sample("z", dist.Normal(*proposal(encoder_z(x))).to_event(1))

    def terms(latents, x, y, known):
        z, drawn = latents["z"], latents["y_unobserved"]
        whole = torch.where(known, y, drawn)
        likelihood = bernoulli(x, decoder(torch.cat([z, one_hot(whole)], -1))).sum(-1)
        prior_y, log_q = categorical(whole, logits), normal(z, *proposal(encoder_z(x))).sum(-1)
        prior = normal(z, 0.0, 1.0).sum(-1) + torch.where(known, 0.0, prior_y)
        log_q = log_q + torch.where(known, 0.0, categorical(drawn, encoder_y(x)))
        return likelihood + torch.where(known, prior_y, 0.0), prior, log_q

    def log_px(x, y, known):
        z = torch.linspace(-9, 9, 1001, dtype=torch.float64)[:, None, None].expand(-1, len(x), 1)
        each = []
        for label in range(CLASSES):
            values = {"z": z, "y_unobserved": torch.full((1001, len(x)), label)}
            likelihood, prior, _ = terms(values, x, y, known)
            each.append((likelihood + prior).logsumexp(0) + torch.tensor(18 / 1000).log())
        return torch.where(known, each[0], torch.stack(each).logsumexp(0))

    return Published(model, guide, (x, y, known), terms, torch.no_grad()(log_px))


def cvae(seed):
    """Sohn, Lee and Yan (2015): half an image given the other, with a prior that sees a baseline's guess."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        half = PIXELS // 2
        baseline, prior_net = network(half, half), network(PIXELS, 5, 4)
        generation, recognition = network(2, 6, half), network(PIXELS, 6, 4)
        x, y = bits(7, width=half), bits(7, width=half)

    def prior_of(x):
        with torch.no_grad():  # trained before, and left as it is
            guess = baseline(x).sigmoid()
        return moments(prior_net(torch.cat([x, guess], -1)))

    def model(x, y):
        pyro.module("generation", generation)
        pyro.module("prior", prior_net)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(*prior_of(x)).to_event(1))
            pyro.sample("y", dist.Bernoulli(logits=generation(z)).to_event(1), obs=y)

    def guide(x, y):
        pyro.module("recognition", recognition)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(*proposal(recognition(torch.cat([x, y], -1)))).to_event(1))

    def terms(latents, x, y):
        z = latents["z"]
        log_q = normal(z, *proposal(recognition(torch.cat([x, y], -1)))).sum(-1)
        return bernoulli(y, generation(z)).sum(-1), normal(z, *prior_of(x)).sum(-1), log_q

    return Published(model, guide, (x, y), terms, lambda *args: integral(terms, "z", *plane(), *args))


IMAGES = {
    "vae": vae,
    "M2, labelled": m2(True),
    "M2, unlabelled": m2(False),
    "M2, labelled, plate without size": m2(True, sized=False),
    "M2, partly labelled": partly_labelled,
    "cvae": cvae,
}
