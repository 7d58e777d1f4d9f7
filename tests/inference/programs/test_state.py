"""What modules keep beside their parameters is noticed when it changes, and put back."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pyro_vae.inference.programs.state import Attributes


class Keeper(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls, self.name, self.unknown, self.ratio = 0, "a", math.nan, 0.5
        self.register_buffer("mean", torch.zeros(2))


CHANGES = {
    "calls": lambda part: setattr(part, "calls", 1),
    "name": lambda part: setattr(part, "name", "b"),
    "ratio": lambda part: delattr(part, "ratio"),
    "unknown": lambda part: setattr(part, "unknown", torch.zeros(3)),
    "mean": lambda part: setattr(part, "mean", torch.zeros(2)),
    "training": lambda part: part.eval(),
    "late": lambda part: part.register_buffer("late", torch.zeros(1)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_is_named_and_put_back(name):
    module = nn.Sequential(nn.Linear(2, 2), Keeper())
    before = {key: value for key, value in vars(module[1]).items() if not key.startswith("_")}
    mean = module[1].mean
    attributes = Attributes([module])
    assert attributes.changed() is None
    CHANGES[name](module[1])
    assert attributes.changed() == name
    attributes.put_back()
    assert attributes.changed() is None
    assert {key: vars(module[1])[key] for key in before} == before
    assert dict(module[1].named_buffers()) == {"mean": mean}


def test_what_a_buffer_holds_may_change():
    module = Keeper()
    attributes = Attributes([module])
    module.mean += 1
    assert attributes.changed() is None
