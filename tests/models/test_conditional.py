"""p(x|z, y): the program, what networks see of y, and the evidence log p(x|y) against a normal density."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae.core.conditioning import join
from pyro_vae.inference import evidence, fit, guides, log_weights, objectives
from pyro_vae.inference.guides import ConditionalGuide
from pyro_vae.models import ConditionalVAE, conv, deconv, likelihoods, mlp, priors, start_at_data

F64 = torch.float64
KINDS = {
    "classes": ({"num_classes": 3}, lambda n: torch.arange(n) % 3),
    "covariates": ({"num_covariates": 3}, lambda n: torch.randn(n, 3)),
}
PRIORS = {"p(z)": lambda: priors.StandardNormal(2), "p(z|y)": lambda: guides.DiagonalNormal(2)}


def _pair(kind="classes", prior="p(z)", shape=(2, 3)):
    options, draw = KINDS[kind]
    model = ConditionalVAE(PRIORS[prior](), likelihoods.Bernoulli(shape), mlp((5,)), **options)
    guide = ConditionalGuide(shape, guides.DiagonalNormal(2), mlp((6,)), loc=0.5, scale=0.4, **options)
    return model, guide, draw


def _vectors(kind, y):
    return nn.functional.one_hot(y, 3).float() if kind == "classes" else y


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_programs_are_the_ones_they_say(kind, prior):
    model, guide, draw = _pair(kind, prior)
    x, y = torch.bernoulli(torch.full((5, 2, 3), 0.4)), draw(5)
    e = _vectors(kind, y)
    drawn = pyro.poutine.trace(guide).get_trace(x, y)
    trace = pyro.poutine.trace(pyro.poutine.replay(model, trace=drawn)).get_trace(x, y)
    for each in (drawn, trace):
        each.compute_log_prob()
    z = drawn.nodes["z"]["value"]
    loc, log_scale = guide.encoder(torch.cat([(x - 0.5) / 0.4, e[..., None].expand(5, 3, 3)], 1)).chunk(2, -1)
    torch.testing.assert_close(drawn.nodes["z"]["log_prob"], dist.Normal(loc, log_scale.exp()).log_prob(z).sum(-1))
    p_z = dist.Normal(torch.zeros(5, 2), 1.0)
    if prior == "p(z|y)":
        loc, log_scale = model.prior_network(e).chunk(2, -1)
        p_z = dist.Normal(loc, log_scale.exp())
    torch.testing.assert_close(trace.nodes["z"]["log_prob"], p_z.log_prob(z).sum(-1))
    logits = model.decoder(torch.cat([z, e], -1)).unflatten(-1, (2, 3))
    expected = dist.Bernoulli(logits=logits).log_prob(x).sum((-2, -1))
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], expected)
    assert len(pyro.get_param_store()) == 0


# x | z, y ~ N(W z + V y + b, s^2), z | y ~ N(A y, t^2): normal given y, with an affine normal posterior.
A, T, SCALE = torch.tensor([0.5, -1.0, 0.3], dtype=F64), 0.8, 0.7
W, B = torch.tensor([1.0, -0.5, 2.0, 0.1], dtype=F64), torch.tensor([0.2, 0.0, -1.0, 0.5], dtype=F64)
V = torch.arange(12.0, dtype=F64).reshape(4, 3).cos()


def _affine(linear, weight, bias):
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(torch.as_tensor(bias))


def _linear_pair(kind):
    options, draw = KINDS[kind]
    model = ConditionalVAE(
        guides.DiagonalNormal(1), likelihoods.Normal(4, SCALE), mlp(()), prior_network=mlp(()), **options
    ).double()
    _affine(model.decoder.layers[0], torch.cat([W[:, None], V], 1), B)
    _affine(model.prior_network.layers[0], torch.stack([A, 0 * A]), [0.0, math.log(T)])
    guide = ConditionalGuide(4, guides.DiagonalNormal(1), mlp(()), **options).double()
    variance = 1 / (W @ W / SCALE**2 + T**-2)
    slope = variance * W / SCALE**2
    of_y = variance * A / T**2 - slope @ V
    weight = torch.stack([torch.cat([slope, of_y]), torch.zeros(7, dtype=F64)])
    _affine(guide.encoder.layers[0], weight, [-slope @ B, 0.5 * variance.log()])
    y = draw(6)
    return model, guide, 2 * torch.randn(6, 4, dtype=F64), y.double() if y.is_floating_point() else y


def _exact_log_px(kind, x, y):
    e = _vectors(kind, y).double()
    covariance = T**2 * torch.outer(W, W) + SCALE**2 * torch.eye(4, dtype=F64)
    return dist.MultivariateNormal((e @ A)[:, None] * W + e @ V.T + B, covariance).log_prob(x)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_the_exact_guide_are_constant_and_equal_to_the_evidence(kind):
    model, guide, x, y = _linear_pair(kind)
    torch.testing.assert_close(log_weights(model, guide, (x, y), 7), _exact_log_px(kind, x, y).expand(7, 6))


@pytest.mark.parametrize("kind", KINDS)
def test_evidence_of_an_inexact_guide(kind):
    # 4 standard errors for each of 6 data, with a guide that is too wide.
    model, guide, x, y = _linear_pair(kind)
    with torch.no_grad():
        guide.encoder.layers[0].bias[1] += 0.3
    found = evidence(model, guide, (x, y), 4000, method="iw", progress=False)
    assert ((found.log_px - _exact_log_px(kind, x, y)).abs() < 4 * found.std_error).all()


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_law_of_x_given_y(kind):
    # Mean and variance of 20,000 draws at one y, 5 standard errors of each entry.
    model, _, _, y = _linear_pair(kind)
    x = model.sample(y[:1].expand(20_000, *y.shape[1:]))
    e = _vectors(kind, y[:1]).double()[0]
    variance = T**2 * W**2 + SCALE**2
    assert ((x.mean(0) - (e @ A) * W - V @ e - B).abs() < 5 * (variance / 20_000).sqrt()).all()
    assert ((x.var(0) / variance - 1).abs() < 5 * (2 / 20_000) ** 0.5).all()


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("kind", KINDS)
def test_fit_and_stock_svi_train_every_parameter(kind, prior):
    model, guide, draw = _pair(kind, prior)
    data = (torch.bernoulli(torch.full((40, 2, 3), 0.3)), draw(40))
    before = [p.detach().clone() for module in (model, guide) for p in module.parameters()]
    result = fit(model, guide, data, valid=data, objective=objectives.IWAE(3), epochs=2, batch_size=20, progress=False)
    after = [p for module in (model, guide) for p in module.parameters()]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert math.isfinite(result.history[-1]["valid_bound"])
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), pyro.infer.TraceMeanField_ELBO())
    losses = [svi.step(*data) for _ in range(80)]
    assert sum(losses[-10:]) < sum(losses[:10])


def test_y_makes_a_difference_that_training_finds():
    # Class c has pixel c on and the others off: log p(x|y) is 0 nats, log p(x) would be log 1/3.
    model, guide, _ = _pair(shape=(3,))
    y = torch.arange(60) % 3
    x = nn.functional.one_hot(y, 3).float()
    adam = lambda parameters: torch.optim.Adam(parameters, lr=0.02)  # noqa: E731
    fit(model, guide, (x, y), optimizer=adam, epochs=60, batch_size=30, progress=False)
    assert evidence(model, guide, (x, y), 100, method="iw", progress=False).mean > -0.3
    assert evidence(model, guide, (x, (y + 1) % 3), 100, method="iw", progress=False).mean < -3


def test_images_get_constant_channels():
    x, y = torch.randn(2, 1, 1, 4, 5), torch.randn(3, 6)
    joined = join(x, y, torch.Size((1, 4, 5)))
    assert joined.shape == (2, 3, 7, 4, 5)
    torch.testing.assert_close(joined[..., :1, :, :], x.expand(2, 3, 1, 4, 5))
    torch.testing.assert_close(joined[..., 1:, :, :], y[..., None, None].expand(2, 3, 6, 4, 5))
    model = ConditionalVAE(
        priors.StandardNormal(2), likelihoods.Bernoulli((1, 6, 5)), deconv((1, 6, 5), (3,)), num_classes=4
    )
    guide = ConditionalGuide((1, 6, 5), guides.DiagonalNormal(2), conv((3,)), num_classes=4)
    y = torch.tensor([0, 3])
    assert guide.encoder.stages[0].in_channels == 5
    assert log_weights(model, guide, (model.sample(y), y), 3).shape == (3, 2)


def test_vectors_get_longer_and_leading_dimensions_broadcast():
    x, y = torch.randn(4, 2), torch.randn(5, 1, 3)
    joined = join(x, y, torch.Size((2,)))
    assert joined.shape == (5, 4, 5)
    torch.testing.assert_close(joined[2, 3], torch.cat([x[3], y[2, 0]]))


def test_start_at_data_takes_the_tuple():
    model, _, draw = _pair()
    x = torch.bernoulli(torch.full((40, 2, 3), 0.3))
    start_at_data(model, (x, draw(40)))
    expected = (x.sum(0) + x.mean()) / 41
    torch.testing.assert_close(model.decoder.layers[-1].bias.sigmoid(), expected.flatten(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_float64_and_device(kind, device):
    model, guide, draw = _pair(kind, "p(z|y)")
    model, guide = model.to(device, F64), guide.to(device, F64)
    y = draw(3).to(device)
    y = y.double() if y.is_floating_point() else y
    log_w = log_weights(model, guide, (torch.ones(3, 2, 3, dtype=F64, device=device), y), 2)
    assert log_w.dtype == model.sample(y).dtype == F64
    assert log_w.device.type == device.type


ONES = torch.ones(2, 2, 3)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: ConditionalVAE(priors.StandardNormal(2), likelihoods.Bernoulli(3)),
            "num_classes, .* got neither",
        ),
        (
            lambda: ConditionalGuide(3, guides.DiagonalNormal(2), mlp(), num_classes=2, num_covariates=2),
            "either num_classes, .* got {'num_classes': 2, 'num_covariates': 2}",
        ),
        (
            lambda: ConditionalVAE(priors.StandardNormal(2), likelihoods.Bernoulli(3), num_classes=0),
            "Expected num_classes to be an integer >= 1; got 0",
        ),
        (
            lambda: ConditionalVAE(
                priors.StandardNormal(2), likelihoods.Bernoulli(3), num_classes=2, prior_network=mlp()
            ),
            "Expected a prior with num_features for prior_network",
        ),
        (
            lambda: ConditionalVAE(dist.Normal(0.0, 1.0), likelihoods.Bernoulli(3), num_classes=2),
            r"Expected a prior of event shape \(D,\); got \(\)",
        ),
        (lambda: _pair()[0].sample(torch.tensor([0, 3])), r"Expected y in \{0, ..., 2\}; got 3 at index \(1,\)"),
        (
            lambda: _pair()[0].check_data(ONES, torch.tensor([-1, 0])),
            r"y in \{0, ..., 2\}; got -1 at index \(0,",
        ),
        (
            lambda: _pair()[0].sample(torch.tensor([0.0])),
            "class indices, an integer dtype; got torch.float32. Convert it",
        ),
        (
            lambda: log_weights(*_pair()[:2], (ONES, torch.tensor([0.0, 1.0]))),
            "class indices, an integer dtype; got torch.float32. Convert it",
        ),
        (
            lambda: log_weights(*_pair("covariates")[:2], (ONES, torch.zeros(2, 4))),
            r"Expected y of shape \(N, 3\), a floating-point dtype; got \(2, 4\)",
        ),
        (
            lambda: _pair("covariates")[0].check_data(ONES, torch.tensor([[0.0, torch.nan, 1.0]] * 2)),
            r"Expected y in finite numbers; got nan at index \(0, 1\)",
        ),
        (lambda: _pair()[0].check_data(0.5 * ONES), r"Expected x in \{0, 1\} for Bernoulli; got 0.5"),
        (
            lambda: _pair()[1].posterior(torch.ones(2, 6), torch.tensor([0, 1])),
            r"Expected x of shape \(N, 2, 3\); got \(2, 6\)",
        ),
    ],
)
def test_mistakes_get_one_clear_line(build, message):
    with pytest.raises(ValueError, match=message):
        build()
