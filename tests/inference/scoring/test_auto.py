"""The default: the right number whatever the guide, unbiased, and by which estimator."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from parts.guides import family_for
from parts.priors import CONTINUOUS, disturbed
from programs import folded, log_px_folded, near_one_mode, once_differentiable
from truth import BernoulliMixture, GammaPoisson, LinearGaussian

from pyro_vae.inference import AmortizedGuide, Evidence, evidence, guides, methods
from pyro_vae.inference.scoring import auto
from pyro_vae.models import VAE, likelihoods, mlp, priors

QUIET = {"progress": False, "device": "cpu"}


def within(ev, exact, errors=4.0):
    return ((ev.log_px - exact).abs() < errors * ev.std_error + 1e-3).all()


@pytest.mark.parametrize(("widen", "shift", "expected"), [(1.0, 0.0, "guide"), (0.3, 3.0, "laplace")])
def test_the_cheapest_estimator_that_holds_is_taken(widen, shift, expected):
    truth = LinearGaussian.random(4, 6)
    x = truth.sample(12)
    ev = evidence(truth.model, truth.guide(widen, shift), x, 2000, **QUIET)
    assert within(ev, truth.log_px(x))
    assert list(np.unique(ev.method_of)) == [expected]
    assert ev.num_flagged == 0
    assert ev.by_method()["data"].to_dict() == {name: 12 * (name == expected) for name in auto.NAMES}


def test_a_narrow_guide_is_not_kept_for_the_plateau_of_the_prior_s_share():
    """Five in a hundred draws of the prior bound the weights, and k-hat of many draws sees the step up to them."""
    truth = LinearGaussian.random(1, 2)
    x = truth.sample(30)
    ev = evidence(truth.model, truth.guide(0.5), x, 5000, **QUIET)
    assert within(ev, truth.log_px(x))
    assert ev.num_flagged <= 1


def test_the_elbo_is_that_of_the_guide_without_the_prior_s_share():
    truth = LinearGaussian.random(4, 6)
    x = truth.sample(12)
    ev = evidence(truth.model, truth.guide(0.5, 1.0), x, 500, **QUIET)
    plain = evidence(truth.model, truth.guide(0.5, 1.0), x, 500, method="iw", **QUIET)
    torch.testing.assert_close(ev.elbo, truth.elbo(x, 0.5, 1.0), atol=0.5, rtol=0)
    assert abs(ev.curve[1][0] - plain.elbo.mean().item()) < 0.2
    assert max(ev.curve) == 500


@pytest.mark.parametrize("dim", [1, 20, 100])
def test_evidence_of_the_linear_gaussian_model_up_to_a_hundred_dimensions(dim):
    """Eight data, four standard errors each: a false alarm once in 2,000 runs."""
    truth = LinearGaussian.random(dim, dim + 2)
    x = truth.sample(8)
    ev = evidence(truth.model, truth.guide(0.2, 2.0), x, 2000, **QUIET)
    assert within(ev, truth.log_px(x))
    assert ev.std_error.max() < 0.15


def test_a_guide_at_one_of_two_modes_is_found_out():
    x = torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64)
    plain = evidence(folded, near_one_mode, x, 5000, method="iw", **QUIET)
    assert (log_px_folded(x) - plain.log_px)[:3].mean() == pytest.approx(math.log(2), abs=0.05)
    ev = evidence(folded, near_one_mode, x, 5000, **QUIET)
    assert within(ev, log_px_folded(x))
    assert "guide" not in ev.method_of


def funnel(x):
    """Neal's funnel of four dimensions, of which the last three are seen with noise."""
    with pyro.plate("data", len(x)):
        v = pyro.sample("v", dist.Normal(torch.zeros((), dtype=x.dtype), 1.5))
        z = pyro.sample("z", dist.Normal(torch.zeros(3, dtype=x.dtype), (v / 2).exp()[..., None]).to_event(1))
        pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)


def loose(x):
    with pyro.plate("data", len(x)):
        pyro.sample("v", dist.Normal(torch.zeros_like(x[:, 0]), 0.5))
        pyro.sample("z", dist.Normal(0.5 * x, 0.5).to_event(1))


def log_px_funnel(x):
    v = torch.linspace(-15, 15, 20_001, dtype=torch.float64)
    scale = (v.exp() + 0.25).sqrt()[:, None, None]
    density = dist.Normal(0.0, 1.5).log_prob(v)[:, None] + dist.Normal(0.0, scale).log_prob(x).sum(-1)
    return density.logsumexp(0) + math.log(30 / 20_000)


