"""What an estimate says, keeps in a file, and hands to ArviZ."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import PIXELS, evidence_of, make_pair
from truth import GammaPoisson, LinearGaussian

from pyro_vae.inference import Evidence, evidence, methods

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", category=FutureWarning)
    import arviz as az
matplotlib.use("Agg")


def test_result_line():
    ones = torch.ones(4, dtype=torch.float64)
    khat = torch.tensor([0.1, 0.71, 0.69, 2.0])
    ev = Evidence(ones * -3.25, ones, ones, khat, ones, {1: (-3.25, 0.0)}, 100, 0)
    line = "log p(x) >= -3.25 +- 0.00 nats  (K=100, N=4, flagged: 2 of 4)"
    assert str(ev) == f'{line}  next: method="auto"'
    assert math.isnan(ev.bias)  # of weights with such tails no expansion in 1/K is known to hold
    few = replace(ev, log_px=ones.repeat(10), khat=torch.tensor([0.71, *[0.1] * 38, 0.9]), std_error=ones)
    assert str(few) == "log p(x) = 1.00 +- 0.00 nats  (K=100, N=40, flagged: 2 of 40)"
    assert few.bias == -0.5
    assert str(replace(ev, debiased=True)).startswith("log p(x) = -3.25")  # the jackknife is no bound


def test_one_particle_and_one_datum_say_what_they_cannot_know():
    truth = LinearGaussian.random(2, 3)
    ev = evidence_of(truth, truth.guide(1.3), truth.sample(1), 1)
    assert ev.std_error.isnan().all()
    assert ev.khat.isnan().all()
    assert math.isnan(ev.stderr)
    assert "flagged: unknown, K < 26" in str(ev)


def test_save_and_load_round_trip(tmp_path):
    truth = LinearGaussian.random(2, 3)
    ev = evidence_of(truth, truth.guide(1.3), truth.sample(5), 30, seed=4)
    ev.save(tmp_path / "evidence.npz")
    back = Evidence.load(tmp_path / "evidence.npz")
    assert back.curve == ev.curve
    assert (back.num_particles, back.seed) == (30, 4)
    for name in ("log_px", "std_error", "ess", "khat", "elbo"):
        torch.testing.assert_close(getattr(back, name), getattr(ev, name), rtol=0, atol=0)
    assert [p.name for p in tmp_path.iterdir()] == ["evidence.npz"]


def test_unreadable_evidence_says_so(tmp_path):
    path = tmp_path / "evidence.npz"
    path.write_bytes(b"PK\x03\x04 truncated")
    for missing in (path, tmp_path / "absent.npz"):
        with pytest.raises(ValueError, match=r"Cannot read .*\.npz.*Run the evaluation again"):
            Evidence.load(missing)


def _data(truth, guide, x, **settings):
    return evidence(truth.model, guide, x, 100, method="iw", progress=False, device="cpu").to_arviz(**settings)


def test_groups_dimensions_and_values():
    truth = LinearGaussian.random(2, 3)
    x = truth.sample(5)
    data = _data(truth, truth.exact_guide, x, num_draws=50)
    shapes = {
        "posterior": ("z", ("chain", "draw", "data", "z_dim_0"), (1, 50, 5, 2)),
        "posterior_predictive": ("x", ("chain", "draw", "data", "x_dim_0"), (1, 50, 5, 3)),
        "importance_weights": ("log_w", ("chain", "draw", "data"), (1, 50, 5)),
        "prior": ("z", ("chain", "draw", "z_dim_0"), (1, 50, 2)),
        "prior_predictive": ("x", ("chain", "draw", "x_dim_0"), (1, 50, 3)),
        "observed_data": ("x", ("data", "x_dim_0"), (5, 3)),
        "constant_data": ("log_px", ("data",), (5,)),
    }
    for group, (name, dims, shape) in shapes.items():
        assert data[group][name].dims == dims
        assert data[group][name].shape == shape
    np.testing.assert_array_equal(data["observed_data"]["x"], x)
    np.testing.assert_allclose(data["importance_weights"]["log_w"][0, 0], truth.marginal.log_prob(x))
    assert data.attrs["method"] == "importance weighting"


@pytest.mark.filterwarnings("ignore")  # ArviZ's own
def test_arviz_gives_no_loo_which_would_be_of_a_datum_given_its_own_latent():
    truth = LinearGaussian.random(2, 3)
    data = _data(truth, truth.exact_guide, truth.sample(5), num_draws=50)
    with pytest.raises(Exception, match=r"log.likelihood"):
        az.loo(data)


def test_a_frame_has_a_row_for_each_datum():
    truth = LinearGaussian.random(2, 3)
    ev = evidence_of(truth, truth.guide(1.3), truth.sample(5), 30, seed=4)
    frame = ev.to_dataframe()
    assert list(frame.columns) == ["log_px", "std_error", "ess", "khat", "elbo", "num_particles"]
    assert frame.index.name == "datum"
    np.testing.assert_array_equal(frame["log_px"], ev.log_px)
    assert frame["log_px"].mean() == pytest.approx(ev.mean)
    assert (frame.attrs["num_particles"], frame.attrs["seed"], frame.attrs["method"]) == (30, 4, ev.method)
    annealed = evidence(truth.model, truth.guide(1.3), truth.sample(2), 4, method=methods.AIS(5), progress=False)
    np.testing.assert_array_equal(annealed.to_dataframe()["acceptance"], annealed.acceptance)


def test_its_display_is_one_line():
    truth = LinearGaussian.random(2, 3)
    ev = evidence_of(truth, truth.guide(1.3), truth.sample(5), 30)
    assert repr(ev) == f"<Evidence: {ev}>"
    assert "\n" not in repr(ev)


def test_netcdf_round_trip(tmp_path):
    truth = LinearGaussian.random(2, 3)
    data = _data(truth, truth.exact_guide, truth.sample(4), num_draws=10)
    path = tmp_path / "evidence.nc"
    data.to_netcdf(str(path))
    back = az.from_netcdf(str(path))
    np.testing.assert_array_equal(back["posterior"]["z"], data["posterior"]["z"])
    np.testing.assert_array_equal(back["constant_data"]["khat"], data["constant_data"]["khat"])
    getattr(back, "close", lambda: None)()


@pytest.mark.filterwarnings("ignore")  # ArviZ's and matplotlib's own
def test_arviz_summarises_and_plots_it():
    truth = LinearGaussian.random(2, 3)
    data = _data(truth, truth.exact_guide, truth.sample(2), num_draws=60)
    summary = az.summary(data)
    assert len(summary) == 4
    posterior = truth.posterior(truth.sample(2)).mean.flatten()
    np.testing.assert_allclose(summary["mean"].astype(float), posterior, atol=0.8)
    plt.close("all")
    (az.plot_forest if "plot_forest" in vars(az) else az.plot_dist)(data)
    (az.plot_posterior if "plot_posterior" in vars(az) else az.plot_dist)(data)
    figures = [plt.figure(number) for number in plt.get_fignums()]
    assert len(figures) == 2
    assert all(any(axes.has_data() for axes in figure.axes) for figure in figures)
    plt.close("all")


def test_modules_plates_and_programs_run_one_by_one():
    model, guide = make_pair()
    data = evidence(model, guide, PIXELS[:4], 30, method="iw", progress=False, device="cpu").to_arviz(num_draws=7)
    assert data["posterior"]["z"].shape == (1, 7, 4, 2)
    assert set(np.unique(data["posterior_predictive"]["x"])) <= {0.0, 1.0}
    truth = GammaPoisson()
    counts = torch.ones(3, 4, dtype=torch.float64)
    data = _data(truth, truth.exact_guide, counts, num_draws=5)
    assert data["posterior"]["z"].shape == (1, 5, 3, 1)
    assert data["posterior_predictive"]["x"].shape == (1, 5, 3, 4)


@pytest.mark.filterwarnings("ignore:The programs do not run with all particles at once")
def test_programs_that_count_dimensions_from_the_left():
    weight = torch.randn(2, 3)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(torch.softmax(z, dim=1) @ weight, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))

    data = evidence(model, guide, torch.randn(4, 3), 30, method="iw", progress=False).to_arviz(num_draws=6)
    assert data["posterior"]["z"].shape == (1, 6, 4, 2)


def test_seed_and_what_a_file_cannot_hold(tmp_path):
    truth = LinearGaussian.random(2, 3)
    ev = evidence(truth.model, truth.guide(1.2), truth.sample(3), 30, method="iw", progress=False)
    state = torch.get_rng_state()
    first, again, other = (ev.to_arviz(5, seed=seed)["posterior"]["z"].values for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    ev.save(tmp_path / "evidence.npz")
    with pytest.raises(ValueError, match="holds no programs to draw from"):
        Evidence.load(tmp_path / "evidence.npz").to_arviz()


def test_what_cannot_be_simulated_or_drawn():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("a", dist.Normal(z, 1.0), obs=2 * x[:, 0])
            pyro.sample("b", dist.Uniform(z - 0.5, z + 0.5, validate_args=False), obs=2 * x[:, 1])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, 1], 0.3))

    x = torch.zeros(3, 2)
    data = evidence(model, guide, x, 30, method="iw", progress=False).to_arviz(4)
    assert data["posterior"]["z"].shape == (1, 4, 3)
    assert set(data["posterior_predictive"]) == {"a", "b"}
    assert "prior" not in (data.children if hasattr(data, "children") else data.groups())

    def far(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.full((len(x),), 50.0), 0.3))

    ev = evidence(model, far, x, 30, method="iw", progress=False)
    assert ev.log_px.isneginf().all()
    with pytest.raises(ValueError, match="all weights of datum 0 of a chunk of 3 are 0"):
        ev.to_arviz(4)
