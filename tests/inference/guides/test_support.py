"""Pairs of prior and guide that make no sense are refused, in training as in scoring, with the reason."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import PIXELS, quick
from pyro import poutine

from pyro_vae.inference import AmortizedGuide, evidence, guides, log_weights, objectives
from pyro_vae.inference.programs.proposals import check_latents, check_proposal
from pyro_vae.models import VAE, likelihoods, mlp, priors

DIFFERENT_MEASURES = {
    "codes for a normal": (
        priors.StandardNormal,
        guides.Bernoulli,
        r"a density in 3 dimensions \(Normal\) in the model and discrete \(Bernoulli\) in",
    ),
    "one-hot for a normal": (
        priors.StandardNormal,
        guides.Categorical,
        r"and discrete \(OneHotCategorical\) in the guide",
    ),
    "relaxed for codes": (
        priors.Bernoulli,
        guides.RelaxedBernoulli,
        "is discrete .* in the model .*in 3 dimensions .* in the guide",
    ),
    "relaxed for one-hot": (
        priors.Categorical,
        guides.RelaxedCategorical,
        "is discrete .* in the model .*in 2 dimensions .* in the guide",
    ),
    "normal for codes": (
        priors.Bernoulli,
        guides.DiagonalNormal,
        "is discrete .* in the model .*in 3 dimensions .* in the guide",
    ),
    "simplex for a normal": (
        priors.StandardNormal,
        guides.LogisticNormal,
        "in 3 dimensions .* in the model .*in 2 dimensions",
    ),
    "simplex for a cube": (
        priors.RelaxedBernoulli,
        guides.LogisticNormal,
        "in 3 dimensions .* in the model .*in 2 dimensions",
    ),
    "normal for a simplex": (
        priors.Dirichlet,
        guides.FullRankNormal,
        "in 2 dimensions .* in the model .*in 3 dimensions",
    ),
}
OUTSIDE = {
    "codes for one-hot": (
        priors.Categorical,
        guides.Bernoulli,
        r"\(Bernoulli\) draws values of 'z' outside",
    ),
    "normal for a cube": (
        priors.RelaxedBernoulli,
        guides.DiagonalNormal,
        r"outside \[0, 1\], the support of",
    ),
    "point for a simplex": (priors.Dirichlet, guides.PointMass, r"\(Delta\) draws values of 'z' outside"),
}
# What a run with scores refuses by itself; of the others Pyro refuses to score the draws, in its own words.
SCORED = {name: row for name, row in DIFFERENT_MEASURES.items() if row[0] is priors.StandardNormal}
FITTING = {
    "heavy tails": (priors.StandardNormal, guides.StudentT),
    "flow": (priors.StandardNormal, guides.Flow),
    "simplex": (priors.Dirichlet, guides.LogisticNormal),
    "relaxed on a simplex": (priors.Dirichlet, guides.RelaxedCategorical),
    "cube": (priors.RelaxedBernoulli, guides.RelaxedBernoulli),
    "bits": (priors.Bernoulli, guides.Bernoulli),
    "one-hot": (priors.Categorical, guides.Categorical),
}


def pair(prior, family):
    model = VAE(prior(3), likelihoods.Bernoulli(6), mlp((8,)))
    return model, AmortizedGuide(6, family(3), mlp((8,)))


def traces(model, guide, x=PIXELS):
    guide_trace = poutine.trace(guide).get_trace(x)
    return poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(x), guide_trace


@pytest.mark.parametrize("name", DIFFERENT_MEASURES | OUTSIDE)
def test_pairs_that_make_no_sense_are_refused_before_anything_is_scored(name):
    prior, family, message = (DIFFERENT_MEASURES | OUTSIDE)[name]
    model, guide = pair(prior, family)
    for check in (lambda: check_latents(*traces(model, guide)), lambda: check_proposal(model, guide, (PIXELS,))):
        with pytest.raises(ValueError, match=message) as caught:
            check()
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:The programs do not run with all particles at once")  # before they are refused
@pytest.mark.parametrize("name", DIFFERENT_MEASURES | OUTSIDE)
def test_no_pair_that_makes_no_sense_is_scored_or_trained(name):
    prior, family, message = (DIFFERENT_MEASURES | OUTSIDE)[name]
    model, guide = pair(prior, family)
    expected = message if name in SCORED else "outside|support|no importance weight|point mass"
    with pytest.raises(ValueError, match=expected):
        evidence(model, guide, PIXELS, 30, method="iw", progress=False, device="cpu")
    with pytest.raises(ValueError, match=expected):
        log_weights(model, guide, PIXELS)
    for objective in (None, objectives.ELBO(2, gradient="score"), objectives.IWAE(2, gradient="vimco")):
        with pytest.raises(ValueError, match=expected):
            quick(model, guide, PIXELS, objective=objective)


@pytest.mark.parametrize("name", FITTING)
def test_pairs_that_go_together_pass(name):
    model, guide = pair(*FITTING[name])
    check_latents(*traces(model, guide))
    check_proposal(model, guide, (PIXELS,))


def programs(prior, family):
    def model(x):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", family(x))

    return model, guide


def test_supports_that_are_narrower_or_unchecked_are_not_refused():
    x = torch.randn(20)
    one = torch.ones(())
    narrower = programs(dist.Normal(0 * one, 1.0), lambda x: dist.Uniform(x - 1, x + 1))
    check_latents(*traces(*narrower, x))
    with pytest.warns(UserWarning, match="The guide cannot reach values of 'z' that the prior can"):
        check_proposal(*narrower, (x,))
    # A weight of zero is a weight: a prior that does not check its values scores those outside.
    wider = programs(dist.Uniform(-one, one, validate_args=False), lambda x: dist.Normal(x, 5.0))
    check_latents(*traces(*wider, x))
    assert log_weights(*wider, x, 3).shape == (3, 20)


def test_the_same_site_may_be_discrete_in_both_and_unknown_supports_pass():
    class Unknown(dist.Normal):
        @property
        def support(self):
            raise NotImplementedError

    one = torch.ones(())
    check_latents(*traces(*programs(dist.Poisson(one), lambda x: dist.Geometric(0.3 + 0 * x)), torch.randn(5)))
    check_latents(*traces(*programs(Unknown(0 * one, 1.0), lambda x: dist.Bernoulli(0.5 + 0 * x)), torch.randn(5)))
