from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import infer
from torch.distributions import constraints
from truth import LinearGaussian

from pyro_vae.inference import AmortizedGuide, evidence, fit, guides, objectives
from pyro_vae.inference.checkpoints import load_checkpoint, read_checkpoint
from pyro_vae.models import VAE, likelihoods, mlp, priors

PIXELS = (torch.rand(60, 6, generator=torch.Generator().manual_seed(0)) < 0.4).float()
quick = partial(fit, progress=False, device="cpu", batch_size=20, epochs=3)
sgd = partial(torch.optim.SGD, lr=0.01)


def _pair(seed=0, hidden=(8,)):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = VAE(priors.StandardNormal(2), likelihoods.Bernoulli(6), mlp(hidden))
        return model, AmortizedGuide(6, guides.DiagonalNormal(2), mlp(hidden))


def _losses(result):
    return [row["loss"] for row in result.history]


def _weights(*modules):
    return torch.cat([p.detach().flatten() for module in modules for p in module.parameters()])


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
    model, guide = _pair()
    before = _weights(model, guide)
    valid = None if "TailAdaptive" in name else PIXELS[:20]
    result = quick(model, guide, PIXELS, objective=STOCK[name], valid=valid)
    assert (_weights(model, guide) != before).double().mean() > 0.95  # a tanh unit's gradient may vanish
    if valid is not None:
        assert all(math.isfinite(row["loss"]) and math.isfinite(row["valid_bound"]) for row in result.history)


def test_an_objective_without_a_value_cannot_validate():
    objective = STOCK["TraceTailAdaptive_ELBO"]
    with pytest.raises(ValueError, match="TraceTailAdaptive_ELBO has a gradient but no value"):
        quick(*_pair(), PIXELS, objective=objective, valid=PIXELS)


def test_steps_are_those_of_stock_svi():
    model, guide = _pair()
    quick(model, guide, PIXELS, optimizer=sgd, seed=7, epochs=1)
    ours = _weights(model, guide)

    model, guide = _pair()
    svi = infer.SVI(model, guide, pyro.optim.SGD({"lr": 0.01 / 20}), infer.Trace_ELBO())
    torch.manual_seed(7)
    for index in torch.randperm(60).split(20):
        svi.step(PIXELS[index])
    torch.testing.assert_close(ours, _weights(model, guide))


def test_losses_of_ours_and_of_stock_agree_per_datum():
    results = [quick(*_pair(), PIXELS, objective=o, seed=3) for o in (objectives.ELBO(), infer.Trace_ELBO())]
    assert _losses(results[0]) == pytest.approx(_losses(results[1]), rel=1e-5)


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
    ev = evidence(model, guide, x, 500, progress=False)

    eigenvalues = torch.linalg.eigvalsh(torch.cov(x.double().T, correction=0)).flip(0)
    noise = eigenvalues[2:].mean()
    log_det = eigenvalues[:2].log().sum() + 3 * noise.log()
    maximum = -0.5 * (5 * math.log(2 * math.pi) + log_det + 5)
    assert maximum - 0.05 < ev.mean < maximum + 0.01


def plain_model(x):
    loc = pyro.param("loc", lambda: torch.zeros(x.shape[1]))
    scale = pyro.param("scale", lambda: torch.ones(()), constraint=constraints.positive)
    with pyro.plate("batch", x.shape[0]):
        z = pyro.sample("latent", dist.Normal(0.0, 1.0))
        pyro.sample("obs", dist.Normal(z[..., None] + loc, scale).to_event(1), obs=x)


def plain_guide(x):
    loc = pyro.param("loc", lambda: torch.zeros(x.shape[1]))
    slope = pyro.param("slope", lambda: torch.tensor(0.1))
    spread = pyro.param("spread", lambda: torch.ones(()), constraint=constraints.positive)
    with pyro.plate("batch", x.shape[0]):
        pyro.sample("latent", dist.Normal(slope * (x - loc).mean(1), spread))


def test_plain_functions_with_params_train_score_and_resume(tmp_path):
    x = torch.randn(200, 1) + torch.randn(200, 4) * 0.5 + 2
    path = tmp_path / "checkpoint.pt"
    settings = dict(optimizer=partial(torch.optim.Adam, lr=0.05), batch_size=50, progress=False, checkpoint=path)
    whole = fit(plain_model, plain_guide, x, epochs=60, **settings)
    learnt = {name: value.detach().clone() for name, value in pyro.get_param_store().items()}
    assert (learnt["loc"] - x.mean(0)).abs().max() < 0.4
    assert evidence(plain_model, plain_guide, x, 50, progress=False).mean > -whole.history[0]["loss"]

    pyro.clear_param_store()
    fit(plain_model, plain_guide, x, epochs=11, **settings)
    pyro.clear_param_store()
    resumed = fit(plain_model, plain_guide, x, epochs=60, resume=True, **settings)
    assert _losses(resumed) == _losses(whole)
    for name, value in pyro.get_param_store().items():
        assert torch.equal(value, learnt[name]), name


