from __future__ import annotations

import math
from contextvars import ContextVar
from dataclasses import replace
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import PIXELS, losses_of, make_pair, module_programs, quick, sgd, weights_of
from pyro import infer
from truth import LinearGaussian

from pyro_vae.inference import AmortizedGuide, evidence, fit, guides, objectives
from pyro_vae.models import VAE, likelihoods, mlp, priors

STOCK = {
    "Trace_ELBO": infer.Trace_ELBO(),
    "Trace_ELBO, K=3": infer.Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
    "TraceMeanField_ELBO": infer.TraceMeanField_ELBO(),
    "TraceGraph_ELBO": infer.TraceGraph_ELBO(),
    "TraceEnum_ELBO": infer.TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False),
    "RenyiELBO": infer.RenyiELBO(alpha=0.5, num_particles=3, vectorize_particles=True, max_plate_nesting=1),
    "ReweightedWakeSleep": infer.ReweightedWakeSleep(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
    "TraceTailAdaptive_ELBO": infer.TraceTailAdaptive_ELBO(
        num_particles=3, vectorize_particles=True, max_plate_nesting=1
    ),
    "ours, ELBO": objectives.ELBO(),
    "ours, IWAE": objectives.IWAE(3),
}


@pytest.mark.parametrize("name", STOCK)
def test_every_objective_trains_every_parameter(name):
    model, guide = make_pair()
    before = weights_of(model, guide)
    valid = None if "TailAdaptive" in name else PIXELS[:20]
    result = quick(model, guide, PIXELS, objective=STOCK[name], valid=valid)
    assert (weights_of(model, guide) != before).double().mean() > 0.95  # a tanh unit's gradient may vanish
    if valid is not None:
        assert all(math.isfinite(row["loss"]) and math.isfinite(row["valid_bound"]) for row in result.history)


def test_an_objective_without_a_value_cannot_validate():
    objective = STOCK["TraceTailAdaptive_ELBO"]
    with pytest.raises(ValueError, match="TraceTailAdaptive_ELBO has a gradient but no value"):
        quick(*make_pair(), PIXELS, objective=objective, valid=PIXELS)


def test_steps_are_those_of_stock_svi():
    model, guide = make_pair()
    quick(model, guide, PIXELS, optimizer=sgd, seed=7, epochs=1)
    ours = weights_of(model, guide)

    model, guide = make_pair()
    svi = infer.SVI(model, guide, pyro.optim.SGD({"lr": 0.01 / 20}), infer.Trace_ELBO())
    torch.manual_seed(7)
    for index in torch.randperm(60).split(20):
        svi.step(PIXELS[index])
    torch.testing.assert_close(ours, weights_of(model, guide))


def test_losses_of_ours_and_of_stock_agree_per_datum():
    results = [quick(*make_pair(), PIXELS, objective=o, seed=3) for o in (objectives.ELBO(), infer.Trace_ELBO())]
    assert losses_of(results[0]) == pytest.approx(losses_of(results[1]), rel=1e-5)


def _learnable(truth):
    """Give a model with nothing to learn a parameter of no effect, since ``fit`` asks for one."""

    def program(x):
        nothing = pyro.param("nothing", lambda: torch.zeros((), dtype=x.dtype))
        replace(truth, bias=truth.bias + 0 * nothing).model(x)

    return program


def test_loss_weighs_data_equally_when_the_last_batch_is_short():
    truth = LinearGaussian.random(1, 2)
    x = truth.sample(7)
    model = _learnable(truth)
    result = fit(model, truth.exact_guide, x, objective=objectives.ELBO(), batch_size=4, epochs=1, progress=False)
    assert result.history[0]["loss"] == pytest.approx(-truth.marginal.log_prob(x).mean().item(), abs=1e-9)


def test_probabilistic_pca_is_reached():
    """The maximum of the linear-Gaussian likelihood is known: Tipping and Bishop (1999), equation 8."""
    truth = LinearGaussian.random(2, 5, seed=3, scale=0.6)
    x = truth.sample(2000).float()
    model = VAE(priors.StandardNormal(2), likelihoods.Normal(5, scale="shared"), mlp(()))
    guide = AmortizedGuide(5, guides.DiagonalNormal(2), mlp(()), loc=x.mean(0))
    adam = partial(torch.optim.Adam, lr=0.02)
    cosine = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=80)
    fit(model, guide, x, epochs=80, objective=objectives.IWAE(8), optimizer=adam, scheduler=cosine, progress=False)
    ev = evidence(model, guide, x, 500, method="iw", progress=False)

    eigenvalues = torch.linalg.eigvalsh(torch.cov(x.double().T, correction=0)).flip(0)
    noise = eigenvalues[2:].mean()
    log_det = eigenvalues[:2].log().sum() + 3 * noise.log()
    maximum = -0.5 * (5 * math.log(2 * math.pi) + log_det + 5)
    assert maximum - 0.05 < ev.mean < maximum + 0.01


