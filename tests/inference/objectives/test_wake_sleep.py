"""Reweighted wake-sleep, against its definition summed by brute force."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from programs import Coin, X, mean_gradient

from pyro_vae.inference import fit
from pyro_vae.inference.objectives import IWAE, RWS


@pytest.mark.parametrize("phi", ["wake", "sleep", "both"])
def test_rws_gradients_are_those_of_their_definitions(phi):
    # wake: K = 2,000 normalised weights are the posterior up to O(1/K); sleep: the mean over the model's draws.
    program, objective = Coin(), RWS(2000, phi=phi)
    log_q, log_w = program.terms(X)
    posterior = (log_q + log_w).softmax(0).detach()
    theta = (posterior * (log_q.detach() + log_w + (log_q - log_q.detach()))).sum(0).mean()
    wake = (posterior * log_q).sum(0).mean()
    grid = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    z = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    prior = dist.Bernoulli(logits=program.logit).log_prob(z).exp()
    density = dist.Normal(torch.where(z > 0, program.high, program.low), 1.0).log_prob(grid).exp()
    log_q_grid = dist.Bernoulli(logits=program.a * grid + program.b).log_prob(z.expand(2, len(grid)))
    sleep = ((prior * density).detach() * log_q_grid).sum() * (grid[1] - grid[0])
    guide_part = {"wake": wake, "sleep": sleep, "both": (wake + sleep) / 2}[phi]
    exact = program.gradient(theta + guide_part)
    mean, error = mean_gradient(program, objective, 40, copies=20)
    assert ((mean - exact).abs() < 5 * error + 3e-3).all(), (mean, exact, error)


def test_rws_value_is_the_iwae_bound_and_it_fits_a_discrete_model():
    program = Coin()
    model, guide = program.model, program.guide
    values = []
    for objective in (RWS(5), IWAE(5)):
        objective.loss(model, guide, X)
        torch.manual_seed(0)
        values.append(objective.loss(model, guide, X))
    assert values[0] == pytest.approx(values[1])
    x = torch.cat([torch.randn(200, dtype=torch.float64) + 3, torch.randn(200, dtype=torch.float64) - 2])
    adam = lambda p: torch.optim.Adam(p, lr=0.05)  # noqa: E731
    fit(model, guide, x, objective=RWS(5, phi="both"), epochs=60, optimizer=adam, progress=False)
    assert program.high.item() == pytest.approx(3.0, abs=0.4)
