"""Modules are found wherever a program keeps them."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pyro
import pytest
from torch import nn
from truth import LinearGaussian

from pyro_vae.inference import evidence
from pyro_vae.inference.programs.call import modules_of


def _in_a_list(model):
    holder = [model]
    return lambda x: holder[0](x)


def _behind_a_function(model):
    def inner(x):
        return model(x)

    return lambda x: inner(x)


class _Callable:
    __slots__ = ("model",)

    def __init__(self, model):
        self.model = model

    def run(self, x):
        return self.model(x)


HIDDEN = {
    "partial": lambda model: partial(lambda inner, x: inner(x), model),
    "list": _in_a_list,
    "function": _behind_a_function,
    "dict": lambda model: lambda x, parts={"model": model}: parts["model"](x),
    "slots": lambda model: _Callable(model).run,
    "namespace": lambda model: partial(lambda space, x: space.net(x), SimpleNamespace(net=model)),
    "lambda": lambda model: lambda x: (lambda: model(x))(),
    "class": lambda model: type("Holder", (), {"net": model, "__call__": lambda self, x: self.net(x)})(),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_modules_are_found_wherever_a_program_keeps_them(name):
    truth = LinearGaussian.random(2, 3)
    seen = []

    class Model(nn.Module):
        def forward(self, x):
            seen.append(self.training)
            truth.model(x)

    evidence(HIDDEN[name](Model()), truth.exact_guide, truth.sample(3), 10, method="iw", progress=False)
    assert seen == [False] * len(seen)


def test_modules_of_every_kind_of_program():
    module = nn.Linear(1, 1)

    class Holder:
        def __init__(self):
            self.decoder = module

        def model(self, x):
            return self.decoder(x)

    class Own(nn.Module):
        def program(self, x):
            return x

    own = Own()
    assert modules_of(module) == [module]
    assert modules_of(lambda x: module(x)) == [module]
    assert modules_of(Holder().model) == [module]
    assert modules_of(own.program) == [own]
    assert modules_of(partial(own.program, 3)) == [own]
    assert modules_of(pyro.poutine.scale(lambda x: module(x), 2.0)) in ([module], [])
    assert modules_of(len) == []
