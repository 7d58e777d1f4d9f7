"""The signal of a gradient."""

from __future__ import annotations

import math

import pytest
import torch
from programs import TwoLayers, X, double_pair

from pyro_vae.inference import fit, gradient_snr
from pyro_vae.inference.objectives import IWAE


def test_signal_falls_with_k_for_the_pathwise_guide_gradient_and_not_for_dreg():
    """Rainforth et al. (2018): O(1/sqrt K) against O(sqrt K); from K = 1 to 64, 300 repeats, ratios known to 4%."""
    torch.manual_seed(3)
    model, guide, x = double_pair(latent=2)
    fit(model, guide, x, epochs=100, batch_size=20, progress=False)
    ratios = {
        (name, k): gradient_snr(model, guide, x, IWAE(k, name), num_repeats=300)
        for name in ("pathwise", "dreg")
        for k in (1, 64)
    }
    assert ratios["pathwise", 64].guide < 0.7 * ratios["pathwise", 1].guide
    assert ratios["dreg", 64].guide > 2 * ratios["pathwise", 64].guide
    for name in ("pathwise", "dreg"):
        assert ratios[name, 64].model > 2 * ratios[name, 1].model
    again = [gradient_snr(model, guide, x, IWAE(4), num_repeats=5) for _ in range(2)]
    assert again[0] == again[1]


def test_one_repeat_has_no_spread():
    model, guide, x = double_pair()
    with pytest.raises(ValueError, match=r"Expected num_repeats to be an integer >= 2; got 1\. A variance takes two"):
        gradient_snr(model, guide, x, IWAE(4), num_repeats=1)


def test_methods_of_one_module_have_ratios_of_their_own():
    """Each by hand from the same gradients: those of u and w, and those of the guide's four parameters."""
    layers, objective = TwoLayers(), IWAE(3)
    model, guide = layers.model, layers.guide
    objective.loss(model, guide, X)
    found = gradient_snr(model, guide, X, objective, num_repeats=20, seed=4)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        draws = torch.stack([layers.gradient(objective.differentiable_loss(model, guide, X)) for _ in range(20)])
    ratios = draws.mean(0).abs() / draws.std(0)
    assert found.model == pytest.approx(ratios[:2].mean().item())
    assert found.guide == pytest.approx(ratios[2:].mean().item())


def test_a_program_without_parameters_has_no_ratio_and_looking_leaves_the_generator_alone():
    layers = TwoLayers()
    layers.u.requires_grad_(False)
    layers.w.requires_grad_(False)
    state = torch.get_rng_state()
    found = gradient_snr(layers.model, layers.guide, X, IWAE(1), num_repeats=5)
    assert torch.equal(state, torch.get_rng_state())
    assert math.isnan(found.model)
    assert found.guide > 0
