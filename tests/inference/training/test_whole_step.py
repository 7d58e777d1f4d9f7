"""A whole step as one CUDA graph: the logic around the capture, with a capture that only notes down a function."""

from __future__ import annotations

import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR, OneCycleLR

from pyro_vae.inference.training.compiled import fuse
from pyro_vae.inference.training.whole_step import (
    WAITED,
    CannotCaptureError,
    WholeStep,
    host_settings,
    make_capturable,
    waits,
)

adam = partial(torch.optim.Adam, lr=1e-3)
LOSSES = [0.0, 1.0, 3.0, 6.0, 10.0, 15.0]


class Run:
    """Takes steps that add to a number, with the means of a whole step, and counts the captures."""

    def __init__(self, **means):
        self.param, self.captured = torch.zeros(()), []
        self.run = WholeStep(self.step, (torch.ones(2), torch.ones(())), self.capture, **means)

    def step(self, x, beta):
        self.param.add_(x.sum() * beta)
        return self.param.clone()

    def capture(self, function):
        self.captured.append(1)
        return function

    def losses(self):
        return [self.run(torch.full((2,), float(i)), torch.tensor(0.5)).item() for i in range(6)]


def test_a_whole_step_is_captured_once_and_replayed():
    run = Run()
    assert run.losses() == LOSSES
    assert run.captured == [1]


def test_a_step_is_captured_anew_when_a_number_on_the_host_changes():
    settings = iter([(0.9,), (0.9,), (0.8,)])
    run = Run(settings=lambda: next(settings))
    assert run.losses() == LOSSES
    assert run.captured == [1, 1]


def _refused(function):
    raise CannotCaptureError("operation not permitted")


def _waits(function):
    function()
    return "it waits for the GPU"


@pytest.mark.parametrize(
    ("means", "reason"), [({"watch": _waits}, "it waits for the GPU"), ({}, "operation not permitted")]
)
def test_a_step_that_cannot_be_captured_goes_on_as_it_is_and_says_so_once(means, reason, monkeypatch):
    monkeypatch.setattr(Run, "capture", lambda self, function: _refused(function))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert Run(**means).losses() == LOSSES
    assert [str(w.message) for w in caught] == [f"The step cannot be one CUDA graph: {reason}. It stays compiled."]


def test_an_optimizer_keeps_its_count_and_rate_on_the_device(device):
    parameters = [nn.Parameter(torch.ones(3, device=device))]
    optimizer = adam(parameters)
    scheduler = ExponentialLR(optimizer, 0.5)
    parameters[0].grad = torch.ones(3, device=device)
    optimizer.step()
    assert make_capturable(optimizer)
    rate = optimizer.param_groups[0]["lr"]
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] is rate
    assert float(rate) == pytest.approx(5e-4)
    assert optimizer.state[parameters[0]]["step"].device == parameters[0].device
    assert not make_capturable(torch.optim.SGD(parameters, 0.1))


@pytest.mark.parametrize(("says", "reason"), [(WAITED, "it waits for the GPU"), ("something else", "")])
def test_a_wait_is_noticed_by_torchs_debug_mode_which_is_put_back(monkeypatch, says, reason):
    modes = [0]

    def set_mode(mode):
        if mode == "warn":
            warnings.warn("Synchronization debug mode does not yet detect all synchronizing operations", stacklevel=2)
        modes.append(mode)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    assert waits(lambda: warnings.warn(f"{says} (Triggered internally)", stacklevel=1)) == reason
    assert modes == [0, "warn", 0]


def test_a_momentum_that_a_scheduler_moves_is_seen():
    parameters = [nn.Parameter(torch.ones(3))]
    optimizer = adam(parameters)
    scheduler = OneCycleLR(optimizer, 0.1, total_steps=10)
    optimizer.param_groups[0]["lr"] = torch.tensor(0.1)
    before = host_settings(optimizer)
    assert host_settings(optimizer) == before
    optimizer.step()
    scheduler.step()
    assert host_settings(optimizer) != before
    optimizer.param_groups[0]["betas"] = before[0]["betas"]
    assert host_settings(optimizer) == before


def test_an_optimizer_that_counts_on_the_host_is_fused_there_alone():
    for device, kind, fused in [
        ("cpu", torch.optim.Adagrad, True),
        ("meta", torch.optim.Adagrad, None),
        ("meta", torch.optim.Adam, True),
        ("meta", torch.optim.SGD, True),
        ("cpu", torch.optim.NAdam, None),
    ]:
        optimizer = kind([nn.Parameter(torch.ones(3, device=device))], lr=0.1)
        fuse(optimizer)
        assert optimizer.param_groups[0].get("fused") is fused
