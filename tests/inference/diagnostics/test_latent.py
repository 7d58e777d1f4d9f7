"""Active units and KL by dimension, and what holds for all diagnostics of the latents."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import assorted_programs, chain_guide, chain_model, counting_programs, make_pair, normal_model
from torch.distributions import kl_divergence
from truth import BernoulliMixture, Diagonal, GammaPoisson, LinearGaussian

from pyro_vae.inference.diagnostics import active_units, elbo_surgery, kl_per_dimension, rate_distortion

ALL = {"active": active_units, "kl": kl_per_dimension, "rate": rate_distortion, "surgery": elbo_surgery}
quiet = {"progress": False, "device": "cpu"}


def test_active_units_are_those_that_are_used():
    truth = Diagonal()
    x = truth.sample(500)
    units = active_units(truth.model, truth.diagonal_guide, x, **quiet)
    torch.testing.assert_close(units.variance, truth.posterior(x).loc.var(0))
    assert units.active.tolist() == [True, True, False]
    assert str(units) == "2 of 3 units active (Var E[z|x] > 0.01); unused: z[2]"
    # Var(E[z|x]) = 1 - Var(z|x); 5 standard errors.
    expected = 1 - truth.posterior(x[:1]).variance[0]
    assert ((units.variance - expected).abs() <= 5 * units.std_error).all()
    # (kurtosis - 1) / N for a normal
    torch.testing.assert_close(units.std_error, units.variance * (2 / 500) ** 0.5, rtol=0.2, atol=1e-12)


def test_active_units_take_off_the_noise_of_few_particles():
    # With K = 2 the mean of z2's conditional mean has variance 1/4 * 2/3 / 2 from the draws of z1 alone.
    x = torch.randn(20_000, dtype=torch.float64)
    units = active_units(chain_model, chain_guide, x, num_particles=2, **quiet)
    expected = torch.tensor([1 / 9, 4 / 9], dtype=torch.float64) * x.var()
    assert units.labels == ("z1", "z2")
    assert ((units.variance - expected).abs() < 5 * units.std_error).all()

    def unused(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("z2", dist.Normal(z1, 1.0))

    assert active_units(chain_model, unused, x, num_particles=2, **quiet).count == 0


def test_a_categorical_site_is_one_unit():
    mixture = BernoulliMixture()
    x = (torch.rand(200, 4) < 0.5).double()
    assert active_units(mixture, mixture.guide, x, **quiet).count == 0

    def guide(x):
        with pyro.plate("data", len(x)):
            q = dist.Categorical(probs=torch.stack([0.4 * x[:, 0], 1 - 0.4 * x[:, 0], 0 * x[:, 0]], -1))
            pyro.sample("z", q)

    units = active_units(mixture, guide, x, **quiet)
    torch.testing.assert_close(units.variance, 2 * 0.16 * x[:, 0].var()[None])
    assert units.labels == ("z",)


def test_kl_of_each_dimension_in_closed_form():
    truth = Diagonal()
    x = truth.sample(100)
    q = truth.posterior(x)
    expected = 0.5 * (q.variance + q.loc.square() - 1 - q.variance.log())
    kl = kl_per_dimension(truth.model, truth.diagonal_guide, x, **quiet)
    torch.testing.assert_close(kl.kl, expected.mean(0))
    torch.testing.assert_close(kl.std_error, expected.std(0) / 10)
    assert (kl.mc_error < 1e-12).all()
    assert kl.labels == ("z[0]", "z[1]", "z[2]")
    assert kl.whole == ()
    assert kl.collapsed == ("z[2]",)
    assert str(kl).endswith("nats, 1 of 3 collapsed (z[2])")
    assert kl.warning == "Posterior collapse: q(z|x) is the prior in 1 of 3 latent dimensions (z[2])."


def test_kl_of_a_guide_that_does_not_factorise_is_of_the_site():
    truth = LinearGaussian.random(3, 4)
    x = truth.sample(200)
    prior = dist.MultivariateNormal(torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64))
    expected = kl_divergence(truth.posterior(x), prior)
    kl = kl_per_dimension(truth.model, truth.exact_guide, x, **quiet)
    assert kl.labels == kl.whole == ("z",)
    assert abs(kl.total - expected.mean().item()) < 5 * kl.mc_error.item() < 0.3
    assert kl.warning == ""
    assert "not by dimension: z" in str(kl)


def test_kl_without_a_closed_form_is_a_mean_over_particles():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Laplace(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.StudentT(5.0, x, 1.0).to_event(1))

    x = torch.tensor([[0.0, 3.0]] * 50, dtype=torch.float64)
    grid = torch.linspace(-300, 300, 600_001, dtype=torch.float64)
    q = dist.StudentT(5.0, x[0][:, None], 1.0).log_prob(grid)
    expected = torch.trapezoid(q.exp() * (q - dist.Laplace(0.0, 1.0).log_prob(grid)), grid)
    kl = kl_per_dimension(model, guide, x, num_particles=200, **quiet)
    assert ((kl.kl - expected).abs() < 5 * kl.mc_error).all()
    assert (kl.mc_error < 0.05).all()
    # The data are all the same: their spread is Monte Carlo's alone.
    torch.testing.assert_close(kl.std_error, kl.mc_error, rtol=0.4, atol=0)


def test_kl_of_several_sites_and_inner_plates():
    x = torch.randn(400, dtype=torch.float64)
    expected = [
        0.5 * (2 / 3 + x.square() / 9 - 1 - math.log(2 / 3)).mean(),
        0.5 * (0.5 + ((2 * x / 3) ** 2 + 2 / 3) / 4 - 1 - math.log(0.5)).mean(),
    ]
    kl = kl_per_dimension(chain_model, chain_guide, x, **quiet)
    assert kl.labels == ("z1", "z2")
    assert kl.kl[0].item() == pytest.approx(expected[0].item())
    assert abs(kl.kl[1] - expected[1]) < 5 * kl.mc_error[1] < 0.1
    gamma = GammaPoisson()
    counts = torch.poisson(torch.full((30, 3), 4.0, dtype=torch.float64))
    prior = dist.Gamma(torch.tensor(gamma.shape, dtype=torch.float64), gamma.rate)
    exact = kl_divergence(dist.Gamma(gamma.shape + counts.sum(1), gamma.rate + 3), prior).mean()
    assert kl_per_dimension(gamma.model, gamma.exact_guide, counts, **quiet).total == pytest.approx(exact.item())


def test_auxiliary_sites_make_one_group_and_have_no_surgery():
    def guide(x):
        with pyro.plate("data", len(x)):
            u = pyro.sample("u", dist.Normal(torch.zeros_like(x), 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(2 * u, log_density=-math.log(2.0)))

    x = torch.randn(300, dtype=torch.float64)
    kl = kl_per_dimension(normal_model, guide, x, **quiet)
    assert kl.whole == ("z",)
    exact = kl_divergence(dist.Normal(0.0, 2.0), dist.Normal(0.0, 1.0)).item()
    assert abs(kl.total - exact) < 5 * kl.mc_error.item() < 0.3
    with pytest.raises(ValueError, match="latent sites alone"):
        elbo_surgery(normal_model, guide, x, **quiet)


@pytest.mark.parametrize("name", ALL)
def test_any_pair_of_programs(name):
    for programs in assorted_programs():
        assert "\n" not in str(ALL[name](*programs, **quiet))


@pytest.mark.parametrize("num_particles", [16, 300])
@pytest.mark.parametrize("name", ALL)
def test_no_more_pairs_than_the_chunk_size_exist_at_once(name, num_particles):
    model, guide, sizes = counting_programs()
    ALL[name](model, guide, torch.randn(12), num_particles=num_particles, chunk_size=40, **quiet)
    assert max(sizes) <= 40


@pytest.mark.parametrize("name", ALL)
def test_random_state_and_training_mode_are_left_as_they_were(name):
    model, guide = make_pair()
    x = model.sample(5)
    model.train()
    guide.eval()
    modes = set()
    model.register_forward_pre_hook(lambda *_: modes.add(model.training))
    before = torch.get_rng_state()
    runs = [str(ALL[name](model, guide, x, seed=seed, **quiet)) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert (model.training, guide.training) == (True, False)
    assert modes == {False}
    assert runs[0] == runs[1]


@pytest.mark.filterwarnings("ignore:The programs do not run with all particles at once")
def test_programs_that_run_one_particle_at_a_time():
    truth = Diagonal()
    x = truth.sample(40)

    def guide(x):
        q = truth.posterior(x)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(q.loc, q.variance.sqrt()).to_event(1))
            assert z.ndim == 2

    one_by_one = {name: check(truth.model, guide, x, num_particles=20, **quiet) for name, check in ALL.items()}
    at_once = {
        name: check(truth.model, truth.diagonal_guide, x, num_particles=20, **quiet) for name, check in ALL.items()
    }
    torch.testing.assert_close(one_by_one["active"].variance, at_once["active"].variance)
    torch.testing.assert_close(one_by_one["kl"].kl, at_once["kl"].kl)
    torch.testing.assert_close(one_by_one["rate"].rate, at_once["rate"].rate)
    torch.testing.assert_close(
        one_by_one["rate"].distortion.mean(), at_once["rate"].distortion.mean(), atol=0.3, rtol=0
    )
    assert one_by_one["surgery"].kl == pytest.approx(at_once["surgery"].kl, abs=0.3)


@pytest.mark.parametrize("name", ALL)
def test_refusals(name):
    truth = LinearGaussian.random(1, 2)
    least = 1 if name == "rate" else 2
    with pytest.raises(ValueError, match=f"Expected num_particles to be an integer >= {least}; got {least - 1}"):
        ALL[name](truth.model, truth.exact_guide, truth.sample(3), num_particles=least - 1, **quiet)
    with pytest.raises(ValueError, match="without NaN"):
        ALL[name](truth.model, truth.exact_guide, truth.sample(3) * math.nan, **quiet)
    with pytest.raises(ValueError, match="Expected the data inside a vectorised plate"):
        ALL[name](lambda x: None, lambda x: None, truth.sample(3), **quiet)


def test_one_datum_has_no_active_units():
    truth = LinearGaussian.random(1, 2)
    with pytest.raises(ValueError, match="Expected the number of data to be an integer >= 2; got 1"):
        active_units(truth.model, truth.exact_guide, truth.sample(1), **quiet)
