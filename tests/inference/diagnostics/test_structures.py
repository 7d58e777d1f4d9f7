"""Diagnostics of masked, nested, discrete and several latent sites: right, or refused by the site's name."""

from __future__ import annotations

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import Coin, nested_guide, nested_model, normal_model
from pyro import poutine
from torch.distributions import kl_divergence

from pyro_vae.inference import diagnostics
from pyro_vae.inference.diagnostics import (
    active_units,
    elbo_surgery,
    expected_coverage,
    kl_per_dimension,
    pit,
    predictive_check,
    rate_distortion,
    sbc,
)

quiet = {"progress": False, "device": "cpu"}
OF_DATA = {"units": active_units, "kl": kl_per_dimension, "rate": rate_distortion, "surgery": elbo_surgery}
SIMULATED = {"sbc": partial(sbc, num_data=200), "coverage": partial(expected_coverage, num_data=200)}


def masked(how, scale=0.5**0.5):
    """z ~ N(0, 1), x | z ~ N(z, 1) where z exists, else N(0, 1); by its posterior, widened or narrowed by ``scale``."""

    def site(fn, exists, masks):
        if masks and how == "of the distribution":
            return pyro.sample("z", fn.mask(exists))
        with poutine.mask(mask=exists if masks else True):
            return pyro.sample("z", fn)

    def model(x, exists):
        with pyro.plate("data", len(x)):
            z = site(dist.Normal(torch.zeros_like(x), 1.0), exists, True)
            pyro.sample("x", dist.Normal(torch.where(exists, z, 0.0), 1.0), obs=x)

    def guide(x, exists):
        with pyro.plate("data", len(x)):
            site(dist.Normal(x / 2, scale), exists, how != "of the model alone")

    return model, guide


MASKS = ("of both", "of the model alone", "of the distribution")
DATA = torch.randn(60, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), torch.arange(60) % 3 > 0


@pytest.mark.parametrize("how", MASKS)
def test_kl_and_rate_leave_masked_latents_out(how):
    x, exists = DATA
    closed = kl_divergence(dist.Normal(x / 2, 0.6), dist.Normal(0.0, 1.0)) * exists
    kl = kl_per_dimension(*masked(how, 0.6), DATA, num_particles=400, **quiet)
    assert kl.labels == ("z",)
    assert abs(kl.total - closed.mean()) < 5 * kl.mc_error.item() + 1e-9
    rate = rate_distortion(*masked(how, 0.6), DATA, num_particles=400, **quiet).rate
    assert (rate[~exists] == 0).all()
    torch.testing.assert_close(rate, closed, atol=0.25, rtol=0)


@pytest.mark.parametrize("how", MASKS)
def test_coverage_leaves_masked_latents_out(how):
    """600 data; an exact guide is rejected at most once in 1,000 times."""
    exact = expected_coverage(*masked(how), 600, x=DATA, alpha=0.001, **quiet)
    narrow = expected_coverage(*masked(how, 0.35), 600, x=DATA, alpha=0.001, **quiet)
    assert (exact.verdict, narrow.verdict) == ("calibrated", "overconfident")


@pytest.mark.parametrize("how", MASKS)
def test_checks_of_the_model_draw_masked_latents_like_the_others(how):
    """Of data from the model and of data twice as wide: alpha = 0.001, and p-values of a spread between 200 draws."""
    torch.manual_seed(3)
    exists = torch.arange(600) % 3 > 0
    x = torch.randn(600, dtype=torch.float64) * torch.where(exists, 2.0, 1.0).sqrt()
    spread = {"with": lambda data: data[0][data[1]].std(), "without": lambda data: data[0][~data[1]].std()}
    for factor, right in ((1.0, True), (2.0, False)):
        data = (factor * x, exists)
        assert pit(masked(how)[0], data, alpha=0.001, **quiet).accepted == right
        check = predictive_check(masked(how)[0], None, data, spread, kind="prior", num_draws=100, **quiet)
        assert all((p > 0.025) == right for p in check.two_sided.values())


@pytest.mark.parametrize("how", MASKS)
@pytest.mark.parametrize("name", ["units", "surgery", "sbc"])
def test_what_has_no_meaning_for_a_masked_latent_is_refused_by_its_name(name, how):
    run = {"units": active_units, "surgery": elbo_surgery, "sbc": partial(sbc, num_data=30)}[name]
    keys = {"x": DATA} if name == "sbc" else {}
    with pytest.raises(ValueError, match=r"Expected no mask at latent site 'z'.*Leave out the data"):
        run(*masked(how), *([] if keys else [DATA]), **keys, **quiet)
    x, exists = DATA
    whole = x[exists], exists[exists]
    assert "\n" not in str(run(*masked(how), *([] if keys else [whole]), **({"x": whole} if keys else {}), **quiet))


