"""Users' programs, compiled: the whole run is that of the programs as they are, or it says why it is not compiled."""

from __future__ import annotations

import random
import warnings
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import PIXELS, losses_of, quick
from pyro.distributions.transforms.spline import _monotonic_rational_spline
from torch import nn

from pyro_vae.inference.programs.call import modules_of_both

pytestmark = pytest.mark.usefixtures("recorded_only")


FASTER = partial(torch.optim.Adam, lr=0.05)


class Guide(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(6, 2)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.net(x), 0.5).to_event(1))


class Model(nn.Module):
    """p(x, z) with what the subclasses make of the decoder."""

    def __init__(self):
        super().__init__()
        self.net, self.free, self.more = nn.Linear(2, 6), nn.Parameter(torch.zeros(6)), nn.Parameter(torch.zeros(6))
        self.weight, self.none = nn.Parameter(torch.randn(6, 2)), nn.Parameter(torch.zeros(0, 6))
        self.scale, self.lstm = nn.Parameter(torch.ones(())), nn.LSTM(1, 3, batch_first=True)
        self.register_buffer("mean", torch.zeros(2))
        self.temperature = 1.0

    def logits(self, z):
        return self.net(z)

    def forward(self, x):
        self.x = x
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.logits(z)).to_event(1), obs=x)


def runs_of(logits, data=PIXELS, **settings):
    """Return the results of an eager and a compiled run, after comparing losses, bounds and all that was learnt."""
    results, states = [], []
    for compile in (False, True):
        pyro.clear_param_store()
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002 - users' programs draw from it
        model, guide = type("Own", (Model,), {"logits": logits})(), Guide()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Cannot compile, so")
            warnings.filterwarnings("ignore", "Converting a tensor with requires_grad=True")
            results.append(quick(model, guide, data, compile=compile, **{"optimizer": FASTER, **settings}))
        state = [v for module in modules_of_both(model, guide) for v in module.state_dict().values()]
        states.append([*state, *(p.detach() for _, p in sorted(pyro.get_param_store().items()))])
    assert losses_of(results[1]) == pytest.approx(losses_of(results[0]), rel=1e-5)
    bounds = [[row.get("valid_bound", 0.0) for row in result.history] for result in results]
    assert bounds[1] == pytest.approx(bounds[0], rel=1e-5)
    torch.testing.assert_close(states[1], states[0], rtol=1e-3, atol=1e-4)
    return results[1].execution


def _shared(self, z):
    return self.net(z) + (self.free + self.more)


def _turned(self, z):
    return torch.einsum("...d,pd->...p", z, self.weight)


def _empty(self, z):
    return self.net(z) + z[..., :0] @ self.none


def _recurrent(self, z):
    return self.net(z) + self.lstm(z[..., None])[0].sum((-2, -1))[..., None]


def _spline(self, z):
    """Pyro's spline sets by a mask what it leaves alone, here in each minibatch another number of entries."""
    y, _ = _monotonic_rational_spline(z, *(self.weight[:4].t().softmax(-1),) * 2, self.weight[:3].t().exp(), bound=0.7)
    return self.net(y)


def _in_place(self, z):
    if self.training:
        self.mean.mul_(0.9).add_(0.1 * z.detach().mean(0))
        return self.net(z)
    return self.net(z - self.mean)


def _in_place_and_used(self, z):
    """Each call depends on those before, as in spectral normalisation, which iterates once in each."""
    if self.training:
        self.mean.mul_(0.5).add_(0.5 * z.detach().mean(0))
    return self.net(z - self.mean)


@pytest.mark.parametrize("logits", [_shared, _turned, _empty, _recurrent, _spline, _in_place, _in_place_and_used])
@pytest.mark.parametrize("optimizer", [FASTER, partial(torch.optim.SGD, lr=0.1, momentum=0.9)])
def test_compiled_runs_are_the_eager_ones(logits, optimizer):
    settings = {"clip_norm": 0.05, "optimizer": optimizer, "valid": PIXELS[:20]}
    assert runs_of(logits, **settings).startswith("compiled")


