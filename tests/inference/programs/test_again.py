"""Guides that are random beside their sites are scored with the random numbers that they drew with, or refused."""

from __future__ import annotations

import math
from itertools import cycle

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.nn import functional

from pyro_vae.inference import evidence, log_weights, objectives
from pyro_vae.inference.scoring.methods import IW

F64 = torch.float64
X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0), dtype=F64)


class _Dropping(nn.Module):
    """z ~ N(0, I), x | z ~ N(W z, I), and a guide of two sites with dropout before each."""

    def __init__(self, drops=True, always=False):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.encoder, self.again = nn.Linear(6, 8).double(), nn.Linear(8, 2).double()
            self.decoder = nn.Linear(4, 6).double()
        self.drops, self.always, self.masks, self.given = drops, always, [], None

    def model(self, x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
            b = pyro.sample("b", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(torch.cat([a, b], -1)), 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            h = self._dropped(self.encoder(x).tanh())
            pyro.sample("a", dist.Normal(h[..., :2], 0.8).to_event(1))
            pyro.sample("b", dist.Normal(self.again(self._dropped(h)), 0.8).to_event(1))

    def _dropped(self, h):
        if not self.drops:
            return h
        if self.given is not None:
            functional.dropout(torch.ones_like(h), 0.5)  # so that the sites after it draw the same
            return h * next(self.given)
        kept = functional.dropout(torch.ones_like(h), 0.5, training=self.always or self.training)
        self.masks.append(kept)
        return h * kept


ESTIMATORS = {
    "pathwise": lambda: objectives.IWAE(8),
    "dreg": lambda: objectives.IWAE(8, "dreg"),
    "score": lambda: objectives.IWAE(8, "score"),
    "vimco": lambda: objectives.IWAE(8, "vimco"),
    "stl": lambda: objectives.ELBO(8, gradient="stl"),
    "RWS": lambda: objectives.RWS(8),
    "TVO": lambda: objectives.TVO(8),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_scores_the_network_that_drew(name):
    """All bounds of one seed are functions of the same weights, those of ``log_weights``."""
    programs, objective = _Dropping(), ESTIMATORS[name]()
    objective.loss(programs.model, programs.guide, X)  # looks at the programs once
    state = torch.manual_seed(0).get_state()
    loss = objective.differentiable_loss(programs.model, programs.guide, X)
    ended = torch.get_rng_state()
    torch.set_rng_state(state)
    log_w = log_weights(programs.model, programs.guide, X, 8)
    torch.testing.assert_close(loss, -objective.bound(log_w).mean())
    assert loss.isfinite()
    assert not torch.equal(ended, state)
    assert any((mask == 0).any() for mask in programs.masks)


@pytest.mark.parametrize("gradient", ["dreg", "score", "vimco"])
def test_gradients_with_fixed_masks_are_those_of_the_same_masks_built_in(gradient):
    """Where dropout keeps or drops by a mask that is a constant, the estimators need not care: they agree."""
    random, fixed = _Dropping(), _Dropping()
    gradients = []
    for programs in (random, fixed):
        model, guide = programs.model, programs.guide
        objective = objectives.IWAE(5, gradient)
        objective.loss(model, guide, X)
        programs.masks.clear()
        torch.manual_seed(3)
        if programs is fixed:
            programs.given = cycle(random.masks[:2])  # of the run that drew, for all later runs
        loss = objective.differentiable_loss(model, guide, X)
        gradients.append(torch.autograd.grad(loss, [programs.encoder.weight, programs.again.weight]))
    for pair in zip(*gradients, strict=True):
        torch.testing.assert_close(*pair)


def test_evaluation_with_dropout_that_is_never_off():
    """Weights of the network that drew are unbiased; what scores at will is refused by name, or not done."""
    programs = _Dropping(always=True)
    sure = _Dropping(drops=False)
    exact = evidence(sure.model, sure.guide, X, progress=False, device="cpu").log_px
    for how in (IW(), IW(defensive=0.2)):
        ev = evidence(programs.model, programs.guide, X, 20_000, method=how, progress=False, device="cpu")
        assert ((ev.log_px - exact).abs() < 5 * ev.std_error + 0.05).all(), how
    ev = evidence(programs.model, programs.guide, X, progress=False, device="cpu")
    assert ((ev.log_px - exact).abs() < 5 * ev.std_error + 0.05).all()

    def random_model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x[:, 0]), 1.0))
            pyro.sample("x", dist.Normal(functional.dropout(z)[..., None], 1.0).expand([len(x), 6]).to_event(1), obs=x)

    for method in ("ais", "laplace"):
        with pytest.raises(ValueError, match="draws random numbers beside its sites, as with dropout"):
            evidence(random_model, None, X, 8, method=method, progress=False, device="cpu")
    assert math.isfinite(evidence(random_model, None, X, 800, method="iw", progress=False, device="cpu").mean)
