"""Functions recorded as graphs: the same values, or the function itself."""

from __future__ import annotations

import pytest
import torch
from setups import make_pair
from truth import GammaPoisson

from pyro_vae.inference.annealing.chains import Annealing, anneal
from pyro_vae.inference.annealing.path import Path
from pyro_vae.inference.compile.record import recorded
from pyro_vae.inference.compile.worthwhile import LEAST

WORTHWHILE = LEAST["calls"]
LONG = Annealing(WORTHWHILE, 1)


def _pairs():
    yield GammaPoisson().model, GammaPoisson().exact_guide, torch.ones(3, 4, dtype=torch.float64)
    yield *make_pair(), torch.ones(3, 6)


@pytest.mark.parametrize("start", ["prior", "guide"])
@pytest.mark.parametrize("pair", range(2))
def test_recorded_path_has_the_values_and_gradients_of_the_program(pair, start):
    model, guide, x = list(_pairs())[pair]
    path = Path(model, guide, (x,), 4, Annealing(WORTHWHILE, 1, start), None)
    assert path.target != path.evaluate
    u = 3 * torch.randn_like(path.space.start)
    u[0, 0] = torch.nan
    for recorded_value, value in zip(path.target(u), path.evaluate(u), strict=True):
        torch.testing.assert_close(recorded_value, value, equal_nan=True)
        assert not recorded_value.requires_grad


def test_recorded_chains_are_the_same_chains(monkeypatch):
    truth, x = GammaPoisson(), torch.ones(3, 4, dtype=torch.float64)
    log_w = []
    for _ in range(2):
        torch.manual_seed(0)
        log_w.append(anneal(truth.model, None, (x,), 4, settings=LONG).log_w)
        monkeypatch.setattr("pyro_vae.inference.annealing.path.recorded", lambda function, *rest: function)
    torch.testing.assert_close(*log_w, rtol=1e-9, atol=0)


def _branches(u):
    return (u.exp() if u.sum() > 0 else -u,)


def _leaves_the_graph(u):
    return (u * float(u.detach().numpy().sum()),)


def _random(u):
    return (u + torch.rand_like(u),)


def _raises(u):
    raise KeyError("x")


@pytest.mark.parametrize("function", [_branches, _leaves_the_graph, _random, _raises])
def test_what_cannot_be_recorded_stays_as_it_is(function):
    assert recorded(function, torch.ones(3), WORTHWHILE) is function


def test_few_calls_are_not_worth_it():
    calls = []
    assert recorded(calls.append, torch.ones(3), WORTHWHILE - 1) == calls.append
    assert not calls
    assert recorded(lambda u: (u.exp(),), torch.ones(3), WORTHWHILE)(torch.zeros(2))[0].tolist() == [1, 1]
