"""Comparison of models, paired, and of a guide with the best there is: what cannot be compared is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import make_pair, split_evidence
from truth import BernoulliMixture, LinearGaussian

from pyro_vae.inference import compare, evidence, gaps
from pyro_vae.inference.programs.observed import what_is_scored
from pyro_vae.models import VAE, likelihoods, mlp, priors


def _evidence(truth, x, num_particles=50, widen=1.2, method="iw", **settings):
    return evidence(truth.model, truth.guide(widen), x, num_particles, method=method, progress=False, **settings)


def _models():
    truth = LinearGaussian.random(2, 4)
    worse = LinearGaussian(truth.weight, truth.bias + 0.1, truth.scale)
    return truth, worse


def test_differences_are_paired_and_their_error_is_honest():
    # Over 200 data sets the true difference lies within 2 standard errors as often as a normal law says,
    # 95.4% with sd 1.5%: 4 sd below is 89.5%. The exact difference is KL(p_truth || p_worse).
    truth, worse = _models()
    exact = torch.distributions.kl_divergence(truth.marginal, worse.marginal).item()
    x = torch.cat([truth.sample(60, seed=seed) for seed in range(200)])
    scored = (split_evidence(_evidence(program, x, seed=seed), 60) for program, seed in ((worse, 1), (truth, 2)))
    inside = 0
    for estimates in zip(*scored, strict=True):
        table = compare(dict(zip(("worse", "truth"), estimates, strict=True)))
        difference = table.loc["worse"] - table.loc["truth"]
        inside += abs(-difference["log_px"] - exact) < 2 * max(table["diff_stderr"])
    assert 0.895 < inside / 200 < 0.995


def test_table_holds_the_formulas():
    truth, worse = _models()
    x = truth.sample(400)
    a, b = _evidence(truth, x), _evidence(worse, x, seed=7)
    table = compare({"b": b, "a": a})
    assert list(table.index) == ["a", "b"]
    assert list(table["rank"]) == [0, 1]
    difference = a.log_px - b.log_px
    assert table.loc["b", "diff"] == pytest.approx(difference.mean().item())
    assert table.loc["b", "diff_stderr"] == pytest.approx(difference.std().item() / 20)
    assert table.loc["b", "diff_stderr"] < 0.5 * b.stderr  # pairing pays
    noise = (a.std_error.square() + b.std_error.square()).sum().sqrt().item() / 400
    assert table.loc["b", "diff_mc_stderr"] == pytest.approx(noise)
    assert tuple(table.loc["a", ["diff", "diff_stderr", "diff_mc_stderr"]]) == (0, 0, 0)
    assert table.attrs["protocol"] == "importance weighting, K = 50, N = 400; nats per datum"


def test_monte_carlo_error_of_a_difference_covers_it():
    # The same model twice: all of the difference is Monte Carlo. 300 data, 5 standard errors.
    truth, _ = _models()
    x = truth.sample(300)
    table = compare({"one": _evidence(truth, x, seed=1), "two": _evidence(truth, x, seed=2)})
    assert table["diff"].iloc[1] < 5 * table["diff_mc_stderr"].iloc[1]
    assert table["diff_stderr"].iloc[1] == pytest.approx(table["diff_mc_stderr"].iloc[1], rel=0.25)


def test_what_cannot_be_compared_is_refused():
    truth, worse = _models()
    x = truth.sample(20)
    a = _evidence(truth, x)
    for other, message in (
        (_evidence(worse, truth.sample(20, seed=5)), "Expected the same data of all that are compared; a has"),
        (_evidence(worse, x[:10]), "the same number of data of all that are compared; a has 20, b has 10"),
        (_evidence(worse, x, num_particles=51), "the same num_particles .* a has 50, b has 51"),
        (_evidence(worse, x, method="jackknife"), "same method .* a has importance weighting, b has jackknife"),
        (replace(a, log_px=a.log_px - torch.inf), "b gives some data log p.x. = -inf"),
    ):
        with pytest.raises(ValueError, match=message):
            compare({"a": a, "b": other})
    with pytest.raises(ValueError, match="Expected at least two models to compare; got 1"):
        compare({"a": a})


TRUTH = LinearGaussian.random(2, 3, seed=4)


def _diagonal(x, shift=0.0, widen=1.0):
    """The best diagonal normal guide, moved off its optimum: its scales are those of the precision's diagonal."""
    q = TRUTH.posterior(x)
    scale = q.precision_matrix.diagonal(dim1=-2, dim2=-1).rsqrt()
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(q.loc + shift * scale, widen * scale).to_event(1))


def _kl(x):
    """KL(q* || posterior) of the best diagonal normal, the approximation gap."""
    q = TRUTH.posterior(x)
    scale = q.precision_matrix.diagonal(dim1=-2, dim2=-1).rsqrt()
    best = dist.MultivariateNormal(q.loc, torch.diag_embed(scale.square()))
    return torch.distributions.kl_divergence(best, q)