def flat_model(x):
    """``nested_model`` with its plate of groups as an event."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(3, 2, dtype=x.dtype), 1.0).to_event(2))
        pyro.sample("x", dist.Normal(z.sum((-2, -1))[..., None], 1.0).to_event(1), obs=x)


def flat_guide(x):
    with pyro.plate("data", len(x)):
        loc = x[..., None] * torch.tensor([0.3, -0.2], dtype=x.dtype)
        pyro.sample("z", dist.Normal(loc.expand(len(x), 3, 2), 0.7).to_event(2))


@pytest.mark.parametrize("name", [*OF_DATA, *SIMULATED])
def test_a_plate_inside_the_data_plate_is_as_an_event(name):
    x = torch.randn(30, 1, dtype=torch.float64)
    call = (
        (lambda *pair: OF_DATA[name](*pair, x, **quiet))
        if name in OF_DATA
        else (lambda *pair: SIMULATED[name](*pair, x=x, **quiet))
    )
    nested, flat = call(nested_model, nested_guide), call(flat_model, flat_guide)
    assert str(nested) == str(flat)
    if name == "units":
        expected = torch.tensor([0.09, 0.04], dtype=torch.float64).repeat(3) * x.var()
        torch.testing.assert_close(nested.variance, expected)
        assert nested.labels[:3] == ("z[0, 0]", "z[0, 1]", "z[1, 0]")


def test_surgery_of_a_discrete_latent_is_the_sum_over_its_values():
    """Two comparisons at 5 standard errors."""
    coin, x = Coin(), torch.linspace(-3, 3, 25, dtype=torch.float64)
    with torch.no_grad():
        each, prior = dist.Bernoulli(logits=coin.a * x + coin.b), dist.Bernoulli(logits=coin.logit)
        together = dist.Bernoulli(each.probs.mean())
        information, marginal = kl_divergence(each, together).mean(), kl_divergence(together, prior)
        kl = kl_divergence(each, prior).mean()
        units = each.probs.var()
    found = elbo_surgery(coin.model, coin.guide, x, num_particles=400, **quiet)
    assert abs(found.mutual_information - information) < 5 * found.mutual_information_error < 0.1
    assert abs(found.marginal_kl - marginal) < 5 * found.marginal_kl_error < 0.1
    assert kl_per_dimension(coin.model, coin.guide, x, **quiet).total == pytest.approx(kl.item())
    torch.testing.assert_close(active_units(coin.model, coin.guide, x, **quiet).variance, units[None])


class CoinAndNormal(Coin):
    """A coin z, and a normal c that the guide draws given z: x | z, c ~ N(mu_z + c, 1)."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(logits=self.logit))
            c = pyro.sample("c", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("x", dist.Normal(torch.where(z > 0, self.high, self.low) + c, 1.0), obs=x)

    def posterior(self, x):
        with torch.no_grad():
            means, logits = torch.stack([self.low, self.high]), torch.stack([self.logit * 0, self.logit])
            return (logits + dist.Normal(means, 2**0.5).log_prob(x[..., None])).softmax(-1)[..., 1]

    def guide(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(self.posterior(x)))
            pyro.sample("c", dist.Normal((x - torch.where(z > 0, self.high, self.low)) / 2, 0.5**0.5))


def test_a_discrete_and_a_continuous_site_together():
    """Each exact guide is rejected at most once in 1,000 times; the surgery's parts sum to the rate, 5 errors apart."""
    program, x = CoinAndNormal(), torch.randn(40, dtype=torch.float64)
    for check in (sbc, expected_coverage):
        assert check(program.model, program.guide, 400, x=x, alpha=0.001, **quiet).accepted
    found = elbo_surgery(program.model, program.guide, x, num_particles=200, **quiet)
    rate = rate_distortion(program.model, program.guide, x, num_particles=2000, **quiet).mean[0]
    error = (found.mutual_information_error**2 + found.marginal_kl_error**2) ** 0.5
    assert abs(found.kl - rate) < 5 * error + 0.01


@pytest.mark.parametrize(
    "diagnostic", [diagnostics.kl_per_dimension, diagnostics.rate_distortion, diagnostics.elbo_surgery]
)
def test_a_point_mass_has_no_kl(diagnostic):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(x / 2))

    with pytest.raises(ValueError, match="Guide site 'z' is a point mass, which has no density, so that its KL is"):
        diagnostic(normal_model, guide, torch.randn(5), progress=False, device="cpu")
