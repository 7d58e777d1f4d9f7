"""start_at_data against the closed forms of the marginal, with the pseudo-datum counted in."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from pyro import distributions as dist
from torch import nn
from torch.distributions import constraints

from pyro_vae.inference.programs.call import unvalidated
from pyro_vae.models import VAE, ConditionalVAE, deconv, likelihoods, mlp, priors, start_at_data
from pyro_vae.models.initialization import _last_affine_layer

N, P = 80, 6  # few enough entries for the pool of pseudo-data to hold each of them once


def _vae(likelihood, decoder=None):
    return VAE(priors.StandardNormal(2), likelihood, decoder or mlp((5,))).double()


def _start(likelihood, x):
    """Return p(x|z) after start_at_data where z has no effect: the decoder's last weights are 0."""
    model = _vae(likelihood)
    nn.init.zeros_(model.decoder.layers[-1].weight)
    start_at_data(model, x)
    with torch.no_grad():
        p = model.decode(torch.randn(2, dtype=torch.float64))
    return p.base_dist


def _pixels():
    x = (torch.rand(N, P, dtype=torch.float64) < torch.linspace(0, 0.9, P)).double()
    x[:, 1] = 1.0
    assert x[:, 0].sum() == 0
    return x


def _real():
    x = 128 + 50 * torch.randn(N, P, dtype=torch.float64) * torch.linspace(0.1, 2, P)
    x[:, 2] = 7.0  # without any spread of its own
    return x


def _shrunk(x):
    """Mean of each entry with the pseudo-datum, and the variance around it."""
    mean = (x.sum(0) + x.mean()) / (N + 1)
    spread = ((x - mean) ** 2).sum(0) + ((x.reshape(-1, 1) - mean) ** 2).mean(0)
    return mean, spread / (N + 1)


def test_bernoulli_starts_at_the_shrunk_mean():
    x = _pixels()
    p = _start(likelihoods.Bernoulli(P), x)
    torch.testing.assert_close(p.probs, _shrunk(x)[0], rtol=1e-4, atol=1e-6)
    assert p.logits.abs().max() < math.log(4 * (N + 1))