def test_two_models_in_one_process_do_not_touch_each_other():
    alone = quick(*make_pair(), PIXELS)
    first, second = make_pair(), make_pair(1)
    quick(*second, PIXELS)
    svi = infer.SVI(*make_pair(2), pyro.optim.Adam({"lr": 0.1}), infer.Trace_ELBO())
    svi.step(PIXELS)
    assert losses_of(quick(*first, PIXELS)) == losses_of(alone)
    assert len(pyro.get_param_store()) == 0


def test_kl_warmup_rises_step_by_step_and_the_valid_bound_does_not_see_it():
    truth = LinearGaussian.random(1, 2)
    x = truth.sample(8)
    model = _learnable(truth)
    result = fit(model, truth.exact_guide, x, batch_size=4, epochs=4, kl_warmup=2, valid=x, progress=False)
    assert [row["kl_weight"] for row in result.history] == [0.5, 1.0, 1.0, 1.0]
    exact = truth.marginal.log_prob(x).mean().item()
    assert [row["valid_bound"] for row in result.history] == pytest.approx([exact] * 4, abs=1e-9)
    assert result.history[0]["loss"] < -exact
    assert result.history[3]["loss"] == pytest.approx(-exact, abs=1e-9)


def test_loss_of_a_subsampled_plate_is_per_datum():
    truth = LinearGaussian.random(1, 2)
    x = truth.sample(8)

    def program(guide):
        def run(x):
            with pyro.plate("data", 1000, subsample=torch.arange(len(x))):
                if guide:
                    pyro.sample("z", truth.posterior(x))
                else:
                    z = pyro.sample("z", dist.Normal(torch.zeros(1, dtype=torch.float64), 1.0).to_event(1))
                    nothing = pyro.param("nothing", lambda: torch.zeros((), dtype=x.dtype))
                    loc = z @ truth.weight.T + truth.bias + 0 * nothing
                    pyro.sample("x", dist.Normal(loc, truth.scale).to_event(1), obs=x)

        return run

    for objective in (infer.Trace_ELBO(), objectives.ELBO()):
        settings = dict(objective=objective, batch_size=4, epochs=1, progress=False)
        result = fit(program(False), program(True), x, **settings)
        assert result.history[0]["loss"] == pytest.approx(-truth.marginal.log_prob(x).mean().item(), abs=1e-9)


def test_loss_of_a_plate_that_draws_from_its_minibatch_is_per_datum():
    """The plate's full size is that of the minibatch; a probe on fewer data has another."""

    def model(x):
        loc = pyro.param("loc", lambda: torch.zeros(2))
        with pyro.plate("data", len(x), subsample_size=1):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=pyro.subsample(x, event_dim=1))

    pyro.clear_param_store()
    still = partial(torch.optim.SGD, lr=0.0)
    result = fit(model, lambda x: None, torch.ones(8, 2), batch_size=4, epochs=1, optimizer=still, progress=False)
    assert result.history[0]["loss"] == pytest.approx(1 + math.log(2 * math.pi))


def test_seed_reproduces_training_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    losses = [losses_of(quick(*make_pair(), PIXELS, seed=seed)) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert losses[0] == losses[1] != losses[2]


def test_parameters_that_turn_up_later_are_trained_too():
    calls = []

    def model(x):
        calls.append(1)
        loc = pyro.param("late", lambda: torch.zeros(())) if len(calls) > 2 else 0.0
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + loc, 1.0), obs=x)

    def guide(x):
        loc = pyro.param("loc", lambda: torch.zeros(()))
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(loc, 1.0))

    fit(model, guide, torch.randn(30) + 5, batch_size=10, epochs=2, progress=False)
    assert pyro.param("late").item() > 0


def test_training_mode_is_put_back_and_dropout_is_off_in_validation():
    model, guide = make_pair()
    model.eval()
    quick(model, guide, PIXELS, valid=PIXELS)
    assert not model.training
    assert guide.training


def test_divergence_is_reported():
    model, guide = make_pair()
    hot = partial(torch.optim.SGD, lr=1e30)
    with pytest.raises((FloatingPointError, ValueError), match=r"Training diverged in epoch 1|invalid values"):
        quick(model, guide, PIXELS, optimizer=hot)


def test_one_objective_serves_two_runs_alike():
    objective = objectives.IWAE(3)
    results = [quick(*make_pair(), PIXELS, objective=objective, seed=2) for _ in range(2)]
    assert losses_of(results[0]) == losses_of(results[1])


