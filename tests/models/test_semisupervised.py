"""p(y) p(z) p(x|z, y) with y known for some data: sums over y by brute force, and the exact evidence."""

from __future__ import annotations

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, TraceEnum_ELBO, config_enumerate
from torch import nn

from pyro_vae.inference import evidence, fit, guides, log_weights, objectives
from pyro_vae.inference.guides import SemiSupervisedGuide
from pyro_vae.inference.programs.simulate import simulate
from pyro_vae.models import SemiSupervisedVAE, likelihoods, mlp, priors, start_at_data
from pyro_vae.models.semisupervised import Label

F64 = torch.float64
PROBS = torch.tensor([0.5, 0.2, 0.3], dtype=F64)
LABELS = torch.tensor([2, -1, 0, -1, -1, 1])
INF = math.inf


def _pair(alpha=0.0):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = SemiSupervisedVAE(
            priors.StandardNormal(2), likelihoods.Bernoulli(4), mlp((5,)), num_classes=3, class_probs=PROBS
        )
        guide = SemiSupervisedGuide(
            4, guides.DiagonalNormal(2), mlp((6,)), mlp((7,)), num_classes=3, alpha=alpha, loc=0.5, scale=0.5
        )
    return model.double(), guide.double()


def _pixels(n):
    return torch.bernoulli(torch.full((n, 4), 0.4, dtype=F64))


def _parameters(*modules):
    return [p for module in modules for p in module.parameters()]


def _brute_force(model, guide, x, labels, noise):
    """Return the bound of each datum, summed over classes one by one, with z from the given noise of each class."""
    one_by_one = []
    for c in range(3):
        y = torch.full((len(x),), c)
        e = nn.functional.one_hot(y, 3).to(F64)
        loc, log_scale = guide.conditional.encoder(torch.cat([(x - 0.5) / 0.5, e], 1)).chunk(2, -1)
        z = loc + log_scale.exp() * noise[c]
        log_p = dist.Normal(0.0, 1.0).log_prob(z).sum(-1) + PROBS[c].log()
        log_p = log_p + dist.Bernoulli(logits=model.decoder(torch.cat([z, e], 1))).log_prob(x).sum(-1)
        one_by_one.append(log_p - dist.Normal(loc, log_scale.exp()).log_prob(z).sum(-1))
    bounds = torch.stack(one_by_one, 1)
    log_q = guide.classifier((x - 0.5) / 0.5).log_softmax(-1)
    unlabelled = (log_q.exp() * (bounds - log_q)).sum(1)
    return torch.where(labels < 0, unlabelled, bounds.gather(1, labels.clamp(min=0)[:, None])[:, 0]), log_q


class _Noise(pyro.poutine.messenger.Messenger):
    """Keeps the standard normal noise behind the guide's last draw of z, shape (classes, data, D) if enumerated."""

    def _pyro_post_sample(self, msg):
        if msg["name"] == "z" and msg["fn"].batch_shape == (3, 6):
            base = msg["fn"].base_dist
            self.noise = ((msg["value"] - base.loc) / base.scale).detach()


@pytest.mark.parametrize("alpha", [0.0, 0.7])
@pytest.mark.parametrize("which", ["ours", "stock"])
def test_the_enumerated_objective_is_the_sum_over_classes_in_value_and_gradient(which, alpha):
    model, guide = _pair(alpha)
    x = _pixels(6)
    if which == "ours":
        objective, program = objectives.ELBO(gradient="enumerate"), guide
    else:
        objective, program = TraceEnum_ELBO(max_plate_nesting=1), config_enumerate(guide)
    with _Noise() as drawn:
        loss = objective.differentiable_loss(model, program, x, LABELS) * (6 if which == "ours" else 1)
    bounds, log_q = _brute_force(model, guide, x, LABELS, drawn.noise)
    known = LABELS >= 0
    classified = log_q[known].gather(1, LABELS[known][:, None]).sum()
    expected = -(bounds.sum() + alpha * classified)
    torch.testing.assert_close(loss, expected)
    every = _parameters(model, guide)
    for ours, exact in zip(*(torch.autograd.grad(v, every, retain_graph=True) for v in (loss, expected)), strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-6, atol=1e-9)
    assert alpha == 0 or classified < -0.1


def test_the_factor_is_there_in_training_only():
    model, guide = _pair(alpha=2.0)
    x = _pixels(6)
    torch.manual_seed(1)
    with_term = log_weights(model, guide, (x, LABELS), 3)
    torch.manual_seed(1)
    without = log_weights(model.eval(), guide.eval(), (x, LABELS), 3)
    log_q = guide.class_posterior(x).log_prob(LABELS.clamp(min=0))
    expected = torch.where(LABELS < 0, 0.0, 2.0 * log_q)
    torch.testing.assert_close(with_term - without, expected.expand(3, 6))