@pytest.mark.parametrize("x", [PIXELS.t().contiguous().t(), PIXELS[:1].expand(60, 6)])
def test_data_in_any_order_of_memory(monkeypatch, x):
    """The layout of the examples that are compiled for is that of the minibatches that come."""
    seen = []
    monkeypatch.setattr(
        torch, "compile", lambda graph, **options: lambda *batch: seen.append(batch[0].stride()) or graph(*batch)
    )
    assert runs_of(Model.logits, x).startswith("compiled")
    assert len(set(seen)) == 1
    assert len(seen) == 10  # one for comparison, and three epochs of three minibatches


def _late(self, z):
    return self.net(z) + pyro.param(f"shift_{len(z)}", lambda: torch.randn(6))


def _of_short_minibatches(self, z):
    return self.net(z) + (pyro.param("shift", lambda: torch.randn(6)) if len(z) == 10 else 0)


@pytest.mark.parametrize("optimizer", [FASTER, partial(torch.optim.SGD, lr=0.1)])
@pytest.mark.parametrize("logits", [_late, _of_short_minibatches])
def test_a_parameter_of_minibatches_of_another_size_is_trained_by_them_alone(logits, optimizer):
    assert runs_of(logits, batch_size=25, optimizer=optimizer).startswith("compiled")


def _replaced(self, z):
    if self.training:
        self.mean = 0.9 * self.mean + 0.1 * z.detach().mean(0)
        return self.net(z)
    return self.net(z - self.mean)


def _annealed(self, z):
    self.temperature *= 0.99 if self.training else 1.0
    return self.net(z) / self.temperature


def _parameter(self, z):
    return self.net(z) * (1 + float(self.scale)) + self.scale


def _listed(self, z):
    return self.net(z) + torch.tensor(self.x[:, 0].tolist())[:, None]


def _array(self, z):
    return self.net(z) + torch.from_numpy(self.x[:, 0].numpy().copy())[:, None]


def _selected(self, z):
    return self.net(z) * len(self.x[self.x[:, 0] > 0])


def _python_noise(self, z):
    return self.net(z) * (1.0 if random.random() < 0.5 else 2.0)


def _numpy_noise(self, z):
    return self.net(z) + np.random.rand()  # noqa: NPY002


READS = "a program reads the value of a tensor in Python"


@pytest.mark.parametrize(
    ("logits", "reason"),
    [
        (_replaced, "a program sets 'mean' anew in each call"),
        (_annealed, "a program sets 'temperature' anew in each call"),
        (_parameter, READS),
        (_listed, READS),
        (_array, READS),
        (_selected, "the shapes or the control flow of a program depend on the values"),
        (_python_noise, "a program draws random numbers from Python or NumPy"),
        (_numpy_noise, "a program draws random numbers from Python or NumPy"),
    ],
)
def test_what_a_record_would_freeze_runs_eagerly(logits, reason):
    """All data in one minibatch: then even the comparison at other data sees the example's values."""
    assert runs_of(logits, batch_size=60, valid=PIXELS[:20]).startswith(f"eager: {reason}")


def test_an_attribute_that_a_schedule_sets_is_noticed_at_once():
    results = []
    for compile in (False, True):
        torch.manual_seed(0)
        model, guide = type("Own", (Model,), {"logits": lambda self, z: self.net(z) / self.temperature})(), Guide()

        def schedule(epoch, model=model):
            model.temperature = 1.0 if epoch < 2 else 0.1
            return 1.0

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            results.append(quick(model, guide, PIXELS, compile=compile, kl_warmup=schedule, valid=PIXELS[:20]))
    assert losses_of(results[1]) == pytest.approx(losses_of(results[0]), rel=1e-5)
    assert results[1].history[-1]["valid_bound"] == pytest.approx(results[0].history[-1]["valid_bound"], rel=1e-5)
    assert "no longer do what was compiled" in str(caught[0].message)


def test_a_program_that_fails_says_so_itself():
    def logits(self, z):
        if len(z) == 20:
            raise KeyError("my own mistake")
        return self.net(z)

    with pytest.raises(KeyError, match="my own mistake"):
        runs_of(logits)


def test_distributions_made_when_arguments_were_checked_are_recorded():
    prior = dist.Normal(torch.zeros(6), 1.0, validate_args=True)

    def logits(self, z):
        return self.net(z) + 0.1 * prior.log_prob(self.free)

    assert runs_of(logits).startswith("compiled")
