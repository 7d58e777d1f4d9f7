"""Programs that had wrong numbers in silence: looked up by place, broadcast, branching on latents, mixing, unseen."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import config_enumerate
from torch import nn
from torch.nn import functional

from pyro_vae.inference import evidence, fit, log_weights, objectives
from pyro_vae.inference.programs.vectorize import find_plates, is_tied

F64 = torch.float64
quiet = dict(progress=False, device="cpu")
WIDTHS = torch.tensor([1.0] * 50 + [10.0] * 50, dtype=F64)
X = torch.zeros(100, dtype=F64)


def _prior(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))


def _by_place(x):
    with pyro.plate("data", len(x)) as i:
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), dtype=F64), 1.0))
        pyro.sample("x", dist.Normal(z, WIDTHS[i]), obs=x[i])


def _by_mean(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), dtype=F64), 1.0))
        pyro.sample("x", dist.Normal(z + x.mean(), 1.0), obs=x)


def _by_number(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), dtype=F64), 1.0))
        pyro.sample("x", dist.Normal(z, len(x) ** 0.5), obs=x)


@pytest.mark.parametrize("method", ["auto", "iw"])
def test_what_depends_on_place_number_or_other_data_is_run_on_all_of_them(method):
    """Within 4.5 standard errors of the closed form, seeds fixed."""
    spread = torch.linspace(-1, 3, 100, dtype=F64)
    for model, x, exact in (
        (_by_place, X, dist.Normal(0.0, (1 + WIDTHS**2).sqrt()).log_prob(X)),
        (_by_mean, spread, dist.Normal(spread.mean(), 2**0.5).log_prob(spread)),
        (_by_number, spread, dist.Normal(0.0, 101**0.5).log_prob(spread)),
    ):
        assert is_tied(model, _prior, (x,), x.device)
        ev = evidence(model, None, x, 3000, method=method, **quiet)
        assert ((ev.log_px - exact).abs() < 4.5 * ev.std_error + 1e-6).all()


def test_parameters_that_are_looked_up_by_place_want_all_data_at_once():
    def model(x):
        width = pyro.param("width", lambda: torch.linspace(0.5, 2, 40, dtype=F64))
        with pyro.plate("data", len(x)) as i:
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), dtype=F64), 1.0))
            pyro.sample("x", dist.Normal(z, width[i].abs()), obs=x)

    pyro.clear_param_store()
    with pytest.raises(ValueError, match=r"parameters \['width'\], would be of other data in each minibatch"):
        fit(model, _prior, X[:40], batch_size=10, epochs=1, **quiet)


def _shared_z(x):
    with pyro.plate("data", len(x), dim=-2):
        with pyro.plate("inner", 3, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=F64), 1.0))
        pyro.sample("x", dist.Normal(z.mean(-1, keepdim=True), 1.0), obs=x[:, None])


def _without_inner_plate(x):
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", dist.Normal(0.3 * x[:, None], 0.7))


@pytest.mark.parametrize("num_particles", [1, 3])
def test_a_latent_in_other_plates_than_the_model_s_is_refused(num_particles):
    with pytest.raises(ValueError, match=r"latent site 'z' in the same plates in model and guide.*\(4, 3\)|\(\d, 3\)"):
        log_weights(_shared_z, _without_inner_plate, X[:4], num_particles)


@pytest.mark.parametrize("seed", range(6))
def test_a_branch_on_latents_is_found_whatever_two_particles_do(seed):
    """One datum: a particle's branch is legal alone, and particles together would share one. Missed in 1 of 2^15."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), dtype=F64), 1.0))
            pyro.sample("x", dist.Normal(0 * z + (2.0 if (z > 0).all() else -2.0), 1.0), obs=x)

    x = torch.tensor([1.5], dtype=F64)
    with pytest.warns(UserWarning, match="one by one"):
        ev = evidence(model, _prior, x, 2000, method="iw", seed=seed, **quiet)
    exact = torch.stack([dist.Normal(loc, 1.0).log_prob(x) for loc in (-2.0, 2.0)]).logsumexp(0) - math.log(2)
    assert abs(ev.log_px - exact) < 5 * ev.std_error


WEIGHT = 2 * torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def _mixing(dim, dropped=0.0, weight=WEIGHT):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            kept = functional.dropout(torch.ones(len(x), 4), dropped) if dropped else 1.0
            pyro.sample("x", dist.Normal(3 * torch.softmax(z, dim) @ weight * kept, 0.5).to_event(1), obs=x)

    return model


