"""The ELBO with analytic KL and with free bits, in closed form."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import Coin, TwoLayers, X, double_pair, nested_guide, nested_model

from pyro_vae.inference.objectives import ELBO, FreeBits
from pyro_vae.models import VAE, likelihoods, mlp


def test_analytic_kl_has_the_closed_form_value_and_says_where_it_has_none():
    program = Coin()
    objective = ELBO(kl="analytic")
    torch.manual_seed(2)
    value = objective.value(program.model, program.guide, (X,))
    torch.manual_seed(2)
    terms = objective.weight_terms(program.model, program.guide, X[None].unbind(0))
    kl = torch.distributions.kl_divergence(
        dist.Bernoulli(logits=program.a * X + program.b), dist.Bernoulli(logits=program.logit)
    )
    torch.testing.assert_close(value, terms.likelihood["x"][0] - kl)

    def model(x):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.StudentT(torch.tensor(3.0)))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    layers = TwoLayers()
    with pytest.warns(UserWarning, match="No closed KL for site '[ab]'"):
        upside_down = ELBO(kl="analytic").value(layers.model, layers.guide, (X,))
    assert upside_down.shape == (3,)

    x = X.float()
    with pytest.warns(UserWarning, match=r"No closed KL for site 'z' \(Normal\)"):
        objective.loss(model, guide, x)
    torch.manual_seed(0)
    told = objective.loss(model, guide, x)  # once for each site: no second warning
    torch.manual_seed(0)
    assert told == pytest.approx(ELBO().loss(model, guide, x))


def test_analytic_kl_of_bits_takes_several_particles():
    """torch's own closed form of two Bernoullis takes them of one batch shape alone."""
    program = Coin()
    kl = torch.distributions.kl_divergence(
        dist.Bernoulli(logits=program.a * X + program.b), dist.Bernoulli(logits=program.logit)
    )
    torch.manual_seed(2)
    value = ELBO(5, kl="analytic").value(program.model, program.guide, (X,))
    torch.manual_seed(2)
    terms = ELBO(5).weight_terms(program.model, program.guide, (X,))
    torch.testing.assert_close(value, terms.likelihood["x"].mean(0) - kl)


def test_free_bits_floor_each_dimension_of_the_minibatch_mean():
    model, guide, x = double_pair()
    q = guide.posterior(x)
    loc, scale = q.base_dist.loc, q.base_dist.scale
    kl = (0.5 * (loc**2 + scale**2 - 1) - scale.log()).mean(0)  # (D,), closed form
    floor = kl.sort().values[1].item() + 1e-4
    objective = FreeBits(floor, num_particles=4)
    objective.loss(model, guide, x)
    torch.manual_seed(0)
    loss = objective.differentiable_loss(model, guide, x)
    torch.manual_seed(0)
    terms = objective.weight_terms(model, guide, (x,))
    expected = kl.clamp(min=floor).sum() - terms.likelihood["x"].mean()
    torch.testing.assert_close(loss, expected)
    # No floor: the ELBO with an analytic KL.
    torch.manual_seed(0)
    free = FreeBits(0.0, num_particles=4).value(model, guide, (x,)).mean()
    torch.manual_seed(0)
    torch.testing.assert_close(free, ELBO(4, kl="analytic").value(model, guide, (x,)).mean())
    by_site = FreeBits(1e6, per="site").loss(model, guide, x)
    assert by_site > 1e6


def test_free_bits_want_a_prior_that_factorises():
    locs = torch.randn(2, 3, dtype=torch.float64)
    mixture = dist.MixtureSameFamily(dist.Categorical(torch.ones(2).double()), dist.Normal(locs, 1.0).to_event(1))
    _, guide, x = double_pair()
    model = VAE(mixture, likelihoods.Bernoulli(6), mlp((8,))).double()
    with pytest.raises(ValueError, match=r"the prior at latent site 'z' to factorise.*per=.site."):
        FreeBits(0.1).loss(model, guide, x)
    assert math.isfinite(FreeBits(0.1, per="site").loss(model, guide, x))


def test_free_bits_sum_over_inner_plates_and_mind_the_order_of_sites():
    x = torch.randn(5, 1, dtype=torch.float64)
    for num_particles in (1, 4):
        values = []
        for objective in (FreeBits(0.0, num_particles=num_particles), ELBO(num_particles, kl="analytic")):
            objective.loss(nested_model, nested_guide, x)
            torch.manual_seed(0)
            values.append(objective.loss(nested_model, nested_guide, x))
        assert values[0] == pytest.approx(values[1])
    layers = TwoLayers()  # the guide draws b before a, the model a before b: no closed form holds site by site
    torch.manual_seed(0)
    floorless = FreeBits(0.0).value(layers.model, layers.guide, X)
    torch.manual_seed(0)
    terms = ELBO().weight_terms(layers.model, layers.guide, (X,))
    penalty = sum((terms.guide[name] - terms.prior[name]).mean().clamp(min=0) for name in "ab")
    torch.testing.assert_close(floorless, terms.likelihood["x"][0] - penalty)
