"""The contract of every prior: one line in a table gives a prior every check."""

from __future__ import annotations

import itertools
import math

import contract
import numpy as np
import pytest
import torch
from charts import cells, chart_of
from scipy import integrate, special, stats
from torch import nn
from torch.autograd import gradcheck
from torch.func import functional_call

from pyro_vae.inference import AmortizedGuide, evidence, fit, guides, log_weights, objectives
from pyro_vae.models import VAE, likelihoods, mlp, priors
from pyro_vae.models.distributions.horseshoe import log_scaled_e1

DIM, DRAWS = 3, 60_000
PRIORS = {
    "StandardNormal": priors.StandardNormal,
    "DiagonalNormal": priors.DiagonalNormal,
    "FullNormal": priors.FullNormal,
    "StudentT": priors.StudentT,
    "StudentT, learnt": lambda dim: priors.StudentT(dim, df=1.5, scale=0.5, learnable=True),
    "Mixture": lambda dim: priors.Mixture(dim, num_components=4),
    "VampPrior": lambda dim: _vamp(dim),
    "VampPrior, bounded, learnt weights": lambda dim: _vamp(dim, learn_weights=True, bounded=True),
    "Flow": lambda dim: priors.Flow(dim, hidden=(8,)),
    "Flow, maf": lambda dim: priors.Flow(dim, kind="maf", hidden=(8,), transforms=2),
    "Laplace": priors.Laplace,
    "Laplace, learnt": lambda dim: priors.Laplace(dim, scale=0.4, learnable=True),
    "Horseshoe": priors.Horseshoe,
    "Horseshoe, learnt": lambda dim: priors.Horseshoe(dim, scale=0.3, learnable=True),
    "SpikeAndSlab": lambda dim: priors.SpikeAndSlab(dim, p=0.3, spike_scale=0.2),
    "SpikeAndSlab, learnt": lambda dim: priors.SpikeAndSlab(dim, p=0.3, spike_scale=0.2, learnable=True),
    "Dirichlet": lambda dim: priors.Dirichlet(dim, concentration=0.8),
    "Dirichlet, learnt": lambda dim: priors.Dirichlet(dim, concentration=2.0, learnable=True),
    "LogisticNormal": priors.LogisticNormal,
    "LogisticNormal, learnt": lambda dim: priors.LogisticNormal(dim, scale=0.7, learnable=True),
    "RelaxedBernoulli": lambda dim: priors.RelaxedBernoulli(dim, temperature=0.7),
    "RelaxedBernoulli, learnt": lambda dim: priors.RelaxedBernoulli(dim, temperature=0.7, p=0.3, learnable=True),
    "RelaxedCategorical": lambda dim: priors.RelaxedCategorical(dim, temperature=0.7),
    "RelaxedCategorical, learnt": lambda dim: priors.RelaxedCategorical(dim, temperature=0.7, learnable=True),
    "Bernoulli": lambda dim: priors.Bernoulli(dim, p=0.3),
    "Bernoulli, learnt": lambda dim: priors.Bernoulli(dim, learnable=True),
    "Categorical": priors.Categorical,
    "Categorical, learnt": lambda dim: priors.Categorical(dim, learnable=True),
    "Flat": priors.Flat,
}
DISCRETE = [name for name in PRIORS if name.startswith(("Bernoulli", "Categorical"))]
CONTINUOUS = [name for name in PRIORS if name not in DISCRETE and name != "Flat"]
FLOWS = [name for name in PRIORS if name.startswith("Flow")]
PROPER = CONTINUOUS + DISCRETE
every_prior = pytest.mark.parametrize("name", PRIORS)
every_proper_prior = pytest.mark.parametrize("name", PROPER)


def _vamp(dim, **settings):
    guide = AmortizedGuide(4, guides.DiagonalNormal(dim), mlp((5,)))
    return priors.VampPrior(guide, num_components=6, data=torch.randn(20, 4), **settings)


