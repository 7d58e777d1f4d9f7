"""Discrete codes against the sum over all of them, and their relaxations."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from pyro_vae.inference import AmortizedGuide, evidence, guides, objectives
from pyro_vae.models import VAE, likelihoods, mlp, priors

ESTIMATORS = {
    "vimco": partial(objectives.IWAE, 2, gradient="vimco"),
    "score": partial(objectives.ELBO, 2, gradient="score"),
    "enumerate": partial(objectives.ELBO, gradient="enumerate"),
}
CODES = {
    "Bernoulli": (guides.Bernoulli, priors.Bernoulli),
    "Categorical": (guides.Categorical, priors.Categorical),
}


def discrete_pair(name, dim=3):
    guide, prior = (part(dim) for part in CODES[name])
    model = VAE(prior, likelihoods.Bernoulli(4), mlp((5,))).double()
    return model, AmortizedGuide(4, guide, mlp(())).double()


def codes_of(name, dim=3):
    return CODES[name][0](dim)(torch.zeros(dim, dtype=torch.float64)).enumerate_support()


def brute_force(model, guide, x, name, particles):
    """The bound summed over all values of all particles, with its gradient for the guide."""
    values, q = codes_of(name), guide.posterior(x)
    with torch.no_grad():
        log_joint = torch.stack([model.prior().log_prob(z) + model.decode(z).log_prob(x) for z in values])
    log_q = torch.stack([q.log_prob(z.expand(len(x), -1)) for z in values])
    log_w = log_joint - log_q
    if particles == 1:
        return (log_q.exp() * log_w).sum(0).mean()
    pairs = torch.logaddexp(log_w[:, None], log_w[None]) - torch.tensor(2.0).log()
    return ((log_q[:, None] + log_q[None]).exp() * pairs).sum((0, 1)).mean()


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradient_of_discrete_codes_is_that_of_the_sum_over_all(name, estimator):
    # Enumeration to rounding; the others within 5 standard errors of 200 repetitions on 2 x 20 copies of the data.
    model, guide = discrete_pair(name)
    x = torch.tensor([[0, 1, 1, 0], [1, 1, 0, 0]], dtype=torch.float64)
    parameters = list(guide.parameters())
    exact = brute_force(model, guide, x, name, 2 if estimator == "vimco" else 1)
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(exact, parameters)])
    objective = ESTIMATORS[estimator]()

    def gradient(data):
        loss = objective.differentiable_loss(model, guide, data)
        return torch.cat([-g.flatten() for g in torch.autograd.grad(loss, parameters)])

    if estimator == "enumerate":
        torch.testing.assert_close(gradient(x), expected)
        return
    runs = torch.stack([gradient(x.repeat(20, 1)) for _ in range(200)])
    assert ((runs.mean(0) - expected).abs() <= 5 * runs.std(0) / 200**0.5 + 1e-9).all()
    assert expected.abs().max() > 1e-3


@pytest.mark.parametrize("name", CODES)
def test_evidence_of_discrete_codes_is_the_sum_over_all(name):
    # Within 5 standard errors for each of 3 data.
    model, guide = discrete_pair(name)
    x = torch.tensor([[0, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.float64)
    with torch.no_grad():
        joint = torch.stack([model.prior().log_prob(z) + model.decode(z).log_prob(x) for z in codes_of(name)])
    ev = evidence(model, guide, x, 5000, method="iw", progress=False, device="cpu")
    assert ((ev.log_px - joint.logsumexp(0)).abs() < 5 * ev.std_error + 1e-9).all()


def test_too_many_bits_to_enumerate_are_refused():
    model, guide = discrete_pair("Bernoulli", dim=17)
    x = torch.zeros(2, 4, dtype=torch.float64)
    with pytest.raises(
        ValueError, match="at most 65,536 values to sum over at guide site 'z'; got 131,072, 2 for each of 17"
    ):
        objectives.ELBO(gradient="enumerate").differentiable_loss(model, guide, x)


def test_relaxations_fall_on_the_discrete_law_as_the_temperature_falls():
    # The share of draws in each corner is a binomial mean: 5 standard errors of 20,000 draws.
    h = torch.tensor([0.8, -0.4, 0.1], dtype=torch.float64)
    bits = guides.RelaxedBernoulli(3, temperature=0.01)(h).sample((20_000,))
    corner = guides.RelaxedCategorical(3, temperature=0.01)(h).sample((20_000,))
    for drawn, expected in ((bits > 0.5, h.sigmoid()), (corner > 0.5, h.softmax(0))):
        assert ((drawn.double().mean(0) - expected).abs() < 5 * 0.5 / 20_000**0.5).all()
    assert ((bits < 0.01) | (bits > 0.99)).double().mean() > 0.9


def test_learnable_temperature_moves_and_a_fixed_one_does_not():
    for family in (guides.RelaxedBernoulli, guides.RelaxedCategorical):
        assert len(list(family(3, 0.7).parameters())) == 0
        (parameter,) = family(3, 0.7, learnable=True).parameters()
        assert parameter.exp().item() == pytest.approx(0.7)