@pytest.mark.parametrize(("shift", "widen"), [(0.0, 1.0), (1.0, 1.0), (0.5, 1.8)])
def test_parts_equal_the_closed_forms(shift, widen):
    x = TRUTH.sample(30)
    result = gaps(TRUTH.model, lambda x: _diagonal(x, shift, widen), x, 3000, progress=False)
    q = TRUTH.posterior(x)
    moved = shift * q.precision_matrix.diagonal(dim1=-2, dim2=-1).rsqrt()
    lost = 0.5 * (moved[:, None] @ q.precision_matrix @ moved[..., None]).mean().item()
    lost += 2 * (0.5 * (widen**2 - 1) - math.log(widen))  # the scales are those of the precision's diagonal
    assert result.means["approximation"][0] == pytest.approx(_kl(x).mean().item(), abs=0.02)
    assert result.means["amortization"][0] == pytest.approx(lost, abs=0.02)
    torch.testing.assert_close(result.inference, result.approximation + result.amortization)
    assert "amortization" in str(result)


def test_an_exact_guide_has_no_gap():
    x = TRUTH.sample(10)
    result = gaps(TRUTH.model, TRUTH.exact_guide, x, 200, steps=50, progress=False)
    assert all(abs(mean) < 0.01 for mean, _ in result.means.values())


def test_modules_and_an_estimate_handed_in():
    model, guide = make_pair()
    x = torch.bernoulli(torch.full((12, 6), 0.5))
    reference = evidence(model, guide, x, 20_000, method="iw", progress=False)
    result = gaps(model, guide, x, 1000, steps=100, log_px=reference, progress=False)
    assert result.log_px is reference
    assert result.means["amortization"][0] > 0
    assert result.means["approximation"][0] > -0.02
    with pytest.raises(ValueError, match="Expected the same data of all that are compared; the guide has"):
        gaps(model, guide, 1 - x, 30, steps=1, log_px=reference, progress=False)


def test_what_cannot_be_fitted_is_refused():
    truth = BernoulliMixture()
    with pytest.raises(ValueError, match="cannot be fitted to each datum"):
        gaps(truth, truth.guide, torch.ones(2, 4, dtype=torch.float64), 30, progress=False)
    with pytest.raises(ValueError, match="Expected steps to be an integer >= 1; got 0"):
        gaps(truth, truth.guide, torch.ones(2, 4, dtype=torch.float64), 30, steps=0)


def normal_given(x, y, both=False):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
        if both:
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)
        pyro.sample("x", dist.Normal(z + (0 if both else y), 1.0), obs=x)


def standard(x, *others):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))


def test_a_conditional_and_a_joint_density_of_the_same_data_are_refused():
    args = torch.randn(5), torch.randn(5)
    given, joint = (
        evidence(lambda x, y, both=both: normal_given(x, y, both), standard, args, 50, method="iw", progress=False)
        for both in (False, True)
    )
    assert (given.scored, joint.scored) == ("argument 0 by density", "argument 0 by density, argument 1 by density")
    with pytest.raises(
        ValueError, match=r"Expected the same quantity .* a has argument 0 by density, b has argument 0"
    ):
        compare({"a": given, "b": joint})


def _scored_by(likelihood, x):
    model = VAE(priors.StandardNormal(2), likelihood, mlp((3,)))
    return evidence(model, None, x, 50, method="iw", progress=False)


def test_a_mass_and_a_density_are_refused_and_two_masses_compare():
    x = torch.tensor([[0.0, 1.0], [2.0, 3.0], [1.0, 1.0]])
    counts, binomial = _scored_by(likelihoods.Poisson(2), x), _scored_by(likelihoods.Binomial(2, total_count=5), x)
    assert len(compare({"a": counts, "b": binomial})) == 2
    with pytest.raises(ValueError, match="a has argument 0 by mass, b has argument 0 by density"):
        compare({"a": counts, "b": _scored_by(likelihoods.Normal(2), x)})


def test_arithmetic_that_differs_is_refused():
    x = torch.rand(4, 2)
    model = VAE(priors.StandardNormal(2), likelihoods.Normal(2), mlp((3,)))
    full, coarse = (
        evidence(model, None, x, 50, method="iw", precision=precision, progress=False) for precision in (None, "bf16")
    )
    with pytest.raises(ValueError, match=r"Expected the same precision .* a has full, b has bf16"):
        compare({"a": full, "b": coarse})


def test_single_and_double_copies_of_data_compare_and_other_data_do_not():
    x = torch.rand(6, 2, dtype=torch.float64)
    model = VAE(priors.StandardNormal(2), likelihoods.Normal(2), mlp((3,)))
    single = evidence(model, None, x.float(), 50, method="iw", progress=False)
    double = evidence(model.double(), None, x, 50, method="iw", progress=False)
    assert len(compare({"a": single, "b": double})) == 2
    other = evidence(model, None, x + 1e-3, 50, method="iw", progress=False)
    with pytest.raises(ValueError, match="Expected the same data"):
        compare({"a": single, "b": other})


def test_missing_entries_and_columns_of_different_kinds_are_observed_as_they_are():
    x = torch.tensor([[0.3, math.nan], [0.1, 1.0]])
    holed = VAE(priors.StandardNormal(2), likelihoods.Normal(2), mlp((3,)), missing=True)
    assert what_is_scored(holed, (x,)) == "argument 0 by density"
    columns = {"a": likelihoods.Normal(1), "b": likelihoods.Bernoulli(1)}
    mixed = VAE(priors.StandardNormal(2), likelihoods.Mixed(columns), mlp((3,)), missing=True)
    assert what_is_scored(mixed, (x,)) == "argument 0 by density and mass"

    def halves(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("a", dist.Normal(z, 1.0), obs=x[:, 0] + 1)

    assert what_is_scored(halves, (x,)) == ""