def _disturbed(name, dim):
    """A prior in float64 with its parameters moved away from their symmetric first values."""
    prior = PRIORS[name](dim).double()
    with torch.no_grad():
        for p in prior.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return prior


def _values(name, dim):
    """Every value of a discrete prior."""
    if name.startswith("Categorical"):
        return torch.eye(dim, dtype=torch.float64)
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=dim)), dtype=torch.float64)


def test_every_prior_is_in_the_table():
    assert contract.shipped(priors, priors.Prior) == {name.split(",")[0] for name in PRIORS}


@every_proper_prior
def test_shapes(name):
    contract.check_shapes(PRIORS[name](DIM), (), (DIM,))
    p = PRIORS[name](DIM)().expand((4, 5))
    assert p.log_prob(p.sample()).shape == (4, 5)


@pytest.mark.parametrize("name", [name for name in CONTINUOUS if name not in FLOWS])
def test_draws_fall_where_log_prob_says(name):
    # The support is cut into cells, whose probabilities come by quadrature: they sum to one within 1e-3, and the
    # counts of 60,000 draws pass a chi-squared test at 1e-4.
    p = _disturbed(name, chart_of(PRIORS[name](2)).dim)()
    chart = chart_of(p)
    probability, count = cells(p, chart, DRAWS)
    assert probability.sum() == pytest.approx(1.0, abs=1e-3)
    kept = probability * DRAWS >= 5
    observed = np.append(count[kept], count[~kept].sum())
    expected = np.append(probability[kept], 1 - probability[kept].sum()) * DRAWS
    if expected[-1] < 1:
        observed, expected = observed[:-1], expected[:-1] * observed[:-1].sum() / expected[:-1].sum()
    assert stats.chisquare(observed, expected).pvalue > 1e-4


@pytest.mark.parametrize("name", FLOWS)
def test_flows_draw_where_log_prob_says(name):
    # Their densities have kinks and narrow peaks: a fine grid in one dimension, Kolmogorov-Smirnov at 1e-4. Their
    # Jacobians in several dimensions are tested with the flows themselves.
    p = _disturbed(name, 1)()
    z = torch.linspace(-9, 9, 40_001, dtype=torch.float64)
    with torch.no_grad():
        cdf = integrate.cumulative_trapezoid(p.log_prob(z[:, None]).exp(), z, initial=0.0)
        draws = p.sample((4000,))[:, 0]
    assert cdf[-1] == pytest.approx(1.0, abs=1e-4)
    assert stats.kstest(draws, lambda x: np.interp(x, z, cdf)).pvalue > 1e-4


@pytest.mark.parametrize("name", DISCRETE)
def test_draws_fall_on_values_as_log_prob_says(name):
    p, values = _disturbed(name, DIM).requires_grad_(False)(), _values(name, DIM)
    contract.check_sums_to_one(p, values)
    contract.check_counts(p, values)


@every_proper_prior
def test_gradient_reaches_every_parameter(name):
    contract.check_gradients(PRIORS[name](DIM))


@pytest.mark.parametrize("name", [name for name in CONTINUOUS if name != "Flow"])
def test_gradient_by_parameters_and_value_is_that_of_finite_differences(name):
    prior = _disturbed(name, DIM)
    parameters = {k: v.detach().clone().requires_grad_() for k, v in prior.named_parameters()}
    z = prior().sample((3,))

    def log_prob(free, *values):
        module = _Scored(prior, chart_of(prior))
        return functional_call(module, dict(zip([f"prior.{k}" for k in parameters], values, strict=True)), (free,))

    free = chart_of(prior).free(z).requires_grad_()
    assert gradcheck(log_prob, (free, *parameters.values()), atol=1e-6)


