"""Missing entries: left out of the likelihood, seen by the encoder as such, and imputed from the posterior."""

from __future__ import annotations

import math

import pytest
import torch
from programs import quick
from torch import nn
from torch.distributions import MultivariateNormal

from pyro_vae.inference import AmortizedGuide, evidence, guides, impute, log_weights
from pyro_vae.inference.programs.simulate import example_data, simulate
from pyro_vae.models import VAE, ConditionalVAE, HierarchicalVAE, SemiSupervisedVAE, likelihoods, mlp, priors

NAN = math.nan
NORMAL = guides.DiagonalNormal(2)


def _linear(missing=True):
    """A linear-Gaussian VAE: p(x_obs) is a marginal of one normal law."""
    torch.manual_seed(0)
    decoder = nn.Linear(2, 4).double()
    model = VAE(priors.StandardNormal(2), likelihoods.Normal(4, scale=0.5), decoder, missing=missing).double()
    guide = AmortizedGuide(4, guides.DiagonalNormal(2), mlp((16,)), missing=missing).double()
    covariance = decoder.weight @ decoder.weight.T + 0.25 * torch.eye(4, dtype=torch.float64)
    return model, guide, MultivariateNormal(decoder.bias, covariance)


def _holed(x, seed=0):
    holes = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < 0.4
    return x.masked_fill(holes, NAN)


def _log_px_observed(law, x):
    def one(loc, covariance, row):
        seen = ~row.isnan()
        if not seen.any():
            return torch.zeros((), dtype=row.dtype)
        return MultivariateNormal(loc[seen], covariance[seen][:, seen]).log_prob(row[seen])

    laws = law.expand((len(x),))
    return torch.stack([one(*each) for each in zip(laws.loc, laws.covariance_matrix, x, strict=True)]).detach()


def _within_errors(ev, exact):
    return ((ev.log_px - exact).abs() < 5 * ev.std_error + 1e-6).all()


def test_evidence_is_that_of_the_observed_entries():
    # 12 data at K = 40,000, each within 5 standard errors.
    model, guide, law = _linear()
    x = _holed(law.sample((12,)).detach())
    x[0] = NAN  # nothing observed: log p of nothing is 0
    ev = evidence(model, guide, x, 40_000, method="iw", progress=False)
    assert _within_errors(ev, _log_px_observed(law, x))
    assert abs(ev.log_px[0]) < 5 * ev.std_error[0] + 1e-6


def test_complete_data_are_scored_as_without_the_option():
    model, guide, law = _linear()
    plain = VAE(priors.StandardNormal(2), model.likelihood, model.decoder).double()
    x = law.sample((5,)).detach()
    weights = []
    for program in (model, plain):
        torch.manual_seed(3)
        weights.append(log_weights(program, guide, x, 4))
    torch.testing.assert_close(*weights)


def test_imputations_follow_the_exact_conditional():
    # 4,000 draws of 2 missing entries given 2: means and standard deviations within 5 standard errors.
    model, guide, law = _linear()
    x = law.sample((3,)).detach()
    holed = x.clone()
    holed[:, 1:3] = NAN
    draws = impute(model, guide, holed, 4000, num_particles=20_000)
    assert draws.shape == (4000, 3, 4)
    assert torch.equal(draws[:, :, [0, 3]], x[:, [0, 3]].expand(4000, 3, 2))
    seen, gone = [0, 3], [1, 2]
    cross = law.covariance_matrix[gone][:, seen] @ law.covariance_matrix[seen][:, seen].inverse()
    mean = law.loc[gone] + (x[:, seen] - law.loc[seen]) @ cross.T
    sd = (law.covariance_matrix[gone][:, gone] - cross @ law.covariance_matrix[seen][:, gone]).diagonal().sqrt()
    drawn = draws[:, :, gone]
    assert ((drawn.mean(0) - mean).abs() < 5 * sd / 4000**0.5 + 0.05 * sd).all()
    assert ((drawn.std(0) / sd - 1).abs() < 5 / 8000**0.5 + 0.05).all()


def test_the_encoder_sees_zeros_and_the_mask():
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append(x)
            return torch.zeros(*x.shape[:-1], 4)

    guide = AmortizedGuide(3, guides.DiagonalNormal(2), Spy(), loc=1.0, scale=2.0, missing=True)
    guide.posterior(torch.tensor([[5.0, NAN, 1.0]]))
    assert seen[0].tolist() == [[2.0, 0.0, 0.0, 1.0, 0.0, 1.0]]
    widths = []
    AmortizedGuide((3, 5, 5), guides.DiagonalNormal(2), lambda s, w: widths.append(s) or nn.Identity(), missing=True)
    assert widths == [torch.Size((6, 5, 5))]


