"""Discrete latents of the model alone are summed out: against brute force, mixtures and the forward algorithm."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import infer, poutine
from pyro.infer import config_enumerate
from torch import nn

from pyro_vae.inference import diagnostics, evidence, fit, log_weights, objectives, sandwich

F64 = torch.float64
PROBS = torch.tensor([0.2, 0.5, 0.3], dtype=F64)
MEANS = torch.tensor([-2.0, 0.0, 3.0], dtype=F64)
X = torch.tensor([-1.5, 0.2, 2.0, 4.0], dtype=F64)
quiet = dict(progress=False, device="cpu")


@config_enumerate
def _prior(x):
    """c ~ Categorical, z | c ~ N(m_c, 1), x | z ~ N(z, 1): a mixture as the prior."""
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Categorical(PROBS))
        z = pyro.sample("z", dist.Normal(MEANS[c], 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@config_enumerate
def _likelihood(x):
    """z ~ N(0, 1), c ~ Categorical, x | z, c ~ N(z + m_c, 1)."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
        c = pyro.sample("c", dist.Categorical(PROBS))
        pyro.sample("x", dist.Normal(z + MEANS[c], 1.0), obs=x)


def _guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.5 * x, 1.5))


def _exact(x):
    """Both are the mixture of N(m_c, 2)."""
    return (PROBS.log() + dist.Normal(MEANS, 2**0.5).log_prob(x[:, None])).logsumexp(1)


def _by_hand(name, x, z):
    """log p(x, z) summed over c, shape of z."""
    mixture = PROBS.log()
    if name == "prior":
        return (mixture + dist.Normal(MEANS, 1.0).log_prob(z[..., None])).logsumexp(-1) + dist.Normal(z, 1.0).log_prob(
            x
        )
    of_x = (mixture + dist.Normal(z[..., None] + MEANS, 1.0).log_prob(x[:, None])).logsumexp(-1)
    return of_x + dist.Normal(0.0, 1.0).log_prob(z)


MODELS = {"prior": _prior, "likelihood": _likelihood}


@pytest.mark.parametrize("num_particles", [1, 5])
@pytest.mark.parametrize("name", MODELS)
def test_weights_are_those_of_the_sum(name, num_particles):
    state = torch.manual_seed(0).get_state()
    log_w = log_weights(MODELS[name], _guide, X, num_particles)
    torch.set_rng_state(state)
    z = 0.5 * X + 1.5 * torch.randn(num_particles, len(X), dtype=F64)
    expected = _by_hand(name, X, z) - dist.Normal(0.5 * X, 1.5).log_prob(z)
    torch.testing.assert_close(log_w, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", ["auto", "iw", "laplace", "ais", "jackknife"])
@pytest.mark.parametrize("name", MODELS)
def test_evidence_is_that_of_the_sum(name, method):
    """Within 4.5 standard errors, seed fixed; also without a guide."""
    for guide in (_guide, None):
        ev = evidence(MODELS[name], guide, X, 64 if method == "ais" else 3000, method=method, **quiet)
        assert ((ev.log_px - _exact(X)).abs() < 4.5 * ev.std_error + 1e-3).all()
        assert ev.std_error.max() < (0.25 if method in ("auto", "laplace", "ais") else 1)


def test_objectives_have_the_value_and_gradient_of_the_sum():
    class Mixture(nn.Module):
        def __init__(self):
            super().__init__()
            self.means = nn.Parameter(MEANS.clone())
            self.slope = nn.Parameter(torch.tensor(0.4, dtype=F64))

        @config_enumerate
        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
                c = pyro.sample("c", dist.Categorical(PROBS))
                pyro.sample("x", dist.Normal(z + self.means[c], 1.0), obs=x)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.slope * x, 1.0))

        def by_hand(self, noise):
            z = self.slope * X + noise
            of_x = (PROBS.log() + dist.Normal(z[..., None] + self.means, 1.0).log_prob(X[:, None])).logsumexp(-1)
            return of_x + dist.Normal(0.0, 1.0).log_prob(z) - dist.Normal(self.slope * X, 1.0).log_prob(z)

    programs = Mixture()
    parameters = [programs.means, programs.slope]
    for objective, bound in (
        (objectives.ELBO(4), lambda log_w: log_w.mean(0)),
        (objectives.IWAE(4), lambda log_w: log_w.logsumexp(0) - math.log(4)),
    ):
        state = torch.manual_seed(1).get_state()
        loss = objective.differentiable_loss(programs.model, programs.guide, X)
        torch.set_rng_state(state)
        expected = -bound(programs.by_hand(torch.randn(4, len(X), dtype=F64))).mean()
        torch.testing.assert_close(loss, expected, atol=1e-6, rtol=0)
        pairs = zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True)
        for gradient, by_hand in pairs:
            torch.testing.assert_close(gradient, by_hand, atol=1e-6, rtol=1e-5)
    results = [
        fit(programs.model, programs.guide, X, objective=objective, batch_size=4, epochs=1, **quiet).history[0]["loss"]
        for objective in (objectives.ELBO(500), infer.TraceEnum_ELBO(num_particles=500, vectorize_particles=True))
    ]
    assert results[0] == pytest.approx(results[1], abs=0.5)  # after a step of Adam; both are the same bound


