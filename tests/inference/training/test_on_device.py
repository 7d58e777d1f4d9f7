"""Compiled training and scoring on the device that pytest is given: on a GPU, real kernels and real CUDA graphs.

On the CPU, where other tests compile, the recorded graphs run as they are.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from programs import PIXELS, losses_of, make_pair, weights_of
from torch.optim.lr_scheduler import ExponentialLR, OneCycleLR

from pyro_vae.inference import AmortizedGuide, evidence, fit, guides, methods, objectives
from pyro_vae.inference.training import whole_step
from pyro_vae.models import VAE, conv, deconv, likelihoods, priors

GREY = 0.8 * PIXELS + 0.1
SETTINGS = {
    "plain": {},
    "schedules": {"scheduler": partial(ExponentialLR, gamma=0.5), "kl_warmup": 2, "clip_norm": 1.0},
    "a momentum that moves": {"scheduler": lambda adam: OneCycleLR(adam, 0.01, total_steps=10)},
    "IWAE": {"objective": objectives.IWAE(5)},
    "IWAE, dreg": {"objective": objectives.IWAE(5, "dreg")},
    "SGD": {"optimizer": partial(torch.optim.SGD, lr=0.01)},
    "RMSprop": {"optimizer": partial(torch.optim.RMSprop, lr=1e-3)},
}


@pytest.fixture
def captures(monkeypatch, device):
    """Count captures of whole steps, and let recorded graphs run as they are where no GPU compiles them."""
    made, capture = [], whole_step.capture_cuda
    monkeypatch.setattr(whole_step, "capture_cuda", lambda function: made.append(1) or capture(function))
    if device.type == "cpu":
        monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)
    return made


def train(pair, device, compile, **settings):
    settings = {"transform": torch.bernoulli, "valid": PIXELS[:20], "batch_size": 11, "epochs": 4} | settings
    return fit(*pair, GREY, device=device, compile=compile, progress=False, **settings)


@pytest.mark.parametrize("name", SETTINGS)
def test_compiled_training_is_the_programs_own(name, device, captures):
    pairs, settings = (make_pair(), make_pair()), SETTINGS[name]
    results = [train(pair, device, compile, **settings) for pair, compile in zip(pairs, (True, False), strict=True)]
    assert results[0].execution.startswith("compiled")
    assert bool(captures) is (device.type == "cuda" and name != "SGD")
    assert losses_of(results[0]) == pytest.approx(losses_of(results[1]), rel=1e-4)
    torch.testing.assert_close(weights_of(*pairs[0]), weights_of(*pairs[1]), rtol=1e-3, atol=1e-4)


def test_convolutions_compile(device, captures):
    shape = (1, 8, 8)
    model = VAE(priors.StandardNormal(2), likelihoods.Bernoulli(shape), deconv(shape, (8, 4)))
    guide = AmortizedGuide(shape, guides.DiagonalNormal(2), conv((4, 8)))
    x = (torch.rand(60, *shape) < 0.4).float()
    result = fit(model, guide, x, batch_size=20, epochs=3, device=device, compile=True, progress=False)
    assert result.execution.startswith("compiled")
    assert bool(captures) is (device.type == "cuda")


def test_a_compiled_run_resumes_where_it_stopped(device, captures, tmp_path):
    settings = {"scheduler": partial(ExponentialLR, gamma=0.5), "kl_warmup": 3}
    whole, resumed = make_pair(), make_pair()
    train(whole, device, True, **settings)
    train(resumed, device, True, epochs=2, checkpoint=tmp_path / "checkpoint.pt", **settings)
    train(resumed, device, True, checkpoint=tmp_path / "checkpoint.pt", resume=True, **settings)
    torch.testing.assert_close(weights_of(*resumed), weights_of(*whole), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", [methods.IW(), methods.IW(refine=3), methods.AIS(num_temperatures=5)])
def test_compiled_evidence_is_the_programs_own(how, device, captures):
    compiled, plain = (
        evidence(*make_pair(), PIXELS, 30, method=how, device=device, compile=compile, progress=False)
        for compile in (True, False)
    )
    torch.testing.assert_close(compiled.log_px, plain.log_px, rtol=1e-4, atol=1e-3)
    assert compiled.log_px.device.type == "cpu"


def test_a_replayed_step_waits_for_nothing(device, captures):
    """Torch's debug mode makes an error of a wait; the end of an epoch has one, when its loss is read."""
    if device.type != "cuda":
        pytest.skip("the CPU waits for nothing; pytest --device cuda")
    calls = []

    def strict(x):
        calls.append(1)
        torch.cuda.set_sync_debug_mode("error" if 8 < len(calls) < 14 else "default")
        return x.bernoulli()

    try:
        train(make_pair(), device, True, transform=strict, valid=None, batch_size=4, epochs=1, clip_norm=1.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(captures) == 1
