"""What is compiled is tried, compared, and refused where it does not do as the function does."""

from __future__ import annotations

import pytest
import torch
from programs import make_pair

from pyro_vae.inference.compile.compile import agree, compile_function, compile_programs
from pyro_vae.inference.compile.record import CannotCompileError


def test_a_file_that_the_compiler_did_not_finish_is_named(monkeypatch):
    def broken(graph, **options):
        raise ImportError("cache/kernel.so: file too short")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(CannotCompileError, match=r"cache/kernel\.so: file too short; delete that file"):
        compile_function(lambda x: (x + 1,), (torch.zeros(2),), (torch.ones(2),))


def test_a_function_of_other_values_is_not_taken(recorded_only):
    calls = []

    def function(x):
        calls.append(1)
        return (x * len(calls),)

    with pytest.raises(CannotCompileError, match="acts on more than tensors"):
        compile_function(function, (torch.ones(2),), (torch.ones(2),))


def test_programs_run_for_a_trial_the_record_and_the_comparison(recorded_only):
    calls = []

    def function(x):
        calls.append(type(x))
        return (x + 1,)

    compile_programs(*make_pair(), function, (torch.ones(2),), (torch.zeros(2),))
    assert len(calls) == 3


def test_agreement_is_judged_by_finite_entries_and_holds_of_none():
    assert agree((torch.zeros(0),), (torch.zeros(0),))
    assert not agree((torch.tensor([torch.inf, 1.0]),), (torch.tensor([torch.inf, 2.0]),))
