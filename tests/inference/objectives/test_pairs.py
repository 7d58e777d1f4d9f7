"""What an objective finds out once about a pair of programs."""

from __future__ import annotations

import gc
import pickle
import warnings
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from parts.objectives import OBJECTIVES
from programs import Coin, TwoLayers, X, make_pair
from pyro import infer, poutine

from pyro_vae.inference import fit
from pyro_vae.inference.objectives import ELBO, IWAE
from pyro_vae.inference.objectives.pairs import PerPair

LEFT_OUT = r"The scale that poutine.scale sets at {} is left out.*fit\(kl_warmup=...\) or ELBO\(beta=...\)"
quick = partial(fit, epochs=2, progress=False, device="cpu", optimizer=partial(torch.optim.SGD, lr=1e-3))


def annealed(factor, size=None):
    """Programs that weight their KL term by hand, as Pyro's tutorials do, with a plate of ``size`` data in all."""

    def model(x):
        with pyro.plate("data", size or len(x), subsample=x):
            with poutine.scale(scale=factor):
                z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z, pyro.param("s", torch.ones(())).exp()), obs=x)

    def guide(x):
        with pyro.plate("data", size or len(x), subsample=x), poutine.scale(scale=factor):
            pyro.sample("z", dist.Normal(x / 2, 0.7))

    return model, guide


@pytest.mark.parametrize("factor", [0.2, torch.tensor(0.2)])
@pytest.mark.parametrize(
    "objective", [ELBO, partial(IWAE, 3), partial(IWAE, 3, "dreg"), partial(ELBO, 2, gradient="score")]
)
def test_scales_that_users_set_are_said_once_to_be_left_out(objective, factor):
    chosen, (model, guide), x = objective(), annealed(factor), X.float()
    with pytest.warns(UserWarning, match=LEFT_OUT.format("'z'")):
        chosen.loss(model, guide, x)
    chosen.differentiable_loss(model, guide, x)  # no second warning, which would be an error
    with pytest.warns(UserWarning, match=LEFT_OUT.format("'z'")):  # another pair
        chosen.loss(*annealed(factor), x)


def test_scales_in_bound_methods_and_around_programs_and_objectives_are_found():
    layers = TwoLayers()
    objective = ELBO()
    model, guide = (poutine.scale(program, scale=3.0) for program in (layers.model, layers.guide))
    with pytest.warns(UserWarning, match=LEFT_OUT.format("'b', 'a', 'x'")):
        objective.loss(model, guide, X)
    objective = ELBO()
    with poutine.scale(scale=3.0):
        with pytest.warns(UserWarning, match=LEFT_OUT.format("'b', 'a', 'x'")):
            objective.loss(layers.model, layers.guide, X)
        objective.loss(layers.model, layers.guide, X)


def test_scales_of_plates_of_the_schedule_and_of_one_are_not_the_users():
    """Any warning is an error here."""
    model, guide = annealed(1.0, size=300)
    quick(model, guide, X.float(), kl_warmup=2, objective=ELBO(beta=0.5), batch_size=3)
    coin = Coin()
    ELBO(beta=0.5, gradient="enumerate").loss(coin.model, coin.guide, X)


def test_stock_objectives_keep_scales_and_do_not_warn():
    quick(*annealed(0.2), X.float(), objective=infer.Trace_ELBO(), batch_size=3)


def test_fit_warns_once_of_scales_compiled_or_not():
    for setting in (True, False):
        pyro.clear_param_store()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            quick(*annealed(0.2), X.float(), objective=ELBO(), kl_warmup=1, batch_size=3, compile=setting)
        assert sum("poutine.scale" in str(w.message) for w in caught) == 1


def test_what_is_known_of_a_pair_is_forgotten_with_it_and_bound_methods_are_one_pair():
    known, made = PerPair(), []
    find = lambda: made.append(0) or len(made)  # noqa: E731
    coin, layers = Coin(), TwoLayers()
    assert [known.get(coin.model, coin.guide, find) for _ in range(2)] == [1, 1]
    assert known.get(coin.model, layers.guide, find) == 2
    assert known.get(coin.guide, coin.model, find) == 3
    assert known.has(coin.model, coin.guide)
    assert not known.has(layers.model, layers.guide)
    del layers
    gc.collect()
    assert len(next(iter(known._known.values()))) == 1
    del coin
    gc.collect()
    assert len(known._known) == 0


def test_an_objective_travels_without_what_it_knows():
    objective, (model, guide) = IWAE(3), make_pair()
    objective.loss(model, guide, torch.zeros(4, 6))
    copy = pickle.loads(pickle.dumps(objective))
    assert objective._known_plates.has(model, guide)
    assert not copy._known_plates.has(model, guide)


@pytest.mark.filterwarnings("ignore:CUBO fits the guide alone")
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_looks_for_scales(name):
    model, guide = make_pair()
    with pytest.warns(UserWarning, match=LEFT_OUT.format("'z', 'x'")):
        OBJECTIVES[name]().loss_and_grads(poutine.scale(model, scale=2.0), guide, torch.zeros(4, 6))
