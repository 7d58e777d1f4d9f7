"""Annealed importance sampling through ``evidence``: what a user calls."""

from __future__ import annotations

import math

import pytest
import torch
from programs import make_pair
from truth import GammaPoisson, LinearGaussian

from pyro_vae.inference import AmortizedGuide, Evidence, evidence, guides, methods
from pyro_vae.inference.compile import worthwhile
from pyro_vae.inference.scoring.base import Programs
from pyro_vae.models import mlp


@pytest.mark.parametrize("chunk_size", [20, 10_000])
def test_agrees_with_the_exact_value_in_any_chunks(chunk_size):
    # 6 data, within 5 standard errors of log p(x), where the first-order bias is below one.
    truth = LinearGaussian.random(2, 3)
    x = truth.sample(6)
    how = methods.AIS(60, 3)
    ev = evidence(truth.model, truth.guide(0.3), x, 40, method=how, chunk_size=chunk_size, progress=False)
    assert ((ev.log_px - truth.marginal.log_prob(x)).abs() < 5 * ev.std_error + 0.02).all()
    assert ((ev.acceptance > 0.4) & (ev.acceptance < 0.95)).all()
    assert ev.method == "annealed importance sampling (num_temperatures 60, num_leapfrog 3, start prior, num_pilot 4)"


def test_positive_latents_start_at_the_guide_and_save(tmp_path):
    truth = GammaPoisson()
    counts = torch.tensor([[0.0, 3.0, 2.0], [9.0, 8.0, 12.0]], dtype=torch.float64)
    how = methods.AIS(40, 3, start="guide")
    ev = evidence(truth.model, truth.exact_guide, counts, 30, method=how, progress=False)
    torch.testing.assert_close(ev.log_px, truth.log_px(counts), atol=1e-6, rtol=0)  # started at the exact posterior
    ev.save(tmp_path / "ais.npz")
    back = Evidence.load(tmp_path / "ais.npz")
    torch.testing.assert_close(back.acceptance, ev.acceptance)
    assert back.method == ev.method


def test_name_default_chains_progress_and_seed(monkeypatch):
    model, guide = make_pair()
    x = torch.bernoulli(torch.full((3, 6), 0.5))
    monkeypatch.setattr("pyro_vae.inference.scoring.methods.BY_NAME", {"ais": lambda: methods.AIS(20, 2)})
    first, again = (evidence(model, guide, x, method="ais", progress=False) for _ in range(2))
    assert first.num_particles == 16
    assert torch.equal(first.log_px, again.log_px)
    assert math.isfinite(first.mean)
    counted = []
    how = methods.AIS(20, 2)
    pair = Programs(model, guide, None)
    list(how.weights(pair, (x,), [5, 2], counted.append))
    assert sum(counted) == 7 * 3 * how.steps_per_particle


def _annealed_pairs():
    linear, counts = LinearGaussian.random(2, 3), GammaPoisson()
    data = torch.tensor([[0.0, 3.0], [9.0, 8.0], [1.0, 1.0], [2.0, 0.0], [4.0, 6.0]], dtype=torch.float64)
    yield linear.model, linear.guide(0.3), linear.sample(5), linear.marginal.log_prob
    yield counts.model, lambda x: counts.exact_guide(x + 1), data, counts.log_px


@pytest.mark.parametrize(("number", "start"), [(0, "prior"), (1, "guide")])
def test_compiled_chains_are_the_eager_ones_and_find_the_exact_value(number, start, recorded_only):
    model, guide, x, log_px = list(_annealed_pairs())[number]
    settings = {"num_particles": 30, "method": methods.AIS(20, 2, start), "chunk_size": 60, "progress": False}
    eager, fast = (evidence(model, guide, x, compile=compile, **settings) for compile in (False, True))
    assert len(recorded_only) == 1  # for two chunks of two data, and none for the last of one
    torch.testing.assert_close(fast.log_px, eager.log_px, rtol=1e-9, atol=0)
    torch.testing.assert_close(fast.acceptance, eager.acceptance, rtol=1e-9, atol=0)
    assert ((fast.log_px - log_px(x)).abs() < 5 * fast.std_error + 0.02).all()


def test_chains_by_the_compiler_itself():
    model, guide, x, _ = next(_annealed_pairs())
    how = methods.AIS(10, 2)
    eager, fast = (
        evidence(model, guide, x, 4, method=how, compile=compile, progress=False) for compile in (False, True)
    )
    torch.testing.assert_close(fast.log_px, eager.log_px, rtol=1e-8, atol=0)


def test_chains_are_compiled_where_they_are_many_and_run_together(monkeypatch, recorded_only):
    model, guide, x, _ = next(_annealed_pairs())
    monkeypatch.setitem(worthwhile.LEAST, "weights", 5 * 4 * 10)
    for num_temperatures, count in ((9, 0), (10, 1)):
        evidence(model, guide, x, 4, method=methods.AIS(num_temperatures, 2), progress=False)
        assert len(recorded_only) == count
    with pytest.warns(UserWarning, match="so the weights are computed eagerly: the particles run one by one"):
        evidence(model, guide, x, 1, method=methods.AIS(10, 2), compile=True, progress=False)


def test_what_cannot_be_a_start_is_refused():
    model, _ = make_pair()
    guide = AmortizedGuide(6, guides.PointMass(2), mlp((8,)))
    x = torch.bernoulli(torch.full((3, 6), 0.5))
    with pytest.raises(ValueError, match="Guide site 'z' is a point mass"):
        evidence(model, guide, x, method=methods.AIS(20, 2, start="guide"), progress=False)
    assert evidence(model, guide, x, 4, method=methods.AIS(20, 2), progress=False).log_px.isfinite().all()
    with pytest.raises(ValueError, match='Expected start to be "prior" or "guide"'):
        methods.AIS(start="nowhere")
