"""Gradients through the samplers, against expectations in closed form, and their limits."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from pyro_vae.core.simplex import AdditiveLogistic
from pyro_vae.inference import guides
from pyro_vae.inference.guides.continuous import NormalMixture

DIM = 3


def second_moment(name, family, h):
    """E|z|^2 in closed form."""
    if name == "Mixture":
        logits, rest = h[: family.num_components], h[family.num_components :]
        loc, log_scale = rest.reshape(2, family.num_components, DIM)
        return (logits.softmax(0) * (loc**2 + (2 * log_scale).exp()).sum(-1)).sum()
    if name == "FullRankNormal":
        tril = torch.zeros(DIM, DIM, dtype=h.dtype)
        rows, columns = torch.tril_indices(DIM, DIM)
        tril[rows, columns] = torch.where(rows == columns, h[DIM:].exp(), h[DIM:])
        return (h[:DIM] ** 2).sum() + (tril**2).sum()
    spread = {"Laplace": 2.0, "StudentT": 10 / 8}.get(name, 1.0)
    moment = (h[:DIM] ** 2).sum() + spread * (2 * h[DIM : 2 * DIM]).exp().sum()
    return moment + (h[2 * DIM :] ** 2).sum()  # W of the normal of low rank


SAMPLERS = {
    "DiagonalNormal": guides.DiagonalNormal,
    "FullRankNormal": guides.FullRankNormal,
    "LowRankNormal": guides.LowRankNormal,
    "Mixture": guides.Mixture,
    "Laplace": guides.Laplace,
    "StudentT": lambda dim: guides.StudentT(dim, df=10.0),
    "PointMass": guides.PointMass,
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_gradient_of_the_second_moment_is_the_closed_form_s(name):
    # Within 5 standard errors of 40,000 draws for each of at most 35 features.
    family = SAMPLERS[name](DIM)
    h = (0.6 * torch.randn(family.num_features, dtype=torch.float64)).requires_grad_()
    moment = (h**2).sum() if name == "PointMass" else second_moment(name, family, h)
    exact = torch.autograd.grad(moment, h)[0]
    many = h.detach().expand(40_000, -1).clone().requires_grad_()
    each = torch.autograd.grad(family(many).rsample().square().sum(), many)[0]
    error = (each.mean(0) - exact).abs()
    assert (error <= 5 * each.std(0) / 200 + 1e-12).all()
    assert exact.abs().min() > 0 or name == "Mixture"


def test_full_rank_normal_is_the_normal_of_its_cholesky_factor():
    h = torch.randn(9, dtype=torch.float64)
    tril = torch.tensor([[h[3].exp(), 0, 0], [h[4], h[5].exp(), 0], [h[6], h[7], h[8].exp()]], dtype=torch.float64)
    q = guides.FullRankNormal(3)(h)
    torch.testing.assert_close(q.covariance_matrix, tril @ tril.T)
    torch.testing.assert_close(q.mean, h[:3])


def test_low_rank_normal_has_the_covariance_it_says():
    h = torch.randn(12, dtype=torch.float64)
    factor = h[6:].reshape(3, 2)
    q = guides.LowRankNormal(3, rank=2)(h)
    torch.testing.assert_close(q.covariance_matrix, factor @ factor.T + (2 * h[3:6]).exp().diag())


def mixture(logits, loc, scale):
    return NormalMixture(dist.Categorical(logits=logits), dist.Normal(loc, scale).to_event(1))


def test_mixture_in_many_dimensions_has_finite_gradients_where_pyro_s_has_none():
    loc, logits = 3 * torch.randn(100, 3, 50), torch.zeros(100, 3, requires_grad=True)
    z = mixture(logits, loc, torch.full((100, 3, 50), 0.05)).rsample()
    assert torch.autograd.grad(z.sum(), logits)[0].isfinite().all()
    pyro_z = dist.MixtureOfDiagNormals(loc, torch.full((100, 3, 50), 0.05), logits).rsample()
    assert not torch.autograd.grad(pyro_z.sum(), logits)[0].isfinite().any()


def test_mixture_of_equal_components_is_the_component():
    logits = torch.randn(4, dtype=torch.float64, requires_grad=True)
    loc = torch.zeros(4, 2, dtype=torch.float64, requires_grad=True)
    z = mixture(logits, loc, torch.ones(4, 2, dtype=torch.float64)).rsample((7,))
    weight, shift = torch.autograd.grad(z.sum(), [logits, loc])
    torch.testing.assert_close(weight, torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(shift, 7 * logits.softmax(0).detach()[:, None].expand(4, 2))


def test_mixture_follows_the_quantile_function_in_one_dimension():
    # z(phi) solves F(z; phi) = u: the derivative by finite differences of the root.
    logits = torch.tensor([0.3, -0.4], dtype=torch.float64)
    loc, scale = torch.tensor([[-1.0], [1.5]], dtype=torch.float64), torch.tensor([[0.6], [0.9]], dtype=torch.float64)
    parameters = [p.requires_grad_() for p in (logits, loc, scale)]
    z = mixture(*parameters).rsample()
    gradients = torch.cat([g.flatten() for g in torch.autograd.grad(z.sum(), parameters)])

    def cdf(flat, at):
        pi = flat[:2].softmax(0)
        return (pi * torch.special.ndtr((at - flat[2:4]) / flat[4:])).sum()

    def root(flat, u):
        low, high = torch.tensor(-20.0, dtype=torch.float64), torch.tensor(20.0, dtype=torch.float64)
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if cdf(flat, middle) < u else (low, middle)
        return middle

    flat = torch.cat([p.detach().flatten() for p in parameters])
    u = cdf(flat, z.detach())
    bumps = 1e-6 * torch.eye(6, dtype=torch.float64)
    differences = torch.stack([(root(flat + bump, u) - root(flat - bump, u)) / 2e-6 for bump in bumps])
    torch.testing.assert_close(gradients, differences, rtol=1e-5, atol=1e-7)


def test_mixture_refuses_a_second_derivative_rather_than_guess_it():
    logits = torch.zeros(2, requires_grad=True)
    z = mixture(logits, torch.tensor([[0.0], [1.0]]), torch.ones(2, 1)).rsample()
    with pytest.raises(ValueError, match="Draws of a mixture have a first derivative only"):
        torch.autograd.grad(z.sum(), logits, create_graph=True)


def test_additive_logistic_has_the_jacobian_of_its_first_shares():
    u = torch.randn(4, dtype=torch.float64)
    transform = AdditiveLogistic()
    z = transform(u)
    jacobian = torch.autograd.functional.jacobian(transform, u)[:-1]
    torch.testing.assert_close(transform.log_abs_det_jacobian(u, z), jacobian.det().abs().log())
    torch.testing.assert_close(transform.inv(z), u)
    torch.testing.assert_close(z.sum(), torch.ones((), dtype=torch.float64))


def test_logistic_normal_is_exact_in_float32_where_stick_breaking_is_not():
    h = torch.randn(200, 98)
    z = guides.LogisticNormal(50)(h).sample()
    exact = guides.LogisticNormal(50)(h.double()).log_prob(z.double())
    assert (guides.LogisticNormal(50)(h).log_prob(z) - exact).abs().max() < 0.05
    stick = dist.LogisticNormal(h[:, :49], h[:, 49:].exp(), validate_args=False)
    y = stick.sample()
    exact = dist.LogisticNormal(h[:, :49].double(), h[:, 49:].double().exp(), validate_args=False).log_prob(y.double())
    assert (stick.log_prob(y) - exact).abs().max() > 100


def test_diagonal_normal_draws_have_its_moments():
    # Kolmogorov-Smirnov at 1e-4 in all.
    h = torch.randn(2 * DIM, dtype=torch.float64)
    x = guides.DiagonalNormal(DIM)(h).sample((4000,))
    for i in range(DIM):
        cdf = stats.norm(h[i].item(), h[DIM + i].exp().item()).cdf
        assert stats.kstest(x[:, i].numpy(), cdf).pvalue > 1e-4 / DIM


def test_point_mass_is_the_encoder_s_output_and_passes_its_gradient():
    h = torch.randn(5, DIM, requires_grad=True)
    q = guides.PointMass(DIM)(h)
    z = q.rsample()
    torch.testing.assert_close(z, h)
    torch.testing.assert_close(torch.autograd.grad(z.sum(), h)[0], torch.ones(5, DIM))
    torch.testing.assert_close(q.log_prob(z), torch.zeros(5))
