"""Comparison of models: paired differences, and what cannot be compared."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from truth import LinearGaussian

from pyro_vae.inference import compare, evidence


def _evidence(truth, x, num_particles=50, widen=1.2, **settings):
    return evidence(truth.model, truth.guide(widen), x, num_particles, progress=False, **settings)


def _models():
    truth = LinearGaussian.random(2, 4)
    worse = LinearGaussian(truth.weight, truth.bias + 0.1, truth.scale)
    return truth, worse


def test_differences_are_paired_and_their_error_is_honest():
    # Over 200 data sets the true difference lies within 2 standard errors as often as a normal law says,
    # 95.4% with sd 1.5%: 4 sd below is 89.5%. The exact difference is KL(p_truth || p_worse).
    truth, worse = _models()
    exact = torch.distributions.kl_divergence(truth.marginal, worse.marginal).item()
    inside = 0
    for seed in range(200):
        x = truth.sample(60, seed=seed)
        scored = {"worse": _evidence(worse, x, seed=1), "truth": _evidence(truth, x, seed=2)}
        table = compare(scored)
        difference = table.loc["worse"] - table.loc["truth"]
        inside += abs(-difference["log_px"] - exact) < 2 * max(table["diff_stderr"])
    assert 0.895 < inside / 200 < 0.995


def test_table_holds_the_formulas():
    truth, worse = _models()
    x = truth.sample(400)
    a, b = _evidence(truth, x), _evidence(worse, x, seed=7)
    table = compare({"b": b, "a": a})
    assert list(table.index) == ["a", "b"]
    assert list(table["rank"]) == [0, 1]
    difference = a.log_px - b.log_px
    assert table.loc["b", "diff"] == pytest.approx(difference.mean().item())
    assert table.loc["b", "diff_stderr"] == pytest.approx(difference.std().item() / 20)
    assert table.loc["b", "diff_stderr"] < 0.5 * b.stderr  # pairing pays
    noise = (a.std_error.square() + b.std_error.square()).sum().sqrt().item() / 400
    assert table.loc["b", "diff_mc_stderr"] == pytest.approx(noise)
    assert tuple(table.loc["a", ["diff", "diff_stderr", "diff_mc_stderr"]]) == (0, 0, 0)
    assert table.attrs["protocol"] == "importance weighting, K = 50, N = 400; nats per datum"


def test_monte_carlo_error_of_a_difference_covers_it():
    # The same model twice: all of the difference is Monte Carlo. 300 data, 5 standard errors.
    truth, _ = _models()
    x = truth.sample(300)
    table = compare({"one": _evidence(truth, x, seed=1), "two": _evidence(truth, x, seed=2)})
    assert table["diff"].iloc[1] < 5 * table["diff_mc_stderr"].iloc[1]
    assert table["diff_stderr"].iloc[1] == pytest.approx(table["diff_mc_stderr"].iloc[1], rel=0.25)


def test_what_cannot_be_compared_is_refused():
    truth, worse = _models()
    x = truth.sample(20)
    a = _evidence(truth, x)
    for other, message in (
        (_evidence(worse, truth.sample(20, seed=5)), "Expected the same data of all that are compared; a has"),
        (_evidence(worse, x[:10]), "the same number of data of all that are compared; a has 20, b has 10"),
        (_evidence(worse, x, num_particles=51), "the same num_particles .* a has 50, b has 51"),
        (_evidence(worse, x, method="jackknife"), "same method .* a has importance weighting, b has jackknife"),
        (replace(a, log_px=a.log_px - torch.inf), "b gives some data log p.x. = -inf"),
    ):
        with pytest.raises(ValueError, match=message):
            compare({"a": a, "b": other})
    with pytest.raises(ValueError, match="Expected at least two models to compare; got 1"):
        compare({"a": a})
