"""Mixtures of Student-t distributions: density, draws, adaptation to weighted draws, bounded memory."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyro_vae.inference.scoring.student import LEAST_SHARE, StudentMixture


def two_components(num_data=2, dim=3, df=7.0):
    torch.manual_seed(0)
    factor = torch.randn(2, num_data, dim, dim).double()
    covariance = factor @ factor.mT + torch.eye(dim)
    shares = torch.tensor([[0.7], [0.3]]).double().expand(2, num_data)
    return StudentMixture.at_covariance(
        shares.log(), torch.randn(2, num_data, dim).double(), covariance, torch.full((num_data,), 0.2).double(), df
    )


def normal(u):
    """A prior."""
    return dist.Normal(0.0, 1.0).log_prob(u).sum(-1)


def reference(mixture):
    tril = torch.linalg.cholesky(mixture.factor @ mixture.factor.mT).transpose(0, 1)
    parts = dist.MultivariateStudentT(torch.tensor(mixture.df).double(), mixture.loc.transpose(0, 1), tril)
    return torch.distributions.MixtureSameFamily(dist.Categorical(logits=mixture.log_shares.T), parts)


def test_its_density_is_that_of_a_mixture_of_multivariate_student_ts():
    mixture, u = two_components(), torch.randn(50, 2, 3).double()
    log_p = normal(u)
    torch.testing.assert_close(
        mixture.log_density(u, log_p),
        torch.logaddexp(math.log(0.8) + reference(mixture).log_prob(u), math.log(0.2) + log_p),
        rtol=1e-7,
        atol=1e-7,
    )


def test_its_draws_follow_it():
    """40,000 draws: means within four standard errors, covariances within 8%."""
    mixture = two_components()
    u = mixture.draw(40_000)
    law = reference(mixture)
    error = u.std(0) / math.sqrt(len(u))
    assert ((u.mean(0) - law.mean).abs() < 4 * error).all()
    shares = mixture.log_shares.exp()
    within = torch.einsum("cb,cbij->bij", shares, mixture.factor @ mixture.factor.mT) * 7 / 5
    away = mixture.loc - law.mean
    between = torch.einsum("cb,cbi,cbj->bij", shares, away, away)
    for n in range(2):
        torch.testing.assert_close(torch.cov(u[:, n].T), (within + between)[n], rtol=0.08, atol=0.1)


def test_a_component_of_share_0_is_never_drawn_and_weighs_nothing():
    mixture = two_components()
    alone = StudentMixture.join([mixture.at(torch.tensor([0])), _first_of(mixture.at(torch.tensor([1])))])
    assert alone.log_shares[1, 1] == -math.inf
    u = torch.randn(20, 2, 3).double()
    expected = _first_of(mixture).log_density(u, normal(u))[:, 1]
    torch.testing.assert_close(alone.log_density(u, normal(u))[:, 1], expected)
    assert alone.draw(10).isfinite().all()


def _first_of(mixture):
    parts = (getattr(mixture, name)[:1] for name in ("loc", "factor", "inverse"))
    return StudentMixture(torch.zeros_like(mixture.log_shares[:1]), *parts, mixture.from_prior, mixture.df)


def test_put_takes_the_place_of_some_data_alone():
    mixture, other = two_components(4), _first_of(two_components(2))
    chosen = torch.tensor([False, True, False, True])
    mixed, u = mixture.put(chosen, other), torch.randn(9, 4, 3).double()
    of_mixed, of_mixture = (m.log_density(u, normal(u)) for m in (mixed, mixture))
    torch.testing.assert_close(of_mixed[:, ~chosen], of_mixture[:, ~chosen])
    torch.testing.assert_close(of_mixed[:, chosen], other.log_density(u[:, chosen], normal(u[:, chosen])))


def test_adaptation_moves_towards_a_normal_target():
    """Relative variance of weights of a shifted and scaled target falls at each of three rounds, to a third in all."""
    torch.manual_seed(0)
    dim = 4
    target = dist.MultivariateNormal(torch.full((dim,), 1.0).double(), 2.5 * torch.eye(dim).double())
    start = torch.zeros(1, 1, dim).double()
    mixture = StudentMixture.at_covariance(
        start[..., 0], start, torch.eye(dim).double()[None, None], start[0, :, 0] + 1e-9, 5.0
    )
    spread = []
    for _ in range(4):
        u = mixture.draw(4000)
        log_w = target.log_prob(u) - mixture.log_density(u, -1e4 + 0 * u[..., 0])
        spread.append(((2 * log_w).logsumexp(0) - 2 * log_w.logsumexp(0)).add(math.log(4000)).expm1().item())
        mixture = mixture.adapted(u, log_w, -1e4 + 0 * u[..., 0])
    assert spread[3] < spread[0] / 3
    assert spread[1] < spread[0]


def test_a_mode_without_pilot_weight_keeps_a_share():
    mixture = two_components()
    u = mixture.draw(500)
    log_w = torch.where(mixture.log_components(u).argmax(0) == 0, 0.0, -math.inf).double()
    shares = mixture.adapted(u, log_w, normal(u)).log_shares.exp()
    torch.testing.assert_close(shares.sum(0), torch.ones(2).double())
    assert (shares[1] >= 0.9 * LEAST_SHARE).all()


def test_weights_that_are_all_0_leave_it_where_it_was():
    mixture = two_components()
    u = mixture.draw(100)
    kept = mixture.adapted(u, torch.full((100, 2), -math.inf).double(), normal(u))
    torch.testing.assert_close(kept.loc, mixture.loc)
    torch.testing.assert_close(kept.factor @ kept.factor.mT, mixture.factor @ mixture.factor.mT)


class _Sizes(TorchDispatchMode):
    """Keeps the largest number of entries of a tensor that an operation made."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.most = max([self.most, *(t.numel() for t in tree_leaves(made) if isinstance(t, torch.Tensor))])
        return made


def test_no_draw_has_a_copy_of_the_curvature_of_its_datum():
    dim, num_particles = 30, 100
    zeros = torch.zeros(1, 2, dim).double()
    mixture = StudentMixture.at_covariance(
        zeros[..., 0], zeros, torch.eye(dim).double().expand(1, 2, dim, dim), zeros[0, :, 0], 5.0
    )
    with _Sizes() as sizes:
        mixture.log_components(mixture.draw(num_particles))
    assert sizes.most == num_particles * 2 * dim


def test_the_share_of_the_prior_grows_where_it_carries_the_weight():
    torch.manual_seed(0)
    zeros = torch.zeros(1, 1, 2).double()
    narrow = StudentMixture.at_covariance(zeros[..., 0], zeros, 0.01 * torch.eye(2).double()[None, None],
                                          torch.full((1,), 0.05).double(), 5.0)  # fmt: skip
    u = torch.randn(2000, 1, 2).double()
    log_p = normal(u)
    grown = narrow.adapted(u, log_p - log_p, log_p)  # draws of the prior, all of one weight
    assert 0.5 < grown.from_prior.item() <= 0.9
    assert narrow.adapted(u, -50 * u.square().sum(-1), log_p).from_prior.item() < 0.2
