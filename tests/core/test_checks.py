"""Checks of users' input that several rooms share."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import constraints

from pyro_vae.core.checks import check_event, check_seed, entrywise


def test_one_leading_dimension_is_asked_for_unless_any_number_is_allowed():
    event = torch.Size((2, 3))
    check_event(torch.zeros(5, 2, 3), event)
    check_event(torch.zeros(4, 5, 2, 3), event, leading=None)
    check_event(torch.zeros(2, 3), event, leading=None)
    with pytest.raises(ValueError, match=r"Expected x of shape \(N, 2, 3\); got \(4, 5, 2, 3\)\.$"):
        check_event(torch.zeros(4, 5, 2, 3), event)
    with pytest.raises(ValueError, match=r"Expected u of shape \(N, 2, 3\); got \(5, 6\)\. Reshape it: u\.reshape"):
        check_event(torch.zeros(5, 6), event, "u", leading=None)
    with pytest.raises(ValueError, match=r"got \(3,\)\.$"):
        check_event(torch.zeros(3), event, leading=None)


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_seeds_that_are_recorded_come_back_from_a_generator(seed):
    assert torch.Generator().manual_seed(check_seed(seed, recorded=True)).initial_seed() == seed


@pytest.mark.parametrize("seed", [-1, 2**63, True, 0.0])
def test_seeds_that_cannot_be_recorded_are_refused(seed):
    with pytest.raises(ValueError, match=r"Expected seed to be an integer in \[0, 2\*\*63\); got"):
        check_seed(seed, recorded=True)
    if seed in (-1, 2**63) and seed is not True:
        assert check_seed(seed) == seed


def test_entrywise_takes_events_apart():
    nested = constraints.independent(constraints.independent(constraints.positive, 1), 1)
    assert entrywise(nested) is constraints.positive
    assert entrywise(constraints.simplex) is constraints.simplex
