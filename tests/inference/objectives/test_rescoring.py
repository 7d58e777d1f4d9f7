"""Programs that are bound methods of one module, whose parameters are held still one program at a time."""

from __future__ import annotations

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from parts.objectives import OBJECTIVES
from programs import PIXELS, TwoLayers, X, make_pair
from torch import nn

from pyro_vae.inference import fit
from pyro_vae.inference.guides import SemiAmortized
from pyro_vae.inference.objectives import CUBO, ELBO, IWAE
from pyro_vae.inference.scoring.refinement import refine

K = 4


class Both(nn.Module):
    """A model and its guide as methods of one module."""

    def __init__(self, model, guide):
        super().__init__()
        self.first, self.second = model, guide

    def model(self, x):
        self.first(x)

    def guide(self, x):
        self.second(x)


def loss_and_gradients(objective, model, guide, parameters):
    objective.loss(model, guide, PIXELS)  # draws once to count the plates
    torch.manual_seed(3)
    loss = objective.differentiable_loss(model, guide, PIXELS)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [loss, *(torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True))]


@pytest.mark.filterwarnings("ignore:CUBO fits the guide alone")
@pytest.mark.parametrize("name", OBJECTIVES)
def test_bound_methods_of_one_module_have_the_gradients_of_two_modules(name):
    model, guide = make_pair()
    both, parameters = Both(model, guide), [*model.parameters(), *guide.parameters()]
    apart = loss_and_gradients(OBJECTIVES[name](), model, guide, parameters)
    together = loss_and_gradients(OBJECTIVES[name](), both.model, both.guide, parameters)
    for one, other in zip(apart, together, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("differentiate", [True, False])
@pytest.mark.parametrize("objective", [ELBO(2), ELBO(2, gradient="stl"), IWAE(3, "dreg")], ids=lambda o: o.gradient)
def test_a_semi_amortised_guide_of_a_bound_method(objective, differentiate):
    model, guide = make_pair()
    parameters = [*model.parameters(), *guide.parameters()]
    runs = []
    for program in (model, Both(model, guide).model):
        semi = SemiAmortized(program, guide, num_steps=2, differentiate=differentiate)
        bound = Both(model, semi)
        runs.append(loss_and_gradients(objective, program, semi, [*parameters, semi.log_step_size]))
        runs.append(loss_and_gradients(objective, program, bound.guide, [*parameters, semi.log_step_size]))
    for other in runs[1:]:
        for one, two in zip(runs[0], other, strict=True):
            torch.testing.assert_close(one, two)


def test_a_guide_refined_for_each_datum_of_bound_methods():
    model, guide = make_pair()
    plain, both = (lambda x: model(x), lambda x: guide(x)), Both(model, guide)
    fitted = []
    for programs in (plain, (both.model, both.guide)):
        torch.manual_seed(0)
        fitted.append(refine(*programs, (PIXELS,), 5))
    for one, other in zip(*(local.local for local in fitted), strict=True):
        torch.testing.assert_close(one, other)


class Layers(TwoLayers):
    """``TwoLayers`` with its weights by hand at given noise; ``held`` are parameters that are constants in log q."""

    def noise(self):
        normal = dist.Normal(torch.zeros(K, len(X), dtype=torch.float64), 1.0)
        return normal.sample(), normal.sample()

    def densities(self, e_b, e_a, held=False, fixed=False):
        b = self.m * X + self.log_s.exp() * e_b
        a = self.r * b + self.log_t.exp() * e_a
        a, b = (a.detach(), b.detach()) if fixed else (a, b)
        m, log_s, r, log_t = (p.detach() if held else p for p in (self.m, self.log_s, self.r, self.log_t))
        log_q = dist.Normal(m * X, log_s.exp()).log_prob(b) + dist.Normal(r * b, log_t.exp()).log_prob(a)
        log_p = dist.Normal(0.0, 1.0).log_prob(a) + dist.Normal(self.u * a, 1.0).log_prob(b)
        return log_p + dist.Normal(self.w * b, 1.0).log_prob(X), log_q


def _stl(layers, e):
    log_p, log_q = layers.densities(*e, held=True)
    return layers.gradient((log_p - log_q).mean())


def _dreg(layers, e):
    log_p, log_q = layers.densities(*e, held=True)
    w = (log_p - log_q).softmax(0).detach()
    of_guide = layers.gradient((w**2 * (log_p - log_q)).sum(0).mean())
    of_model = layers.gradient((w * layers.densities(*e, fixed=True)[0]).sum(0).mean())
    return torch.cat([of_model[:2], of_guide[2:]])


def _cubo(layers, e):
    log_p, log_q = layers.densities(*e)
    gradient = layers.gradient(-(2 * (log_p - log_q)).logsumexp(0).mean() / 2)
    return torch.cat([torch.zeros(2, dtype=torch.float64), gradient[2:]])


def _score(layers, e):
    log_p, log_q = layers.densities(*e, fixed=True)
    log_w = (log_p - log_q).detach()
    others = (log_w.sum(0) - log_w) / (K - 1)
    return layers.gradient((((log_w.mean(0) - others) * log_q).sum(0) + (log_p - log_q).mean(0)).mean())


HAND = {
    "stl": (ELBO(K, gradient="stl"), _stl),
    "dreg": (IWAE(K, "dreg"), _dreg),
    "score": (ELBO(K, gradient="score"), _score),
    "CUBO": (CUBO(K), _cubo),
}


@pytest.mark.filterwarnings("ignore:CUBO fits the guide alone")
@pytest.mark.parametrize("name", HAND)
def test_gradients_of_bound_methods_are_those_of_the_hand_formula(name):
    objective, by_hand = HAND[name]
    layers = Layers()
    objective.loss(layers.model, layers.guide, X)
    torch.manual_seed(5)
    gradient = layers.gradient(-objective.differentiable_loss(layers.model, layers.guide, X))
    torch.manual_seed(5)
    torch.testing.assert_close(gradient, by_hand(layers, layers.noise()))


class Tied(nn.Module):
    """z ~ N(0, 1), x | z ~ N(w z, 1), with w in the guide too: q(z | x) = N(w m x, s^2)."""

    def __init__(self):
        super().__init__()
        self.w, self.m, self.log_s = (nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (1.3, 0.4, -0.2))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(self.w), 1.0))
            pyro.sample("x", dist.Normal(self.w * z, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.w * self.m * x, self.log_s.exp()))


