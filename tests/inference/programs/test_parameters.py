"""Parameters of model and guide are told apart by what uses them."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from programs import Coin, TwoLayers, X, make_pair, plain_guide, plain_model
from torch import nn

from pyro_vae.inference.programs.parameters import used_parameters


def names_of(module, found):
    names = {id(p): name for name, p in module.named_parameters()}
    return tuple({names[id(p)] for p in group} for group in found)


def test_methods_of_one_module_have_parameters_of_their_own():
    layers, coin = TwoLayers(), Coin()
    assert names_of(layers, used_parameters(layers.model, layers.guide, (X,))) == (
        {"u", "w"},
        {"m", "log_s", "r", "log_t"},
    )
    assert names_of(coin, used_parameters(coin.model, coin.guide, (X,))) == ({"logit", "low", "high"}, {"a", "b"})


def test_modules_and_announced_parameters():
    model, guide = make_pair()
    of_model, of_guide = used_parameters(model, guide, (torch.zeros(4, 6),))
    assert {id(p) for p in of_model} == {id(p) for p in model.parameters()}
    assert {id(p) for p in of_guide} == {id(p) for p in guide.parameters()}
    of_model, of_guide = used_parameters(plain_model, plain_guide, (torch.randn(4, 3),))
    store = {name: id(p) for name, p in pyro.get_param_store().named_parameters()}
    assert {id(p) for p in of_model} == {store["loc"], store["scale"]}
    assert {id(p) for p in of_guide} == {store["loc"], store["slope"], store["spread"]}


class Shared(nn.Module):
    """A parameter of both programs, one of none, one that is fixed, and a point mass, whose density has no gradient."""

    def __init__(self):
        super().__init__()
        for name in ("both", "none", "fixed", "point"):
            setattr(self, name, nn.Parameter(torch.tensor(0.5)))
        self.fixed.requires_grad_(False)
        self.norm, self.dropout = nn.BatchNorm1d(1), nn.Dropout(0.5)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.fixed, 1.0))
            pyro.sample("x", dist.Normal(self.dropout(self.norm(z[:, None])[:, 0]) * self.both, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(self.both * x + self.point))


def test_shared_unused_and_fixed_parameters_and_point_masses():
    shared, x = Shared(), torch.randn(5)
    before = (torch.get_rng_state(), shared.norm.running_mean.clone())
    found = names_of(shared, used_parameters(shared.model, shared.guide, (x,)))
    assert found == ({"both", "norm.weight", "norm.bias"}, {"both", "point"})
    assert torch.equal(before[0], torch.get_rng_state())
    assert torch.equal(before[1], shared.norm.running_mean)
    assert shared.training
