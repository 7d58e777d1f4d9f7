"""log p(x) by importance weighting against exact values, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import counting_programs, evidence_of, split_evidence
from truth import BernoulliMixture, GammaPoisson, LinearGaussian

from pyro_vae.inference import AmortizedGuide, evidence, guides
from pyro_vae.models import VAE, likelihoods, mlp, priors


def test_exact_guide_has_no_error_at_all():
    truth = LinearGaussian.random(3, 5)
    x = truth.sample(11)
    ev = evidence_of(truth, truth.exact_guide, x, 100)
    torch.testing.assert_close(ev.log_px, truth.marginal.log_prob(x), atol=1e-9, rtol=0)
    torch.testing.assert_close(ev.ess, torch.full((11,), 100.0, dtype=torch.float64))
    assert (ev.std_error < 1e-6).all()
    assert ev.num_flagged == 0
    assert ev.mean == pytest.approx(truth.marginal.log_prob(x).mean().item(), abs=1e-9)


def test_mismatched_guide_covers_the_truth_as_often_as_it_should():
    # 1,000 data, K = 1,000. Under a normal law 63 of 1,000,000 lie outside 4 standard errors, so more than 3 of
    # 1,000 has probability 5e-7; the share outside 2 is 4.55%, sd 0.66%, so 7.5% is 4.5 sd away.
    truth = LinearGaussian.random(2, 4)
    x = truth.sample(1000)
    ev = evidence_of(truth, truth.guide(1.4, 0.3), x, 1000)
    score = (ev.log_px - truth.marginal.log_prob(x)) / ev.std_error
    assert int((score.abs() > 4).sum()) <= 3
    assert 0.02 < (score.abs() > 2).double().mean() < 0.075
    assert score.std().item() == pytest.approx(1.0, abs=0.1)
    assert ev.num_flagged == 0


def test_a_guide_too_narrow_is_found_out_and_one_too_wide_is_not_blamed():
    truth = LinearGaussian.random(2, 4)
    x = truth.sample(50)
    assert evidence_of(truth, truth.guide(0.4), x, 1000).num_flagged > 35
    assert evidence_of(truth, truth.guide(1.5), x, 1000).num_flagged == 0
    assert evidence_of(truth, truth.guide(1.0, 0.1), x, 1000).num_flagged <= 2


def test_discrete_latents_and_nested_plates():
    mixture, gamma = BernoulliMixture(), GammaPoisson()
    x = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]], dtype=torch.float64)
    ev = evidence(mixture, mixture.guide, x, 50_000, method="iw", progress=False)
    assert ((ev.log_px - mixture.log_px(x)).abs() < 5 * ev.std_error).all()
    counts = torch.tensor([[0.0, 3.0, 2.0]] * 4, dtype=torch.float64)
    torch.testing.assert_close(evidence_of(gamma, gamma.exact_guide, counts, 40).log_px, gamma.log_px(counts))


@pytest.mark.parametrize("chunk_size", [1, 10, 64, 10_000])
def test_answer_does_not_depend_on_chunk_size_beyond_noise(chunk_size):
    # Each of 4 sizes x 5 data lies within 5 standard errors but once in 80,000 runs of this test.
    truth = LinearGaussian.random(2, 3)
    x = truth.sample(5)
    ev = evidence_of(truth, truth.guide(1.3), x, 30, chunk_size=chunk_size)
    assert ev.log_px.shape == ev.khat.shape == (5,)
    assert ((ev.log_px - truth.marginal.log_prob(x)).abs() < 5 * ev.std_error.clamp(min=0.02)).all()


@pytest.mark.parametrize(("num_particles", "chunk_size"), [(1, 7), (50, 7), (3, 100), (1000, 300), (400, 1000)])
def test_no_more_pairs_than_the_chunk_size_exist_at_once(num_particles, chunk_size):
    model, guide, sizes = counting_programs()
    ev = evidence(model, guide, torch.randn(40), num_particles, chunk_size=chunk_size, method="iw", progress=False)
    assert max(sizes) <= chunk_size
    assert sum(sizes) >= 2 * 40 * num_particles  # in model and guide, and a few more to see how the programs run
    assert len(ev.log_px) == 40


def test_curve_rises_to_the_estimate():
    truth = LinearGaussian.random(2, 3)
    ev = evidence_of(truth, truth.guide(1.5), truth.sample(100), 100)
    assert list(ev.curve) == [1, 2, 4, 8, 16, 32, 64, 100]
    means = [mean for mean, _ in ev.curve.values()]
    # K = 100 leaves out nothing, 64 leaves out 36 particles: the last step is not one of nested blocks.
    assert means[:-1] == sorted(means[:-1])
    assert means[-1] == ev.mean
    assert means[0] == pytest.approx(ev.elbo.mean().item())


def test_stderr_covers_data_and_monte_carlo_without_counting_twice():
    # The error of the mean over 200 repetitions, each with new data: its sd is known to 5%, so 22% is 4.4 sd.
    truth = LinearGaussian.random(1, 2)
    expected_log_px = -truth.marginal.entropy().item()
    x = torch.cat([truth.sample(30, seed=s) for s in range(200)])
    runs = split_evidence(evidence_of(truth, truth.guide(2.5), x, 40), 30)
    errors = torch.tensor([run.mean - run.bias - expected_log_px for run in runs])
    stated = torch.tensor([run.stderr for run in runs]).square().mean().sqrt()
    assert errors.std().item() == pytest.approx(stated.item(), rel=0.22)
    assert all(0 < run.mc_stderr < run.stderr for run in runs[:20])


def test_bias_is_that_of_first_order():
    truth = LinearGaussian.random(1, 2)
    x = truth.sample(3000)
    ev = evidence_of(truth, truth.guide(2.0), x, 50)
    actual = (ev.log_px - truth.marginal.log_prob(x)).mean().item()
    assert actual == pytest.approx(ev.bias, abs=5 * ev.mc_stderr)
    assert ev.bias < -ev.mc_stderr


def test_seed_reproduces_and_the_global_generator_is_left_alone():
    truth = LinearGaussian.random(2, 3)
    x = truth.sample(5)
    state = torch.get_rng_state()
    first, again = (evidence_of(truth, truth.guide(1.3), x, 30, seed=4) for _ in range(2))
    other = evidence_of(truth, truth.guide(1.3), x, 30, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.log_px, again.log_px)
    assert not torch.equal(first.log_px, other.log_px)


VALID = torch.zeros(3, 4)
BAD = {
    "no tensor": ([[0.0] * 4], r"Expected x to be a torch\.Tensor; got list"),
    "empty": (torch.zeros(0, 4), "Expected x with at least one datum"),
    "integers": (torch.zeros(3, 4, dtype=torch.long), r"floating-point dtype; got torch\.int64"),
    "double": (VALID.double(), r"of dtype torch\.float32, as the model's parameters; got torch\.float64"),
    "NaN": (VALID.index_fill(0, torch.tensor(1), math.nan), r"without NaN or infinities; got nan at index \(1, 0\)"),
    "infinite": (VALID + math.inf, r"got inf at index \(0, 0\) \(12 such entries\)"),
    "shape": (torch.zeros(3, 2, 2), r"shape \(N, 4\); got \(3, 2, 2\)\. Reshape it: x\.reshape\(-1, 4\)"),
    "other shape": (torch.zeros(3, 5), r"shape \(N, 4\); got \(3, 5\)\.$"),
    "support": (VALID + 0.37, r"Expected x in \{0, 1\} for Bernoulli; got 0\.37 at index \(0, 0\).*binarise"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_get_one_clear_line(name):
    x, message = BAD[name]
    model = VAE(priors.StandardNormal(2), likelihoods.Bernoulli(4), mlp((3,)))
    with pytest.raises(ValueError, match=message) as caught:
        evidence(model, model, x, 10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("settings", [{"num_particles": 0}, {"chunk_size": 0}])
def test_settings_are_checked(settings):
    truth = LinearGaussian.random(2, 3)
    with pytest.raises(ValueError, match=r"Expected (num_particles|chunk_size) to be an integer >= 1; got 0"):
        evidence(truth.model, truth.exact_guide, truth.sample(2), **settings)


@pytest.mark.filterwarnings("ignore:Encountered .inf:UserWarning")  # Pyro says so too
def test_nan_weights_are_refused_with_their_datum():
    def model(x):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.factor("bad", torch.where(x > 1, math.inf, 0.0) + 0 * z, has_rsample=False)

    def guide(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))

    with pytest.raises(ValueError, match="log weights of datum 2 are NaN or inf"):
        evidence(model, guide, torch.tensor([0.0, 0.5, 2.0]), 5, method="iw", progress=False)


def test_unknown_device_is_refused():
    truth = LinearGaussian.random(2, 3)
    with pytest.raises(ValueError, match="Cannot use device 'nowhere'"):
        evidence(truth.model, truth.exact_guide, truth.sample(2), 5, device="nowhere")


def test_swapped_programs_and_observing_guides_are_refused():
    truth = LinearGaussian.random(2, 3)
    x = truth.sample(5)
    with pytest.raises(ValueError, match=r"Expected a model that observes its data.*swapped\?"):
        evidence(truth.exact_guide, truth.model, x, 10)

    def observing(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", truth.posterior(x))
            pyro.factor("extra", torch.ones(len(x)), has_rsample=False)

    with pytest.raises(ValueError, match=r"Site 'extra' of the guide is scored.*pyro.poutine.block\(guide, hide="):
        evidence(truth.model, observing, x, 10)


def test_errors_from_inside_a_program_are_one_line():
    model = VAE(priors.StandardNormal(2), likelihoods.Bernoulli(4), mlp((3,)))
    guide = AmortizedGuide(4, guides.DiagonalNormal(3), mlp((3,)))
    with pytest.raises(ValueError, match="Expected z of event shape") as caught:
        evidence(model, guide, VALID, 10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("x", "settings", "message"),
    [
        ((VALID, torch.zeros(3)), {}, "Expected other data for VAE; got 2 tensors"),
        ((), {}, "Expected x as tensors with the data first; got none"),
        ((VALID, torch.tensor(1)), {}, r"Expected x\[1\] with the data first; got a tensor without dimensions"),
        (VALID, {"seed": 1.5}, r"Expected seed to be an integer of at most 64 bits; got 1\.5"),
        (VALID, {"seed": 2**64}, "of at most 64 bits"),
        (VALID, {"method": ["iw"]}, r"Expected method to be one of .*got \['iw'\]"),
    ],
)
def test_mistakes_in_arguments_get_one_clear_line(x, settings, message):
    model = VAE(priors.StandardNormal(2), likelihoods.Bernoulli(4), mlp((3,)))
    guide = AmortizedGuide(4, guides.DiagonalNormal(2), mlp((3,)))
    with pytest.raises(ValueError, match=message) as caught:
        evidence(model, guide, x, 10, **settings)
    assert "\n" not in str(caught.value)


def test_seeds_of_numpy_are_seeds():
    truth = LinearGaussian.random(2, 3)
    x = truth.sample(2)
    runs = [evidence_of(truth, truth.guide(1.3), x, 5, seed=seed) for seed in (3, np.int64(3))]
    assert torch.equal(runs[0].log_px, runs[1].log_px)
    assert math.isnan(evidence_of(truth, truth.guide(1.3), x, 1).bias)


def test_no_more_than_a_chunk_of_data_is_copied_to_the_device(monkeypatch):
    truth = LinearGaussian.random(2, 4)
    copied = []

    def send(batch, device):
        copied.append(len(batch[0]))
        return tuple(arg.clone() for arg in batch)

    x = truth.sample(10)
    expected = evidence_of(truth, truth.guide(1.2), x, 20, chunk_size=60)
    monkeypatch.setattr("pyro_vae.inference.scoring.evidence.send", send)
    result = evidence_of(truth, truth.guide(1.2), x, 20, chunk_size=60)
    assert copied == [3, 3, 3, 3, 3, 1]  # the ends of the data, on which the programs are tried, and the chunks
    assert torch.equal(result.log_px, expected.log_px)
