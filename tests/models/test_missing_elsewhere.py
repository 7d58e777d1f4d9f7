"""Missing entries in the models beside VAE: hierarchies, and models that are given y."""

from __future__ import annotations

import math

import pytest
import torch
from setups import quick
from torch import nn
from torch.distributions import MultivariateNormal

from pyro_vae.inference import AmortizedGuide, evidence, guides, impute, log_weights
from pyro_vae.models import ConditionalVAE, HierarchicalVAE, SemiSupervisedVAE, likelihoods, mlp, priors

NAN = math.nan
NORMAL = guides.DiagonalNormal(2)


def _holed(x, seed=0):
    return x.masked_fill(torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < 0.4, NAN)


def _log_px_observed(law, x):
    def one(loc, covariance, row):
        seen = ~row.isnan()
        return MultivariateNormal(loc[seen], covariance[seen][:, seen]).log_prob(row[seen])

    laws = law.expand((len(x),))
    return torch.stack([one(*each) for each in zip(laws.loc, laws.covariance_matrix, x, strict=True)]).detach()


def _within_errors(ev, exact):
    return ((ev.log_px - exact).abs() < 5 * ev.std_error + 1e-6).all()


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
    assert _within_errors(evidence(model, guide, x, 10_000, progress=False), _log_px_observed(law, x))
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
    assert _within_errors(evidence(model, guide, (x, y), 10_000, progress=False), _log_px_observed(law, x))


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
    assert evidence(model, guide, (x, y), 50, progress=False).log_px.isfinite().all()


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