def test_a_funnel_in_two_sites():
    x = torch.tensor([[0.1, -0.2, 0.1], [3.0, -2.0, 1.0], [0.0, 6.0, -9.0], [0.5, 0.5, 1.0]], dtype=torch.float64)
    ev = evidence(funnel, loose, x, 4000, **QUIET)
    assert within(ev, log_px_funnel(x))
    assert ev.std_error.max() < 0.1


def test_positive_latents_in_plates_and_without_a_guide():
    truth = GammaPoisson()
    x = torch.tensor([[0.0, 1.0, 3.0, 2.0], [9.0, 7.0, 12.0, 8.0]], dtype=torch.float64)
    assert within(evidence(truth.model, truth.exact_guide, x, 4000, **QUIET), truth.log_px(x))
    assert within(evidence(truth.model, None, x, 4000, **QUIET), truth.log_px(x))
    plain = evidence(truth.model, None, x, 20_000, method="iw", **QUIET)  # the mean of p(x|z) over the prior
    assert within(plain, truth.log_px(x))


@pytest.mark.parametrize("name", CONTINUOUS)
def test_every_continuous_prior_gives_what_draws_of_the_prior_give(name):
    """Six data of one seed, four standard errors each; priors with a pole, which have no mode, among them."""
    torch.manual_seed(0)
    prior = disturbed(name, 3)
    model = VAE(prior, likelihoods.Bernoulli(6), mlp((8,)), missing=True).double()
    guide = AmortizedGuide(6, family_for(prior)(3), mlp((8,)), missing=True).double()
    x = (torch.rand(6, 6) < 0.5).double().masked_fill(torch.rand(6, 6) < 0.2, torch.nan)
    ours = evidence(model, guide, x, 3000, **QUIET)
    plain = evidence(model, guide, x, 50_000, method=methods.IW(defensive=0.99), **QUIET)
    error = (ours.std_error.square() + plain.std_error.square()).sqrt()
    assert ((ours.log_px - plain.log_px).abs() < 4 * error + 1e-3).all()


@pytest.mark.parametrize("settings", [{}, {"HOLDS": -math.inf}, {"HOLDS": -math.inf, "MOST_DIMENSIONS": 0}])
def test_weights_are_unbiased_whatever_the_choices(settings, monkeypatch):
    """Mean over 300 copies of w at K = 2 within four standard errors of p(x); with chains for all, of 2 chains each."""
    for name, value in settings.items():
        monkeypatch.setattr(auto, name, value)
    truth = LinearGaussian.random(2, 3)
    x = truth.sample(3).repeat(300, 1)  # each copy has draws of its own
    ev = evidence(truth.model, truth.guide(0.8, 0.4), x, 2, method=methods.Auto(chains=2), **QUIET)
    ratio = (ev.log_px - truth.log_px(x)).exp().reshape(300, 3)
    assert ((ratio.mean(0) - 1).abs() < 4 * ratio.std(0) / math.sqrt(300)).all()
    if settings:
        assert (ev.method_of == "annealed").mean() > 0.9  # an earlier one whose pilot found more is gone back to


@pytest.mark.parametrize("name", ["guide", "laplace", "adapted", "annealed"])
def test_intervals_of_each_estimator_hold_the_truth(name, monkeypatch):
    """Coverage of the nominal 0.95 intervals on 600 data at 0.93 or more, less two standard errors of 0.01."""
    torch.manual_seed(0)
    rung = auto.NAMES.index(name)
    monkeypatch.setattr(auto._Pilot, "holds", property(lambda pilot: torch.ones_like(pilot.khat, dtype=torch.bool)))
    kept = auto._Ladder.choose

    def choose(ladder):
        for before in ladder.rungs[1 : rung + 1]:
            before.pilot(torch.arange(ladder.num_data))
        return torch.full((ladder.num_data,), rung), kept(ladder)[1]

    monkeypatch.setattr(auto._Ladder, "choose", choose)
    x = torch.rand(600, dtype=torch.float64) * 4
    covering = lambda x: _both_modes(x)  # noqa: E731
    ev = evidence(folded, covering, x, 1000, chunk_size=100_000, **QUIET)
    sound = ~ev.flagged
    covered = ((ev.log_px - log_px_folded(x)).abs() < 1.96 * ev.std_error)[sound]
    assert sound.double().mean() > 0.9
    assert covered.double().mean() > 0.93 - 2 * 0.01


def _both_modes(x):
    with pyro.plate("data", len(x)):
        middle = x.clamp(min=0.01).sqrt()
        loc, scale = torch.stack([-middle, middle], -1), 0.25 / middle.clamp(min=0.4)[:, None]
        parts = dist.Normal(loc, scale.expand_as(loc))
        pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(logits=torch.zeros_like(loc)), parts))