# x | z, y ~ N(W z + V y, s^2): log p(x, y) and log p(x) are known, and so is the exact guide.
W, SCALE = torch.tensor([1.0, -0.5, 2.0, 0.1], dtype=F64), 0.7
V = 1.5 * torch.arange(12.0, dtype=F64).reshape(4, 3).cos()


class _ExactClassifier(nn.Module):
    def forward(self, x):
        return _log_joint(x)


def _log_joint(x):
    """Return log p(x, y) for every class, shape (N, 3)."""
    covariance = torch.outer(W, W) + SCALE**2 * torch.eye(4, dtype=F64)
    return dist.MultivariateNormal(V.T, covariance).log_prob(x[:, None]) + PROBS.log()


def _exact_pair():
    model = SemiSupervisedVAE(
        priors.StandardNormal(1), likelihoods.Normal(4, SCALE), mlp(()), num_classes=3, class_probs=PROBS
    ).double()
    guide = SemiSupervisedGuide(4, guides.DiagonalNormal(1), mlp(()), _ExactClassifier(), num_classes=3).double()
    variance = 1 / (W @ W / SCALE**2 + 1)
    slope = variance * W / SCALE**2
    with torch.no_grad():
        model.class_logits.copy_(PROBS.log())
        model.decoder.layers[0].weight.copy_(torch.cat([W[:, None], V], 1))
        model.decoder.layers[0].bias.zero_()
        encoder = guide.conditional.encoder.layers[0]
        encoder.weight.copy_(torch.stack([torch.cat([slope, -slope @ V]), torch.zeros(7, dtype=F64)]))
        encoder.bias.copy_(torch.tensor([0.0, 0.5 * math.log(variance)]))
    return model, guide


def _exact_log_px(x, labels):
    joint = _log_joint(x)
    return torch.where(labels < 0, joint.logsumexp(1), joint.gather(1, labels.clamp(min=0)[:, None])[:, 0])


def test_weights_of_the_exact_guide_are_log_p_of_x_with_its_label():
    model, guide = _exact_pair()
    x = 1.5 * torch.randn(6, 4, dtype=F64)
    torch.testing.assert_close(log_weights(model, guide, (x, LABELS), 9), _exact_log_px(x, LABELS).expand(9, 6))
    nobody = torch.full((6,), -1)
    torch.testing.assert_close(log_weights(model, guide, x, 9), _exact_log_px(x, nobody).expand(9, 6))


def test_evidence_of_an_inexact_guide():
    # 4 standard errors for each of 6 data: a classifier that guesses, and a q(z|x, y) that is too wide.
    model, guide = _exact_pair()
    guide.classifier = mlp(())(torch.Size((4,)), 3).double()
    with torch.no_grad():
        guide.conditional.encoder.layers[0].bias[1] += 0.3
    x = 0.7 * torch.randn(6, 4, dtype=F64)
    found = evidence(model, guide, (x, LABELS), 4000, method="iw", progress=False)
    assert ((found.log_px - _exact_log_px(x, LABELS)).abs() < 4 * found.std_error).all()


def test_a_guide_that_ignores_a_label_has_no_weight():
    model, _ = _exact_pair()
    x = torch.randn(6, 4, dtype=F64)

    def guide(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(torch.ones(3, dtype=F64)))
            pyro.sample("z", dist.Normal(torch.zeros(1, dtype=F64), 1.0).to_event(1))

    log_w = log_weights(model, guide, (x, LABELS), 200)
    assert log_w[:, LABELS < 0].isfinite().all()
    share = log_w[:, LABELS >= 0].isfinite().double().mean()
    assert abs(share - 1 / 3) < 5 * (2 / 9 / 600) ** 0.5


def test_the_classifier_learns_from_few_labels():
    # Three clusters far apart, 6 labels among 120 data: nobody is misclassified.
    y = torch.arange(120) % 3
    x = 4 * nn.functional.one_hot(y, 3).float() + 0.5 * torch.randn(120, 3)
    labels = torch.where(torch.arange(120) < 6, y, -1)
    model = SemiSupervisedVAE(priors.StandardNormal(1), likelihoods.Normal(3), mlp((8,)), num_classes=3)
    guide = SemiSupervisedGuide(
        3, guides.DiagonalNormal(1), mlp((8,)), mlp((8,)), num_classes=3, alpha=2.0, loc=1.3, scale=2.0
    )
    start_at_data(model, (x, labels))
    objective = objectives.ELBO(gradient="enumerate")
    adam = partial(torch.optim.Adam, lr=0.02)
    result = fit(
        model, guide, (x, labels), objective=objective, valid=(x, labels), optimizer=adam, epochs=30, batch_size=40,
        progress=False,
    )  # fmt: skip
    assert result.history[-1]["valid_bound"] > result.history[0]["valid_bound"] + 1
    assert (guide.classify(x) == y).double().mean() > 0.95
    posterior = guide.class_posterior(x)
    assert posterior.batch_shape == (120,)
    assert (posterior.probs.argmax(-1) == guide.classify(x)).all()