def test_binomial_starts_at_the_shrunk_mean():
    x = torch.distributions.Binomial(16, torch.linspace(0.0, 1.0, P, dtype=torch.float64)).sample((N,))
    p = _start(likelihoods.Binomial(P, total_count=16), x)
    torch.testing.assert_close(p.probs, _shrunk(x)[0] / 16, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", ["shared", "dimension", "datum"])
def test_normal_starts_at_mean_and_scale(scale):
    x = _real()
    p = _start(likelihoods.Normal(P, scale), x)
    mean, variance = _shrunk(x)
    if scale == "shared":
        variance = variance.mean().expand(P)
    torch.testing.assert_close(p.loc, mean, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(p.scale.expand(P), variance.sqrt(), rtol=1e-4, atol=1e-4)


def test_a_fixed_scale_stays_as_it_is():
    p = _start(likelihoods.Normal(P, 30.0), _real())
    torch.testing.assert_close(p.scale.expand(P), torch.full((P,), 30.0, dtype=torch.float64))


def test_the_optimum_is_one_for_a_likelihood_of_ones_own():
    # Poisson with a softplus: no closed form is coded anywhere, and the mean is known all the same.
    class Poisson(nn.Module):
        num_features = P

        def forward(self, h):
            return torch.distributions.Independent(torch.distributions.Poisson(nn.functional.softplus(h)), 1)

    x = torch.poisson(torch.linspace(0.2, 20.0, P, dtype=torch.float64).expand(N, P))
    torch.testing.assert_close(_start(Poisson(), x).rate, _shrunk(x)[0], rtol=1e-4, atol=1e-5)


def test_no_pseudo_datum_outside_the_support():
    # Shares that sum to one: a constant datum does not, unless all its entries are 1 / P.
    class Shares(nn.Module):
        num_features = 3

        def forward(self, h):
            return torch.distributions.Dirichlet(h.exp())

    x = torch.distributions.Dirichlet(torch.tensor([2.0, 5.0, 1.0], dtype=torch.float64)).sample((N,))
    model = _vae(Shares())
    start_at_data(model, x)
    h = model.decoder.layers[-1].bias
    expected = x.log().mean(0)  # where the gradient vanishes: digamma(a_i) - digamma(sum a) = E log x_i
    torch.testing.assert_close(h.exp().digamma() - h.exp().sum().digamma(), expected, rtol=1e-4, atol=1e-5)


def test_a_convolution_shares_its_bias():
    x = (torch.rand(N, 2, 3, 5, dtype=torch.float64) < torch.tensor([0.2, 0.7])[:, None, None]).double()
    model = _vae(likelihoods.Bernoulli((2, 3, 5)), deconv((2, 3, 5), (4,)))
    start_at_data(model, x)
    pooled = (x.sum((0, 2, 3)) + 15 * x.mean()) / (15 * (N + 1))
    # 2,400 entries are more than the pool's 1,024 values: their mean is known to about 1 / 1,024
    torch.testing.assert_close(model.decoder.stages[-1].bias.sigmoid(), pooled, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_only_the_bias_and_the_likelihood_change(dtype):
    model, x = _vae(likelihoods.Normal(P, "shared")).to(dtype), _real().to(dtype)
    before, rng = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    model.decoder.layers[0].weight.grad = torch.ones_like(model.decoder.layers[0].weight)
    start_at_data(model, x)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    learnt = {name for name, _ in model.likelihood.named_parameters()}
    assert changed == {"decoder.layers.2.bias"} | {f"likelihood.{name}" for name in learnt}
    assert torch.equal(torch.get_rng_state(), rng)
    assert model.decoder.layers[-1].bias.grad is None
    assert model.decoder.layers[0].weight.grad.sum() == model.decoder.layers[0].weight.numel()
    assert all(p.requires_grad for p in model.parameters())


def test_single_precision_is_no_worse():
    single, double = (_vae(likelihoods.Normal(P, "datum")) for _ in range(2))
    x = (1e4 + _real()).float()
    start_at_data(single.float(), x)
    start_at_data(double, x.double())
    torch.testing.assert_close(single.decoder.layers[-1].bias, double.decoder.layers[-1].bias.float())


def test_missing_entries_are_left_out():
    # The pool of values is that of the observed entries.
    x = _pixels()
    x[::3, 3] = torch.nan
    model = VAE(priors.StandardNormal(2), likelihoods.Bernoulli(P), mlp((5,)), missing=True).double()
    start_at_data(model, x)
    expected = (x.nansum(0) + x.nanmean()) / ((~x.isnan()).sum(0) + 1)
    torch.testing.assert_close(model.decoder.layers[-1].bias.sigmoid(), expected, rtol=1e-4, atol=1e-6)


def test_a_better_start_than_chance():
    x, model = _pixels(), _vae(likelihoods.Bernoulli(P))
    z = torch.randn(200, 1, 2, dtype=torch.float64)
    before = model.decode(z).log_prob(x).mean()
    start_at_data(model, x)
    assert model.decode(z).log_prob(x).mean() > before + 0.5


def _without_bias(in_shape, out_features):
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, out_features, bias=False))


class _Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(P))

    def forward(self, z):
        return z.sum(-1, keepdim=True) * self.log_scale


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (
            lambda: _vae(likelihoods.Bernoulli(P), _without_bias),
            _pixels,
            r"last affine layer to have a bias; got Linear\(in_features=4, out_features=6, bias=False\)",
        ),
        (lambda: _vae(likelihoods.Bernoulli(P), _Scale()), _pixels, "last affine layer to have a bias; got none"),
        (lambda: nn.Linear(P, P).double(), _pixels, "Expected a model with a decoder, as VAE has; Linear has none"),
        (lambda: _vae(likelihoods.Bernoulli(P)), _real, r"Expected x in \{0, 1\} for Bernoulli"),
    ],
)
def test_what_cannot_be_started_is_refused(model, x, message):
    model = model()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        start_at_data(model, x())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_no_finite_optimum_leaves_the_model_as_it_was():
    class NoDensity(torch.distributions.Normal):
        def log_prob(self, value):
            return super().log_prob(value) * torch.nan

    class Broken(nn.Module):
        num_features = P

        def forward(self, h):
            return torch.distributions.Independent(NoDensity(h, 1.0), 1)

    model = _vae(Broken())
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="Found no finite bias that makes the data most likely"):
        start_at_data(model, _real())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class _Weibull(nn.Module):
    """Positive entries with scale exp(h), which is far from that of the data at h = 0."""

    def __init__(self):
        super().__init__()
        self.num_features, self.support = 1, constraints.independent(constraints.positive, 1)

    def forward(self, h):
        return dist.Weibull(h.exp(), torch.tensor(2.0, dtype=h.dtype)).to_event(1)


def test_a_scale_far_from_that_of_the_data_is_found():
    x = 700 * torch.rand(200, 1).sqrt() + 200
    model = VAE(priors.StandardNormal(2), _Weibull(), mlp((4,)))
    start_at_data(model, x)
    # The maximum is known: scale^2 is the mean of x^2, that of 200 data and one pseudo-datum alike.
    torch.testing.assert_close(model.decoder.layers[-1].bias.exp(), x.square().mean(0).sqrt(), rtol=1e-3, atol=0.0)


def test_the_probe_runs_where_the_model_is():
    model = ConditionalVAE(priors.StandardNormal(2), likelihoods.Bernoulli(4), mlp((5,)), num_classes=3).to("meta")
    with unvalidated():
        name, decoder_input = _last_affine_layer(model, model.decoder, (torch.ones(1, 4), torch.tensor([1])))
    assert name == "layers.2"
    assert decoder_input.device.type == "meta"
