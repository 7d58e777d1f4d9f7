"""A compiled run is the eager one, where it is worth while and possible."""

from __future__ import annotations

import warnings
from functools import partial

import pytest
import torch
from programs import PIXELS, branch, losses_of, make_pair, quick, weights_of, with_model
from torch import nn

from pyro_vae.inference import AmortizedGuide, guides, objectives
from pyro_vae.inference.compile import worthwhile
from pyro_vae.inference.training import compiled as training
from pyro_vae.models import VAE, likelihoods, mlp, priors

SETTINGS = {
    "clip_norm": 5.0,
    "kl_warmup": 2,
    "scheduler": partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5),
    "patience": 3,
    "valid": PIXELS[:10],
    "transform": torch.bernoulli,
    "batch_size": 25,  # and a last one of 10
}


def test_a_compiled_run_is_the_eager_one_and_resumes(tmp_path):
    file = tmp_path / "run.pt"
    results, weights = [], []
    for settings in ({"compile": False}, {"compile": True, "checkpoint": file}):
        programs = make_pair()
        results.append(quick(*programs, PIXELS, **SETTINGS, **settings))
        weights.append(weights_of(*programs))
    assert results[0].execution == "eager"
    assert results[1].execution.startswith("compiled in ")
    assert losses_of(results[1]) == pytest.approx(losses_of(results[0]), rel=1e-5)
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)

    programs = make_pair()
    quick(*programs, PIXELS, **SETTINGS | {"epochs": 2}, compile=False, checkpoint=file)
    quick(*programs, PIXELS, **SETTINGS, compile=True, checkpoint=file, resume=True)
    torch.testing.assert_close(weights_of(*programs), weights[1], rtol=1e-4, atol=1e-5)


def test_running_means_are_those_of_the_eager_run(recorded_only):
    def normalised(in_shape, num_features):
        return nn.Sequential(
            nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, num_features)
        )

    states = []
    for compile in (False, True):
        torch.manual_seed(0)
        model = VAE(priors.StandardNormal(2), likelihoods.Bernoulli(6), mlp((8,)))
        guide = AmortizedGuide(6, guides.DiagonalNormal(2), normalised)
        result = quick(model, guide, PIXELS, compile=compile)
        states.append(torch.cat([value.double().flatten() for value in guide.state_dict().values()]))
    assert result.execution.startswith("compiled")
    torch.testing.assert_close(*states, rtol=1e-4, atol=1e-5)


def test_auto_compiles_long_runs_alone(monkeypatch, recorded_only):
    assert quick(*make_pair(), PIXELS).execution == "eager"
    monkeypatch.setitem(worthwhile.LEAST, "steps", 9 * 4)
    assert quick(*make_pair(), PIXELS).execution == "eager"
    assert quick(*make_pair(), PIXELS, objective=objectives.IWAE(4)).execution.startswith("compiled")


def test_auto_leaves_large_programs_alone(monkeypatch, recorded_only):
    monkeypatch.setitem(worthwhile.LEAST, "steps", 9)
    monkeypatch.setattr(training, "MOST_OPERATIONS", 20)
    result = quick(*make_pair(), PIXELS)
    assert "operations take longer to compile than it saves" in result.execution
    assert quick(*make_pair(), PIXELS, epochs=60).execution.startswith("compiled")
    assert quick(*make_pair(), PIXELS, compile=True).execution.startswith("compiled")


def test_the_validation_bound_is_compiled_after_many(monkeypatch, recorded_only):
    monkeypatch.setattr(training, "LOSSES_FIRST", 4)
    bounds = []
    for compile in (False, True):
        result = quick(*make_pair(), PIXELS, valid=PIXELS[:50], epochs=4, compile=compile)
        bounds.append([row["valid_bound"] for row in result.history])
    assert len(recorded_only) == 2  # the step, and then the loss at its second minibatch of the second epoch
    assert bounds[1] == pytest.approx(bounds[0], rel=1e-5)


def _number(z):
    return float(z.detach().mean())


@pytest.mark.parametrize("body", [branch, _number])
def test_programs_that_read_values_run_eagerly_and_say_why(body):
    results = []
    for compile in (False, True):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            results.append(quick(*with_model(body), PIXELS, compile=compile))
    assert losses_of(results[0]) == losses_of(results[1])
    reason = "a program reads the value of a tensor in Python"
    assert results[1].execution.startswith(f"eager: {reason}")
    assert f"Cannot compile, so training runs eagerly: {reason}" in "".join(str(warning.message) for warning in caught)


def test_a_program_that_counts_its_calls_is_noticed(monkeypatch, recorded_only):
    monkeypatch.setattr(training, "CHECK_EVERY", 4)
    calls = []

    def body(z):
        calls.append(1)
        return float(len(calls) > 8)

    with pytest.warns(UserWarning, match="no longer do what was compiled: they keep something from call to call"):
        result = quick(*with_model(body), PIXELS, epochs=8, compile=True)
    assert result.execution.startswith("compiled")


def test_without_a_compiler_all_runs_eagerly():
    from torch._inductor import config

    without = config.patch({"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False})
    with without, pytest.warns(UserWarning, match=r"there is no C\+\+ compiler; install one"):
        result = quick(*make_pair(3, (5,)), PIXELS, compile=True)
    assert losses_of(result) == losses_of(quick(*make_pair(3, (5,)), PIXELS))


def test_a_compiled_run_of_a_gpu_resumes_elsewhere(tmp_path):
    """Its checkpoint holds a learning rate in a tensor and an optimizer set up for a GPU."""
    file, weights = tmp_path / "run.pt", []
    for as_on_gpu in (False, True):
        programs = make_pair()
        quick(*programs, PIXELS, epochs=2, checkpoint=file)
        state = torch.load(file, weights_only=True)
        if as_on_gpu:
            for group in state["optimizer"]["param_groups"]:
                group.update(capturable=True, fused=True, lr=torch.tensor(group["lr"]))
        torch.save(state, file)
        programs = make_pair()
        result = quick(*programs, PIXELS, checkpoint=file, resume=True)
        weights.append(torch.cat([p.detach().flatten() for module in programs for p in module.parameters()]))
        assert result.history[-1]["lr"] == pytest.approx(1e-3)
    torch.testing.assert_close(*weights)
