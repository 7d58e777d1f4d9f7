"""Schedules of the KL weight."""

from __future__ import annotations

import pytest
from programs import double_pair

from pyro_vae.inference import fit, schedules


def test_schedules():
    assert [schedules.linear(4)(t) for t in (0, 1, 4, 9)] == [0.0, 0.25, 1.0, 1.0]
    assert [schedules.cyclical(10)(t) for t in (0, 2.5, 5, 9, 10, 12.5)] == [0.0, 0.5, 1.0, 1.0, 0.0, 0.5]
    assert schedules.constant(0.3)(7) == 0.3
    model, guide, x = double_pair()
    settings = dict(epochs=6, batch_size=10, progress=False)
    cycle = fit(model, guide, x, kl_warmup=schedules.cyclical(4), **settings)
    assert [row["kl_weight"] for row in cycle.history] == [0.5, 1.0, 1.0, 0.0, 0.5, 1.0]
    with pytest.raises(ValueError, match=r"Expected ramp in \(0, 1\]"):
        schedules.cyclical(4, ramp=0.0)
