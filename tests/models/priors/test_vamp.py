"""The VampPrior: a mixture of the guide's posteriors that shares the guide's parameters."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pyro
import pytest
import torch
from torch import nn
from truth import LinearGaussian

from pyro_vae.cli import main
from pyro_vae.inference import AmortizedGuide, evidence, fit, guides
from pyro_vae.inference.training.checkpoints import load_checkpoint
from pyro_vae.models import VAE, likelihoods, mlp
from pyro_vae.models.priors import VampPrior
from pyro_vae.runs.run import Run

DIM, WIDTH = 2, 4
quick = partial(fit, batch_size=10, device="cpu", progress=False)


def _guide(family=guides.DiagonalNormal, **settings):
    return AmortizedGuide(WIDTH, family(DIM), mlp((5,)), **settings)


def _data(count=20):
    return torch.randn(count, WIDTH)


def _pair(seed=0, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        guide = _guide()
        prior = VampPrior(guide, 6, torch.rand(20, WIDTH), **settings)
        return VAE(prior, likelihoods.Bernoulli(WIDTH), mlp((5,))), guide


def _bits():
    return torch.bernoulli(torch.full((20, WIDTH), 0.5))


@pytest.mark.parametrize("learn_weights", [False, True])
def test_density_is_the_mean_of_the_posteriors(learn_weights):
    prior = VampPrior(_guide().double(), 6, _data(), learn_weights=learn_weights)
    prior.logits.data += torch.randn(6) if learn_weights else 0
    z = torch.randn(7, DIM, dtype=torch.float64)
    each = torch.stack([prior.guide.posterior(u[None]).log_prob(z) for u in prior.pseudo_inputs])
    weights = prior.logits.log_softmax(0)[:, None] if learn_weights else -torch.tensor(6.0).log()
    torch.testing.assert_close(prior().log_prob(z), (each + weights).logsumexp(0), rtol=1e-6, atol=1e-6)


def test_evidence_is_that_of_the_mixture_of_linear_gaussian_models():
    # log p(x) = log mean_c N(x; W m_c + b, W S_c W' + s^2 I); each estimate within 5 standard errors.
    truth = LinearGaussian.random(DIM, WIDTH)
    decoder = nn.Linear(DIM, WIDTH).double()
    decoder.weight.data, decoder.bias.data = truth.weight, truth.bias
    guide = _guide().double()
    prior = VampPrior(guide, 6, _data().double())
    model = VAE(prior, likelihoods.Normal(WIDTH, scale=truth.scale), decoder).double()
    x = truth.sample(5)
    q = guide.posterior(prior.pseudo_inputs)
    cov = truth.weight @ q.variance.diag_embed() @ truth.weight.T + truth.scale**2 * torch.eye(WIDTH)
    parts = torch.distributions.MultivariateNormal(q.mean @ truth.weight.T + truth.bias, cov)
    exact = parts.log_prob(x[:, None]).logsumexp(1) - torch.tensor(6.0).log()
    ev = evidence(model, guide, x, 20_000, device="cpu", method="iw", progress=False)
    assert (ev.std_error < 0.1).all()
    assert ((ev.log_px - exact).abs() < 5 * ev.std_error + 1e-5).all()


@pytest.mark.parametrize(
    "family",
    [guides.FullRankNormal, guides.StudentT, guides.Mixture, guides.Flow, guides.LogisticNormal, guides.Bernoulli],
)
def test_posteriors_of_any_family_make_a_prior(family):
    prior = VampPrior(_guide(family).double(), 6, _data())
    p = prior()
    assert (p.batch_shape, p.event_shape) == ((), (DIM,))
    z = p.sample((3,))
    each = torch.stack([prior.guide.posterior(u[None]).log_prob(z) for u in prior.pseudo_inputs])
    torch.testing.assert_close(p.log_prob(z), each.logsumexp(0) - torch.tensor(6.0).log(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(p.expand((3,)).log_prob(z), p.log_prob(z))


def test_pseudo_inputs_start_at_different_data():
    data = 10 * torch.randn(20, WIDTH)
    start = VampPrior(_guide(), 12, data).pseudo_inputs
    distance, row = torch.cdist(start, data).min(1)
    assert (distance < 2).all()
    assert len(row.unique()) == 12
    torch.manual_seed(3)
    one = VampPrior(_guide(), 12, data).pseudo_inputs
    torch.manual_seed(3)
    torch.testing.assert_close(VampPrior(_guide(), 12, data).pseudo_inputs, one)


def test_more_components_than_data_still_differ():
    start = VampPrior(_guide(), 50, _data()).pseudo_inputs
    assert len(start) == 50
    assert torch.pdist(start).min() > 0


def test_without_data_pseudo_inputs_start_as_the_guide_standardises():
    # 2,000 draws: mean and scale within 5 standard errors.
    start = VampPrior(_guide(loc=3.0, scale=0.5), 2000).pseudo_inputs.detach()
    assert (start.mean(0) - 3).abs().max() < 5 * 0.5 / 2000**0.5
    assert (start.std(0) / 0.5 - 1).abs().max() < 5 / 4000**0.5


def test_bounded_pseudo_inputs_stay_in_the_range_of_each_entry():
    data = torch.rand(20, WIDTH) * torch.tensor([1.0, 5.0, 0.0, 2.0]) + 3
    prior = VampPrior(_guide(), 6, data, bounded=True)
    distance, _ = torch.cdist(prior.pseudo_inputs, data).min(1)
    assert (distance < 0.3).all()
    prior.free.data += 100 * torch.randn_like(prior.free)
    u = prior.pseudo_inputs
    assert ((u >= data.amin(0)) & (u <= data.amax(0) + 1e-6)).all()
    prior().log_prob(torch.zeros(DIM)).backward()
    assert prior.free.grad.isfinite().all()


def test_shared_parameters_take_one_step():
    model, guide = _pair()
    x = _bits()[:10]
    before = [p.detach().clone() for p in guide.parameters()]
    reference, other = copy.deepcopy((model, guide))
    quick(model, guide, x, epochs=1, optimizer=partial(torch.optim.SGD, lr=0.1), seed=5)
    # The same step by hand, on the same noise.
    with torch.random.fork_rng():
        torch.manual_seed(5)
        order = torch.randperm(10)
        loss = pyro.infer.Trace_ELBO().differentiable_loss(reference, other, x[order]) / 10
    gradients = torch.autograd.grad(loss, list(other.parameters()))
    for old, new, gradient in zip(before, guide.parameters(), gradients, strict=True):
        torch.testing.assert_close(new, old - 0.1 * gradient)


def test_stock_svi_trains_it():
    model, guide = _pair()
    before = model.prior.free.detach().clone()
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), pyro.infer.Trace_ELBO())
    first = svi.step(_bits())
    assert first > 0
    assert not torch.equal(before, model.prior.free)


def test_resuming_and_loading_keep_what_is_shared(tmp_path):
    x, whole, halves = _bits(), _pair(), _pair()
    quick(*whole, x, epochs=4)
    quick(*halves, x, epochs=2, checkpoint=tmp_path / "c.pt")
    quick(*halves, x, epochs=4, checkpoint=tmp_path / "c.pt", resume=True)
    loaded = _pair(seed=1)
    load_checkpoint(tmp_path / "c.pt", *loaded)
    assert loaded[0].prior.guide is loaded[1]
    for pair in (halves, loaded):
        for a, b in zip(whole[0].parameters(), pair[0].parameters(), strict=True):
            torch.testing.assert_close(a, b)


def test_the_command_line_hands_over_guide_and_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("bits.npy", _bits().repeat(5, 1).numpy())
    quick_run = ["--epochs", "1", "--batch-size", "20", "--hidden", "8", "--num-particles", "5", "--method", "IW"]
    chosen = ["--prior", "VampPrior", "--prior.num_components", "7", "--prior.learn_weights", "true"]
    assert main(["train", "--data", "bits.npy", *quick_run, *chosen]) == 0
    _, splits, model, guide, _ = Run("runs/bits-001").load()
    assert model.prior.guide is guide
    assert model.prior.pseudo_inputs.shape == (7, WIDTH)
    assert torch.cdist(model.prior.pseudo_inputs, splits.train).min(1).values.max() < 0.2
    result = capsys.readouterr().out.splitlines()[-1]
    assert main(["evaluate", "runs/bits-001", "--method", "IW", "--num-particles", "5"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == result
    assert '"prior": "VampPrior(num_components=7, learn_weights=True)"' in Run("runs/bits-001").result.read_text()


def test_copying_both_keeps_them_together():
    model, guide = copy.deepcopy(_pair())
    assert model.prior.guide is guide


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: VampPrior(nn.Linear(2, 2)),
            r"Expected a guide with posterior\(x\), such as AmortizedGuide; got Linear",
        ),
        (lambda: VampPrior(_guide(), 0), "Expected num_components to be an integer >= 1; got 0"),
        (lambda: VampPrior(_guide(), bounded=True), r"Expected data=\.\.\. with bounded=True"),
        (lambda: VampPrior(_guide(guides.PointMass)), "Expected a guide with a density for a VampPrior; got a point"),
        (lambda: VampPrior(_Bare()), r"Expected data=\.\.\. for a VampPrior whose guide names no in_shape"),
    ],
)
def test_bad_settings_get_one_clear_line(build, message):
    with pytest.raises(ValueError, match=message):
        build()


class _Bare(nn.Module):
    def posterior(self, x):
        return x
