"""A record of a program has the program's values at the same noise; what cannot be recorded stays as it is."""

from __future__ import annotations

import traceback
from functools import partial

import pytest
import torch
from parts.guides import FAMILIES, family_for, pair
from parts.likelihoods import LIKELIHOODS
from parts.objectives import OBJECTIVES, STOCK
from parts.priors import PRIORS
from programs import PIXELS, make_pair, module_programs, plain_guide, plain_model
from torch import nn
from torch._subclasses import fake_tensor

from pyro_vae.inference import AmortizedGuide, guides, objectives
from pyro_vae.inference.compile.compile import agree
from pyro_vae.inference.compile.record import CannotCompileError, record, record_if_worthwhile
from pyro_vae.inference.compile.worthwhile import LEAST
from pyro_vae.inference.programs.call import fork_rng
from pyro_vae.inference.training.step import Stepper
from pyro_vae.models import VAE, HierarchicalVAE, likelihoods, mlp, priors

adam = partial(torch.optim.Adam, lr=1e-3)


def check_record(model, guide, objective, x):
    """The record made at the first half of the data has the programs' loss and gradient at the second half."""
    batch, other = x[: len(x) // 2], x[len(x) // 2 :]
    stepper = Stepper(model, guide, objective, adam, None, (batch,))

    def gradient(x):
        return stepper.gradient((x,))

    gradient(batch)
    graph = record(gradient, batch)
    results = []
    for function in (torch.no_grad()(graph), gradient):
        with fork_rng(x.device, 3):
            results.append(function(other))
    assert agree(*results)
    assert not agree(gradient(batch), results[1])


@pytest.mark.filterwarnings("ignore:CUBO fits the guide alone")
@pytest.mark.parametrize("name", [*OBJECTIVES, *STOCK])
def test_every_objective_is_recorded(name):
    objective = {**OBJECTIVES, **STOCK}[name]()
    if name.startswith("TraceEnum"):
        with pytest.raises(RuntimeError, match="tracing tensor"):
            check_record(*make_pair(), objective, PIXELS)
        return
    check_record(*make_pair(), objective, PIXELS)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_guide_is_recorded(name):
    discrete = FAMILIES[name][0] in ("bits", "one-hot")
    check_record(*pair(name), objectives.IWAE(3, "vimco") if discrete else objectives.ELBO(), PIXELS)


@pytest.mark.parametrize("name", PRIORS)
def test_every_prior_is_recorded(name):
    prior = PRIORS[name](3)
    model = VAE(prior, likelihoods.Bernoulli(6), mlp((8,)))
    guide = AmortizedGuide(6, family_for(prior)(model.latent_shape[0]), mlp((8,)))
    estimator = "vimco" if type(prior).__name__ in ("Bernoulli", "Categorical") else "pathwise"
    check_record(model, guide, objectives.IWAE(3, estimator), PIXELS)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_every_likelihood_is_recorded(name):
    model = VAE(priors.StandardNormal(2), LIKELIHOODS[name](), mlp((8,)))
    x = model.sample(20)
    check_record(model, AmortizedGuide(x.shape[1:], guides.DiagonalNormal(2), mlp((8,))), objectives.IWAE(3), x)


def test_missing_entries_and_layers_are_recorded():
    x = PIXELS.masked_fill(torch.rand_like(PIXELS) < 0.2, torch.nan)
    model = VAE(priors.StandardNormal(2), likelihoods.Bernoulli(6), mlp((8,)), missing=True)
    check_record(model, AmortizedGuide(6, guides.DiagonalNormal(2), mlp((8,)), missing=True), objectives.IWAE(3), x)

    layers = (mlp((8,)), mlp((8,)))
    model = HierarchicalVAE((3, 2), likelihoods.Bernoulli(6), layers)
    check_record(model, guides.LadderGuide((6,), model, layers, widths=(8, 8)), objectives.IWAE(3), PIXELS)


@pytest.mark.parametrize("programs", [(plain_model, plain_guide), module_programs(nn.Linear(2, 6))])
def test_users_own_programs_are_recorded(programs):
    check_record(*programs, objectives.IWAE(3), PIXELS)


def test_one_hot_is_torchs_own():
    index = torch.tensor([[2, 0], [1, 1]])
    graph = record(lambda i: (nn.functional.one_hot(i, 4),), index)
    torch.testing.assert_close(graph(index)[0], nn.functional.one_hot(index, 4))


def test_what_would_wait_for_a_gpu_is_recorded_without_a_look():
    square = torch.randn(4, 3, 3, dtype=torch.float64)
    positive, scale = square @ square.mT + torch.eye(3), square.abs()
    graph = record(lambda a, s: (torch.linalg.cholesky(a), torch.normal(a, s), torch.normal(a[0], s)), positive, scale)
    assert not {"_linalg_check_errors", "normal"} & {
        str(n.target).split(".")[1] for n in graph.graph.nodes if "." in str(n.target)
    }
    with fork_rng(square.device, 0):
        recorded = graph(positive, scale)
    with fork_rng(square.device, 0):
        expected = torch.linalg.cholesky(positive), torch.normal(positive, scale), torch.normal(positive[0], scale)
    for left, right in zip(recorded, expected, strict=True):
        torch.testing.assert_close(left, right)
    assert graph(-positive, scale)[0].isnan().all()


def test_noise_from_another_device_is_refused():
    data = torch.ones(2, device="meta")
    record(lambda x: (x * torch.randn(2, device=x.device),), data)
    with pytest.raises(CannotCompileError, match="draws random numbers on cpu for data on meta"):
        record(lambda x: (x * torch.randn(()),), data)


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
    assert record_if_worthwhile(function, torch.ones(3), LEAST["calls"]) is function


def test_few_calls_are_not_worth_it():
    calls = []
    assert record_if_worthwhile(calls.append, torch.ones(3), LEAST["calls"] - 1) == calls.append
    assert not calls
    quick = record_if_worthwhile(lambda u: (u.exp(),), torch.ones(3), LEAST["calls"])
    assert quick(torch.zeros(2))[0].tolist() == [1, 1]


def test_torch_looks_up_stacks_again_after_a_record():
    record(lambda x: (x.exp(),), torch.ones(3))
    assert fake_tensor.traceback is traceback