N, T = 5, 3
POINTS = torch.randn(N, T, generator=torch.Generator().manual_seed(0), dtype=F64)


@config_enumerate
def _in_a_plate(x):
    """z_n ~ N(0, 1); for each point of n its own c_nt ~ Categorical, x_nt ~ N(z_n + m_c, 1)."""
    with pyro.plate("data", len(x), dim=-2):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1, dtype=F64), 1.0))
        with pyro.plate("points", x.shape[1], dim=-1):
            c = pyro.sample("c", dist.Categorical(PROBS))
            pyro.sample("x", dist.Normal(z + MEANS[c], 1.0), obs=x)


@config_enumerate
def _around_a_plate(x):
    """One c_n for all points of n, which the points have in common; the inner plate on the left of the data."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), dtype=F64), 1.0))
        c = pyro.sample("c", dist.Categorical(PROBS))
        with pyro.plate("points", x.shape[1]):
            pyro.sample("x", dist.Normal(z + MEANS[c], 1.0), obs=x.T)


def _outer(x):
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", dist.Normal(0.1 * x.sum(1, keepdim=True), 1.0))


def _inner(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.1 * x.sum(1), 1.0))


@pytest.mark.parametrize("num_particles", [1, 4])
def test_latents_in_plates_and_around_them(num_particles):
    for model, guide, inside in ((_in_a_plate, _outer, True), (_around_a_plate, _inner, False)):
        for count in (N, 1):
            x = POINTS[:count]
            state = torch.manual_seed(0).get_state()
            log_w = log_weights(model, guide, x, num_particles)
            torch.set_rng_state(state)
            z = 0.1 * x.sum(1) + torch.randn(num_particles, count, dtype=F64)
            of_x = dist.Normal(z[..., None, None] + MEANS, 1.0).log_prob(x[..., None])  # (K, N, T, C)
            by_c = (PROBS.log() + of_x).logsumexp(-1).sum(-1) if inside else (PROBS.log() + of_x.sum(-2)).logsumexp(-1)
            expected = by_c + dist.Normal(0.0, 1.0).log_prob(z) - dist.Normal(0.1 * x.sum(1), 1.0).log_prob(z)
            torch.testing.assert_close(log_w, expected, atol=1e-6, rtol=0)


MOVES = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.1, 0.1, 0.8]], dtype=F64)
LENGTHS = torch.tensor([3, 1, 2, 3, 2])


def _hidden_markov(x, lengths):
    """z_n ~ N(0, 1); a hidden chain c_nt, x_nt ~ N(z_n + m_c, 1) up to a sequence's own length."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), dtype=F64), 1.0))
        c = torch.zeros((), dtype=torch.long)
        for t in pyro.markov(range(x.shape[1])):
            with poutine.mask(mask=t < lengths):
                c = pyro.sample(f"c_{t}", dist.Categorical(MOVES[c]), infer={"enumerate": "parallel"})
                pyro.sample(f"x_{t}", dist.Normal(z + MEANS[c], 1.0), obs=x[:, t])