PARTS = {
    "Bernoulli": (lambda: likelihoods.Bernoulli((2, 2)), {0.0, 1.0}),
    "Binomial": (lambda: likelihoods.Binomial(4, total_count=3), {0.0, 1.0, 2.0, 3.0}),
    "Poisson": (lambda: likelihoods.Poisson(4), None),
    "LogNormal": (lambda: likelihoods.LogNormal(4), None),
    "Beta": (lambda: likelihoods.Beta(4), None),
}


@pytest.mark.parametrize("name", PARTS)
def test_any_likelihood_of_independent_entries(name):
    build, values = PARTS[name]
    torch.manual_seed(1)
    model = VAE(priors.StandardNormal(2), build(), mlp((8,)), missing=True)
    guide = AmortizedGuide(model.event_shape, guides.DiagonalNormal(2), mlp((8,)), missing=True)
    x = _holed(model.sample(60))
    history = quick(model, guide, x).history
    assert all(math.isfinite(row["loss"]) for row in history)
    assert all(p.grad.isfinite().all() for p in [*model.parameters(), *guide.parameters()])
    assert evidence(model, guide, x[:5], 50, method="iw", progress=False).log_px.isfinite().all()
    completed = impute(model, guide, x[:5], 7, num_particles=50)
    assert not completed.isnan().any()
    model.check_data(completed.flatten(0, 1))
    assert values is None or set(completed.unique().tolist()) <= values


def test_columns_of_different_types():
    table = likelihoods.Mixed({"age": likelihoods.Normal(1), "smoker": likelihoods.Bernoulli(1)})
    model = VAE(priors.StandardNormal(2), table, mlp((8,)), missing=True)
    guide = AmortizedGuide(2, guides.DiagonalNormal(2), mlp((8,)), missing=True)
    x = _holed(model.sample(60))
    quick(model, guide, x)
    completed = impute(model, guide, x, 5, num_particles=50)
    assert set(completed[..., 1].unique().tolist()) <= {0.0, 1.0}
    # The score of a datum without its second column is that of its first alone.
    h, z = torch.randn(3, table.num_features), torch.tensor([[1.5, 1.0], [0.5, 0.0], [2.0, 1.0]])
    observed = torch.tensor([True, False]).expand(3, 2)
    torch.testing.assert_close(table(h).masked(observed).log_prob(z), table(h).entry_log_prob(z)[:, 0])


def test_simulation_gives_complete_data():
    model, _, law = _linear()
    x = _holed(law.sample((6,)).detach())
    drawn = simulate(model, example_data(model, 9, x))
    assert drawn.args[0].shape == (9, 4)
    assert not drawn.args[0].isnan().any()


def test_what_is_not_made_for_missing_entries_says_so():
    model, guide, law = _linear()
    complete_model, complete_guide, _ = _linear(missing=False)
    x = _holed(law.sample((6,)).detach())
    with pytest.raises(ValueError, match=r"Expected x without NaN or infinities.*VAE\(\.\.\., missing=True\)"):
        evidence(complete_model, guide, x, 10)
    with pytest.raises(ValueError, match="Expected a guide with missing=True for x with NaN"):
        evidence(model, complete_guide, x, 10)
    with pytest.raises(ValueError, match="Expected x without NaN or infinities; got inf"):
        evidence(model, guide, x.masked_fill(x.isnan(), math.inf), 10)
    with pytest.raises(ValueError, match="Expected loc and scale without NaN"):
        AmortizedGuide(4, guides.DiagonalNormal(2), mlp(), loc=x.mean(0), missing=True)
    joint = VAE(priors.StandardNormal(2), likelihoods.Multinomial(4), mlp(), missing=True)
    with pytest.raises(ValueError, match="Expected a likelihood of independent entries with missing=True"):
        joint(torch.tensor([[1.0, NAN, 2.0, 0.0]]))


def _hierarchy():
    """z_2 ~ N(0, I), z_1 ~ N(A z_2 + a, S), x ~ N(B z_1 + b, 0.25 I), with S that does not depend on z_2."""
    above, below = nn.Linear(2, 4).double(), nn.Linear(2, 3).double()
    with torch.no_grad():
        above.weight[2:] = 0
    likelihood = likelihoods.Normal(3, scale=0.5)
    model = HierarchicalVAE((2, 2), likelihood, (below, above), missing=True).double()
    a, loc, b = above.weight[:2], above.bias, below.weight
    covariance = b @ (a @ a.T + torch.diag((2 * loc[2:]).exp())) @ b.T + 0.25 * torch.eye(3, dtype=torch.float64)
    return model, MultivariateNormal(b @ loc[:2] + below.bias, covariance)