def test_two_models_in_one_process_do_not_touch_each_other():
    alone = quick(*_pair(), PIXELS)
    first, second = _pair(), _pair(1)
    quick(*second, PIXELS)
    svi = infer.SVI(*_pair(2), pyro.optim.Adam({"lr": 0.1}), infer.Trace_ELBO())
    svi.step(PIXELS)
    assert _losses(quick(*first, PIXELS)) == _losses(alone)
    assert len(pyro.get_param_store()) == 0


RESUMED = {
    "default": {},
    "patience": {"patience": 50},
    "IWAE": {"objective": objectives.IWAE(3)},
    "ELBO, K=3": {"objective": objectives.ELBO(3, beta=0.5)},
    "Trace_ELBO, K=3": {"objective": infer.Trace_ELBO(num_particles=3, vectorize_particles=True)},
    "TraceEnum_ELBO": {"objective": infer.TraceEnum_ELBO(strict_enumeration_warning=False)},
    "RenyiELBO": {"objective": infer.RenyiELBO(num_particles=3, vectorize_particles=True)},
}


@pytest.mark.parametrize("name", RESUMED)
def test_resumed_run_equals_the_uninterrupted_one(tmp_path, name):
    settings = dict(
        **RESUMED[name],
        scheduler=partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.8),
        valid=PIXELS[:10],
        kl_warmup=4,
        clip_norm=1.0,
        transform=torch.bernoulli,
        batch_size=25,
    )
    grey = PIXELS * 0.8 + 0.1
    whole_pair, pair, fresh = _pair(), _pair(), _pair(9)
    whole = quick(*whole_pair, grey, epochs=6, **settings)
    path = tmp_path / "checkpoint.pt"
    quick(*pair, grey, epochs=2, checkpoint=path, **settings)
    resumed = quick(*fresh, grey, epochs=6, checkpoint=path, resume=True, **settings)
    keys = ("epoch", "loss", "valid_bound", "kl_weight", "lr")
    assert [[r[k] for k in keys] for r in resumed.history] == [[r[k] for k in keys] for r in whole.history]
    assert torch.equal(_weights(*fresh), _weights(*whole_pair))
    assert resumed.best_epoch == whole.best_epoch


class _Interrupt:
    """Raises KeyboardInterrupt at the n-th minibatch."""

    def __init__(self, after):
        self.left = after

    def __call__(self, x):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return x


def test_interruption_keeps_the_last_checkpoint_and_says_where(tmp_path):
    path = tmp_path / "checkpoint.pt"
    # Two calls look at the data first; then 3 minibatches an epoch: the interruption comes in the third epoch.
    with pytest.raises(KeyboardInterrupt, match=rf"Interrupted in epoch 3\. The checkpoint {path} holds 2 epochs"):
        quick(*_pair(), PIXELS, epochs=5, checkpoint=path, transform=_Interrupt(2 + 7))
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]
    pair = _pair(4)
    resumed = quick(*pair, PIXELS, epochs=5, checkpoint=path, resume=True, transform=lambda x: x)
    assert _losses(resumed) == _losses(quick(*_pair(), PIXELS, epochs=5))


def test_interruption_in_the_first_epoch_has_a_checkpoint_too(tmp_path):
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt, match="holds 0 epochs"):
        quick(*_pair(), PIXELS, checkpoint=path, transform=_Interrupt(3))
    assert read_checkpoint(path)["epoch"] == 0


def test_patience_stops_and_keeps_the_best_epoch(tmp_path):
    model, guide = _pair()
    huge = partial(torch.optim.SGD, lr=0.5)
    settings = dict(epochs=200, optimizer=huge, valid=1 - PIXELS[:20], patience=3, checkpoint=tmp_path / "c.pt")
    result = quick(model, guide, PIXELS, **settings)
    bounds = [row["valid_bound"] for row in result.history]
    assert len(bounds) == result.best_epoch + 3 < 200
    assert bounds[result.best_epoch - 1] == max(bounds)
    other = _pair(5)
    load_checkpoint(tmp_path / "c.pt", *other)
    assert torch.equal(_weights(*other), _weights(model, guide))


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


def test_seed_reproduces_training_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    losses = [_losses(quick(*_pair(), PIXELS, seed=seed)) for seed in (1, 1, 2)]
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
    model, guide = _pair()
    model.eval()
    quick(model, guide, PIXELS, valid=PIXELS)
    assert not model.training
    assert guide.training


def test_divergence_is_reported():
    model, guide = _pair()
    hot = partial(torch.optim.SGD, lr=1e30)
    with pytest.raises((FloatingPointError, ValueError), match=r"Training diverged in epoch 1|invalid values"):
        quick(model, guide, PIXELS, optimizer=hot)


def test_one_objective_serves_two_runs_alike():
    objective = objectives.IWAE(3)
    results = [quick(*_pair(), PIXELS, objective=objective, seed=2) for _ in range(2)]
    assert _losses(results[0]) == _losses(results[1])


