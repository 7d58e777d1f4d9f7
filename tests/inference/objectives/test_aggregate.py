"""Objectives of the aggregated posterior: their parts by the papers' formulas."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import TwoLayers, X, double_pair, nested_guide, nested_model

from pyro_vae.inference.objectives import ELBO, RWS, BetaTCVAE, FreeBits, InfoVAE
from pyro_vae.inference.objectives.aggregate import mmd


def test_beta_tcvae_parts_sum_to_the_kl_sample_and_unit_weights_give_the_elbo():
    model, guide, x = double_pair()
    objective = BetaTCVAE(num_data=500, beta=1.0)
    torch.manual_seed(1)
    parts = objective.decomposition(model, guide, x)
    torch.manual_seed(1)
    terms = ELBO().weight_terms(model, guide, (x,))
    total = parts.mutual_information + parts.total_correlation + parts.dimension_wise
    torch.testing.assert_close(total, terms.guide["z"][0] - terms.prior["z"][0])
    torch.manual_seed(1)
    torch.testing.assert_close(objective.value(model, guide, (x,)), terms.log_w[0])
    torch.manual_seed(1)
    weighted = BetaTCVAE(num_data=500, beta=4.0).value(model, guide, (x,))
    torch.testing.assert_close(weighted, terms.log_w[0] - 3 * parts.total_correlation)


def test_minibatch_weighted_sampling_is_the_papers_formula():
    model, guide, x = double_pair(latent=2)
    objective = BetaTCVAE(num_data=50)
    torch.manual_seed(1)
    parts = objective.decomposition(model, guide, x)
    torch.manual_seed(1)
    terms = ELBO().weight_terms(model, guide, (x,))
    z, q = terms.guide_sites["z"]["value"], guide.posterior(x).base_dist
    for i in range(3):
        each = torch.stack([dist.Normal(q.loc[j], q.scale[j]).log_prob(z[i]) for j in range(20)])  # (B, D)
        log_q = each.sum(1).exp().sum().log() - math.log(20 * 50)
        log_product = (each.exp().sum(0).log() - math.log(20 * 50)).sum()
        torch.testing.assert_close(parts.mutual_information[i], terms.log_q[0, i] - log_q)
        torch.testing.assert_close(parts.total_correlation[i], log_q - log_product)


def test_mmd_is_unbiased_for_its_closed_form():
    # N(m, I) against N(0, I) in D = 3: E exp(-|a - b|^2 / 2D) is normal in closed form. 400 estimates, 5 s.e.
    dim, shift = 3, 0.8
    estimates = torch.stack(
        [mmd(torch.randn(50, dim).double() + shift, torch.randn(50, dim).double()) for _ in range(400)]
    )
    constant = (1 + 2 / dim) ** (-dim / 2)
    exact = 2 * constant * (1 - math.exp(-(dim * shift**2) / (2 * (dim + 2))))
    assert estimates.mean().item() == pytest.approx(exact, abs=5 * estimates.std().item() / 20)
    with pytest.raises(ValueError, match="at least 2 data"):
        mmd(torch.zeros(1, 2), torch.zeros(1, 2))


def test_infovae_is_the_elbo_less_the_divergence():
    model, guide, x = double_pair()
    torch.manual_seed(1)
    plain = ELBO().value(model, guide, (x,))
    torch.manual_seed(1)
    torch.testing.assert_close(InfoVAE(alpha=0.0, scale=1.0).value(model, guide, (x,)), plain)
    torch.manual_seed(1)
    penalised = InfoVAE(alpha=0.0, scale=6.0).value(model, guide, (x,))
    gap = plain - penalised
    torch.testing.assert_close(gap, gap[:1].expand(20))
    torch.manual_seed(1)
    terms = ELBO().weight_terms(model, guide, (x,))
    torch.testing.assert_close(
        gap[0], 5 * mmd(terms.guide_sites["z"]["value"], torch.randn(20, 3, dtype=torch.float64))
    )


def test_penalties_refuse_latents_that_they_would_get_wrong():
    x = torch.randn(3, 1, dtype=torch.float64)
    for objective in (BetaTCVAE(10), InfoVAE()):
        with pytest.raises(ValueError, match=r"event shape \(D,\) in the data plate alone"):
            objective.loss(nested_model, nested_guide, x)

    def flow_guide(x):
        base = dist.Normal(torch.zeros(3, dtype=x.dtype), 1.0).expand([len(x), 3]).to_event(1)
        flow = dist.transforms.AffineTransform(torch.ones(3, dtype=x.dtype), 2.0, event_dim=1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.TransformedDistribution(base, [flow]))

    model, _, x = double_pair()
    for objective in (FreeBits(), BetaTCVAE(10)):
        with pytest.raises(ValueError, match="the guide at latent site 'z' to factorise"):
            objective.loss(model, flow_guide, x)


def test_two_latent_sites_are_refused_where_one_is_meant():
    program = TwoLayers()
    for objective in (BetaTCVAE(10), InfoVAE()):
        with pytest.raises(ValueError, match="Expected one latent site; got"):
            objective.loss(program.model, program.guide, X)
    with pytest.raises(ValueError, match=r"Cannot simulate: the sites \['x', 'y'\] observe one argument twice"):
        RWS(3, phi="sleep").differentiable_loss(_two_observed, _one_guide, X)


def _two_observed(x):
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        pyro.sample("y", dist.Normal(z, 1.0), obs=x)


def _one_guide(x):
    with pyro.plate("data", x.shape[0]):
        pyro.sample("z", dist.Normal(x / 2, 1.0))


@pytest.mark.parametrize("objective", [BetaTCVAE(60), InfoVAE()])
@pytest.mark.parametrize("within", [True, False])
def test_masked_latents_have_no_aggregate(objective, within):
    exists = torch.tensor([True, False, True])

    def site(fn):
        with pyro.poutine.mask(mask=True if within else exists):
            return pyro.sample("z", (fn.mask(exists[:, None]) if within else fn).to_event(1))

    def model(x):
        with pyro.plate("data", len(x)):
            z = site(dist.Normal(torch.zeros(3, 2), 1.0))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            site(dist.Normal(x[:, None].expand(3, 2), 1.0))

    with pytest.raises(ValueError, match="Expected no mask at latent site 'z': the aggregated posterior"):
        objective.loss(model, guide, torch.randn(3))
