"""Programs written by somebody else: scored rightly whatever their style, or refused by name."""

from __future__ import annotations

import math
import pickle
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoNormal, init_to_value
from torch import nn
from torch.nn import functional
from truth import LinearGaussian

from pyro_vae.inference import evidence, log_weights, objectives
from pyro_vae.inference.programs.call import modules_of
from pyro_vae.inference.programs.vectorize import plan_particles

D, P = 3, 4
WEIGHT = torch.randn(D, P, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _model(decode):
    def model(x):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(D, dtype=torch.float64), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decode(z), 0.7).to_event(1), obs=x)

    return model


def _guide(x):
    with pyro.plate("data", x.shape[0]):
        pyro.sample("z", dist.Normal(x @ WEIGHT.T * 0.3, 0.8).to_event(1))


FROM_THE_LEFT = {
    "softmax": lambda z: functional.softmax(z, dim=1) @ WEIGHT,
    "normalize": lambda z: functional.normalize(z) @ WEIGHT,
    "index": lambda z: z[:, :1] * WEIGHT[0],
    "cumsum": lambda z: z.cumsum(1) @ WEIGHT,
    "flatten": lambda z: nn.Flatten()(z) @ WEIGHT,
    "view": lambda z: z.view(len(z), -1) @ WEIGHT,
    "concatenate": lambda z: torch.cat([z, torch.ones(len(z), 1, dtype=z.dtype)], 1)[:, :D] @ WEIGHT,
    "assertion": lambda z: (_ for _ in ()).throw(AssertionError("two dimensions")) if z.ndim > 2 else z @ WEIGHT,
}
X = torch.randn(6, P, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("name", FROM_THE_LEFT)
def test_programs_that_count_dimensions_from_the_left_run_one_by_one_and_rightly(name):
    model = _model(FROM_THE_LEFT[name])
    with pytest.warns(UserWarning, match=r"run one by one.*count dimensions from the right"):
        log_w = log_weights(model, _guide, X, 5)
    assert log_w.shape == (5, 6)
    with pytest.warns(UserWarning, match="one by one"):
        ev = evidence(model, _guide, X, 400, progress=False)
    torch.manual_seed(0)
    singles = torch.cat([log_weights(model, _guide, X) for _ in range(400)])
    # Two independent estimates of the same six numbers, 5 standard errors of their difference.
    reference = singles.logsumexp(0) - math.log(400)
    assert ((ev.log_px - reference).abs() < 5 * 2**0.5 * ev.std_error.clamp(min=0.02)).all()


def test_programs_that_count_from_the_right_run_at_once():
    for decode in (lambda z: functional.softmax(z, -1) @ WEIGHT, lambda z: z.cumsum(-1) @ WEIGHT):
        assert plan_particles(_model(decode), _guide, (X,)) == 1


def test_looking_leaves_generator_and_mode_alone():
    dropout = nn.Sequential(nn.Dropout(0.5), nn.Linear(D, P).double())
    state = torch.get_rng_state()
    assert plan_particles(_model(dropout), _guide, (X,)) == 1
    assert torch.equal(torch.get_rng_state(), state)
    assert dropout.training


def test_objectives_train_a_program_that_runs_one_by_one():
    decoder = nn.Linear(D, P).double()
    objective = objectives.IWAE(4)
    model = _model(lambda z: decoder(z.view(len(z), -1)))
    with pytest.warns(UserWarning, match="one by one"):
        objective.differentiable_loss(model, _guide, X).backward()
    assert decoder.weight.grad.abs().sum() > 0
    objective.differentiable_loss(model, _guide, X)  # found out once for each pair: no second warning


def test_a_guide_tied_to_the_number_of_data_is_scored():
    truth = LinearGaussian.random(2, 3)
    x = truth.sample(7)
    q = truth.posterior(x)

    def guide(x):
        with pyro.plate("data", 7):
            pyro.sample("z", q)

    ev = evidence(truth.model, guide, x, 40, progress=False)
    torch.testing.assert_close(ev.log_px, truth.marginal.log_prob(x), atol=1e-9, rtol=0)


def test_autoguides_are_scored_through_their_densities():
    # An AutoNormal carries its density in auxiliary sites. 5,000 weights, 5 standard errors.
    truth = LinearGaussian.random(2, 3)
    x = truth.sample(3)
    start = init_to_value(values={"z": truth.posterior(x).mean})
    guide = AutoNormal(truth.model, init_loc_fn=start, init_scale=0.5)
    guide(x)
    ev = evidence(truth.model, guide, x, 5000, device="cpu", progress=False)
    assert ((ev.log_px - truth.marginal.log_prob(x)).abs() < 5 * ev.std_error).all()
    assert (ev.std_error < 0.1).all()


def test_a_point_mass_is_no_proposal():
    truth = LinearGaussian.random(2, 3)
    x = truth.sample(3)

    def guide(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Delta(truth.posterior(x).mean).to_event(1))

    for point_mass in (guide, AutoDelta(truth.model)):
        with pytest.raises(ValueError, match="Guide site 'z' is a point mass, which has no density"):
            evidence(truth.model, point_mass, x, 40, progress=False)


def test_a_guide_that_cannot_reach_half_the_prior_is_pointed_out():
    truth = LinearGaussian.random(1, 2)

    def guide(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.HalfNormal(torch.ones(1, dtype=x.dtype)).to_event(1))

    with pytest.warns(UserWarning, match="The guide cannot reach values of 'z' that the prior can"):
        evidence(truth.model, guide, truth.sample(3), 40, progress=False)


def _forgot_to_event(x):
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z[..., None], 1.0), obs=x)


