"""Outliers: few in data of the model, and others are found."""

from __future__ import annotations

import pytest
import torch
from truth import LinearGaussian

from pyro_vae.inference.diagnostics import outliers

quiet = {"progress": False, "device": "cpu"}


def test_outlier_p_values_by_hand():
    simulated, data = torch.tensor([-3.0, -1.0, -2.0, -2.0]), torch.tensor([-2.0, -9.0, 0.0])
    assert outliers(data, simulated).p_value.tolist() == [4 / 5, 1 / 5, 1.0]
    assert outliers(data, simulated, side="high").p_value.tolist() == [4 / 5, 1.0, 1 / 5]
    assert outliers(data, simulated, side="both").p_value.tolist() == [1.0, 2 / 5, 2 / 5]
    some = outliers(torch.tensor([-9.0, 0.0, -1.0]), torch.randn(999), alpha=0.01)
    assert some.flagged.tolist() == [True, False, False]
    assert str(some) == "1 of 3 data are outliers (false discovery rate 0.01)"


@pytest.mark.parametrize("side", ["low", "high", "both"])
def test_outliers_of_the_model_are_few_and_others_are_found(side):
    # Noisy estimates of log p(x) alike on both sides. 300 data sets: flags at all in 5% of them, 4 sd more is 10%.
    noisy = [torch.randn(520) + 0.5 * torch.randn(520) for _ in range(300)]
    runs = [outliers(values[:20], values[20:], side=side) for values in noisy]
    assert sum(bool(run.flagged.any()) for run in runs) <= 30
    p_values = torch.stack([run.p_value for run in runs])
    for a in (0.05, 0.2, 0.5):
        assert (p_values <= a).double().mean() <= a + 5 * (a / 6000) ** 0.5 + 0.02
    sign = -1 if side == "low" else 1
    mixed = outliers(torch.cat([torch.randn(100), sign * torch.full((20,), 6.0)]), torch.randn(5000), side=side)
    assert mixed.flagged[100:].all()
    assert mixed.flagged[:100].sum() <= 8


def test_log_px_of_shifted_data_is_found():
    truth = LinearGaussian.random(2, 5)
    simulated, x = truth.marginal.log_prob(truth.sample(2000, seed=1)), truth.sample(100, seed=2)
    assert outliers(truth.marginal.log_prob(x), simulated).flagged.sum() <= 5
    assert outliers(truth.marginal.log_prob(x + 4.0), simulated).flagged.sum() >= 90
    flat = truth.marginal.log_prob(truth.bias + 0.01 * (x - truth.bias))  # typical of nothing, and likelier than all
    assert not outliers(flat, simulated).flagged.any()
    assert (outliers(flat, simulated, side="both").p_value < 0.05).all()


def test_refusals_of_outliers():
    ok = torch.randn(5)
    with pytest.raises(ValueError, match="Expected side to be one of low, high, both; got 'left'"):
        outliers(ok, ok, side="left")
    with pytest.raises(ValueError, match=r"Expected simulated of shape \(N,\)"):
        outliers(ok, ok[None])
    with pytest.raises(ValueError, match="Expected log_px"):
        outliers(ok * float("nan"), ok)
    with pytest.raises(ValueError, match="Expected alpha"):
        outliers(ok, ok, alpha=1.0)