def test_discrete_latents_take_the_guide_and_say_so():
    truth = BernoulliMixture()
    x = torch.tensor([[0.0] * truth.theta.shape[1], [1.0] * truth.theta.shape[1]], dtype=torch.float64)
    ev = evidence(truth, truth.guide, x, 4000, **QUIET)
    assert within(ev, truth.log_px(x))
    assert (ev.method_of == "guide").all()
    assert ev.notes[0].startswith("auto has the guide alone: Latent site 'z' is discrete")


def test_too_many_dimensions_are_annealed_from_the_guide_and_say_so(monkeypatch):
    monkeypatch.setattr(auto, "MOST_DIMENSIONS", 3)
    truth = LinearGaussian.random(4, 5)
    x = truth.sample(6)
    ev = evidence(truth.model, truth.guide(0.4, 1.0), x, 1000, **QUIET)
    assert within(ev, truth.log_px(x))
    assert set(ev.method_of) == {"annealed"}
    assert "no Laplace approximation of 4 latent numbers" in ev.notes[0]


def test_a_model_without_second_derivative_goes_on_from_draws_of_the_guide_and_is_counted():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 0.2))

    x = torch.tensor([0.5, -1.0, 2.0])
    ev = evidence(once_differentiable, guide, x, 3000, **QUIET)
    assert within(ev, dist.Normal(0.0, math.sqrt(2)).log_prob(x))
    assert ev.no_mode.all()
    assert ev.by_method().attrs["no_mode"] == 3


def test_one_bad_datum_does_not_change_the_choices_of_others():
    truth = LinearGaussian.random(3, 5)
    x = truth.sample(6)
    far = torch.cat([x, x[:1] + 300.0])
    ev = evidence(truth.model, truth.exact_guide, far, 1000, **QUIET)
    assert within(ev, truth.log_px(far))
    assert (ev.method_of[:6] == "guide").all()


@pytest.mark.parametrize("chunk_size", [40, 1000, 100_000])
def test_it_does_not_depend_on_chunks_beyond_noise(chunk_size):
    truth = LinearGaussian.random(2, 3)
    x = truth.sample(9)
    assert within(evidence(truth.model, truth.guide(0.3, 2.0), x, 500, chunk_size=chunk_size, **QUIET), truth.log_px(x))


def test_it_resumes_where_it_was_killed(tmp_path):
    truth = LinearGaussian.random(2, 3)
    x = truth.sample(9)
    settings = {"num_particles": 200, "chunk_size": 50, "seed": 3, **QUIET}
    calls, stop = [], math.inf

    def killed(x):
        calls.append(len(x))
        if len(calls) > stop:
            raise KeyboardInterrupt
        truth.guide(0.3, 2.0)(x)

    whole = evidence(truth.model, killed, x, **settings)
    stop = 0.7 * len(calls)
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        evidence(truth.model, killed, x, checkpoint=tmp_path, **settings)
    assert list(tmp_path.iterdir())
    again = evidence(truth.model, truth.guide(0.3, 2.0), x, checkpoint=tmp_path, **settings)
    assert torch.equal(again.log_px, whole.log_px)
    assert torch.equal(again.choice, whole.choice)
    assert not list(tmp_path.iterdir())


def test_what_it_says_survives_a_file(tmp_path):
    truth = LinearGaussian.random(2, 3)
    ev = evidence(truth.model, truth.guide(0.3, 2.0), truth.sample(5), 300, **QUIET)
    ev.save(tmp_path / "evidence.npz")
    back = Evidence.load(tmp_path / "evidence.npz")
    assert list(back.method_of) == list(ev.method_of)
    assert back.by_method().equals(ev.by_method())
    assert back.notes == ev.notes
    frame = back.to_dataframe()
    assert list(frame["method"]) == list(ev.method_of)
    assert set(frame["num_particles"]) == {300}
    assert f"{ev}".endswith("nats  (auto, N=5, flagged: 0 of 5)")


@pytest.mark.parametrize(("settings", "message"), [({"chains": 1}, "chains"), ({"defensive": 1.0}, "defensive < 1")])
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        methods.Auto(**settings)


