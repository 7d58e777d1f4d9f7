"""Observations through views, indices and conversions are simulated where they stand; what is computed is refused."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.inference import diagnostics, sandwich
from pyro_vae.inference.programs.simulate import simulate

F64 = torch.float64


def _columns(x):
    """z ~ N(0, 1), a | z ~ N(z, 1), b | z ~ N(z, 1), observed as two columns."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), dtype=x.dtype), 1.0))
        pyro.sample("a", dist.Normal(z, 1.0), obs=x[:, 0])
        pyro.sample("b", dist.Normal(z + 100, 1.0), obs=x[:, 2])


def _picked(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), dtype=x.dtype), 1.0))
        loc = z[..., None] + torch.tensor([0.0, 100.0], dtype=x.dtype)
        pyro.sample("ab", dist.Normal(loc, 1.0).to_event(1), obs=x[:, torch.tensor([0, 2])])


def _transposed(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), dtype=x.dtype), 1.0))
        with pyro.plate("two", 2, dim=-2):
            loc = torch.tensor([[0.0], [100.0]], dtype=x.dtype) + z
            pyro.sample("ab", dist.Normal(loc, 1.0), obs=x[:, ::2].T)


def _posterior(x):
    """Exact: q(z | x) = N((a + b - 100) / 3, 1/3)."""
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal((x[:, 0] + x[:, 2] - 100) / 3, (1 / 3) ** 0.5))


MODELS = {"columns": _columns, "picked": _picked, "transposed": _transposed}


@pytest.mark.parametrize("name", MODELS)
def test_draws_stand_where_they_are_observed(name):
    x = torch.full((5, 3), 7.0, dtype=F64)
    drawn = simulate(MODELS[name], x)
    (filled,) = drawn.args
    assert (filled[:, 1] == 7).all()
    assert ((filled[:, 0] - drawn.latents["z"]).abs() < 6).all()
    assert ((filled[:, 2] - 100 - drawn.latents["z"]).abs() < 6).all()
    assert (x == 7).all()


@pytest.mark.parametrize("name", MODELS)
def test_diagnostics_work_through_them(name):
    """At the exact posterior and under the true model; each test fails one time in a thousand."""
    model, x = MODELS[name], torch.zeros(8, 3, dtype=F64)
    settings = dict(progress=False)
    for check in (diagnostics.sbc, diagnostics.expected_coverage):
        assert check(model, _posterior, 200, x=x, num_draws=19, alpha=1e-3, **settings).accepted
    (drawn,) = simulate(model, torch.zeros(200, 3, dtype=F64)).args
    assert diagnostics.pit(model, drawn, alpha=1e-3, **settings).accepted
    bounds = sandwich(model, _posterior, 6, x=x, num_particles=4, num_temperatures=10, start="guide", **settings)
    torch.testing.assert_close(bounds.lower, bounds.upper, atol=1e-6, rtol=0)  # the weights are constant
    check = diagnostics.predictive_check(model, _posterior, drawn[:50], {"mean": lambda x: x.mean()}, **settings)
    assert 0.002 < check.two_sided["mean"] <= 1


def test_entries_that_are_converted_are_found():
    def counts(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(torch.ones(len(x)), 1.0))
            pyro.sample("x", dist.Poisson(100 * z), obs=x.float())

    (x,) = simulate(counts, torch.zeros(50, dtype=torch.long)).args
    assert x.dtype == torch.long
    assert x.float().mean() > 20


def _walk(x):
    """A random walk with steps of 1: each entry depends on the one before as it was observed."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), dtype=x.dtype), 1.0))
        for t in range(x.shape[1]):
            before = x[:, t - 1] if t else z
            pyro.sample(f"x_{t}", dist.Normal(before + 10, 1.0), obs=x[:, t])


def test_sequences_are_drawn_entry_after_entry():
    """x_t - x_(t-1) ~ N(10, 1) for 400 sequences: means within 5 standard errors."""
    drawn = simulate(_walk, torch.zeros(400, 4, dtype=F64))
    steps = torch.cat([drawn.latents["z"][:, None], drawn.args[0]], 1).diff(dim=1)
    assert ((steps.mean(0) - 10).abs() < 5 / math.sqrt(400)).all()
    assert ((steps.std(0) - 1).abs() < 5 / math.sqrt(800)).all()


def test_what_cannot_be_drawn_is_refused():
    def of_itself(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(x[:, 0].mean() + 1, 1.0).expand([len(x)]), obs=x[:, 0])

    def overlapping(x):
        with pyro.plate("data", len(x)):
            pyro.sample("a", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1), obs=x[:, :2])
            pyro.sample("b", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1), obs=x[:, 1:])

    def without_size(x):
        with pyro.plate("data", dim=-1), pyro.plate("inner", dim=-2):
            pyro.sample("x", dist.Normal(torch.zeros(len(x)), 1.0), obs=x.T)

    refused = {
        "depends on what it observes": of_itself,
        r"the sites \['a', 'b'\] observe one argument twice": overlapping,
        "'x' observes a value of shape .* or its plates their sizes": without_size,
        "site 'x' observes something computed from the arguments": lambda x: _scaled(x),
    }
    for message, model in refused.items():
        with pytest.raises(ValueError, match=message):
            simulate(model, torch.zeros(5, 3))


def _scaled(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(torch.zeros_like(x), 1.0).to_event(1), obs=x / 2)
