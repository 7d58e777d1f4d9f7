"""What trained guides reach on models whose posterior and log p(x) are known."""

from __future__ import annotations

from functools import partial

import pyro
import pyro.distributions as dist
import torch
from truth import LinearGaussian

from pyro_vae.inference import AmortizedGuide, evidence, fit, guides, log_weights, objectives
from pyro_vae.models import mlp

WEIGHT = torch.tensor([[1.0, 0.9], [0.8, 1.0], [1.2, 1.0]], dtype=torch.float64)
TRUTH = LinearGaussian(WEIGHT, torch.zeros(3, dtype=torch.float64), 0.7)  # its posterior is correlated, -0.78
DATA = TRUTH.sample(200)
decay = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.96)


def trained(family, epochs=80, lr=0.1):
    """Fit a guide alone on the linear-Gaussian model, whose posterior mean is linear in x."""
    guide = AmortizedGuide(3, family, mlp(())).double()
    objective = objectives.ELBO(2, gradient="pathwise" if isinstance(family, guides.Flow) else "stl")
    settings = {"batch_size": 50, "progress": False, "device": "cpu", "objective": objective, "scheduler": decay}
    fit(TRUTH.model, guide, DATA, epochs=epochs, optimizer=partial(torch.optim.Adam, lr=lr), **settings)
    return guide


def gap(guide):
    """Mean KL(q || posterior), which is log p(x) - ELBO, for a guide that is normal."""
    with torch.no_grad():
        q = guide.posterior(DATA)
        posterior = TRUTH.posterior(DATA)
        if not hasattr(q, "covariance_matrix"):
            q = dist.MultivariateNormal(q.mean, q.variance.diag_embed())
        q = dist.MultivariateNormal(q.mean, q.covariance_matrix)
        return torch.distributions.kl_divergence(q, posterior).mean().item()


def least_diagonal_gap():
    """The least KL(q || posterior) over diagonal normals: 1/2 (sum_i log P_ii - log det P), P the precision."""
    precision = TRUTH.posterior(DATA[:1]).precision_matrix[0]
    return 0.5 * (precision.diagonal().log().sum() - precision.logdet()).item()


def test_full_rank_normal_reaches_log_px_and_the_diagonal_one_cannot():
    assert gap(trained(guides.FullRankNormal(2))) < 0.02
    diagonal = gap(trained(guides.DiagonalNormal(2), epochs=60))
    assert 0.6 < least_diagonal_gap() <= diagonal < least_diagonal_gap() + 0.02


def test_flow_has_a_tighter_bound_than_the_diagonal_normal_can_have():
    # The Monte Carlo error of the bound, over 40,000 weights, is below 0.01.
    guide = trained(guides.Flow(2, transforms=2, hidden=(16,), num_context=8), epochs=40, lr=0.03)
    with torch.no_grad():
        elbo = log_weights(TRUTH.model, guide, DATA, 200).mean()
    assert TRUTH.marginal.log_prob(DATA).mean() - elbo < 0.2 * least_diagonal_gap()


def two_sided(x):
    """x = |z| + noise: a posterior with two modes."""
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x[0]), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.abs(), 0.5).to_event(1), obs=x)


def test_mixture_covers_two_modes_and_has_a_bound_that_one_normal_has_not():
    # log p(x) by quadrature.
    x = torch.linspace(0.7, 1.2, 50, dtype=torch.float64)[:, None]
    z = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    joint = dist.Normal(z.new_zeros(()), 1.0).log_prob(z) + dist.Normal(z.abs(), 0.5).log_prob(x)
    exact = joint.logsumexp(1) + (z[1] - z[0]).log()
    gaps = {}
    for family in (guides.DiagonalNormal(1), guides.Mixture(1, 3)):
        guide = AmortizedGuide(1, family, mlp((8,))).double()
        adam = partial(torch.optim.Adam, lr=0.05)
        settings = {"batch_size": 50, "progress": False, "device": "cpu", "objective": objectives.ELBO(8)}
        fit(two_sided, guide, x, epochs=120, optimizer=adam, **settings)
        with torch.no_grad():
            gaps[type(family).__name__] = (exact - log_weights(two_sided, guide, x, 1000).mean(0)).mean().item()
    assert gaps["DiagonalNormal"] > 0.15
    assert gaps["Mixture"] < 0.05


def test_heavy_tails_mend_k_hat_where_a_normal_is_too_narrow():
    truth = LinearGaussian.random(1, 3)
    x = truth.sample(20)
    posterior = truth.posterior(x)
    h = torch.cat([posterior.mean, (0.5 * posterior.scale_tril[..., 0]).log().expand(20, 1)], -1)
    unreliable = {}
    for family in (guides.DiagonalNormal(1), guides.StudentT(1, df=3.0)):

        def guide(x, family=family):
            with pyro.plate("data", x.shape[0]):
                pyro.sample("z", family(h))

        ev = evidence(truth.model, guide, x, 1000, chunk_size=100_000, method="iw", progress=False)
        unreliable[type(family).__name__] = ev.num_flagged
    assert unreliable["DiagonalNormal"] > 5
    assert unreliable["StudentT"] <= 1
