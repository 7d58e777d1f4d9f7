"""The contract of every prior: one line in a table gives a prior every check."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from parts import contract
from parts.charts import cells, chart_of
from parts.guides import family_for
from parts.priors import CONTINUOUS, DISCRETE, FLOWS, PRIORS, PROPER, disturbed
from scipy import integrate, stats
from torch import nn
from torch.autograd import gradcheck
from torch.func import functional_call

from pyro_vae.inference import AmortizedGuide, evidence, fit, objectives
from pyro_vae.models import VAE, likelihoods, mlp, priors

DIM, DRAWS = 3, 60_000


every_prior = pytest.mark.parametrize("name", PRIORS)
every_proper_prior = pytest.mark.parametrize("name", PROPER)


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
    p = disturbed(name, chart_of(PRIORS[name](2)).dim)()
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
    p = disturbed(name, 1)()
    z = torch.linspace(-9, 9, 40_001, dtype=torch.float64)
    with torch.no_grad():
        cdf = integrate.cumulative_trapezoid(p.log_prob(z[:, None]).exp(), z, initial=0.0)
        draws = p.sample((4000,))[:, 0]
    assert cdf[-1] == pytest.approx(1.0, abs=1e-4)
    assert stats.kstest(draws, lambda x: np.interp(x, z, cdf)).pvalue > 1e-4


@pytest.mark.parametrize("name", DISCRETE)
def test_draws_fall_on_values_as_log_prob_says(name):
    p, values = disturbed(name, DIM).requires_grad_(False)(), _values(name, DIM)
    contract.check_sums_to_one(p, values)
    contract.check_counts(p, values)


@every_proper_prior
def test_gradient_reaches_every_parameter(name):
    contract.check_gradients(PRIORS[name](DIM))


@pytest.mark.parametrize("name", [name for name in CONTINUOUS if name != "Flow"])
def test_gradient_by_parameters_and_value_is_that_of_finite_differences(name):
    prior = disturbed(name, DIM)
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
    prior = disturbed(name, DIM)
    z = prior().sample((4, 5))
    together = prior().expand((4, 5)).log_prob(z)
    alone = torch.stack([prior().log_prob(row) for row in z.flatten(0, 1)]).reshape(4, 5)
    torch.testing.assert_close(together, alone)


@pytest.mark.filterwarnings("ignore:The guide cannot reach values")
@every_proper_prior
def test_a_model_trains_and_scores_with_it(name):
    # Numbers are held against closed forms elsewhere; here the parts fit together, and what is learnt changes.
    prior = PRIORS[name](DIM)
    model = VAE(prior, likelihoods.Bernoulli(4), mlp((5,)))
    family = family_for(prior)(DIM)
    guide = prior.guide if isinstance(prior, priors.VampPrior) else AmortizedGuide(4, family, mlp((5,)))
    x = torch.bernoulli(torch.full((20, 4), 0.5))
    before = [p.detach().clone() for p in prior.parameters()]
    objective = objectives.IWAE(3, gradient="vimco" if name in DISCRETE else "pathwise")
    result = fit(model, guide, x, objective=objective, epochs=2, batch_size=10, device="cpu", progress=False)
    assert all(math.isfinite(row["loss"]) for row in result.history)
    assert not any(torch.equal(*pair) for pair in zip(before, prior.parameters(), strict=True))
    assert evidence(model, guide, x, 30, device="cpu", method="iw", progress=False).log_px.isfinite().all()
    assert model.sample(3).shape == (3, 4)


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