def _module_programs(decoder):
    """A model that announces a module by name, as Pyro's tutorials do, and a guide that does not."""

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", lambda: torch.zeros(2))
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(loc.expand(len(x), 2), 1.0).to_event(1))

    return model, guide


def test_a_second_model_under_the_same_names_is_trained_itself():
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        decoder = mlp((4,))(torch.Size((2,)), 6)
        before = _weights(decoder)
        results.append(_losses(quick(*_module_programs(decoder), PIXELS)))
        assert (_weights(decoder) != before).double().mean() > 0.9


def test_a_name_that_belongs_to_another_module_is_refused_where_its_own_cannot_be_found():
    class Hidden:
        def __init__(self):
            self.parts = [mlp((4,))(torch.Size((2,)), 6)]

        def programs(self):
            return _module_programs(self.parts[0])

    def hide(program, holder):
        def run(x):
            return holder["program"](x)

        holder["program"] = program
        return run

    for attempt in range(2):
        model, guide = Hidden().programs()
        model = hide(model, {})
        if attempt == 0:
            quick(model, guide, PIXELS)
        else:
            with pytest.raises(ValueError, match=r"'decoder\$\$\$.*' in Pyro's store is another module's"):
                quick(model, guide, PIXELS)


def test_programs_around_a_module_resume_in_new_objects(tmp_path):
    settings = dict(checkpoint=tmp_path / "c.pt", objective=objectives.IWAE(2))

    def wrapped(seed):
        model, guide = _pair(seed)
        return lambda x: model(x), lambda x: guide(x)

    whole = quick(*wrapped(0), PIXELS, epochs=4, objective=objectives.IWAE(2))
    quick(*wrapped(0), PIXELS, epochs=2, **settings)
    resumed = quick(*wrapped(5), PIXELS, epochs=4, resume=True, **settings)
    assert _losses(resumed) == _losses(whole)


def test_modules_inside_functions_are_in_evaluation_mode_when_scored():
    decoder = torch.nn.Sequential(torch.nn.Linear(2, 6), torch.nn.Dropout(0.9))
    model, guide = _module_programs(decoder)
    quick(model, guide, PIXELS, epochs=1)
    first = evidence(model, guide, PIXELS, 3, progress=False)
    decoder.eval()
    assert torch.equal(first.log_px, evidence(model, guide, PIXELS, 3, progress=False).log_px)
    decoder.train()
    evidence(model, guide, PIXELS, 3, progress=False)
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
    "compile": (dict(compile=True), 'Expected compile="auto" or False; got True'),
    "resume": (dict(resume=True), "Expected checkpoint=PATH with resume=True"),
    "valid": (dict(valid=PIXELS + 0.5), r"Expected valid in \{0, 1\} for Bernoulli; got [01]\.5"),
    "transform": (dict(transform=lambda x: x + 0.25), r"Expected data in \{0, 1\}|in \{0, 1\} for Bernoulli"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_get_one_clear_line(name):
    settings, message = BAD[name]
    with pytest.raises(ValueError, match=message) as caught:
        quick(*_pair(), PIXELS, **settings)
    assert "\n" not in str(caught.value)


def test_no_parameters_is_an_error():
    truth = LinearGaussian.random(1, 2)
    with pytest.raises(ValueError, match="Found no parameters to train"):
        fit(truth.model, truth.exact_guide, truth.sample(100), progress=False)


def test_checkpoints_that_cannot_be_read_say_so(tmp_path):
    path = tmp_path / "checkpoint.pt"
    quick(*_pair(), PIXELS, epochs=1, checkpoint=path)
    whole = path.read_bytes()
    load = partial(quick, epochs=2, resume=True)
    for name, content in {"half.pt": whole[: len(whole) // 2], "empty.pt": b"", "text.pt": b"hello"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"Cannot read the checkpoint .*\.pt") as caught:
            load(*_pair(), PIXELS, checkpoint=tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="No checkpoint at"):
        load(*_pair(), PIXELS, checkpoint=tmp_path / "absent.pt")
    torch.save({"weights": 1}, tmp_path / "foreign.pt")
    with pytest.raises(ValueError, match="is no checkpoint of this version"):
        load(*_pair(), PIXELS, checkpoint=tmp_path / "foreign.pt")
    with pytest.raises(ValueError, match="The checkpoint is of another model or guide"):
        load(*_pair(hidden=(9,)), PIXELS, checkpoint=path)
    with pytest.raises(ValueError, match="Expected batch_size=20, as in the checkpoint; got 30"):
        load(*_pair(), PIXELS, checkpoint=path, batch_size=30)
    with pytest.raises(ValueError, match=r"Expected objective='Trace_ELBO.*, as in the checkpoint; got 'IWAE"):
        load(*_pair(), PIXELS, checkpoint=path, objective=objectives.IWAE(4))


def test_checkpoint_in_a_folder_that_cannot_be_written_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"Cannot write .*Choose a writable folder"):
        quick(*_pair(), PIXELS, checkpoint=tmp_path / "absent" / "checkpoint.pt")