@pytest.mark.parametrize("kind", ["bottom-up", "ladder"])
def test_a_hierarchy_scores_the_observed_entries(kind):
    torch.manual_seed(0)
    model, law = _hierarchy()
    if kind == "ladder":
        guide = guides.LadderGuide(3, model, (mlp((8,)), mlp((8,))), widths=(8, 8), missing=True).double()
    else:
        guide = guides.HierarchicalGuide(3, (NORMAL, NORMAL), (mlp((8,)), mlp((8,))), missing=True).double()
    x = _holed(law.sample((20,)).detach())
    x = x[~x.isnan().all(1)]
    assert _within_errors(evidence(model, guide, x, 10_000, method="iw", progress=False), _log_px_observed(law, x))
    assert not impute(model, guide, x, 3, num_particles=50).isnan().any()
    quick(model, guide, x, batch_size=10)
    assert all(p.isfinite().all() for p in [*model.parameters(), *guide.parameters()])


def test_a_conditional_model_scores_the_observed_entries():
    torch.manual_seed(0)
    decoder = nn.Linear(2 + 3, 4).double()
    likelihood = likelihoods.Normal(4, scale=0.5)
    model = ConditionalVAE(priors.StandardNormal(2), likelihood, decoder, num_classes=3, missing=True).double()
    guide = guides.ConditionalGuide(4, NORMAL, mlp((8,)), num_classes=3, missing=True).double()
    weight, shift = decoder.weight[:, :2], decoder.weight[:, 2:]
    y = torch.arange(9) % 3
    covariance = weight @ weight.T + 0.25 * torch.eye(4, dtype=torch.float64)
    law = MultivariateNormal(decoder.bias + shift.T[y], covariance)
    x = _holed(law.sample().detach(), seed=1)
    assert not x.isnan().all(1).any()
    assert _within_errors(evidence(model, guide, (x, y), 10_000, method="iw", progress=False), _log_px_observed(law, x))


def test_a_semi_supervised_model_leaves_out_what_is_missing():
    """A column that is never observed has no influence: the weights are those of the model without it."""
    torch.manual_seed(0)
    likelihood = likelihoods.Normal(3, scale=0.5)
    model = SemiSupervisedVAE(priors.StandardNormal(2), likelihood, mlp((8,)), num_classes=3, missing=True)
    guide = guides.SemiSupervisedGuide(3, NORMAL, mlp((8,)), mlp((8,)), num_classes=3, missing=True)
    x, y = model.sample(30), torch.arange(30) % 3 - 1
    x[:, 1] = NAN
    torch.manual_seed(1)
    log_w = log_weights(model, guide, (x, y), 5)
    with torch.no_grad():
        model.decoder.layers[-1].bias[1] += 7.0
    torch.manual_seed(1)
    torch.testing.assert_close(log_weights(model, guide, (x, y), 5), log_w)
    quick(model, guide, (x, y))
    assert evidence(model, guide, (x, y), 50, method="iw", progress=False).log_px.isfinite().all()


@pytest.mark.parametrize("kind", ["conditional", "semi-supervised", "bottom-up", "ladder"])
def test_guides_that_are_not_made_for_missing_entries_say_so(kind):
    y = torch.zeros(4, dtype=torch.long)
    part = likelihoods.Normal(3)
    if kind == "conditional":
        model = ConditionalVAE(priors.StandardNormal(2), part, num_classes=3, missing=True)
        guide = guides.ConditionalGuide(3, NORMAL, mlp((8,)), num_classes=3)
    elif kind == "semi-supervised":
        model = SemiSupervisedVAE(priors.StandardNormal(2), part, num_classes=3, missing=True)
        guide = guides.SemiSupervisedGuide(3, NORMAL, mlp((8,)), mlp((8,)), num_classes=3)
    else:
        model = HierarchicalVAE((2, 2), part, missing=True)
        ladder = kind == "ladder"
        networks = (mlp((8,)), mlp((8,)))
        guide = guides.LadderGuide(3, model, networks, widths=(8, 8)) if ladder else None
        guide = guide or guides.HierarchicalGuide(3, (NORMAL, NORMAL), networks)
    x = torch.full((4, 3), NAN)
    data = (x, y) if "conditional" in kind or "semi" in kind else x
    with pytest.raises(ValueError, match="Expected a guide with missing=True for x with NaN"):
        evidence(model, guide, data, 5)


def test_the_order_of_mask_and_covariates():
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append(x)
            return torch.zeros(*x.shape[:-1], 4)

    guide = guides.ConditionalGuide(2, NORMAL, Spy(), num_classes=2, missing=True, loc=1.0, scale=2.0)
    guide.posterior(torch.tensor([[5.0, NAN]]), torch.tensor([1]))
    assert seen[0].tolist() == [[2.0, 0.0, 1.0, 0.0, 0.0, 1.0]]
    assert AmortizedGuide(2, NORMAL, Spy(), missing=True).standardize.missing
