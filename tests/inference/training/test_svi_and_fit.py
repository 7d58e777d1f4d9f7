"""Trained with stock ``pyro.infer.SVI`` and with ``fit``, the same seeds give the same losses and the same weights."""

from __future__ import annotations

import inspect

import contract
import pyro
import pytest
import torch
from pyro import infer
from setups import PIXELS, make_pair, quick, sgd, weights_of
from torch import nn

from pyro_vae.inference import objectives
from pyro_vae.inference.objectives import (
    CIWAE,
    CUBO,
    ELBO,
    IWAE,
    MIWAE,
    RWS,
    TVO,
    BetaTCVAE,
    FreeBits,
    InfoVAE,
    Objective,
    Renyi,
)

K = {IWAE: 3, MIWAE: 3, CIWAE: 3, Renyi: 3, TVO: 3, RWS: 3, ELBO: 2}


def _every_gradient(cls, *args):
    return {
        f"{cls.__name__}, {g}": lambda g=g: cls(K[cls], *args, gradient=g) for g in cls.gradients if g != "enumerate"
    }


OBJECTIVES = {
    **_every_gradient(ELBO),
    **_every_gradient(IWAE),
    **_every_gradient(MIWAE),
    **_every_gradient(CIWAE),
    **_every_gradient(Renyi),
    **_every_gradient(TVO),
    **{f"RWS, {phi}": lambda phi=phi: RWS(3, phi=phi) for phi in ("wake", "sleep", "both")},
    "ELBO, analytic": lambda: ELBO(2, kl="analytic"),
    "ELBO, beta": lambda: ELBO(2, beta=3.0),
    "Renyi, max": lambda: Renyi(3, -torch.inf),
    "FreeBits, dimension": lambda: FreeBits(0.1),
    "FreeBits, site": lambda: FreeBits(0.1, per="site"),
    "BetaTCVAE": lambda: BetaTCVAE(60, beta=3.0),
    "InfoVAE": lambda: InfoVAE(),
    "CUBO": lambda: CUBO(3),
}
STOCK = {
    "Trace_ELBO": lambda: infer.Trace_ELBO(2),
    "TraceMeanField_ELBO": lambda: infer.TraceMeanField_ELBO(),
    "TraceGraph_ELBO": lambda: infer.TraceGraph_ELBO(),
    "RenyiELBO": lambda: infer.RenyiELBO(0.5, num_particles=2),
}


def _compare(objective, lr):
    model, guide = make_pair()
    history = quick(model, guide, PIXELS, objective=objective(), optimizer=sgd, seed=7, epochs=2).history
    ours = weights_of(model, guide)

    model, guide = make_pair()
    svi = infer.SVI(model, guide, pyro.optim.SGD({"lr": lr}), objective())
    torch.manual_seed(7)
    losses = [[svi.step(PIXELS[index]) for index in torch.randperm(60).split(20)] for _ in range(2)]
    return history, ours, torch.tensor(losses).mean(1), weights_of(model, guide)


@pytest.mark.filterwarnings("ignore:CUBO fits the guide alone")
@pytest.mark.parametrize("name", OBJECTIVES)
def test_ours(name):
    history, ours, losses, theirs = _compare(OBJECTIVES[name], lr=0.01)
    torch.testing.assert_close(torch.tensor([row["loss"] for row in history]), losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert not torch.equal(ours, weights_of(*make_pair()))


@pytest.mark.parametrize("name", STOCK)
def test_stock(name):
    """Pyro's are sums over a minibatch of 20, which ``fit`` divides."""
    history, ours, losses, theirs = _compare(STOCK[name], lr=0.01 / 20)
    torch.testing.assert_close(torch.tensor([row["loss"] for row in history]), losses / 20, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_cubo_leaves_the_model_as_it_is_and_says_so():
    model, guide = make_pair()
    before = weights_of(model).clone(), weights_of(guide).clone()
    with pytest.warns(UserWarning, match="CUBO fits the guide alone"):
        quick(model, guide, PIXELS, objective=CUBO(3))
    assert torch.equal(weights_of(model), before[0])
    assert not torch.equal(weights_of(guide), before[1])


def test_every_objective_is_in_the_table():
    assert {name.split(",")[0] for name in OBJECTIVES} == contract.shipped(objectives, Objective) - _abstract()


def _abstract():
    return {
        name for name, part in vars(objectives).items() if inspect.isabstract(part) and not isinstance(part, nn.Module)
    }
