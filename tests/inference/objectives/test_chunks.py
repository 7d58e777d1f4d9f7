"""Objectives that run chunk by chunk of particles: the same numbers, in the memory of a chunk."""

from __future__ import annotations

import itertools
import warnings
from contextlib import nullcontext

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import PIXELS, X, losses_of, make_pair, quick
from pyro import poutine
from pyro.poutine import runtime
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.profiler import ProfilerActivity, profile

from pyro_vae.inference import AmortizedGuide, guides, objectives
from pyro_vae.inference.compile import worthwhile
from pyro_vae.inference.objectives import CIWAE, CUBO, ELBO, IWAE, MIWAE, RWS, TVO, Renyi, chunks
from pyro_vae.inference.programs.loop import split_particles
from pyro_vae.inference.programs.vectorize import find_plates
from pyro_vae.inference.programs.weights import KLWeight
from pyro_vae.models import VAE, likelihoods, priors


class InOrder(dist.Normal):
    """A normal distribution that draws number by number, so that chunks have the noise of all at once."""

    def rsample(self, sample_shape=()):
        return self.icdf(torch.rand(self._extended_shape(torch.Size(sample_shape)), dtype=torch.float64))

    def expand(self, batch_shape, _instance=None):
        return InOrder(self.loc.expand(batch_shape), self.scale.expand(batch_shape))


