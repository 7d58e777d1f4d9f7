"""An objective by hand, in value and gradient, and as Pyro's own are used."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import X
from torch import nn
from truth import BernoulliMixture, GammaPoisson, LinearGaussian

from pyro_vae.inference.objectives import ELBO, IWAE


class ScaledNormal(nn.Module):
    """z ~ N(0, 1), x | z ~ N(w z, 1), q = N(m x, s^2): one number each, for hand-made formulas."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.m, self.log_s = (nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (1.3, 0.4, -0.2))

    def model(self, x):
        pyro.module("scaled", self)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(self.w), 1.0))
            pyro.sample("x", dist.Normal(self.w * z, 1.0), obs=x)

    def guide(self, x):
        pyro.module("scaled", self)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(self.m * x, self.log_s.exp()))

    def hand_log_w(self, x, noise, beta=1.0):
        z = self.m * x + self.log_s.exp() * noise
        log_p_x = -0.5 * (x - self.w * z) ** 2 - 0.5 * math.log(2 * math.pi)
        kl_sample = -0.5 * noise**2 - self.log_s + 0.5 * z**2
        return log_p_x - beta * kl_sample

    def gradients(self, loss):
        return torch.stack(torch.autograd.grad(loss, [self.w, self.m, self.log_s]))


HAND = {
    "ELBO": (ELBO(), 1, 1.0, lambda log_w: log_w.mean(0)),
    "ELBO, K=4": (ELBO(4), 4, 1.0, lambda log_w: log_w.mean(0)),
    "beta-ELBO": (ELBO(4, beta=2.5), 4, 2.5, lambda log_w: log_w.mean(0)),
    "reconstruction only": (ELBO(2, beta=0.0), 2, 0.0, lambda log_w: log_w.mean(0)),
    "IWAE, K=1": (IWAE(1), 1, 1.0, lambda log_w: log_w[0]),
    "IWAE, K=5": (IWAE(5), 5, 1.0, lambda log_w: log_w.exp().mean(0).log()),
}


@pytest.mark.parametrize("name", HAND)
def test_value_and_gradient_are_those_of_the_hand_formula(name):
    objective, num_particles, beta, reduce = HAND[name]
    program = ScaledNormal()
    model, guide = program.model, program.guide  # a bound method is a new object at each access
    objective.loss(model, guide, X)  # the first call also draws once, to count the plates
    torch.manual_seed(5)
    loss = objective.differentiable_loss(model, guide, X)
    torch.manual_seed(5)
    shape = (num_particles, 3) if num_particles > 1 else (3,)
    noise = torch.distributions.Normal(torch.zeros(shape, dtype=torch.float64), 1.0).sample()
    expected = -reduce(program.hand_log_w(X, noise.expand(num_particles, 3), beta)).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(program.gradients(loss), program.gradients(expected))


@pytest.mark.parametrize("name", HAND)
def test_stock_svi_torch_style_and_loss_agree(name):
    objective = HAND[name][0]
    program = ScaledNormal()
    model, guide = program.model, program.guide
    objective.loss(model, guide, X)
    values = []
    for evaluate in (
        lambda: objective.loss(model, guide, X),
        lambda: objective(model, guide)(X).item(),
        lambda: pyro.infer.SVI(model, guide, pyro.optim.SGD({"lr": 0.0}), objective).step(X),
    ):
        torch.manual_seed(8)
        values.append(evaluate())
    assert values[0] == values[1] == values[2]


def test_stock_svi_trains_with_ours():
    program = ScaledNormal()
    svi = pyro.infer.SVI(program.model, program.guide, pyro.optim.Adam({"lr": 0.05}), IWAE(5))
    before = program.m.item()
    for _ in range(20):
        svi.step(X)
    assert program.m.item() != before


def test_loss_is_the_mean_over_data_not_the_sum():
    truth = LinearGaussian.random(2, 3)
    x = truth.sample(50)
    exact = -truth.marginal.log_prob(x).mean().item()
    for objective in (ELBO(3), IWAE(3)):
        assert objective.loss(truth.model, truth.exact_guide, x) == pytest.approx(exact, abs=1e-9)


def test_plates_are_counted_anew_for_another_pair():
    objective = IWAE(3)
    truth = LinearGaussian.random(2, 3)
    flat = objective.loss(truth.model, truth.exact_guide, truth.sample(4))
    assert math.isfinite(flat)
    counts = torch.ones(4, 2, dtype=torch.float64)
    nested = GammaPoisson()
    loss = objective.loss(nested.model, nested.exact_guide, counts)
    assert loss == pytest.approx(-nested.log_px(counts).mean().item(), abs=1e-9)


@pytest.mark.parametrize("objective", [ELBO(2), IWAE(2)])
def test_discrete_guide_is_refused_with_an_alternative(objective):
    truth = BernoulliMixture()
    with pytest.raises(ValueError, match=r"'z' \(Categorical\) cannot be reparameterised.*TraceEnum_ELBO"):
        objective.differentiable_loss(truth, truth.guide, torch.ones(2, 4, dtype=torch.float64))