def test_a_decoder_agrees_with_annealing():
    torch.manual_seed(0)
    model = VAE(priors.StandardNormal(3), likelihoods.Bernoulli(6), mlp((8,)))
    guide = AmortizedGuide(6, guides.DiagonalNormal(3), mlp((8,)))
    x = (torch.rand(5, 6) < 0.5).float()
    ours = evidence(model, guide, x, 4000, **QUIET)
    annealed = evidence(model, guide, x, 200, method=methods.AIS(40, 2), **QUIET)
    error = (ours.std_error.square() + annealed.std_error.square()).sqrt()
    assert ((ours.log_px - annealed.log_px).abs() < 4 * error).all()


def eight_modes(x):
    """z of three dimensions is seen up to the signs of its entries."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(3, dtype=x.dtype), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z**2, 0.1).to_event(1), obs=x)


def test_more_modes_than_the_first_searches_are_found():
    x = torch.tensor([[2.0, 3.0, 1.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    grid = torch.linspace(-6, 6, 60_001, dtype=torch.float64)[:, None, None]
    density = dist.Normal(0.0, 1.0).log_prob(grid) + dist.Normal(grid**2, 0.1).log_prob(x)
    exact = (density.logsumexp(0) + math.log(12 / 60_000)).sum(-1)
    assert within(evidence(eight_modes, None, x, 2000, **QUIET), exact)


def test_units_of_latents_do_not_matter():
    """Prior scales of 1 and 1e-4: the curvature's eigenvalues in the latents' own units differ by 1e8."""

    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            b = pyro.sample("b", dist.Normal(torch.zeros((), dtype=x.dtype), 1e-4))
            pyro.sample("x", dist.Normal(torch.stack([a, b * 1e4], -1), 0.1).to_event(1), obs=x)

    x = torch.tensor([[0.5, 0.5], [2.0, -1.0], [3.0, 4.0]], dtype=torch.float64)
    ev = evidence(model, None, x, 2000, **QUIET)
    assert within(ev, dist.Normal(0.0, math.sqrt(1.01)).log_prob(x).sum(-1))
    assert ev.num_flagged == 0


def heavy(x):
    """Draws of which a part leaves the support in floating point, on the way through exp."""
    with pyro.plate("data", len(x)):
        scale = pyro.sample("l", dist.LogNormal(torch.zeros(2, dtype=x.dtype), 5.0).to_event(1))
        z = pyro.sample("z", dist.Laplace(torch.zeros(2, dtype=x.dtype), scale).to_event(1))
        pyro.sample("x", dist.Laplace(z, 0.1).to_event(1), obs=x)


def test_draws_that_overflow_weigh_nothing_and_raise_nothing():
    torch.manual_seed(0)
    ev = evidence(heavy, None, 20 * torch.randn(4, 2, dtype=torch.float64), 300, **QUIET)
    assert ev.log_px.isfinite().all()


@pytest.mark.filterwarnings("ignore:Encountered NaN:UserWarning")  # Pyro says so too
@pytest.mark.parametrize("method", ["auto", "laplace", "iw"])
def test_a_likelihood_that_is_nan_is_refused_by_every_method(method):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            loc = (z - 1).sqrt() * 0 + z  # NaN below 1
            pyro.sample("x", dist.Normal(loc, 0.5, validate_args=False), obs=x)

    with pytest.raises(ValueError, match="The log weights of datum 0 are NaN or inf"):
        evidence(model, None, torch.tensor([1.2, 3.0]), 500, method=method, **QUIET)


def test_a_model_without_latents_is_scored():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(torch.zeros_like(x), 1.0), obs=x)

    x = torch.tensor([0.0, 1.0])
    for guide in (None, lambda x: None):
        ev = evidence(model, guide, x, 30, **QUIET)
        torch.testing.assert_close(ev.log_px, dist.Normal(0.0, 1.0).log_prob(x).double(), atol=1e-6, rtol=0)
        assert "there is none" in ev.notes[0]


def test_notes_are_one_line_each():
    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(torch.full_like(x, 0.5)))
            z = pyro.sample("z", dist.Normal(k, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    (note,) = evidence(model, None, torch.zeros(3), 30, **QUIET).notes
    assert "\n" not in note


def test_the_best_pilot_is_gone_back_to_where_the_last_one_lost_it():
    nan = torch.tensor(math.nan).double()
    values = torch.tensor([[-5.0, -math.inf, -5.0], [-4.0, -3.0, -4.9], [-9.0, -math.inf, -5.0]]).double()
    khat = torch.tensor([[0.9, 0.9, 0.9], [0.9, 0.9, 0.9], [0.9, 0.9, 0.3]]).double()
    pilots = [auto._Pilot(v, torch.where(v > -99, 0.1, nan), k, v) for v, k in zip(values, khat, strict=True)]
    assert auto._best(pilots).tolist() == [1, 1, 2]
