"""A whole step as one CUDA graph: the logic around the capture, with a capture that only notes down a function."""

from __future__ import annotations

import warnings

import pytest
import torch

from pyro_vae.inference.training.whole_step import WAITED, CannotCaptureError, WholeStep, waits

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
