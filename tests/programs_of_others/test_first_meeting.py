"""Programs that the library meets before anybody else ran them, and what it takes model and guide to be made of."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from programs_of_others.table import PROGRAMS
from pyro_vae.inference import diagnostics, evidence, fit, gradient_snr, log_weights, sandwich
from pyro_vae.inference.objectives import ELBO, IWAE

X = torch.tensor([-1.6, 0.3, 0.6, -0.8, 2.1, 1.0]).double()
quiet = dict(progress=False, device="cpu")


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide(x):
    """Its centre starts at the mean of the data that it is first called with."""
    centre = pyro.param("centre", lambda: x.mean())
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(centre + 0.3 * (x - centre), 0.8))


def fitted(objective):
    still = dict(epochs=1, batch_size=len(X), optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    return lambda: fit(model, guide, X, objective=objective, **still, **quiet)


USES = {
    "weights, K = 1": lambda: log_weights(model, guide, X, 1),
    "weights, K = 3": lambda: log_weights(model, guide, X, 3),
    "IWAE": lambda: IWAE(3).loss(model, guide, X),
    "fit": fitted(None),
    "fit, IWAE": fitted(IWAE(3)),
}
EVALUATIONS = {
    "iw": lambda: evidence(model, guide, X, 20, method="iw", **quiet),
    "auto": lambda: evidence(model, guide, X, 20, **quiet),
    "sandwich": lambda: sandwich(model, guide, 4, x=X, num_temperatures=5, **quiet),
    "sbc": lambda: diagnostics.sbc(model, guide, 9, x=X, num_draws=9, **quiet),
    "kl": lambda: diagnostics.kl_per_dimension(model, guide, X, **quiet),
    "surgery": lambda: diagnostics.elbo_surgery(model, guide, X, **quiet),
    "signal": lambda: gradient_snr(model, guide, X, ELBO(2), num_repeats=3),
}


@pytest.mark.parametrize("name", USES)
def test_a_parameter_is_made_of_all_the_data_of_the_first_call(name):
    USES[name]()
    assert pyro.param("centre").item() == pytest.approx(X.mean().item())


@pytest.mark.parametrize("name", EVALUATIONS)
def test_an_evaluation_leaves_the_store_as_it_was(name):
    EVALUATIONS[name]()
    assert list(pyro.get_param_store()) == []


class Both(nn.Module):
    """Model and guide as methods of one module, as in most of Pyro's examples."""

    def __init__(self):
        super().__init__()
        self.w, self.a = (nn.Parameter(torch.tensor(value).double()) for value in (0.5, 0.3))

    def model(self, x):
        pyro.module("both", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(self.w * z, 1.0), obs=x)

    def guide(self, x):
        pyro.module("both", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.a * x, 0.8))


def test_the_signal_of_two_methods_of_one_module_is_that_of_each():
    """The parameter w has a gradient by the model alone, and a by the guide alone."""
    both = Both()
    found = gradient_snr(both.model, both.guide, X, IWAE(5), num_repeats=50)
    ratios = []
    for parameter in (both.w, both.a):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            losses = (IWAE(5).differentiable_loss(both.model, both.guide, X) for _ in range(50))
            draws = torch.stack([torch.autograd.grad(loss, parameter)[0] for loss in losses])
        ratios.append((draws.mean().abs() / draws.std()).item())
    assert (found.model, found.guide) == pytest.approx(tuple(ratios), rel=1e-6)


def test_the_signal_leaves_the_generator_as_it_was():
    both, before = Both(), torch.get_rng_state()
    gradient_snr(both.model, both.guide, X, ELBO(2), num_repeats=3)
    assert torch.equal(before, torch.get_rng_state())


SOON = ("vae", "PyroModule")
LATE = ("M2, labelled", "deep Markov, mask by a handler", "flows", "cevae", "cells, loss blocked")


def losses_of(name, compiled):
    pyro.clear_param_store()
    p = PROGRAMS[name](0)
    result = fit(p.model, p.guide, p.x, epochs=2, batch_size=7, seed=5, compile=compiled, **quiet)
    assert result.execution.startswith("compiled" if compiled else "eager")
    return [row["loss"] for row in result.history]


def agree(name):
    assert losses_of(name, True) == pytest.approx(losses_of(name, False), rel=1e-5)


@pytest.mark.parametrize("name", LATE)
def test_recorded_steps_are_those_that_run_as_they_are(name, recorded_only):
    agree(name)
    assert recorded_only


@pytest.mark.parametrize("name", [*SOON, *(pytest.param(name, marks=pytest.mark.long) for name in LATE)])
def test_compiled_steps_are_those_that_run_as_they_are(name):
    agree(name)


def test_a_program_that_reads_a_value_says_so_and_runs_as_it_is():
    p = PROGRAMS["prodlda"](0)  # total_count is an int of the data
    with pytest.warns(UserWarning, match="Cannot compile.*reads the value of a tensor"):
        result = fit(p.model, p.guide, p.x, epochs=1, batch_size=7, compile=True, **quiet)
    assert result.execution.startswith("eager")
