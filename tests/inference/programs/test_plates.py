"""Plates as people write them: without sizes, without dims, the data outside or inside, subsampled."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae.inference import diagnostics, evidence, fit, log_weights, objectives, sandwich
from pyro_vae.inference.programs.plates import Plates
from pyro_vae.inference.programs.vectorize import find_plates

F64 = torch.float64
N, M = 4, 3
X = torch.randn(N, M, generator=torch.Generator().manual_seed(0), dtype=F64)


def _exact(x):
    """log p(x_n) of z ~ N(0, 1), x_nm | z_n ~ N(z_n, 1)."""
    count = x.shape[1]
    return dist.MultivariateNormal(torch.zeros(count, dtype=F64), torch.eye(count, dtype=F64) + 1).log_prob(x)


def _posterior(x):
    count = x.shape[1]
    return x.sum(1) / (count + 1), (1 / (count + 1)) ** 0.5


def _without_size(x):
    with pyro.plate("data"):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x[:, 0]), 1.0))
        pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, x.shape[1]), 1.0).to_event(1), obs=x)


def _nested_without_dims(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x[:, 0]), 1.0))
        with pyro.plate("inner", x.shape[1]):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)


def _nested_without_sizes(x):
    with pyro.plate("data", dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x[:, 0]), 1.0))
        with pyro.plate("inner", dim=-2):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)


def _data_inside(x):
    with pyro.plate("time", x.shape[1], dim=-2), pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=F64), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)


def _guide(x):
    with pyro.plate("data"):
        pyro.sample("z", dist.Normal(*_posterior(x)))


def _named_otherwise(x):
    with pyro.plate("batch", len(x), dim=-1):
        pyro.sample("z", dist.Normal(*_posterior(x)))


def _inside_guide(x):
    with pyro.plate("time", x.shape[1], dim=-2), pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(x.T / 2, 0.5**0.5))


def _of_each_entry(x):
    """log p(x_n) where every entry has a latent of its own."""
    return dist.Normal(0.0, 2**0.5).log_prob(x).sum(1)


PAIRS = {
    "without size": (_without_size, _guide, _exact, Plates(1, 1)),
    "nested without dims": (_nested_without_dims, _guide, _exact, Plates(2, 1)),
    "nested without sizes": (_nested_without_sizes, _named_otherwise, _exact, Plates(2, 1)),
    "data inside": (_data_inside, _inside_guide, _of_each_entry, Plates(2, 1)),
}


@pytest.mark.parametrize("count", [M, N, 2, 1])
@pytest.mark.parametrize("name", PAIRS)
def test_the_data_plate_is_the_one_that_all_sites_are_in(name, count):
    """At the exact posterior all weights are log p(x); also where an inner plate is as large as the data."""
    model, guide, exact, _ = PAIRS[name]
    x = torch.cat([X, X[:, :2]], 1)[:count]
    for num_particles in (1, 3):
        expected = exact(x).expand(num_particles, -1)
        torch.testing.assert_close(log_weights(model, guide, x, num_particles), expected, atol=1e-6, rtol=0)
    assert evidence(model, guide, x, 30, method="iw", progress=False).log_px.tolist() == pytest.approx(
        exact(x).tolist()
    )


@pytest.mark.parametrize("name", PAIRS)
def test_every_estimator_and_objective_reads_them_by_datum(name):
    """At the exact posterior. Annealed estimates: within 4.5 of their standard errors, seeds fixed."""
    model, guide, exact, plates = PAIRS[name]
    assert find_plates(model, guide, (X,)) == plates
    settings = dict(progress=False)
    for method in ("auto", "laplace", "ais"):
        ev = evidence(model, guide, X, 200 if method != "ais" else 64, method=method, **settings)
        assert ((ev.log_px - exact(X)).abs() < 4.5 * ev.std_error + 1e-3).all(), method
    for objective in (objectives.ELBO(3), objectives.IWAE(3), objectives.ELBO(kl="analytic"), objectives.TVO(3)):
        loss = objective.loss(model, guide, X)
        if getattr(objective, "kl", "mc") == "mc":
            assert loss == pytest.approx(-exact(X).mean().item(), abs=1e-6)
    assert evidence(model, guide, X, 30, method="iw", chunk_size=30, progress=False).log_px.shape == (N,)


@pytest.mark.parametrize("name", [name for name in PAIRS if "sizes" not in name])
def test_diagnostics_read_them_by_datum(name):
    """An exact guide is accepted; kl of each latent is that of the closed form. Failure rate 1e-3 each."""
    model, guide, *_ = PAIRS[name]
    settings = dict(progress=False)
    bounds = sandwich(model, guide, x=X, num_data=6, num_particles=8, num_temperatures=20, **settings)
    assert (bounds.lower - bounds.upper).mean().abs() < 0.5
    for check in (diagnostics.sbc, diagnostics.expected_coverage):
        assert check(model, guide, x=X, num_data=200, num_draws=19, alpha=1e-3, **settings).accepted


class _Dreg(nn.Module):
    """z_n ~ N(0, 1), x_nm | z_n ~ N(w z_n, 1), q(z | x) = N(m mean(x), 1), the inner plate on the left of the data."""

    def __init__(self, left):
        super().__init__()
        self.left = left
        self.w, self.m = (nn.Parameter(torch.tensor(v, dtype=F64)) for v in (1.3, 0.6))

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1 if self.left else -2):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), *[1] * (not self.left), dtype=F64), 1.0))
            with pyro.plate("inner", x.shape[1], dim=-2 if self.left else -1):
                pyro.sample("x", dist.Normal(self.w * z, 1.0), obs=x.T if self.left else x)

    def guide(self, x):
        loc = self.m * x.mean(1)
        with pyro.plate("data", len(x), dim=-1 if self.left else -2):
            pyro.sample("z", dist.Normal(loc if self.left else loc[:, None], 1.0))


@pytest.mark.parametrize("gradient", ["pathwise", "dreg", "score", "vimco"])
def test_gradients_are_those_of_the_same_programs_with_the_data_on_the_left(gradient):
    results = []
    for left in (True, False):
        programs = _Dreg(left)
        torch.manual_seed(0)
        loss = objectives.IWAE(5, gradient).differentiable_loss(programs.model, programs.guide, X)
        results.append(torch.stack([loss, *torch.autograd.grad(loss, [programs.w, programs.m])]))
    torch.testing.assert_close(*results)


def test_a_subsampled_data_plate_trains_at_any_proportion_and_is_refused_where_all_data_count():
    data = torch.randn(60, generator=torch.Generator().manual_seed(1), dtype=F64)

    def program(x, size, observed):
        loc = pyro.param("loc", lambda: torch.zeros((), dtype=F64))
        with pyro.plate("data", len(x), subsample_size=size) as index:
            z = pyro.sample("z", dist.Normal(torch.zeros(size, dtype=F64) + loc, 1.0))
            if observed:
                pyro.sample("x", dist.Normal(z, 1.0), obs=x[index])

    for size in (10, 31, 40, 60):
        pyro.clear_param_store()
        settings = dict(batch_size=60, epochs=2, progress=False)

        def model(x, size=size):
            program(x, size, True)

        def guide(x, size=size):
            with pyro.plate("data", len(x), subsample_size=size) as index:
                pyro.sample("z", dist.Normal(x[index] / 2, 0.5**0.5))

        torch.manual_seed(0)
        loss = fit(model, guide, data, **settings).history[0]["loss"]
        assert loss == pytest.approx(-dist.Normal(0.0, 2**0.5).log_prob(data).mean().item(), abs=0.5)
        if size < 60:
            with pytest.raises(
                ValueError, match=r"plate 'data' to hold the \d+ data; its size is \d+. It is subsampled"
            ):
                evidence(model, guide, data, 10, method="iw", progress=False)
