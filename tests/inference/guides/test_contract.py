"""The contract of every guide family: one line in the table of ``parts/guides.py`` gives a family every check."""

from __future__ import annotations

import pytest
import torch
from parts import contract
from parts.guides import CONTINUOUS, DISCRETE, FAMILIES, build, dim_in_the_plane, grid, pair
from programs import PIXELS, quick

from pyro_vae.inference import AmortizedGuide, evidence, guides, log_weights, objectives
from pyro_vae.models import mlp

DIM = 3


def bounded(z):
    """Test functions that tell location, spread and dependence apart, shape (..., 5)."""
    s = z.tanh()
    return torch.stack([s[..., 0], s[..., 1], s[..., 0] ** 2, s[..., 1] ** 2, s[..., 0] * s[..., 1]], -1)


def plane(name):
    """Return a kind, a family whose draws lie in a plane, and features of moderate size."""
    kind, family = FAMILIES[name]
    family = family(dim_in_the_plane(kind)).double()
    return kind, family, 0.5 * torch.randn(family.num_features, dtype=torch.float64)


def test_every_family_is_in_the_table():
    assert contract.shipped(guides, guides.GuideFamily) == {name.split(",")[0] for name in FAMILIES}


@pytest.mark.parametrize("leading", [(), (5,), (2, 5)])
@pytest.mark.parametrize("name", FAMILIES)
def test_shapes_for_any_leading_dimensions(name, leading):
    contract.check_shapes(build(name, DIM), leading, (DIM,))


@pytest.mark.parametrize("name", FAMILIES)
def test_particles_in_front_are_scored_as_if_alone(name):
    family = build(name, DIM).double()
    h = torch.randn(4, family.num_features, dtype=torch.float64)
    q = family(h).expand((5, 4))
    z = q.sample()
    alone = torch.stack([family(h).log_prob(particle) for particle in z])
    torch.testing.assert_close(q.log_prob(z), alone)
    assert (q.sample() != z).any() or name == "PointMass"


@pytest.mark.parametrize("name", CONTINUOUS)
def test_density_integrates_to_one_and_the_draws_have_it(name):
    # Quadrature; then 5 means of 20,000 draws within 5 standard errors of the integrals: 3e-6 to fail by chance.
    kind, family, h = plane(name)
    z, area = grid(kind)
    with torch.no_grad():
        q = family(h)
        mass = q.log_prob(z).exp() * area
        assert mass.sum().item() == pytest.approx(1, abs=2e-3)
        expected = (mass.unsqueeze(-1) * bounded(z)).sum(0)
        drawn = bounded(q.sample((20_000,)))
    score = (drawn.mean(0) - expected) / (drawn.std(0) / 20_000**0.5 + 1e-4)
    assert score.abs().max() < 5


@pytest.mark.parametrize("name", CONTINUOUS)
def test_reparameterised_gradient_is_that_of_the_expectation(name):
    # d/dh E_q[f(z)] by quadrature, against the mean of df(z(h, eps))/dh within 5 standard errors for each feature.
    kind, family, h = plane(name)
    z, area = grid(kind)
    weights = torch.tensor([1.0, -0.5, 0.7, 0.3, 2.0], dtype=torch.float64)
    leaf = h.clone().requires_grad_()
    exact = torch.autograd.grad((family(leaf).log_prob(z).exp() * area * (bounded(z) @ weights)).sum(), leaf)[0]
    many = h.expand(20_000, -1).clone().requires_grad_()
    each = torch.autograd.grad((bounded(family(many).rsample()) @ weights).sum(), many)[0]
    rough = 1e-3 if "Flow" in name else 1e-4  # the quadrature's error: splines and rectifiers have kinks
    score = (each.mean(0) - exact) / (each.std(0) / 20_000**0.5 + rough)
    assert score.abs().max() < 5
    assert exact.abs().max() > 0.01 or "Flow" in name


@pytest.mark.parametrize("name", DISCRETE)
def test_probabilities_sum_to_one_and_the_draws_have_them(name):
    q = contract.call(build(name, DIM).double())
    values = q.enumerate_support()
    contract.check_sums_to_one(q, values)
    contract.check_counts(q, values)
    assert len(values.unique(dim=0)) == {"Bernoulli": 8, "Categorical": 3}[name]


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "PointMass"])
def test_gradient_reaches_every_parameter_and_feature(name):
    contract.check_gradients(build(name, DIM))


@pytest.mark.parametrize("name", FAMILIES)
def test_state_dict_round_trip_and_device(name, device):
    contract.check_round_trip(lambda: build(name, DIM), device)


@pytest.mark.parametrize("name", FAMILIES)
def test_wild_features_give_finite_scores_in_float32(name):
    family = build(name, 8)
    h = (3 * torch.randn(500, family.num_features)).requires_grad_()
    q = family(h)
    z = q.rsample() if q.has_rsample else q.sample()
    log_q = q.log_prob(z)
    assert log_q.isfinite().all()
    if log_q.requires_grad:
        assert torch.autograd.grad(log_q.sum(), h)[0].isfinite().all()


@pytest.mark.parametrize("name", FAMILIES)
def test_trains_and_scores_with_a_prior_of_its_kind(name):
    model, guide = pair(name)
    kind = FAMILIES[name][0]
    gradient = "vimco" if name in DISCRETE else "pathwise"
    result = quick(model, guide, PIXELS, objective=objectives.IWAE(3, gradient=gradient))
    assert result.history[-1]["loss"] < 20
    assert log_weights(model, guide, PIXELS, 4).shape == (4, 60)
    if kind == "point":
        with pytest.raises(ValueError, match="point mass, which has no density"):
            evidence(model, guide, PIXELS, 30, method="iw", progress=False, device="cpu")
        return
    ev = evidence(model, guide, PIXELS, 30, method="iw", progress=False, device="cpu")
    assert ev.log_px.shape == (60,)
    assert (ev.log_px < 0).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: guides.DiagonalNormal(2.0), r"Expected dim to be an integer >= 1; got 2\.0"),
        (lambda: guides.FullRankNormal(0), "Expected dim to be an integer >= 1; got 0"),
        (lambda: guides.LowRankNormal(2, 0), "Expected rank to be an integer >= 1; got 0"),
        (lambda: guides.LowRankNormal(2, 3), r"Expected rank <= dim=2; got 3\. FullRankNormal"),
        (lambda: guides.Mixture(2, 0), "Expected num_components to be an integer >= 1; got 0"),
        (lambda: guides.Flow(2, "iaff"), "Expected kind to be one of .*; got 'iaff'. Did you mean iaf"),
        (lambda: guides.Flow(2, num_context=0), "Expected num_context to be an integer >= 1; got 0"),
        (lambda: guides.StudentT(2, df=0.0), r"Expected df > 0; got 0\.0"),
        (lambda: guides.RelaxedBernoulli(2, 0.0), r"Expected temperature > 0; got 0\.0"),
        (lambda: guides.RelaxedCategorical(1), "Expected dim >= 2 for categories to choose from; got 1"),
        (lambda: guides.Categorical(1), "Expected dim >= 2 for categories to choose from; got 1"),
        (lambda: guides.LogisticNormal(1), "Expected dim >= 2 for shares; got 1"),
        (lambda: AmortizedGuide(4, guides.DiagonalNormal(2), mlp(), scale=0.0), "Expected scale > 0 for the encoder"),
    ],
)
def test_bad_settings_get_one_clear_line(build, message):
    with pytest.raises(ValueError, match=message):
        build()