OBJECTIVES = {
    "enumerate": lambda: objectives.ELBO(gradient="enumerate"),
    "score": lambda: objectives.ELBO(3, gradient="score"),
    "vimco": lambda: objectives.IWAE(3, "vimco"),
    "stock": pyro.infer.Trace_ELBO,
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_parameter_trains_by_objectives_for_discrete_latents(name):
    model, guide = _pair(alpha=0.1)
    before = [p.detach().clone() for p in _parameters(model, guide)]
    data = (_pixels(12), LABELS.repeat(2))
    fit(model, guide, data, objective=OBJECTIVES[name](), valid=data, epochs=2, batch_size=6, progress=False)
    assert all(not torch.equal(a, b) for a, b in zip(before, _parameters(model, guide), strict=True))


def test_stock_svi_with_and_without_labels():
    model, guide = _pair(alpha=0.1)
    svi = SVI(model, config_enumerate(guide), pyro.optim.Adam({"lr": 0.02}), TraceEnum_ELBO(max_plate_nesting=1))
    x = torch.tensor([[1.0, 1, 0, 0]] * 6, dtype=F64)
    losses = [svi.step(x, LABELS) + svi.step(x) for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]


def test_samples_have_the_law_of_the_program():
    # Means of 20,000 draws, 5 standard errors of each entry.
    model, _ = _exact_pair()
    x = model.sample(20_000)
    mean = V @ PROBS
    variance = W**2 + SCALE**2 + (V**2) @ PROBS - mean**2
    assert ((x.mean(0) - mean).abs() < 5 * (variance / 20_000).sqrt()).all()
    x = model.sample(y=torch.full((20_000,), 1))
    assert ((x.mean(0) - V[:, 1]).abs() < 5 * ((W**2 + SCALE**2) / 20_000).sqrt()).all()


def test_simulated_data_are_labelled():
    model, _ = _pair()
    simulated = simulate(model, (_pixels(6), LABELS))
    assert {name: place.argument for name, place in simulated.places.items()} == {"x": 0, "label": 1}
    assert torch.equal(simulated.args[1], simulated.latents["y"])


def test_a_label_is_the_class_or_unknown():
    p = Label(torch.tensor([[0], [2]]), PROBS)
    value = torch.tensor([0, 2, -1, 1])
    expected = torch.tensor([[0.0, -INF, 0.0, -INF], [-INF, 0.0, 0.0, -INF]], dtype=F64)
    torch.testing.assert_close(p.log_prob(value), expected)
    torch.testing.assert_close(p.expand((2, 4)).log_prob(value), expected)
    assert p.expand((2, 4)).sample().tolist() == [[0] * 4, [2] * 4]
    assert p.sample((5,)).shape == (5, 2, 1)
    assert p.support.check(value).all()
    assert not p.support.check(torch.tensor([-2, 3])).any()


def test_float32_and_device(device):
    model, guide = (module.float().to(device) for module in _pair())
    x, labels = _pixels(6).float().to(device), LABELS.to(device)
    log_w = log_weights(model, guide, (x, labels), 2)
    assert log_w.dtype == torch.float32
    assert log_w.device.type == guide.classify(x).device.type == model.sample(2).device.type == device.type


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: SemiSupervisedVAE(priors.StandardNormal(2), likelihoods.Bernoulli(3), num_classes=0),
            "Expected num_classes to be an integer >= 1; got 0",
        ),
        (
            lambda: SemiSupervisedVAE(
                priors.StandardNormal(2), likelihoods.Bernoulli(3), num_classes=3, class_probs=torch.tensor([0.5, 0.5])
            ),
            r"Expected class_probs of shape \(3,\), none negative, with the sum 1; got shape \(2,\) and sum 1",
        ),
        (
            lambda: SemiSupervisedGuide(3, guides.DiagonalNormal(2), mlp(), mlp(), num_classes=3, alpha=-1.0),
            "Expected alpha >= 0; got -1.0",
        ),
        (lambda: _pair()[0].sample(0), "Expected num_data to be an integer >= 1"),
        (lambda: _pair()[0].sample(y=torch.tensor([3])), r"Expected y in \{0, ..., 2\}; got 3"),
        (lambda: _pair()[0].check_data(_pixels(2), torch.tensor([-2, 0])), r"Expected y in \{-1, ..., 2\}; got -2"),
        (lambda: _pair()[0].check_data(0.5 * torch.ones(2, 4)), r"Expected x in \{0, 1\} for Bernoulli; got 0.5"),
    ],
)
def test_mistakes_get_one_clear_line(build, message):
    with pytest.raises(ValueError, match=message):
        build()