def _of_sequences(x, lengths):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.1 * x.sum(1), 1.0))


@pytest.mark.parametrize("num_particles", [1, 4])
def test_ragged_hidden_markov_models_equal_the_forward_algorithm(num_particles):
    state = torch.manual_seed(0).get_state()
    log_w = log_weights(_hidden_markov, _of_sequences, (POINTS, LENGTHS), num_particles)
    torch.set_rng_state(state)
    z = 0.1 * POINTS.sum(1) + torch.randn(num_particles, N, dtype=F64)
    forward = MOVES[0].log().expand(num_particles, N, 3)
    total = torch.zeros(num_particles, N, dtype=F64)
    for t in range(T):
        joint = forward + dist.Normal(z[..., None] + MEANS, 1.0).log_prob(POINTS[:, t, None])
        total = torch.where(t + 1 == LENGTHS, joint.logsumexp(-1), total)
        forward = (joint[..., None] + MOVES.log()).logsumexp(-2)
    expected = total + dist.Normal(0.0, 1.0).log_prob(z) - dist.Normal(0.1 * POINTS.sum(1), 1.0).log_prob(z)
    torch.testing.assert_close(log_w, expected, atol=1e-6, rtol=0)


def test_the_same_advice_is_given_and_can_be_followed():
    def unmarked(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            c = pyro.sample("c", dist.Categorical(PROBS))
            pyro.sample("x", dist.Normal(z + MEANS[c], 1.0), obs=x)

    with pytest.raises(ValueError, match=r"'c' of the model is not in the guide.*config_enumerate\(model\)"):
        evidence(unmarked, _guide, X, 30, method="iw", **quiet)
    ev = evidence(config_enumerate(unmarked), _guide, X, 4000, method="iw", **quiet)
    assert ((ev.log_px - _exact(X)).abs() < 4.5 * ev.std_error).all()

    def counts(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            c = pyro.sample("c", dist.Poisson(1.0), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(z + c, 1.0), obs=x)

    with pytest.raises(ValueError, match=r"Cannot sum out latent site 'c' \(Poisson\): it has no enumeration"):
        evidence(counts, _guide, X, 30, method="iw", **quiet)


def test_diagnostics_of_models_that_sum():
    """Bounds around log p(x); draws of a guide too wide are found out."""
    bounds = sandwich(_likelihood, _guide, 20, x=X, num_particles=16, num_temperatures=60, **quiet)
    assert (bounds.lower.mean() - bounds.upper.mean()).abs() < 0.3
    assert not diagnostics.sbc(_likelihood, _guide, 300, x=X, num_draws=19, alpha=1e-3, **quiet).accepted
    parts = diagnostics.kl_per_dimension(_likelihood, _guide, X, num_particles=50, **quiet)
    expected = torch.distributions.kl_divergence(
        dist.Normal(0.5 * X, 1.5), dist.Normal(torch.zeros_like(X), 1.0)
    ).mean()
    assert parts.kl.item() == pytest.approx(expected.item(), abs=1e-5)
    with pytest.raises(ValueError, match="summed out"):
        diagnostics.predictive_check(_likelihood, _guide, X, {"mean": lambda x: x.mean()}, **quiet)


def test_observations_that_contradict_each_other_are_no_zero_in_float32():
    """Two observations, each 200 nats for one value of c and against the other: log p(x) is near -200, not -inf."""

    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.5)), infer={"enumerate": "parallel"})
            pyro.sample("a", dist.Normal(20 * c, 1.0), obs=x[:, 0])
            pyro.sample("b", dist.Normal(20 * c, 1.0), obs=x[:, 1])

    def guide(x):
        pass

    x = torch.tensor([[0.0, 20.0]])
    expected = math.log(0.5) + math.log(2) - 200 - math.log(2 * math.pi)
    assert log_weights(model, guide, x).item() == pytest.approx(expected, abs=1e-3)