def _forgot_to_squeeze(x):
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def _scalar_guide(x):
    with pyro.plate("data", x.shape[0]):
        pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))


def _inner_subsample(x):
    with pyro.plate("data", x.shape[0], dim=-2):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("counts", x.shape[1], subsample_size=2, dim=-1) as index:
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, index])


def _outer_guide(x):
    with pyro.plate("data", x.shape[0], dim=-2):
        pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))


def _wide_guide(x):
    with pyro.plate("data", x.shape[0]):
        pyro.sample("z", dist.Normal(torch.zeros(1, dtype=x.dtype), 1.0).to_event(1))


def _noisy_guide(x):
    with pyro.plate("data", x.shape[0]):
        u = pyro.sample("u", dist.Normal(torch.zeros(()), 1.0), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Normal(u, 1.0))


def _time_outside(x):
    with pyro.plate("time", x.shape[1], dim=-2), pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)


def _time_outside_guide(x):
    with pyro.plate("time", x.shape[1], dim=-2), pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))


SILENT = {
    "no to_event": (
        _forgot_to_event,
        _scalar_guide,
        (6, 1),
        r"log_prob of shape \(\d,\).*at site 'x' of the model; got",
    ),
    "one batch too many": (_forgot_to_squeeze, _scalar_guide, (6, 1), r"declare them with \.to_event\(n\)"),
    "subsampled inside": (_inner_subsample, _outer_guide, (6, 4), "plate 'counts'; it is subsampled, 2 of 4"),
    "guide narrower": (
        _model(lambda z: z[..., :1] * WEIGHT[0]),
        _wide_guide,
        (6, P),
        r"event shape at latent site 'z'; model \(3,\)",
    ),
    "auxiliary noise": (_forgot_to_squeeze, _noisy_guide, (6,), "'z' of the guide to be a function of its auxiliary"),
    "plates swapped, square": (_time_outside, _time_outside_guide, (6, 6), "the data plate outermost|to hold the"),
}


@pytest.mark.parametrize("num_particles", [1, 4])
@pytest.mark.parametrize("name", SILENT)
def test_mistakes_that_would_give_a_wrong_number_are_refused(name, num_particles):
    model, guide, shape, message = SILENT[name]
    if "square" in name and num_particles == 1:
        pytest.skip("one run on all data cannot tell a square from its transpose; evidence and K > 1 run on fewer")
    with pytest.raises(ValueError, match=message):
        log_weights(model, guide, torch.randn(shape, dtype=torch.float64), num_particles)


def test_modules_of_every_kind_of_program():
    module = nn.Linear(1, 1)

    class Holder:
        def __init__(self):
            self.decoder = module

        def model(self, x):
            return self.decoder(x)

    class Own(nn.Module):
        def program(self, x):
            return x

    own = Own()
    assert modules_of(module) == [module]
    assert modules_of(lambda x: module(x)) == [module]
    assert modules_of(Holder().model) == [module]
    assert modules_of(own.program) == [own]
    assert modules_of(partial(own.program, 3)) == [own]
    assert modules_of(pyro.poutine.scale(lambda x: module(x), 2.0)) in ([module], [])
    assert modules_of(len) == []


def test_objectives_can_be_pickled_after_use():
    truth = LinearGaussian.random(1, 2)
    model, guide = truth.model, truth.exact_guide
    objective = objectives.IWAE(3)
    objective.loss(model, guide, truth.sample(4))
    assert pickle.loads(pickle.dumps(objective)).num_particles == 3
