"""The model as a program, and the parts that users bring to it."""

from __future__ import annotations

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae.inference import AmortizedGuide, guides, log_weights, weight_terms
from pyro_vae.models import VAE, likelihoods, mlp, priors


def _vae(decoder=None) -> VAE:
    return VAE(priors.StandardNormal(2), likelihoods.Bernoulli((2, 2)), decoder or mlp((5,)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: VAE(lambda: torch.zeros(2), likelihoods.Bernoulli(4)), "Expected prior.. to return a distribution"),
        (lambda: _vae(decoder=3), "Expected a network factory such as mlp"),
        (lambda: _vae(decoder=lambda shape, width: width), "the network factory to return an nn.Module; got int"),
        (lambda: _vae().sample(0), "Expected num_data to be an integer >= 1"),
    ],
)
def test_bad_settings_get_one_clear_line(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_vae_is_the_program_it_says():
    model = _vae()
    x = torch.bernoulli(torch.full((6, 2, 2), 0.5))
    trace = pyro.poutine.trace(model).get_trace(x)
    z = trace.nodes["z"]["value"]
    trace.compute_log_prob()
    assert z.shape == (6, 2)
    torch.testing.assert_close(trace.nodes["z"]["log_prob"], -0.5 * (z**2).sum(1) - math.log(2 * math.pi))
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], model.decode(z).log_prob(x))
    assert len(pyro.get_param_store()) == 0


def test_samples_have_the_law_of_the_program():
    # The mean of 20,000 draws of 4 pixels, 5 standard errors each.
    model = _vae()
    x = model.sample(20_000)
    z = torch.randn(200_000, 2)
    expected = model.decode(z).mean.mean(0)
    assert ((x.mean(0) - expected).abs() < 5 * 0.5 / 20_000**0.5).all()
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert not x.requires_grad


def test_ready_modules_are_taken_as_networks():
    decoder = nn.Linear(2, 4)
    assert _vae(decoder).decoder is decoder


def test_mlp_flattens_the_event():
    network = mlp((5, 6))(torch.Size((2, 3)), 4)
    assert network(torch.randn(7, 8, 2, 3)).shape == (7, 8, 4)
    assert mlp(())(torch.Size((3,)), 2)(torch.randn(3)).shape == (2,)


def test_models_can_be_copied_after_training_steps():
    model = _vae()
    guide = AmortizedGuide((2, 2), guides.DiagonalNormal(2), mlp((5,)))
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), pyro.infer.Trace_ELBO())
    x = torch.ones(3, 2, 2)
    svi.step(x)
    copied = copy.deepcopy(model)
    before = [p.clone() for p in copied.parameters()]
    svi.step(x)
    assert all(torch.equal(a, b) for a, b in zip(before, copied.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


BARE = {
    "Pyro": lambda: dist.Normal(torch.zeros(2), 1.0).to_event(1),
    "torch": lambda: torch.distributions.Independent(torch.distributions.Laplace(torch.zeros(2), 1.0), 1),
    "mixture": lambda: torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(3)),
        torch.distributions.Independent(torch.distributions.Normal(torch.arange(6.0).reshape(3, 2), 1.0), 1),
    ),
    "transformed": lambda: torch.distributions.TransformedDistribution(
        torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), 1.0), 1),
        [torch.distributions.AffineTransform(torch.ones(2), torch.full((2,), 2.0), event_dim=1)],
    ),
}


@pytest.mark.parametrize("name", BARE)
def test_bare_distributions_are_priors_and_move(name):
    prior = BARE[name]()
    model = VAE(prior, likelihoods.Bernoulli((2, 2)), mlp((5,))).double()
    guide = AmortizedGuide((2, 2), guides.DiagonalNormal(2), mlp((5,))).double()
    x = torch.ones(4, 2, 2, dtype=torch.float64)
    terms = weight_terms(model, guide, x, 3)
    z = terms.guide_sites["z"]["value"]
    torch.testing.assert_close(terms.prior["z"], prior.log_prob(z.float()).double(), rtol=1e-4, atol=1e-4)
    assert terms.prior["z"].dtype == model.sample(2).dtype == torch.float64
    assert not hasattr(prior, "to_event") or name == "Pyro"  # the user's own object is left as it was
    if torch.cuda.is_available():
        assert model.cuda().prior().sample().device.type == "cuda"


def test_a_bare_distribution_with_something_to_learn_is_refused():
    loc = nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match=r"one of its tensors requires a gradient\. Write a module"):
        VAE(dist.Normal(loc, 1.0).to_event(1), likelihoods.Bernoulli(4))


def test_parts_may_return_distributions_of_torch():
    class Family(nn.Module):
        num_features = 4

        def forward(self, h):
            loc, scale = h.chunk(2, -1)
            return torch.distributions.Independent(torch.distributions.Normal(loc, scale.exp()), 1)

    guide = AmortizedGuide((2, 2), Family(), mlp((5,)))
    assert log_weights(_vae(), guide, torch.ones(3, 2, 2), 2).shape == (2, 3)


def test_a_likelihood_of_ones_own_needs_num_features_and_forward_alone():
    class Poisson(nn.Module):
        num_features = 3

        def forward(self, h):
            return torch.distributions.Independent(torch.distributions.Poisson(h.exp()), 1)

    model = VAE(priors.StandardNormal(2), Poisson(), mlp((5,)))
    model.check_data(torch.tensor([[0.0, 4.0, 1.0]]))
    assert model.sample(4).shape == (4, 3)
    with pytest.raises(ValueError, match=r"Expected x in \{0, 1, 2, \.\.\.\} for Poisson; got -1 at index \(0, 1\)"):
        model.check_data(torch.tensor([[0.0, -1.0, 1.0]]))
    with pytest.raises(ValueError, match=r"Expected x of shape \(N, 3\); got \(1, 2\)"):
        model.check_data(torch.zeros(1, 2))


def test_prior_and_guide_of_different_dimensions_are_refused():
    guide = AmortizedGuide((2, 2), guides.DiagonalNormal(1), mlp((5,)))
    with pytest.raises(ValueError, match=r"Expected z of event shape \(2,\), the prior's; the guide draws \(3, 1\)"):
        log_weights(_vae(), guide, torch.ones(3, 2, 2))
