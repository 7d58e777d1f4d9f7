"""Hamiltonian Monte Carlo against the laws it must leave as they are."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch.distributions import Gamma, MultivariateNormal, Normal

from pyro_vae.inference.annealing.hmc import Point, leapfrog, transition

ONE = (1.0,)
COVARIANCE = torch.tensor([[1.0, 0.8, 0.0], [0.8, 1.5, -0.3], [0.0, -0.3, 0.5]], dtype=torch.float64)


def target_of(log_density):
    """A target of one term from a function (K, B, D) -> (K, B)."""

    def target(u):
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            value = log_density(u)
            (gradient,) = torch.autograd.grad(value.sum(), u)
        return value.detach()[None], gradient[None]

    return target


def _quartic(u):
    return -(u[..., 0] ** 4) - u[..., 0] * u[..., 1] - u[..., 1] ** 2


def _steps(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_leapfrog_is_reversible():
    target = target_of(_quartic)
    start, momentum = (torch.randn(5, 3, 2, dtype=torch.float64) for _ in range(2))
    step, scale = _steps(0.05, 0.1, 0.2), _steps(0.7, 1.5)
    end, end_momentum = leapfrog(Point.at(start, target), momentum, ONE, target, step, 8, scale)
    assert (end.position - start).abs().min() > 1e-3
    back, back_momentum = leapfrog(end, -end_momentum, ONE, target, step, 8, scale)
    torch.testing.assert_close(back.position, start)
    torch.testing.assert_close(-back_momentum, momentum)


def test_leapfrog_preserves_volume():
    target, h = target_of(_quartic), 1e-5
    at = torch.tensor([0.3, -0.8, 0.5, 1.1], dtype=torch.float64)  # u and p
    around = torch.cat([at + h * torch.eye(4, dtype=torch.float64), at - h * torch.eye(4, dtype=torch.float64)])
    start, momentum = around[:, None, :2], around[:, None, 2:]
    end, end_momentum = leapfrog(Point.at(start, target), momentum, ONE, target, _steps(0.2), 5, _steps(0.7, 1.5))
    moved = torch.cat([end.position, end_momentum], -1)[:, 0]
    jacobian = (moved[:4] - moved[4:]) / (2 * h)
    assert abs(torch.linalg.det(jacobian).item() - 1) < 1e-6
    assert (jacobian - torch.eye(4, dtype=torch.float64)).abs().max() > 0.1


def test_leapfrog_conserves_energy_to_second_order():
    target = target_of(_quartic)
    start, momentum = (torch.randn(200, 1, 2, dtype=torch.float64) for _ in range(2))

    def error(step, num_steps):
        point = Point.at(start, target)
        end, end_momentum = leapfrog(point, momentum, ONE, target, _steps(step), num_steps)
        energy = (-p.log_density(ONE) + m.square().sum(-1) / 2 for p, m in ((point, momentum), (end, end_momentum)))
        return (next(energy) - next(energy)).abs().median()

    assert 3.5 < error(0.02, 10) / error(0.01, 20) < 4.5


LAWS = {
    "standard normal": (
        Normal(_steps(0.0), 1.0).expand((1,)),
        lambda u: Normal(0.0, 1.0).log_prob(u).sum(-1),
        lambda u: u,
        stats.norm.cdf,
        1.8,
    ),
    "gamma": (
        Gamma(_steps(2.0), 3.0),
        lambda u: (Gamma(2.0, 3.0, validate_args=False).log_prob(u.exp()) + u).sum(-1),
        lambda u: u.exp(),
        stats.gamma(2.0, scale=1 / 3).cdf,
        1.1,
    ),
}


@pytest.mark.parametrize("name", LAWS)
def test_laws_are_left_invariant(name):
    """20,000 chains start in the law and must stay in it, with steps that leave a third of them rejected.

    A Kolmogorov-Smirnov test at 1e-4.
    """
    law, log_density, constrain, cdf, step = LAWS[name]
    target = target_of(log_density)
    z = law.sample((20_000, 1))
    start = z if constrain(z) is z else z.log()
    point = Point.at(start, target)
    rates = []
    for _ in range(4):
        point, acceptance = transition(point, ONE, target, _steps(step), 2)
        rates.append(acceptance.mean().item())
    assert 0.4 < sum(rates) / 4 < 0.9  # there is something to correct
    assert stats.kstest(constrain(point.position).flatten().numpy(), cdf).pvalue > 1e-4
    assert (point.position - start).abs().mean() > 0.2


def test_correlated_normal_is_left_invariant():
    # Whitened draws: mean and covariance within 5 standard errors.
    law = MultivariateNormal(torch.zeros(3, dtype=torch.float64), COVARIANCE)
    target = target_of(law.log_prob)
    point = Point.at(law.sample((20_000, 1)), target)
    for _ in range(4):
        point, acceptance = transition(point, ONE, target, _steps(0.8), 3, _steps(0.8, 1.2, 0.7))
    white = torch.linalg.solve_triangular(law.scale_tril, point.position[:, 0].T, upper=False)
    error = 5 / 20_000**0.5
    assert (white.mean(1).abs() < error).all()
    assert ((white.cov() - torch.eye(3, dtype=torch.float64)).abs() < 2**0.5 * error).all()
    assert 0.3 < acceptance.mean() < 0.95


def test_acceptance_is_the_share_that_moves_and_steps_are_per_datum():
    target = target_of(lambda u: Normal(0.0, 1.0).log_prob(u).sum(-1))
    point = Point.at(torch.randn(10_000, 3, 5, dtype=torch.float64), target)
    moved, acceptance = transition(point, ONE, target, _steps(0.1, 1.0, 1.8), 2)
    share = (moved.position != point.position).any(-1).double().mean(0)
    torch.testing.assert_close(share, acceptance.mean(0), atol=5 * 0.5 / 100, rtol=0)
    assert (acceptance.mean(0).diff() < -0.02).all()
    assert acceptance[:, 0].mean() > 0.99


def test_what_is_kept_is_what_would_be_evaluated_anew():
    target = target_of(_quartic)
    point = Point.at(torch.randn(40, 2, 2, dtype=torch.float64), target)
    moved, acceptance = transition(point, ONE, target, _steps(0.9, 0.9), 3)
    assert 0.05 < acceptance.mean() < 0.95
    anew = Point.at(moved.position, target)
    torch.testing.assert_close(moved.terms, anew.terms)
    torch.testing.assert_close(moved.gradients, anew.gradients)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_divergences_are_rejections(bad):
    target = target_of(lambda u: torch.where(u.abs() < 1, -u.square() / 2, torch.full_like(u, bad)).sum(-1))
    point = Point.at(torch.zeros(500, 1, 1, dtype=torch.float64), target)
    moved, acceptance = transition(point, ONE, target, _steps(1.0), 1)
    assert moved.position.abs().max() < 1
    assert moved.terms.isfinite().all()
    assert (acceptance == 0).double().mean() > 0.2
    assert (acceptance > 0).double().mean() > 0.2


def test_a_term_of_coefficient_zero_does_not_count():
    terms = torch.tensor([[[1.0]], [[-torch.inf]]])
    point = Point(torch.zeros(1, 1, 1), terms, torch.stack([torch.ones(1, 1, 1), torch.full((1, 1, 1), torch.nan)]))
    assert point.log_density((1.0, 0.0)).item() == 1
    assert point.gradient((2.0, 0.0)).item() == 2
    assert point.log_density((1.0, 0.5)).item() == -torch.inf
