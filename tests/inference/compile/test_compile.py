"""A record of a program, and what is compiled from it, has the program's values at the same noise."""

from __future__ import annotations

import warnings
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from families import FAMILIES, pair
from likelihood_table import LIKELIHOODS
from setups import PIXELS, losses_of, make_pair, module_programs, plain_guide, plain_model, quick, weights_of
from test_priors import PRIORS
from test_svi_and_fit import OBJECTIVES, STOCK
from torch import nn

from pyro_vae.inference import AmortizedGuide, evidence, guides, methods, objectives
from pyro_vae.inference.compile import worthwhile
from pyro_vae.inference.compile.compile import agree, compile_programs, compiled
from pyro_vae.inference.compile.record import CannotCompileError, record
from pyro_vae.inference.programs.call import fork_rng
from pyro_vae.inference.training import compiled as training
from pyro_vae.inference.training.step import Stepper
from pyro_vae.models import VAE, HierarchicalVAE, likelihoods, mlp, priors

adam = partial(torch.optim.Adam, lr=1e-3)


@pytest.fixture
def recorded_only(monkeypatch):
    """Leave the record of the programs as it is: the compiler needs seconds for each."""
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)


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


def _guide_for(prior):
    kind = type(prior).__name__
    families = {
        "Dirichlet": guides.LogisticNormal,
        "LogisticNormal": guides.LogisticNormal,
        **{
            name: getattr(guides, name)
            for name in ("RelaxedBernoulli", "RelaxedCategorical", "Bernoulli", "Categorical")
        },
    }
    return families.get(kind, guides.DiagonalNormal)


@pytest.mark.parametrize("name", PRIORS)
def test_every_prior_is_recorded(name):
    prior = PRIORS[name](3)
    model = VAE(prior, likelihoods.Bernoulli(6), mlp((8,)))
    guide = AmortizedGuide(6, _guide_for(prior)(model.latent_shape[0]), mlp((8,)))
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
    bounds, made = [], []
    monkeypatch.setattr(torch, "compile", lambda graph, **options: made.append(1) or graph)
    for compile in (False, True):
        result = quick(*make_pair(), PIXELS, valid=PIXELS[:50], epochs=4, compile=compile)
        bounds.append([row["valid_bound"] for row in result.history])
    assert len(made) == 2  # the step, and then the loss at its second minibatch of the second epoch
    assert bounds[1] == pytest.approx(bounds[0], rel=1e-5)


def _with_model(body):
    """Programs of which the model runs ``body(z)`` before it observes."""
    model, guide = make_pair()

    def program(x):
        pyro.module("decoder", model.decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=model.decoder(z) + body(z)).to_event(1), obs=x)

    return program, guide


def _branch(z):
    return 1.0 if z.mean() > 0 else 0.0


def _number(z):
    return float(z.detach().mean())


@pytest.mark.parametrize("body", [_branch, _number])
def test_programs_that_read_values_run_eagerly_and_say_why(body):
    results = []
    for compile in (False, True):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            results.append(quick(*_with_model(body), PIXELS, compile=compile))
    assert losses_of(results[0]) == losses_of(results[1])
    reason = "a program reads the value of a tensor in Python"
    assert results[1].execution.startswith(f"eager: {reason}")
    assert f"Cannot compile, so training runs eagerly: {reason}" in str(caught[0].message)


def test_a_program_that_counts_its_calls_is_noticed(monkeypatch, recorded_only):
    monkeypatch.setattr(training, "CHECK_EVERY", 4)
    calls = []

    def body(z):
        calls.append(1)
        return float(len(calls) > 8)

    with pytest.warns(UserWarning, match="no longer do what was compiled: they keep something from call to call"):
        result = quick(*_with_model(body), PIXELS, epochs=8, compile=True)
    assert result.execution.startswith("compiled")


