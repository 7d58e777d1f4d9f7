"""Every objective: its settings, training by stock ``pyro.infer.SVI`` and by ``fit`` alike."""

from __future__ import annotations

import inspect
import math

import pyro
import pytest
import torch
from parts import contract
from parts.objectives import OBJECTIVES, STOCK
from programs import PIXELS, double_pair, make_pair, quick, sgd, weights_of
from pyro import infer
from torch import nn

from pyro_vae.inference import fit, objectives
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
def test_ours_train_alike_in_svi_and_in_fit(name):
    history, ours, losses, theirs = _compare(OBJECTIVES[name], lr=0.01)
    torch.testing.assert_close(torch.tensor([row["loss"] for row in history]), losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert not torch.equal(ours, weights_of(*make_pair()))


@pytest.mark.parametrize("name", STOCK)
def test_stock_objectives_train_alike_in_svi_and_in_fit(name):
    """Pyro's are sums over a minibatch of 20, which ``fit`` divides."""
    history, ours, losses, theirs = _compare(STOCK[name], lr=0.01 / 20)
    torch.testing.assert_close(torch.tensor([row["loss"] for row in history]), losses / 20, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_every_objective_is_in_the_table():
    assert {name.split(",")[0] for name in OBJECTIVES} == contract.shipped(objectives, Objective) - _abstract()


def _abstract():
    return {
        name for name, part in vars(objectives).items() if inspect.isabstract(part) and not isinstance(part, nn.Module)
    }


@pytest.mark.parametrize(
    "objective",
    [
        TVO(5),
        TVO(5, gradient="pathwise"),
        RWS(5),
        RWS(5, phi="both"),
        FreeBits(),
        BetaTCVAE(60),
        InfoVAE(),
        IWAE(5, "dreg"),
    ],
    ids=lambda o: f"{type(o).__name__}-{o.gradient}",
)
def test_every_objective_trains_a_vae(objective):
    torch.manual_seed(0)
    model, guide, _ = double_pair()
    x = (torch.rand(60, 6) < torch.tensor([0.1, 0.9, 0.1, 0.9, 0.5, 0.5])).double()
    before = [p.clone() for m in (model, guide) for p in m.parameters()]
    result = fit(
        model, guide, x, objective=objective, epochs=15, batch_size=20, valid=x[:20], kl_warmup=2, progress=False
    )
    after = [p for m in (model, guide) for p in m.parameters()]
    assert all((a != b).any() for a, b in zip(after, before, strict=True))
    assert result.history[-1]["loss"] < result.history[2]["loss"]
    assert math.isfinite(result.history[-1]["valid_bound"])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: IWAE(0), "Expected num_particles to be an integer >= 1; got 0"),
        (lambda: ELBO(beta=-1.0), "Expected beta >= 0; got -1.0"),
        (lambda: ELBO(beta="stl"), "Expected beta >= 0; got 'stl'"),
        (lambda: IWAE(5, gradient="stl"), "gradient of IWAE to be one of pathwise, dreg, score, vimco; got 'stl'"),
        (lambda: IWAE(5, gradient="dregs"), "Did you mean dreg?"),
        (lambda: IWAE(1, gradient="vimco"), r"Expected num_particles >= 2 for IWAE\('vimco'\); got 1"),
        (lambda: TVO(1), r"Expected num_particles >= 2 for TVO\('covariance'\); got 1\. It compares"),
        (lambda: RWS(1), r'Expected num_particles >= 2 for RWS\(phi="wake"\); got 1\. It compares'),
        (lambda: MIWAE(3, 0), "Expected num_bounds to be an integer >= 1"),
        (lambda: CIWAE(3, 1.5), r"Expected alpha in \[0, 1\]; got 1\.5"),
        (lambda: Renyi(3, math.inf), "Expected alpha < inf"),
        (lambda: Renyi(3, math.nan), "Expected alpha < inf"),
        (lambda: Renyi(3, -math.inf, "dreg"), "for VR-max, which has no second derivative"),
        (lambda: ELBO(kl="exact"), 'Expected kl="mc" or "analytic"'),
        (lambda: ELBO(kl="analytic", gradient="stl"), 'Expected gradient="pathwise" with kl="analytic"'),
        (lambda: TVO(5, beta_1=0.0), r"Expected beta_1 in \(0, 1\)"),
        (lambda: TVO(5, 0), "Expected num_partitions to be an integer >= 1"),
        (lambda: RWS(5, phi="dream"), "Expected phi to be"),
        (lambda: CUBO(5, order=0.5), "Expected order >= 1"),
        (lambda: FreeBits(-1.0), "Expected floor >= 0"),
        (lambda: FreeBits(per="pixel"), "Expected per to be"),
        (lambda: BetaTCVAE(0), "Expected num_data to be an integer >= 1"),
    ],
)
def test_settings_are_checked(build, message):
    with pytest.raises(ValueError, match=message):
        build()