class _Scored(nn.Module):
    """log_prob as a function of unconstrained values, as ``functional_call`` wants it."""

    def __init__(self, prior, chart):
        super().__init__()
        self.prior, self.chart = prior, chart

    def forward(self, free):
        return self.prior().log_prob(self.chart.value(free)).sum()


@every_proper_prior
def test_state_dict_round_trip_and_device(name, device):
    contract.check_round_trip(lambda: PRIORS[name](DIM), device)


@every_proper_prior
def test_particles_are_scored_as_they_are_alone(name):
    prior = _disturbed(name, DIM)
    z = prior().sample((4, 5))
    together = prior().expand((4, 5)).log_prob(z)
    alone = torch.stack([prior().log_prob(row) for row in z.flatten(0, 1)]).reshape(4, 5)
    torch.testing.assert_close(together, alone)


FAMILIES = {
    "Dirichlet": guides.LogisticNormal,
    "LogisticNormal": guides.LogisticNormal,
    "RelaxedBernoulli": guides.RelaxedBernoulli,
    "RelaxedCategorical": guides.RelaxedCategorical,
    "Bernoulli": guides.Bernoulli,
    "Categorical": guides.Categorical,
}


@pytest.mark.filterwarnings("ignore:The guide cannot reach values")
@every_proper_prior
def test_a_model_trains_and_scores_with_it(name):
    # Numbers are held against closed forms elsewhere; here the parts fit together, and what is learnt changes.
    prior = PRIORS[name](DIM)
    model = VAE(prior, likelihoods.Bernoulli(4), mlp((5,)))
    family = FAMILIES.get(name.split(",")[0], guides.DiagonalNormal)(DIM)
    guide = prior.guide if isinstance(prior, priors.VampPrior) else AmortizedGuide(4, family, mlp((5,)))
    x = torch.bernoulli(torch.full((20, 4), 0.5))
    before = [p.detach().clone() for p in prior.parameters()]
    objective = objectives.IWAE(3, gradient="vimco" if name in DISCRETE else "pathwise")
    result = fit(model, guide, x, objective=objective, epochs=2, batch_size=10, device="cpu", progress=False)
    assert all(math.isfinite(row["loss"]) for row in result.history)
    assert not any(torch.equal(*pair) for pair in zip(before, prior.parameters(), strict=True))
    assert evidence(model, guide, x, 30, device="cpu", progress=False).log_px.isfinite().all()
    assert model.sample(3).shape == (3, 4)