class Programs(nn.Module):
    """z ~ N(0, 1), x | z ~ N(w z, 1); q(z | x) = N(m x, s^2)."""

    def __init__(self, particles="plate") -> None:
        super().__init__()
        self.particles = particles
        for name, value in {"w": 1.3, "m": 0.3, "log_s": -0.2}.items():
            setattr(self, name, nn.Parameter(torch.tensor(value, dtype=torch.float64)))

    def model(self, x):
        with pyro.plate("data", len(X) if self.particles == "one by one" else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(self.w * (z if self.particles == "plate" else z.view(len(x))), 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", InOrder(self.m * x, self.log_s.exp()))

    def gradient(self, loss):
        grads = torch.autograd.grad(loss, list(self.parameters()), allow_unused=True)
        return torch.stack([torch.zeros_like(loss) if g is None else g for g in grads])


OBJECTIVES = {
    "IWAE": lambda **s: IWAE(7, **s),
    "IWAE dreg": lambda **s: IWAE(7, "dreg", **s),
    "MIWAE": lambda **s: MIWAE(4, 2, **s),
    "MIWAE dreg": lambda **s: MIWAE(4, 2, "dreg", **s),
    "CIWAE": lambda **s: CIWAE(7, 0.3, **s),
    "CIWAE dreg": lambda **s: CIWAE(7, 0.3, "dreg", **s),
    "Renyi": lambda **s: Renyi(7, 0.3, **s),
    "VR-max": lambda **s: Renyi(7, float("-inf"), **s),
    "ELBO": lambda **s: ELBO(7, beta=0.4, **s),
    "IWAE score": lambda **s: IWAE(7, "score", **s),
    "IWAE vimco": lambda **s: IWAE(7, "vimco", **s),
    "MIWAE vimco": lambda **s: MIWAE(4, 2, "vimco", **s),
    "TVO": lambda **s: TVO(7, 3, **s),
    "TVO pathwise": lambda **s: TVO(7, 3, gradient="pathwise", **s),
    "RWS": lambda **s: RWS(7, **s),
    "RWS both": lambda **s: RWS(7, "both", **s),
    "ELBO analytic": lambda **s: ELBO(7, beta=0.4, kl="analytic", **s),
    "ELBO stl": lambda **s: ELBO(7, gradient="stl", **s),
    "CUBO": lambda **s: CUBO(7, **s),
}


def value_and_gradient(objective, programs):
    torch.manual_seed(0)
    loss = objective.differentiable_loss(programs.model, programs.guide, X)
    return torch.cat([loss.detach()[None], programs.gradient(loss)])


@pytest.mark.filterwarnings("ignore:CUBO fits the guide alone")
@pytest.mark.parametrize("chunk_size", [1, 6, 12])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_value_and_gradient_are_those_of_all_particles_at_once(name, chunk_size):
    programs = Programs()
    expected = value_and_gradient(OBJECTIVES[name](), programs)
    torch.testing.assert_close(value_and_gradient(OBJECTIVES[name](chunk_size=chunk_size), programs), expected)
    assert expected.abs().max() > 0.1

    torch.manual_seed(0)
    value = OBJECTIVES[name](chunk_size=chunk_size).loss(programs.model, programs.guide, X)
    assert value == pytest.approx(expected[0].item(), rel=1e-12)


@pytest.mark.parametrize("chunk_size", [None, 6])
@pytest.mark.parametrize("name", ["IWAE", "IWAE dreg", "IWAE score", "IWAE vimco"])
@pytest.mark.parametrize("particles", ["copies", "one by one"])
def test_however_particles_run_they_have_the_same_value_and_gradient(name, chunk_size, particles):
    programs = Programs(particles)
    with pytest.warns(UserWarning, match="one by one") if particles == "one by one" else nullcontext():
        assert find_plates(programs.model, programs.guide, (X,)).particles == particles
        alone = value_and_gradient(OBJECTIVES[name](chunk_size=chunk_size), programs)
    torch.testing.assert_close(alone, value_and_gradient(OBJECTIVES[name](), Programs()))


@pytest.mark.parametrize("kind", [float, lambda beta: torch.tensor(beta, dtype=torch.float64)])
@pytest.mark.parametrize("name", ["IWAE", "IWAE dreg"])
def test_the_backward_pass_has_the_handlers_of_the_forward_pass(name, kind):
    programs, objective = Programs(), OBJECTIVES[name](chunk_size=6)

    def gradient(forward, backward):
        torch.manual_seed(0)
        with KLWeight(kind(forward)):
            loss = objective.differentiable_loss(programs.model, programs.guide, X)
        with KLWeight(kind(backward)):
            result = programs.gradient(loss)
            assert [type(handler) for handler in runtime._PYRO_STACK] == [KLWeight]
        assert not runtime._PYRO_STACK
        return result

    with KLWeight(0.3):
        expected = value_and_gradient(OBJECTIVES[name](), programs)[1:]
    torch.testing.assert_close(gradient(0.3, 1.0), expected)
    torch.testing.assert_close(gradient(0.3, 5.0), expected)
    assert not torch.allclose(gradient(1.0, 0.3), expected)


def test_a_backward_pass_without_the_handlers_of_the_forward_pass():
    programs, objective = Programs(), IWAE(7, chunk_size=6)

    def gradient(objective):
        torch.manual_seed(0)
        with poutine.condition(data={"x": X + 1}):
            loss = objective.differentiable_loss(programs.model, programs.guide, X)
        return programs.gradient(loss)

    torch.testing.assert_close(gradient(objective), gradient(IWAE(7)))


def test_the_backward_pass_leaves_the_generator_alone():
    programs = Programs()
    loss = IWAE(7, chunk_size=6).differentiable_loss(programs.model, programs.guide, X)
    before = torch.get_rng_state()
    loss.backward()
    assert torch.equal(torch.get_rng_state(), before)


class Scaled(nn.Module):
    """Keeps a running scale in a buffer that it replaces in training, and counts its calls."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones(()))
        self.calls = 0

    def forward(self, h):
        self.calls += 1
        if self.training:
            self.scale = 0.5 * self.scale + 0.5 * h.detach().std()
        return self.calls * h / self.scale


LAYERS = {
    "batch norm": lambda: nn.BatchNorm1d(5),
    "spectral norm": lambda: spectral_norm(nn.Linear(5, 5)),
    "replaced buffer and count": Scaled,
}


def remembering_pair(layer):
    """A pair of programs whose networks keep something from call to call, in training."""

    def network(in_shape, out_features):
        inner = LAYERS[layer]()
        flat = nn.Sequential(nn.Linear(in_shape[0], 5), nn.Tanh(), inner, nn.Linear(5, out_features))
        return Flattened(flat)

    torch.manual_seed(0)
    model = VAE(priors.StandardNormal(2), likelihoods.Bernoulli(6), network)
    return model.double(), AmortizedGuide(6, guides.DiagonalNormal(2), network).double()


class Flattened(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x.flatten(0, -2)).unflatten(0, x.shape[:-1])


def kept_by(pair):
    buffers = [b.double().flatten() for module in pair for b in module.buffers()]
    calls = [part.calls for module in pair for part in module.modules() if isinstance(part, Scaled)]
    return torch.cat([*buffers, torch.tensor(calls, dtype=torch.float64)])


@pytest.mark.parametrize(
    "objective", [IWAE(7, chunk_size=40), IWAE(7, "dreg", chunk_size=40)], ids=["pathwise", "dreg"]
)
@pytest.mark.parametrize("layer", LAYERS)
def test_the_backward_pass_runs_modules_as_they_were_and_leaves_them_as_they_are(layer, objective, monkeypatch):
    x = PIXELS[:20].double()

    def gradient_and_state(pair):
        torch.manual_seed(1)
        loss = objective.differentiable_loss(*pair, x)
        before = kept_by(pair)
        parameters = [p for module in pair for p in module.parameters()]
        for _ in range(2):
            gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
        torch.testing.assert_close(kept_by(pair), before, rtol=0, atol=0)
        return torch.cat([g.flatten() for g in gradients]), before

    chunked = gradient_and_state(remembering_pair(layer))
    assert not torch.equal(chunked[1], kept_by(remembering_pair(layer)))
    monkeypatch.setattr(chunks, "checkpoint", lambda run, *args, use_reentrant, context_fn: run(*args))
    torch.testing.assert_close(chunked, gradient_and_state(remembering_pair(layer)))


def test_running_means_see_each_chunk_once():
    def counts(epochs):
        model, guide = remembering_pair("batch norm")
        quick(model, guide, PIXELS.double(), objective=IWAE(7, chunk_size=40), epochs=epochs)
        return [int(b) for part in (model, guide) for name, b in part.named_buffers() if name.endswith("tracked")]

    steps, num_chunks = 2 * 3, 4
    assert [many - few for few, many in zip(counts(1), counts(3), strict=True)] == [steps * num_chunks] * 2


def peak_memory(objective):
    """Return the most bytes that loss and gradient of a minibatch hold at once."""
    programs = make_pair(hidden=(64,))
    objective.differentiable_loss(*programs, PIXELS[:10]).backward()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        objective.differentiable_loss(*programs, PIXELS[:10]).backward()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


@pytest.mark.parametrize(
    ("build", "functions"),
    [
        (lambda k, **s: IWAE(k, **s), 8),
        (lambda k, **s: IWAE(k, "dreg", **s), 8),
        (lambda k, **s: TVO(k, 3, **s), 30),
        (lambda k, **s: RWS(k, **s), 15),
    ],
)
def test_memory_is_that_of_a_chunk(build, functions):
    whole = peak_memory(build(2000))
    few, many = (peak_memory(build(k, chunk_size=1000)) for k in (200, 2000))
    assert many < whole / 8
    # What grows with K is log w, a few of its functions and the generator's state before each chunk.
    states = (2000 - 200) // 100 * torch.get_rng_state().nbytes
    assert many - few < states + functions * 1800 * 10 * torch.float32.itemsize


def test_memory_of_the_baseline_that_replaces_each_particle():
    few, many = (peak_memory(IWAE(400, "vimco", chunk_size=c)) for c in (400, 4000))
    assert few < many / 4


def test_chunks_hold_so_many_pairs():
    assert split_particles(7, 3, None) == [7]
    assert split_particles(7, 3, 6) == [2, 2, 2, 1]
    assert split_particles(7, 3, 100) == [7]
    assert split_particles(2, 3, 1) == [1, 1]


def test_fit_runs_chunks_eagerly_and_says_why():
    settings = {"objective": IWAE(5, chunk_size=40), "kl_warmup": 2, "epochs": 2, "valid": PIXELS[:10]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        eager = quick(*make_pair(), PIXELS, **settings)
    with pytest.warns(UserWarning, match="runs eagerly: the objective has chunk_size, and runs its particles again"):
        compiled = quick(*make_pair(), PIXELS, **settings, compile=True)
    assert losses_of(eager) == losses_of(compiled)
    assert eager.history[-1]["loss"] < eager.history[0]["loss"]


def test_fit_does_not_try_to_compile_chunks_by_itself(monkeypatch):
    monkeypatch.setitem(worthwhile.LEAST, "steps", 1)
    assert quick(*make_pair(), PIXELS, objective=IWAE(5, chunk_size=40), epochs=1).execution == "eager"


def test_a_chunk_holds_something():
    with pytest.raises(ValueError, match="Expected chunk_size to be an integer >= 1; got 0"):
        IWAE(5, chunk_size=0)


def test_the_setting_is_part_of_the_record_of_a_run(tmp_path):
    quick(*make_pair(), PIXELS, objective=objectives.IWAE(3, chunk_size=20), checkpoint=tmp_path / "run.pt")
    with pytest.raises(ValueError, match=r"Expected objective='IWAE\(chunk_size=20, .*got 'IWAE\(gradient"):
        quick(*make_pair(), PIXELS, objective=objectives.IWAE(3), checkpoint=tmp_path / "run.pt", epochs=4, resume=True)