def test_a_file_that_the_compiler_did_not_finish_is_named(monkeypatch):
    def broken(graph, **options):
        raise ImportError("cache/kernel.so: file too short")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(CannotCompileError, match=r"cache/kernel\.so: file too short; delete that file"):
        compiled(lambda x: (x + 1,), (torch.zeros(2),), (torch.ones(2),))


def test_without_a_compiler_all_runs_eagerly():
    from torch._inductor import config

    without = config.patch({"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False})
    with without, pytest.warns(UserWarning, match=r"there is no C\+\+ compiler; install one"):
        result = quick(*make_pair(3, (5,)), PIXELS, compile=True)
    assert losses_of(result) == losses_of(quick(*make_pair(3, (5,)), PIXELS))


def test_a_function_of_other_values_is_not_taken(recorded_only):
    calls = []

    def function(x):
        calls.append(1)
        return (x * len(calls),)

    with pytest.raises(CannotCompileError, match="acts on more than tensors"):
        compiled(function, (torch.ones(2),), (torch.ones(2),))


def test_programs_run_for_a_trial_the_record_and_the_comparison(recorded_only):
    calls = []

    def function(x):
        calls.append(type(x))
        return (x + 1,)

    compile_programs(*make_pair(), function, (torch.ones(2),), (torch.zeros(2),))
    assert len(calls) == 3


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


def test_compiled_evidence_is_the_eager_one():
    programs = make_pair()
    results = [
        evidence(*programs, PIXELS, 50, chunk_size=300, compile=compile, progress=False) for compile in (False, True)
    ]
    torch.testing.assert_close(results[1].log_px, results[0].log_px, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(results[1].khat, results[0].khat, rtol=1e-3, atol=1e-3, equal_nan=True)


@pytest.mark.parametrize("how", [methods.IW(defensive=0.2), methods.Jackknife()])
def test_other_weights_are_recorded(how, recorded_only):
    programs = make_pair()
    results = [
        evidence(*programs, PIXELS, 50, method=how, compile=compile, progress=False) for compile in (False, True)
    ]
    torch.testing.assert_close(results[1].log_px, results[0].log_px, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", [methods.IW(refine=5), methods.Jackknife(refine=5, defensive=0.2)])
@pytest.mark.parametrize("amortized", [True, False])
def test_guides_that_are_fitted_to_each_datum_are_recorded(how, amortized, monkeypatch):
    made = []
    monkeypatch.setattr(torch, "compile", lambda graph, **options: made.append(1) or graph)
    model, guide = (part.double() for part in make_pair())
    settings = {"method": how, "chunk_size": 25 * 20, "progress": False}
    results = [
        evidence(model, guide if amortized else lambda x: guide(x), PIXELS.double(), 20, compile=compile, **settings)
        for compile in (False, True)
    ]
    assert len(made) == 2  # the fit and the weights, for two chunks of 25 data, and none for the last of 10
    torch.testing.assert_close(results[1].log_px, results[0].log_px, rtol=1e-8, atol=0)
    plain = evidence(model, guide, PIXELS.double(), 20, method=type(how)(how.defensive), chunk_size=500, progress=False)
    assert not torch.allclose(results[1].log_px, plain.log_px, rtol=1e-8, atol=0)


def test_evidence_says_what_it_cannot_compile(monkeypatch, recorded_only):
    with pytest.warns(UserWarning, match="Cannot compile, so the weights are computed eagerly: a program reads"):
        evidence(*_with_model(_branch), PIXELS, 10, method=methods.IW(refine=2), compile=True, progress=False)
    monkeypatch.setitem(worthwhile.LEAST, "weights", 600)
    made = []
    monkeypatch.setattr(torch, "compile", lambda graph, **options: made.append(1) or graph)
    evidence(*make_pair(), PIXELS, 9, progress=False)
    assert not made
    evidence(*make_pair(), PIXELS, 10, progress=False)
    assert made
    with pytest.raises(ValueError, match=r'Expected compile to be "auto", True or False; got 1\.5'):
        evidence(*make_pair(), PIXELS, 10, compile=1.5, progress=False)