def test_a_second_model_under_the_same_names_is_trained_itself():
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        decoder = mlp((4,))(torch.Size((2,)), 6)
        before = weights_of(decoder)
        results.append(losses_of(quick(*module_programs(decoder), PIXELS)))
        assert (weights_of(decoder) != before).double().mean() > 0.9


def test_a_name_that_belongs_to_another_module_is_refused_where_its_own_cannot_be_found():
    def hide(program):
        hidden = ContextVar("hidden", default=program)  # where nobody looks
        return lambda x: hidden.get()(x)

    for attempt in range(2):
        model, guide = module_programs(mlp((4,))(torch.Size((2,)), 6))
        model = hide(model)
        if attempt == 0:
            quick(model, guide, PIXELS)
        else:
            with pytest.raises(ValueError, match=r"'decoder\$\$\$.*' in Pyro's store is another module's"):
                quick(model, guide, PIXELS)


def test_modules_inside_functions_are_in_evaluation_mode_when_scored():
    decoder = torch.nn.Sequential(torch.nn.Linear(2, 6), torch.nn.Dropout(0.9))
    model, guide = module_programs(decoder)
    quick(model, guide, PIXELS, epochs=1)
    first = evidence(model, guide, PIXELS, 3, method="iw", progress=False)
    decoder.eval()
    assert torch.equal(first.log_px, evidence(model, guide, PIXELS, 3, method="iw", progress=False).log_px)
    decoder.train()
    evidence(model, guide, PIXELS, 3, method="iw", progress=False)
    assert decoder.training


def test_valid_bound_of_a_plate_scaled_to_all_data_is_per_datum():
    truth = LinearGaussian.random(1, 2)
    x = truth.sample(8)

    def model(x):
        with pyro.plate("data", 8, subsample=torch.arange(len(x))):
            z = pyro.sample("z", dist.Normal(torch.zeros(1, dtype=torch.float64), 1.0).to_event(1))
            loc = z @ truth.weight.T + truth.bias + 0 * pyro.param("nothing", lambda: torch.zeros((), dtype=x.dtype))
            pyro.sample("x", dist.Normal(loc, truth.scale).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", 8, subsample=torch.arange(len(x))):
            pyro.sample("z", truth.posterior(x))

    result = fit(model, guide, x, valid=x[:2], batch_size=8, epochs=1, progress=False)
    assert result.history[0]["valid_bound"] == pytest.approx(truth.marginal.log_prob(x[:2]).mean().item(), abs=1e-9)
    assert result.history[0]["loss"] == pytest.approx(-truth.marginal.log_prob(x).mean().item(), abs=1e-9)


BAD = {
    "negative warm-up": (dict(kl_warmup=-2), "Expected kl_warmup to be an integer >= 1; got -2"),
    "zero clip": (dict(clip_norm=0.0), "Expected clip_norm > 0"),
    "zero patience": (dict(patience=0, valid=PIXELS), "Expected patience to be an integer >= 1"),
    "Pyro optimizer": (dict(optimizer=lambda p: pyro.optim.Adam({})), "Expected optimizer to make a first-order"),
    "LBFGS": (dict(optimizer=torch.optim.LBFGS), "got LBFGS"),
    "Jit": (dict(objective=infer.JitTrace_ELBO()), "Expected objective to be a pyro.infer.ELBO object"),
    "objective class": (dict(objective=objectives.IWAE), r"such as objectives\.IWAE\(5\); got"),
    "few": (dict(batch_size=61), r"at least batch_size=61 data; got 60\. Pass batch_size=60 or smaller"),
    "epochs": (dict(epochs=0), "Expected epochs to be an integer >= 1"),
    "patience": (dict(patience=2), "Expected valid=... with patience"),
    "compile": (dict(compile="yes"), 'Expected compile to be "auto", True or False; got .yes.'),
    "resume": (dict(resume=True), "Expected checkpoint=PATH with resume=True"),
    "valid": (dict(valid=PIXELS + 0.5), r"Expected valid in \{0, 1\} for Bernoulli; got [01]\.5"),
    "transform": (dict(transform=lambda x: x + 0.25), r"Expected data in \{0, 1\}|in \{0, 1\} for Bernoulli"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_get_one_clear_line(name):
    settings, message = BAD[name]
    with pytest.raises(ValueError, match=message) as caught:
        quick(*make_pair(), PIXELS, **settings)
    assert "\n" not in str(caught.value)


def test_no_parameters_is_an_error():
    truth = LinearGaussian.random(1, 2)
    with pytest.raises(ValueError, match="Found no parameters to train"):
        fit(truth.model, truth.exact_guide, truth.sample(100), progress=False)
