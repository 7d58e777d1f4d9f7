"""Looking at programs leaves no trace: parameters that data make are made of all, and none is taken for another."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import normal_model
from pyro import infer
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import nn

from pyro_vae.inference import diagnostics, evidence, fit, gaps, log_weights, objectives, sandwich

N = 12
X = torch.randn(N, generator=torch.Generator().manual_seed(0))
EXACT = dist.Normal(0.0, 2**0.5).log_prob(X)
quiet = dict(progress=False, device="cpu")


def _of_each(x):
    loc = pyro.param("loc", lambda: 0.5 * x)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, 0.5**0.5))


def _of_all(x):
    loc = pyro.param("mean", lambda: x.mean())
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc.expand(len(x)), 1.5))


class _Changing(nn.Module):
    """A decoder that sets its parameter, a buffer and a number by the first data that it sees."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))
        self.register_buffer("seen", torch.zeros(()))
        self.calls = 0

    def forward(self, x):
        if not self.calls:
            self.shift.data.copy_(x.detach().mean())
        self.calls += 1
        self.seen += 1
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z + 0 * self.shift, 1.0), obs=x)


ENTRIES = {
    "evidence, auto": lambda model, guide: evidence(model, guide, X, 200, **quiet),
    "evidence, iw": lambda model, guide: evidence(model, guide, X, 200, method="iw", chunk_size=500, **quiet),
    "evidence, ais": lambda model, guide: evidence(model, guide, X, 8, method="ais", **quiet),
    "gaps": lambda model, guide: gaps(model, guide, X, num_particles=50, progress=False),
    "sandwich": lambda model, guide: sandwich(model, guide, 4, x=X, num_temperatures=5, **quiet),
    "sbc": lambda model, guide: diagnostics.sbc(model, guide, N, x=X, num_draws=9, **quiet),
    "surgery": lambda model, guide: diagnostics.elbo_surgery(model, guide, X, **quiet),
    "pit": lambda model, guide: diagnostics.pit(model, X, num_draws=9, **quiet),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("guide", [_of_each, _of_all])
def test_evaluations_leave_store_modules_and_generator_alone(entry, guide):
    pyro.clear_param_store()
    pyro.param("other", torch.ones(2))
    model, state = _Changing(), torch.get_rng_state()
    ENTRIES[entry](model, guide)
    assert list(pyro.get_param_store()) == ["other"]
    assert (model.shift.item(), float(model.seen), model.calls) == (0.0, 0.0, 0)
    assert torch.equal(torch.get_rng_state(), state)


def test_parameters_that_data_make_are_made_of_all_of_them():
    for guide, expected in ((_of_each, 0.5 * X), (_of_all, X.mean())):
        for train in (
            lambda guide: log_weights(normal_model, guide, X, 3),
            lambda guide: fit(normal_model, guide, X, batch_size=N, epochs=1, optimizer=_still, **quiet),
            lambda guide: objectives.IWAE(3).loss(normal_model, guide, X),
            lambda guide: infer.SVI(normal_model, guide, pyro.optim.SGD({"lr": 0.0}), objectives.IWAE(2)).step(X),
        ):
            pyro.clear_param_store()
            train(guide)
            ((_, value),) = pyro.get_param_store().items()
            torch.testing.assert_close(value.detach(), expected)
        infer.SVI(normal_model, guide, pyro.optim.SGD({"lr": 0.0}), infer.Trace_ELBO()).step(X)
        pyro.clear_param_store()
        ev = evidence(normal_model, guide, X, 4000, method="iw", chunk_size=600, **quiet)  # chunks of two data
        assert ((ev.log_px - EXACT).abs() < 5 * ev.std_error + 1e-5).all()
    assert ev.std_error.max() < 0.2


def _still(parameters):
    return torch.optim.SGD(parameters, lr=0.0)


@pytest.mark.parametrize("kind", [AutoNormal, AutoDiagonalNormal])
def test_programs_tied_to_their_data_are_trained_together_and_scored_together(kind):
    """Parameters of each datum: they come near the posterior of their own, x_n / 2, and the weights near log p(x_n)."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    guide = kind(normal_model)
    adam = lambda parameters: torch.optim.Adam(parameters, lr=0.02)  # noqa: E731
    fit(normal_model, guide, X, batch_size=N, epochs=500, optimizer=adam, **quiet)
    if kind is AutoDiagonalNormal:  # one latent vector for all data: no density of each
        with pytest.raises(ValueError, match=r"Expected .* inside the data plate"):
            evidence(normal_model, guide, X, 50, method="iw", **quiet)
        return
    assert ((guide.median()["z"] - X / 2).abs() < 0.4).all()  # Adam's noise is 0.1; the mean of all is 0.9 away
    ev = evidence(normal_model, guide, X, 500, method="iw", chunk_size=600, **quiet)
    assert ((ev.log_px - EXACT).abs() < 5 * ev.std_error + 1e-4).all()
    assert ev.std_error.max() < 0.05
    pyro.clear_param_store()
    with pytest.raises(ValueError, match=r"would be of other data in each minibatch: pass batch_size=12"):
        fit(normal_model, AutoNormal(normal_model), X, batch_size=4, epochs=1, **quiet)


class _Shifted(PyroModule):
    def __init__(self, loc):
        super().__init__()
        self.loc = PyroParam(torch.tensor(loc))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(z + self.loc, 1.0), obs=x)


def _wide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.5 * x, 1.0))


def test_modules_with_parameters_of_one_name_are_kept_apart_or_refused():
    pyro.clear_param_store()
    first, second = _Shifted(0.0), _Shifted(3.0)
    for model, loc in ((first, 0.0), (second, 3.0), (first, 0.0)):
        ev = evidence(model, _wide, X, 2000, method="iw", **quiet)
        assert ((ev.log_px - dist.Normal(loc, 2**0.5).log_prob(X)).abs() < 5 * ev.std_error).all()
    first(X)  # puts its parameter into the store
    for use in (  # each refuses
        lambda: evidence(second, _wide, X, 10, method="iw", **quiet),
        lambda: log_weights(second, _wide, X),
        lambda: fit(second, _wide, X, batch_size=N, epochs=1, **quiet),
        lambda: sandwich(second, _wide, 4, x=X, num_temperatures=5, **quiet),
    ):
        with pytest.raises(ValueError, match="Parameter 'loc' in Pyro's store is not that of this _Shifted"):
            use()
    assert second.loc.item() == 3.0
    pyro.clear_param_store()
    assert log_weights(second, _wide, X).shape == (1, N)


def test_autoguides_of_two_models_are_kept_apart():
    pyro.clear_param_store()
    first, second = AutoNormal(normal_model), AutoNormal(normal_model)
    first(X)
    with pyro.get_param_store().scope():
        second(X)
    for guide in (second, AutoNormal(normal_model)):
        with pytest.raises(ValueError, match=r"Parameter 'AutoNormal.locs.z' in Pyro's store is not that of this"):
            log_weights(normal_model, guide, X)