CLOSED_FORMS = {
    "FullNormal": lambda z, p: stats.multivariate_normal(p.mean.detach(), p.covariance_matrix.detach()).logpdf(z),
    "StudentT, learnt": lambda z, p: stats.t(p.base_dist.df.detach(), 0, p.base_dist.scale.detach()).logpdf(z).sum(-1),
    "Laplace, learnt": lambda z, p: stats.laplace(0, p.base_dist.scale.detach()).logpdf(z).sum(-1),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_density_is_scipys(name):
    p = _disturbed(name, DIM)()
    z = p.sample((7,))
    np.testing.assert_allclose(p.log_prob(z).detach(), CLOSED_FORMS[name](z.numpy(), p), rtol=1e-10)


def test_mixture_density_is_the_sum_over_components():
    prior = _disturbed("Mixture", DIM)
    z = torch.randn(7, DIM, dtype=torch.float64)
    scale, weights = prior.log_scale.exp().detach().numpy(), prior.logits.softmax(0).detach().numpy()
    loc = prior.loc.detach().numpy()
    parts = stats.norm(loc, scale).pdf(z.numpy()[:, None]).prod(-1)
    np.testing.assert_allclose(prior().log_prob(z).exp().detach(), parts @ weights, rtol=1e-10)
    assert not torch.equal(prior.loc[0], prior.loc[1])


def test_spike_and_slab_density_is_the_product_over_entries():
    z = np.array([[-0.1, 0.7, 2.0]])
    entry = 0.8 * stats.norm(0, 0.05).pdf(z) + 0.2 * stats.norm(0, 1.5).pdf(z)
    got = priors.SpikeAndSlab(3, p=0.2, slab_scale=1.5).double()().log_prob(torch.tensor(z))
    np.testing.assert_allclose(got, np.log(entry).sum(-1), rtol=1e-6)


@pytest.mark.parametrize("z", [1e-8, 1e-3, 0.5, 1.999, 2.001, 10.0, 1e3])
def test_horseshoe_density_is_the_scale_mixture(z):
    # p(z) = int N(z; 0, l^2 s^2) HalfCauchy(l) dl, over log l.
    s = 0.5

    def integrand(t):
        return stats.norm(0, math.exp(t) * s).pdf(z) * stats.halfcauchy.pdf(math.exp(t)) * math.exp(t)

    edges = [-40.0, -10.0, -2.0, 2.0, 10.0, 40.0]
    expected = sum(
        integrate.quad(integrand, *e, epsabs=0, epsrel=1e-11, limit=200)[0] for e in itertools.pairwise(edges)
    )
    got = priors.Horseshoe(1, scale=s).double()().log_prob(torch.tensor([z], dtype=torch.float64))
    assert got.item() == pytest.approx(math.log(expected), rel=1e-7)  # s in float32 first


@pytest.mark.parametrize(("dtype", "accuracy"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_horseshoe_special_function_keeps_its_accuracy(dtype, accuracy):
    u = torch.cat([torch.logspace(-30, 2.5, 500, dtype=dtype), torch.linspace(1.9, 2.1, 50, dtype=dtype)])
    u.requires_grad_()
    got = log_scaled_e1(u)
    (slope,) = torch.autograd.grad(got.sum(), u)
    exact = u.detach().double().numpy()
    f = special.exp1(exact) * np.exp(exact)
    np.testing.assert_allclose(got.detach().double(), np.log(f), rtol=accuracy, atol=accuracy)
    np.testing.assert_allclose(slope.double(), -special.expn(2, exact) * np.exp(exact) / (exact * f), rtol=accuracy)


def test_horseshoe_is_finite_at_its_pole_and_far_out():
    z = torch.tensor([[0.0], [1e-30], [1e15], [-1e15]], requires_grad=True)
    log_prob = priors.Horseshoe(1)().log_prob(z)
    (gradient,) = torch.autograd.grad(log_prob.sum(), z)
    assert log_prob.isfinite().all()
    assert gradient.isfinite().all()
    twice = torch.rand(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda z: priors.Horseshoe(1).double()().log_prob(z[:, None]), (twice,))


def test_logistic_normal_of_two_shares_is_the_univariate_one():
    prior = _disturbed("LogisticNormal, learnt", 2)
    first = np.linspace(0.05, 0.95, 7)
    loc = (prior.loc[0] - prior.loc[1]).item()
    scale = prior.log_scale.exp().square().sum().sqrt().item()
    expected = stats.norm(loc, scale).logpdf(special.logit(first)) - np.log(first * (1 - first))
    z = torch.tensor(np.stack([first, 1 - first], -1))
    np.testing.assert_allclose(prior().log_prob(z).detach(), expected, rtol=1e-10)


def test_logistic_normal_makes_no_share_special():
    p = priors.LogisticNormal(4).double()()
    z = p.sample((5,))
    torch.testing.assert_close(p.log_prob(z), p.log_prob(z.flip(-1)))


def test_relaxed_categorical_is_torchs_where_that_is_defined_and_stays_defined_beyond():
    prior = priors.RelaxedCategorical(DIM, temperature=0.6, learnable=True)
    prior.logits.data += torch.randn(DIM)
    torchs = torch.distributions.RelaxedOneHotCategorical(torch.tensor(0.6), logits=prior.logits, validate_args=False)
    z = torchs.sample((50,))
    z = z / z.sum(-1, keepdim=True)
    torch.testing.assert_close(prior().log_prob(z), torchs.log_prob(z), rtol=1e-4, atol=1e-4)
    cold = priors.RelaxedCategorical(20, temperature=0.05)()
    z = cold.sample((1000,))  # with entries that would underflow to 0, and validated
    assert 0 < z.min() < 1e-25
    assert cold.log_prob(z).isfinite().all()


def test_flat_prior_has_log_prob_0_and_no_draws():
    p = priors.Flat(DIM)().expand((4,))
    z = torch.randn(2, 4, DIM, dtype=torch.float64)
    torch.testing.assert_close(p.log_prob(z), torch.zeros(2, 4, dtype=torch.float64))
    assert (p.batch_shape, p.event_shape) == ((4,), (DIM,))
    with pytest.raises(ValueError, match=r"A flat prior is improper: it has no draws, .* no probability"):
        p.sample()
    with pytest.raises(ValueError, match="improper"):
        VAE(priors.Flat(2), likelihoods.Bernoulli(4), mlp((3,))).sample()


def test_flat_prior_leaves_the_likelihood_and_the_entropy():
    model = VAE(priors.Flat(2), likelihoods.Bernoulli(4), mlp((3,)))
    guide = AmortizedGuide(4, guides.DiagonalNormal(2), mlp((3,)))
    x = torch.bernoulli(torch.full((5, 4), 0.5))
    log_w = log_weights(model, guide, x, 3)
    assert log_w.shape == (3, 5)
    with pytest.raises(ValueError, match=r"log p\(x\) under it is no probability"):
        evidence(model, guide, x, 10, progress=False)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: priors.StandardNormal(0), "Expected dim to be an integer >= 1; got 0"),
        (lambda: priors.DiagonalNormal(0), "Expected dim to be an integer >= 1; got 0"),
        (lambda: priors.FullNormal(True), "Expected dim to be an integer >= 1; got True"),
        (lambda: priors.Flat(0), "Expected dim to be an integer >= 1; got 0"),
        (lambda: priors.Laplace(0), "Expected dim to be an integer >= 1; got 0"),
        (lambda: priors.Laplace(2, scale=0.0), r"Expected scale to be a number > 0; got 0\.0"),
        (lambda: priors.StudentT(2, df=-1.0), r"Expected df to be a number > 0; got -1\.0"),
        (lambda: priors.Horseshoe(2, scale=math.inf), "Expected scale to be a number > 0; got inf"),
        (lambda: priors.Mixture(2, 0), "Expected num_components to be an integer >= 1; got 0"),
        (lambda: priors.Mixture(0), "Expected dim to be an integer >= 1; got 0"),
        (lambda: priors.Mixture(2, spread=0), "Expected spread to be a number > 0; got 0"),
        (lambda: priors.SpikeAndSlab(2, p=1.0), r"Expected 0 < p < 1; got 1\.0"),
        (lambda: priors.SpikeAndSlab(2, spike_scale=2.0), r"Expected spike_scale < slab_scale; got 2\.0 and 1\.0"),
        (lambda: priors.Bernoulli(2, p=0.0), r"Expected 0 < p < 1; got 0\.0"),
        (lambda: priors.Bernoulli(0), "Expected dim to be an integer >= 1; got 0"),
        (lambda: priors.Categorical(1), "Expected dim >= 2 for classes to choose from; got 1"),
        (lambda: priors.Dirichlet(1), "Expected dim >= 2 for shares; got 1"),
        (lambda: priors.RelaxedBernoulli(2, temperature=0.0), r"Expected temperature to be a number > 0; got 0\.0"),
        (lambda: priors.Flow(2, kind="mafia"), "Expected kind to be one of maf, .*; got 'mafia'. Did you mean maf"),
    ],
)
def test_bad_settings_get_one_clear_line(build, message):
    with pytest.raises(ValueError, match=message):
        build()
