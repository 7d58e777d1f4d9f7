"""Flows as priors and guides of an autoencoder: Pyro's own, with an inverse and without, and zuko's."""

from __future__ import annotations

import copy
import importlib

import pyro
import pyro.distributions as dist
import torch
from pyro.contrib.zuko import ZukoToPyro
from pyro.distributions.transforms import affine_autoregressive, affine_coupling, planar

from programs_of_others.formulas import Published, bernoulli, integral, normal, plane
from programs_of_others.images import PIXELS, bits, network, proposal


def of_autoregressive(z, loc, scale, flow):
    """Log density of e ~ N(loc, scale^2) moved by an affine autoregressive map, inverted entry by entry."""
    e = z
    for _ in range(z.shape[-1]):  # entry d is right once those before it are
        shift, log_factor = flow.arn(e)
        e = (z - shift) / log_factor.exp()
    return (normal(e, loc, scale) - flow.arn(e)[1]).sum(-1)


def of_coupling(z, flow):
    """Log density of e ~ N(0, I) whose second entry is moved by an affine map that the first one sets."""
    shift, log_factor = flow.nn(z[..., :1])
    e = torch.cat([z[..., :1], (z[..., 1:] - shift) / log_factor.exp()], -1)
    return normal(e, 0.0, 1.0).sum(-1) - log_factor.sum(-1)


def flows(seed):
    """A coupling flow as prior, and an inverse autoregressive one as guide on top of what the encoder says.

    In float32, since Pyro's inverse of an autoregressive map is; held against float64 copies of the networks.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        decoder, encoder, x = network(2, 8, PIXELS).float(), network(PIXELS, 8, 4).float(), bits(7).float()
        of_prior, of_guide = affine_coupling(2, [6]), affine_autoregressive(2, [6])
    double = [copy.deepcopy(part).double() for part in (decoder, encoder, of_prior, of_guide)]

    def model(x):
        pyro.module("decoder", decoder)
        pyro.module("flow of the prior", of_prior)
        with pyro.plate("data", len(x)):
            base = dist.Normal(torch.zeros_like(x[:, :2]), 1.0).to_event(1)
            z = pyro.sample("z", dist.TransformedDistribution(base, [of_prior]))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        pyro.module("flow of the guide", of_guide)
        with pyro.plate("data", len(x)):
            base = dist.Normal(*proposal(encoder(x))).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [of_guide]))

    def terms(latents, x):
        z, x = latents["z"].double(), x.double()
        decode, encode, coupling, autoregressive = double
        log_q = of_autoregressive(z, *proposal(encode(x)), autoregressive)
        return bernoulli(x, decode(z)).sum(-1), of_coupling(z, coupling), log_q

    return Published(model, guide, x, terms, lambda x: integral(terms, "z", *plane(), x))


def before_planar(z, flow):
    """Return e with z = e + u tanh(w'e + b) and log |dz / de|: along w the map rises, and bisection inverts it."""
    w, b = flow.w, flow.bias
    inner = w @ flow.u
    u = flow.u + (torch.nn.functional.softplus(inner) - 1 - inner) * w / (w @ w)
    target, slope = z @ w, u @ w
    low, high = target - slope.abs() - 1.0, target + slope.abs() + 1.0
    for _ in range(80):
        middle = (low + high) / 2
        above = middle + slope * (middle + b).tanh() > target
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    bend = (low + b).tanh()
    return z - u * bend[..., None], (1 + (1 - bend**2) * slope).abs().log()


def planar_guide(seed):
    """Rezende and Mohamed (2015): planar flows, which have no inverse, on top of what the encoder says."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        decoder, encoder, x = network(2, 8, PIXELS), network(PIXELS, 8, 4), bits(7)
        flow = planar(2).double()

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x[:, :2]), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        pyro.module("planar", flow)
        with pyro.plate("data", len(x)):
            base = dist.Normal(*proposal(encoder(x))).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [flow]))

    def terms(latents, x):
        z = latents["z"]
        e, log_slope = before_planar(z, flow)
        log_q = normal(e, *proposal(encoder(x))).sum(-1) - log_slope
        return bernoulli(x, decoder(z)).sum(-1), normal(z, 0.0, 1.0).sum(-1), log_q

    return Published(model, guide, x, terms, lambda x: integral(terms, "z", *plane(), x))


def zuko_flows():
    """Import zuko's flows as a tutorial would, without the switch of validation that comes with it."""
    before = torch.distributions.Distribution._validate_args
    try:
        return importlib.import_module("zuko.flows")
    finally:
        torch.distributions.Distribution.set_default_validate_args(before)


def of_zuko(z, flow):
    """Log density of a flow from z to e ~ N(0, I) by the determinant of its Jacobian, which autograd finds."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        e = flow().transform(z)
        rows = [torch.autograd.grad(e[..., d].sum(), z, retain_graph=True)[0] for d in range(2)]
    determinant = rows[0][..., 0] * rows[1][..., 1] - rows[0][..., 1] * rows[1][..., 0]
    return normal(e.detach(), 0.0, 1.0).sum(-1) + determinant.abs().log()


def zuko_prior(seed):
    """A masked autoregressive flow of zuko's as prior, by Pyro's ``ZukoToPyro``, which declares no support."""
    flow_class = zuko_flows().MAF
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        decoder, encoder, x = network(2, 8, PIXELS), network(PIXELS, 8, 4), bits(7)
        flow = flow_class(features=2, transforms=2, hidden_features=(6,)).double()

    def model(x):
        pyro.module("prior", flow)
        pyro.module("decoder", decoder)
        with pyro.plate("batch", len(x)):
            z = pyro.sample("z", ZukoToPyro(flow()))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("batch", len(x)):
            pyro.sample("z", dist.Normal(*proposal(encoder(x))).to_event(1))

    def terms(latents, x):
        z = latents["z"]
        return bernoulli(x, decoder(z)).sum(-1), of_zuko(z, flow), normal(z, *proposal(encoder(x))).sum(-1)

    return Published(model, guide, x, terms, lambda x: integral(terms, "z", *plane(), x))


FLOWS = {"flows": flows, "planar guide": planar_guide, "prior of zuko's": zuko_prior}
