"""Programs written by somebody else: scored rightly whatever their style."""

from __future__ import annotations

import math
import pickle
from contextlib import nullcontext

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import decoded
from pyro.infer.autoguide import AutoDelta, AutoNormal, init_to_value
from torch import nn
from torch.nn import functional
from truth import LinearGaussian

from pyro_vae.inference import evidence, log_weights, objectives
from pyro_vae.inference.programs.plates import Plates
from pyro_vae.inference.programs.vectorize import find_plates

D, P = 3, 4
WEIGHT = torch.randn(D, P, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _guide(x):
    with pyro.plate("data", x.shape[0]):
        pyro.sample("z", dist.Normal(x @ WEIGHT.T * 0.3, 0.8).to_event(1))


def _tied_guide(x):
    with pyro.plate("data", 6):
        pyro.sample("z", dist.Normal(X @ WEIGHT.T * 0.3, 0.8).to_event(1))


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
@pytest.mark.parametrize("tied", [False, True])
def test_programs_that_count_dimensions_from_the_left_are_scored_rightly(name, tied):
    """As copies of the data, or one by one where the guide is tied to their number."""
    model, guide = decoded(FROM_THE_LEFT[name]), _tied_guide if tied else _guide
    warns = (
        pytest.warns(UserWarning, match=r"run one by one.*count dimensions from the right") if tied else nullcontext()
    )
    with warns:
        assert find_plates(model, guide, (X,)).particles == ("one by one" if tied else "copies")
    with warns:
        log_w = log_weights(model, guide, X, 5)
    assert log_w.shape == (5, 6)
    with warns:
        ev = evidence(model, guide, X, 400, method="iw", progress=False)
    torch.manual_seed(0)
    singles = torch.cat([log_weights(model, _guide, X) for _ in range(400)])
    # Two independent estimates of the same six numbers, 5 standard errors of their difference.
    reference = singles.logsumexp(0) - math.log(400)
    assert ((ev.log_px - reference).abs() < 5 * 2**0.5 * ev.std_error.clamp(min=0.02)).all()


def test_programs_that_count_from_the_right_run_at_once():
    for decode in (lambda z: functional.softmax(z, -1) @ WEIGHT, lambda z: z.cumsum(-1) @ WEIGHT):
        assert find_plates(decoded(decode), _guide, (X,)) == Plates(1, 1)


def test_looking_leaves_generator_and_mode_alone():
    dropout = nn.Sequential(nn.Dropout(0.5), nn.Linear(D, P).double())
    state = torch.get_rng_state()
    assert find_plates(decoded(dropout), _guide, (X,)) == Plates(1, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert dropout.training


def test_objectives_train_a_program_that_runs_one_by_one():
    decoder = nn.Linear(D, P).double()
    objective = objectives.IWAE(4)
    model = decoded(lambda z: decoder(z.view(len(z), -1)))
    with pytest.warns(UserWarning, match="one by one"):
        objective.differentiable_loss(model, _tied_guide, X).backward()
    assert decoder.weight.grad.abs().sum() > 0
    objective.differentiable_loss(model, _tied_guide, X)  # found out once for each pair: no second warning


def test_a_guide_tied_to_the_number_of_data_is_scored():
    truth = LinearGaussian.random(2, 3)
    x = truth.sample(7)
    q = truth.posterior(x)

    def guide(x):
        with pyro.plate("data", 7):
            pyro.sample("z", q)

    ev = evidence(truth.model, guide, x, 40, method="iw", progress=False)
    torch.testing.assert_close(ev.log_px, truth.marginal.log_prob(x), atol=1e-9, rtol=0)


def test_autoguides_are_scored_through_their_densities():
    # An AutoNormal carries its density in auxiliary sites. 5,000 weights, 5 standard errors.
    truth = LinearGaussian.random(2, 3)
    x = truth.sample(3)
    start = init_to_value(values={"z": truth.posterior(x).mean})
    guide = AutoNormal(truth.model, init_loc_fn=start, init_scale=0.5)
    guide(x)
    ev = evidence(truth.model, guide, x, 5000, device="cpu", method="iw", progress=False)
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
            evidence(truth.model, point_mass, x, 40, method="iw", progress=False)


def test_a_guide_that_cannot_reach_half_the_prior_is_pointed_out():
    truth = LinearGaussian.random(1, 2)

    def guide(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.HalfNormal(torch.ones(1, dtype=x.dtype)).to_event(1))

    with pytest.warns(UserWarning, match="The guide cannot reach values of 'z' that the prior can"):
        evidence(truth.model, guide, truth.sample(3), 40, method="iw", progress=False)


def test_objectives_can_be_pickled_after_use():
    truth = LinearGaussian.random(1, 2)
    model, guide = truth.model, truth.exact_guide
    objective = objectives.IWAE(3)
    objective.loss(model, guide, truth.sample(4))
    assert pickle.loads(pickle.dumps(objective)).num_particles == 3
