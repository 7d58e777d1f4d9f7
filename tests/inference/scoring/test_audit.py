"""Estimates held against annealing: an audit of real data, a certificate on simulated ones; both accept and reject."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from programs import folded, near_one_mode

from pyro_vae.inference import Bracket, Evidence, audit, certify, evidence

QUIET = {"progress": False, "device": "cpu"}


def test_an_audit_accepts_the_truth_and_finds_a_mode_that_was_missed():
    x = torch.linspace(1.0, 4.0, 12, dtype=torch.float64)
    found = audit(evidence(folded, near_one_mode, x, 2000, **QUIET), 8, num_temperatures=200, progress=False)
    assert not found.missed
    assert len(found.index.unique()) == 8
    assert "nats on 8 data drawn at random" in str(found)
    half = audit(
        evidence(folded, near_one_mode, x, 2000, method="iw", **QUIET), 8, num_temperatures=200, progress=False
    )
    assert half.missed
    assert half.mean == pytest.approx(math.log(2), abs=0.2)
    assert str(half).endswith("the estimate misses a part of p(x)")


def test_an_audit_needs_programs(tmp_path):
    ev = evidence(folded, near_one_mode, torch.ones(3), 30, method="iw", **QUIET)
    ev.save(tmp_path / "evidence.npz")
    with pytest.raises(ValueError, match="holds no programs to audit"):
        audit(Evidence.load(tmp_path / "evidence.npz"))


def test_a_certificate_accepts_the_truth_and_rejects_a_guide_that_misses_a_mode():
    settings = {"x": torch.zeros(1, dtype=torch.float64), "num_temperatures": 60, **QUIET}
    right = certify(folded, near_one_mode, 40, 1000, **settings)
    assert right.inside
    assert "on 40 data simulated from the model: " in str(right)
    assert "auto" in str(right)
    wrong = certify(folded, near_one_mode, 40, 1000, method="iw", **settings)
    assert not wrong.inside
    assert wrong.numbers()["shortfall"] > 0.2
    assert "importance weighting" in str(wrong)
    assert ": below (" in str(wrong)
    too_high = Bracket(right.bounds, replace(right.estimate, log_px=right.estimate.log_px + 1.0))
    assert not too_high.inside
    assert ": above (" in str(too_high)