def test_a_parameter_of_both_programs_is_held_in_the_guide_alone():
    tied, objective = Tied(), ELBO(K, gradient="stl")
    objective.loss(tied.model, tied.guide, X)
    torch.manual_seed(5)
    loss = objective.differentiable_loss(tied.model, tied.guide, X)
    torch.manual_seed(5)
    z = tied.w * tied.m * X + tied.log_s.exp() * dist.Normal(torch.zeros(K, 3, dtype=torch.float64), 1.0).sample()
    log_q = dist.Normal((tied.w * tied.m).detach() * X, tied.log_s.detach().exp()).log_prob(z)
    hand = -(dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(tied.w * z, 1.0).log_prob(X) - log_q).mean()
    for got, wanted in zip(*(torch.autograd.grad(v, list(tied.parameters())) for v in (loss, hand)), strict=True):
        torch.testing.assert_close(got, wanted)


def test_cubo_leaves_the_models_parameters_of_a_shared_module_and_says_so_where_there_are_any():
    layers = TwoLayers()
    adam = partial(torch.optim.Adam, lr=0.01)
    with pytest.warns(UserWarning, match="CUBO fits the guide alone"):
        fit(layers.model, layers.guide, X, objective=CUBO(5), optimizer=adam, epochs=2, batch_size=3, progress=False)
    assert (layers.u.item(), layers.w.item()) == (0.7, 1.3)
    assert layers.m.item() != 0.4

    tied = Tied()
    tied.w.requires_grad_(False)  # nothing to learn in the model: no warning, which would be an error
    CUBO(5).loss_and_grads(tied.model, tied.guide, X)
    assert tied.m.grad is not None