def _flat(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))


def test_mixing_is_found_beside_dropout_and_at_weights_that_do_not_show_it():
    x = torch.randn(5, 4)
    assert find_plates(_mixing(1), _flat, (x,)).particles == "copies"
    assert find_plates(_mixing(1, 0.01), _flat, (x,)).particles == "copies"
    decoder = nn.Linear(3, 4)
    nn.init.zeros_(decoder.weight)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(torch.softmax(z, 1)), 0.5).to_event(1), obs=x)

    assert find_plates(model, _flat, (x,)).particles == "copies"
    assert (decoder.weight == 0).all()


def test_networks_are_found_in_defaults_lambdas_classes_and_calls():
    """Dropout is off and running means stay where they are in an evaluation, wherever the network is kept."""
    net = nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))

    def observed(x, decode):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(decode(z[:, None])[:, 0], 0.3), obs=x)

    class Holder:
        inner = net

        def __call__(self, x):
            observed(x, self.inner)

    def by_default(x, net=net):
        observed(x, net)

    def by_lambda(x):
        observed(x, (lambda: lambda z: net(z))())

    values = []
    for model in (by_default, by_lambda, Holder()):
        values.append(evidence(model, None, torch.randn(4).sign(), 500, method="iw", **quiet).log_px)
        assert net[1].num_batches_tracked == 0
        assert net.training


A = torch.tensor([[0.8, 0.2], [0.3, 0.7]])
SEQUENCE = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))


@config_enumerate
def _switching(x):
    """c_t a Markov chain, z_t | z_(t-1), c_t ~ N(z_(t-1) / 2 + c_t, 1), x_t | z_t ~ N(z_t, 1)."""
    with pyro.plate("data", len(x)):
        c, z = torch.zeros((), dtype=torch.long), torch.zeros(())
        for t in pyro.markov(range(3)):
            c = pyro.sample(f"c{t}", dist.Categorical(A[c]))
            z = pyro.sample(f"z{t}", dist.Normal(0.5 * z + c, 1.0))
            pyro.sample(f"x{t}", dist.Normal(z, 1.0), obs=x[:, t])


@pytest.mark.parametrize("markov", [False, True])
def test_a_switching_state_space_model_is_summed_along_its_chain(markov):
    def guide(x):
        with pyro.plate("data", len(x)):
            for t in pyro.markov(range(3)) if markov else range(3):
                pyro.sample(f"z{t}", dist.Normal(x[:, t] / 2, 1.0))

    torch.manual_seed(0)
    log_w = log_weights(_switching, guide, SEQUENCE)
    torch.manual_seed(0)
    z = torch.stack([x / 2 + torch.randn(3) for x in SEQUENCE.T], -1)
    total = []
    for code in range(8):
        c = [code >> t & 1 for t in range(3)]
        path = torch.zeros(3)
        for t in range(3):
            before = z[:, t - 1] if t else torch.zeros(3)
            path = path + A[c[t - 1] if t else 0, c[t]].log() + dist.Normal(0.5 * before + c[t], 1.0).log_prob(z[:, t])
        total.append(path)
    by_hand = torch.stack(total).logsumexp(0) + dist.Normal(z, 1.0).log_prob(SEQUENCE).sum(1)
    by_hand = by_hand - dist.Normal(SEQUENCE / 2, 1.0).log_prob(z).sum(1)
    torch.testing.assert_close(log_w[0], by_hand, atol=1e-5, rtol=1e-5)
    ev = evidence(_switching, guide, SEQUENCE, 500, method="iw", **quiet)
    assert ev.log_px.isfinite().all()


def test_enumeration_has_a_value_without_parameters():
    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.3)))
            pyro.sample("x", dist.Normal(c, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Bernoulli(torch.tensor(0.5)))

    x = torch.zeros(2)
    values = torch.tensor([0.0, 1.0])
    each = dist.Bernoulli(0.3).log_prob(values) + dist.Normal(values, 1.0).log_prob(torch.zeros(2)) + math.log(2)
    assert objectives.ELBO(gradient="enumerate").loss(model, guide, x) == pytest.approx(-each.mean().item(), abs=1e-6)


def test_evaluations_leave_numpy_s_generator_alone():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0 * x + float(np.random.normal()), 2.0))  # noqa: NPY002

    before = np.random.get_state()[1].copy()  # noqa: NPY002
    with pytest.warns(UserWarning, match="one by one"):
        evidence(_by_number, guide, X[:3], 20, method="iw", **quiet)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
