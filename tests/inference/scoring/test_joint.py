"""``evidence(..., joint=True)``: one log p(x_1, ..., x_N) of models whose latents all data share."""

import math
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import normal_model
from pyro import poutine
from pyro.infer import autoguide
from torch.distributions import constraints

from pyro_vae.inference import compare, evidence, fit, log_weights, objectives
from pyro_vae.inference.scoring import methods
from pyro_vae.inference.scoring.audit import audit, certify
from pyro_vae.inference.scoring.estimates import Evidence

joint = partial(evidence, joint=True, progress=False, device="cpu")
F64 = torch.float64
SCHOOLS = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12], dtype=F64), torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18])
HITS = torch.tensor([18.0, 17, 16, 15, 14, 14, 13, 12], dtype=F64)


def number(value):
    return torch.tensor(value, dtype=F64)


def regression_data(n=40, p=3):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, p, generator=generator, dtype=F64)
    noise = torch.randn(n, generator=generator, dtype=F64)
    return x, x @ torch.linspace(1, -1, p, dtype=F64) + 0.5 * noise


def regression(x, y):
    """beta ~ N(0, I), y | beta ~ N(x beta, 1/4): the product ``x @ beta`` knows no plate of particles."""
    beta = pyro.sample("beta", dist.Normal(torch.zeros_like(x[0]), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(x @ beta, 0.5), obs=y)


def log_py_of_regression(x, y):
    covariance = x @ x.T + 0.25 * torch.eye(len(y), dtype=F64)
    return dist.MultivariateNormal(torch.zeros_like(y), covariance).log_prob(y).item()


def beta_binomial(hits):
    """Complete pooling: theta ~ Beta(2, 3), hits | theta ~ Binomial(45, theta)."""
    theta = pyro.sample("theta", dist.Beta(number(2.0), 3.0))
    with pyro.plate("players", len(hits)):
        pyro.sample("hits", dist.Binomial(45, theta), obs=hits)


def log_p_of_hits(hits):
    log_beta = lambda a, b: torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)  # noqa: E731
    choose = (torch.lgamma(number(46.0)) - torch.lgamma(hits + 1) - torch.lgamma(46 - hits)).sum()
    total, misses = hits.sum(), (45 - hits).sum()
    return (choose + log_beta(total + 2, misses + 3) - log_beta(number(2.0), number(3.0))).item()


def normal_normal(x):
    """No plate at all: mu ~ N(1, 4), x | mu ~ N(mu, 1)."""
    mu = pyro.sample("mu", dist.Normal(number(1.0), 2.0))
    pyro.sample("x", dist.Normal(mu, 1.0).expand(x.shape).to_event(1), obs=x)


def log_p_of_normals(x):
    covariance = torch.eye(len(x), dtype=F64) + 4
    return dist.MultivariateNormal(torch.ones_like(x), covariance).log_prob(x).item()


def conjugate(x):
    """s2 ~ InverseGamma(3, 2), mu | s2 ~ N(0, 4 s2), x | mu, s2 ~ N(mu, s2)."""
    s2 = pyro.sample("s2", dist.InverseGamma(number(3.0), number(2.0)))
    mu = pyro.sample("mu", dist.Normal(0.0, 2 * s2.sqrt()))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mu, s2.sqrt()), obs=x)


def log_p_of_conjugate(x):
    """A multivariate Student-t: x = mu 1 + e given s2, so that its covariance is s2 (I + 4 11')."""
    shape = torch.eye(len(x), dtype=F64) + 4
    return (
        dist.MultivariateStudentT(number(6.0), torch.zeros_like(x), torch.linalg.cholesky(shape * 2 / 3))
        .log_prob(x)
        .item()
    )


def schools(y, sigma):
    """Eight schools, not centred."""
    mu = pyro.sample("mu", dist.Normal(number(0.0), 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(number(5.0)))
    with pyro.plate("schools", len(y)):
        eta = pyro.sample("eta", dist.Normal(number(0.0), 1.0))
        pyro.sample("y", dist.Normal(mu + tau * eta, sigma), obs=y)


def log_p_of_schools(y, sigma):
    """By quadrature over log tau; given tau the schools are jointly normal."""
    log_tau = torch.linspace(-14, 12, 100_001, dtype=F64)
    tau = log_tau.exp()
    variance = torch.diag_embed(sigma.double() ** 2 + tau[:, None] ** 2) + 25
    log_p = dist.MultivariateNormal(torch.zeros_like(y), variance).log_prob(y)
    log_p = log_p + dist.HalfCauchy(number(5.0)).log_prob(tau) + log_tau
    return (log_p.logsumexp(0) + math.log(26 / 100_000)).item()


EXACT = {
    "regression": (regression, regression_data(), log_py_of_regression),
    "beta-binomial": (beta_binomial, (HITS,), log_p_of_hits),
    "normal": (normal_normal, (regression_data()[1],), log_p_of_normals),
    "normal-inverse-gamma": (conjugate, (regression_data()[1],), log_p_of_conjugate),
    "schools": (schools, SCHOOLS, log_p_of_schools),
}


def check(ev, exact):
    """Fails at one correct estimate in 15,000 at the normal's tails."""
    assert ev.log_px.shape == ev.std_error.shape == ev.ess.shape == ev.khat.shape == (1,)
    assert not ev.num_flagged
    assert abs(ev.mean - exact) < 4 * ev.stderr + 1e-3, (ev, exact)


@pytest.mark.parametrize("name", list(EXACT))
@pytest.mark.parametrize("method", ["auto", "laplace"])
def test_it_is_the_closed_form(name, method):
    model, args, exact = EXACT[name]
    method = methods.Laplace(defensive=0.2) if method == "laplace" else method
    ev = joint(model, None, args, 4000, method=method)
    check(ev, exact(*args))
    assert ev.stderr < 0.1


@pytest.mark.parametrize("name", ["regression", "beta-binomial", "normal-inverse-gamma"])
def test_annealed_chains_find_it(name):
    model, args, exact = EXACT[name]
    check(joint(model, None, args, 200, method=methods.AIS(200)), exact(*args))


def trained(kind, model, args, steps=400, **settings):
    torch.manual_seed(0)
    pyro.clear_param_store()
    guide = kind(model, **settings)
    guide(*args)
    adam = partial(torch.optim.Adam, lr=0.02)
    fit(model, guide, args, batch_size=len(args[0]), epochs=steps, optimizer=adam, progress=False, compile=False)
    return guide


@pytest.mark.parametrize(
    "kind",
    [
        autoguide.AutoNormal,
        autoguide.AutoDiagonalNormal,
        autoguide.AutoMultivariateNormal,
        autoguide.AutoLowRankMultivariateNormal,
        autoguide.AutoIAFNormal,
        autoguide.AutoStructured,
    ],
)
@pytest.mark.parametrize("method", ["iw", "jackknife"])
def test_autoguides_are_proposals(kind, method):
    model, args, exact = EXACT["beta-binomial" if kind is autoguide.AutoNormal else "regression"]
    torch.manual_seed(0)
    guide = kind(model)
    guide(*args)
    guide.double()
    adam = partial(torch.optim.Adam, lr=0.03)
    fit(model, guide, args, batch_size=len(args[0]), epochs=200, optimizer=adam, progress=False, compile=False)
    ev = joint(model, guide, args, 3000, method=method)
    assert abs(ev.mean - exact(*args)) < 4 * ev.stderr + 1e-3


def test_a_list_of_guides_and_a_laplace_approximation_are_proposals():
    args = regression_data()
    parts = autoguide.AutoGuideList(regression)
    parts.append(autoguide.AutoDiagonalNormal(poutine.block(regression, expose=["beta"])))
    parts(*args)
    mode = trained(autoguide.AutoLaplaceApproximation, regression, args)
    for guide in (parts, mode.laplace_approximation(*args)):
        ev = joint(regression, guide, args, 100)
        check(ev, log_py_of_regression(*args))


def test_eight_schools_after_fit():
    guide = trained(autoguide.AutoNormal, schools, SCHOOLS, 300)
    check(joint(schools, guide, SCHOOLS, seed=1), log_p_of_schools(*SCHOOLS))


@pytest.mark.parametrize("kind", [autoguide.AutoDelta, autoguide.AutoLaplaceApproximation])
@pytest.mark.parametrize("method", ["auto", "iw"])
def test_a_point_mass_is_refused(kind, method):
    args = regression_data()
    guide = kind(regression)
    guide(*args)
    with pytest.raises(ValueError, match=r"is a point mass, which has no density"):
        joint(regression, guide, args, 100, method=method)


def test_a_plain_guide_and_a_share_of_the_prior():
    x, y = regression_data()
    precision = torch.eye(3, dtype=F64) + 4 * x.T @ x
    loc = torch.linalg.solve(precision, 4 * x.T @ y)

    def guide(x, y):
        pyro.sample("beta", dist.MultivariateNormal(loc, precision_matrix=precision))

    exact = log_py_of_regression(x, y)
    assert joint(regression, guide, (x, y), 100, method="iw").mean == pytest.approx(exact, abs=1e-9)
    check(joint(regression, guide, (x, y), 4000, method=methods.IW(defensive=0.2)), exact)
    check(joint(regression, guide, (x, y), 64, method=methods.AIS(4, start="guide")), exact)


def grouped(x):
    """Latents outside, in a plate and in nested plates, data in nested plates, and pyro.factor; x is (G, R)."""
    mu = pyro.sample("mu", dist.Normal(number(0.0), 1.0))
    pyro.factor("half", number(0.5).log())
    groups, repeats = pyro.plate("groups", len(x), dim=-2), pyro.plate("repeats", x.shape[1], dim=-1)
    with groups:
        a = pyro.sample("a", dist.Normal(mu, 1.0))
        with repeats:
            b = pyro.sample("b", dist.Normal(a, 0.5))
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)


def test_nested_plates_and_factors_are_summed_once():
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    block = torch.block_diag(*[torch.ones(2, 2, dtype=F64)] * 3)
    covariance = 1 + block + 1.25 * torch.eye(6, dtype=F64)
    exact = dist.MultivariateNormal(torch.zeros(6, dtype=F64), covariance).log_prob(x.flatten()) + math.log(0.5)
    check(joint(grouped, None, x, 4000, method="laplace"), exact.item())


def test_scales_are_dropped_and_masks_kept():
    x = regression_data()[1]

    def model(x):
        mu = pyro.sample("mu", dist.Normal(number(1.0), 2.0))
        with poutine.scale(scale=3.0), pyro.plate("data", len(x)), poutine.mask(mask=torch.arange(len(x)) < 10):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    check(joint(model, None, x, 4000, method="laplace"), log_p_of_normals(x[:10]))


def with_prior(prior):
    def model(x):
        mu = pyro.sample("mu", prior())
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    return model


@pytest.mark.parametrize(
    "prior",
    [
        lambda: dist.ImproperUniform(constraints.real, (), ()),
        lambda: dist.Normal(number(0.0), 1.0).mask(False),
    ],
)
@pytest.mark.parametrize("method", ["iw", "auto"])
def test_an_improper_prior_is_refused_by_name(prior, method):
    def guide(x):
        pyro.sample("mu", dist.Normal(number(0.0), 1.0))

    with pytest.raises(ValueError, match=r"Latent site 'mu' is improper"):
        joint(with_prior(prior), guide, torch.ones(3, dtype=F64), 50, method=method)


def test_a_latent_that_is_masked_out_is_refused_by_name():
    def model(x):
        with poutine.mask(mask=False):
            mu = pyro.sample("mu", dist.Normal(number(0.0), 1.0))
        pyro.sample("x", dist.Normal(mu, 1.0).expand(x.shape).to_event(1), obs=x)

    with pytest.raises(ValueError, match=r"Latent site 'mu' is improper \(its density is masked\)"):
        joint(model, autoguide.AutoNormal(model), torch.ones(3, dtype=F64), 50)


@pytest.mark.parametrize("how", [{"subsample_size": 2}, {"subsample": torch.tensor([0, 2])}])
def test_a_subsampled_plate_is_refused_by_name(how):
    def model(x):
        mu = pyro.sample("mu", dist.Normal(number(0.0), 1.0))
        with pyro.plate("people", len(x), **how) as index:
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x[index])

    with pytest.raises(ValueError, match=r"plate 'people'; it is subsampled, 2 of 5"):
        joint(model, None, torch.ones(5, dtype=F64), 50)


def test_a_value_that_would_broadcast_is_refused():
    def model(x):
        mu = pyro.sample("mu", dist.Normal(number(0.0), 1.0))
        pyro.sample("x", dist.Normal(mu.expand(4, 1), 1.0), obs=x)

    with pytest.raises(ValueError, match=r"value at site 'x' of the model of the shape of its distribution, \(4, 1\)"):
        joint(model, None, torch.ones(4, dtype=F64), 50)


def test_per_datum_weights_and_objectives_name_what_to_call_instead():
    x, y = regression_data()
    guide = autoguide.AutoNormal(regression)
    guide(x, y)
    calls = (
        lambda: evidence(regression, guide, (x, y), 10, progress=False),
        lambda: log_weights(regression, guide, (x, y), 2),
        lambda: fit(regression, guide, (x, y), objective=objectives.IWAE(2), batch_size=40, epochs=1, progress=False),
        lambda: certify(regression, None, 4, x=(x, y), progress=False),
    )
    for call in calls:
        with pytest.raises(ValueError, match=r"site 'beta.*evidence\(\.\.\., joint=True\).*Trace_ELBO\(\)"):
            call()


def other_regression(x, y):
    beta = pyro.sample("beta", dist.Normal(torch.zeros_like(x[0, :1]), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(x[:, :1] @ beta, 0.5), obs=y)


def test_compare_gives_the_log_bayes_factor():
    x, y = regression_data()
    three, one = (joint(model, None, (x, y), 2000, method="laplace") for model in (regression, other_regression))
    table = compare({"three": three, "one": one})
    exact = log_py_of_regression(x, y) - log_py_of_regression(x[:, :1], y)
    row = table.loc["one" if exact > 0 else "three"]
    assert abs(row["diff"] - abs(exact)) < 4 * row["diff_stderr"]
    assert row["diff_stderr"] == pytest.approx(math.hypot(three.stderr, one.stderr))
    assert table.attrs["protocol"].endswith("N = 40; nats, joint")


def test_joint_and_per_datum_estimates_are_not_compared():
    x = torch.ones(1, dtype=F64)

    whole = joint(normal_model, None, x, 100, method="iw")
    single = evidence(normal_model, None, x, 100, method="iw", progress=False)
    assert whole.mean == pytest.approx(single.mean, abs=0.3)
    with pytest.raises(ValueError, match=r"same quantity .* one log p\(x_1, \.\.\., x_N\)"):
        compare({"whole": whole, "single": single})


def test_what_it_prints_and_what_tables_hold(tmp_path):
    args = regression_data()
    ev = joint(regression, None, args, 500)
    said = f"log p(x_1, ..., x_40) = {ev.mean:.2f} +- {ev.std_error.item():.2f} nats  (auto, flagged: no)"
    assert str(ev) == said
    assert ev.by_method()["data"].sum() == 1
    assert len(ev.to_dataframe()) == 1
    ev.save(tmp_path / "ev.npz")
    assert Evidence.load(tmp_path / "ev.npz").joint == 40
    assert str(Evidence.load(tmp_path / "ev.npz")) == str(ev)
    for khat, said in ((0.9, ">="), (0.1, "=")):
        flagged = joint(regression, None, args, 30, method="iw")
        assert f"x_40) {said} " in str(type(flagged)(**{**vars(flagged), "khat": torch.tensor([khat])}))


def test_arviz_has_draws_of_the_shared_latents():
    x, y = regression_data()
    groups = joint(regression, autoguide.AutoNormal(regression), (x, y), 100, method="laplace").to_arviz(400)
    beta = groups["posterior"]["beta"]
    assert beta.dims == ("chain", "draw", "beta_dim_0")
    assert groups["posterior_predictive"]["y"].shape == (1, 400, 40)
    assert groups["prior"]["beta"].shape == (1, 400, 3)
    assert groups["observed_data"]["y"].dims[0] == "data"
    assert groups["constant_data"]["log_px"].shape == ()
    assert groups["importance_weights"]["log_w"].shape == (1, 400)


def test_draws_of_arviz_follow_the_posterior():
    """The mean of 400 draws is within 5 of its standard errors: fails at a few in 1,000, with their ties."""
    x, y = regression_data()
    guide = trained(autoguide.AutoMultivariateNormal, regression, (x, y))
    precision = torch.eye(3, dtype=F64) + 4 * x.T @ x
    posterior = dist.MultivariateNormal(torch.linalg.solve(precision, 4 * x.T @ y), precision_matrix=precision)
    drawn = joint(regression, guide, (x, y), 100, method="iw").to_arviz(400)["posterior"]["beta"].values[0]
    error = posterior.stddev.numpy() / math.sqrt(400)
    assert (np.abs(drawn.mean(0) - posterior.mean.numpy()) < 5 * error).all()


def test_audit_anneals_the_whole():
    ev = joint(regression, None, regression_data(), 500)
    result = audit(ev, num_temperatures=60, num_particles=200, progress=False)
    assert len(result.gap) == 1
    assert not result.missed
    assert str(result).endswith("nats in all")


def test_a_seed_repeats_and_a_checkpoint_is_gone(tmp_path):
    args = regression_data()
    one, two, other = (joint(regression, None, args, 300, seed=s, checkpoint=tmp_path) for s in (1, 1, 2))
    assert torch.equal(one.log_px, two.log_px)
    assert not torch.equal(one.log_px, other.log_px)
    assert not list(tmp_path.iterdir())


def test_thousands_of_data_in_single_precision():
    """The exact value by the Woodbury identity in float64; float32 is 1e-6 of -2,900 off."""
    x, y = regression_data(4000)
    ev = joint(regression, None, (x.float(), y.float()), 2000, method="laplace")
    precision = torch.eye(3, dtype=F64) + 4 * x.T @ x
    b = 4 * x.T @ y
    quadratic = 4 * y.square().sum() - b @ torch.linalg.solve(precision, b)
    exact = -(4000 * math.log(2 * math.pi) + 4000 * math.log(0.25) + precision.logdet() + quadratic) / 2
    assert abs(ev.mean - exact.item()) < 4 * ev.stderr + 0.01


def test_float32_programs_are_scored_in_float64():
    """log p of a beta distribution of concentrations of 1e8 is off by nats in float32."""
    data = torch.linspace(0.49990, 0.50010, 20)

    def model(x):
        concentration = pyro.sample("log", dist.Uniform(17.0 + 0 * x[0], 18.0)).exp()
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Beta(concentration, concentration), obs=x)

    single, double = (joint(model, None, x, 1000, method="iw") for x in (data, data.double()))
    assert single.log_px.dtype == F64
    assert abs(single.mean - double.mean) < 0.1


def test_programs_are_left_as_they_were():
    args = regression_data()
    guide = autoguide.AutoIAFNormal(regression)
    guide(*args)
    guide.double()
    before = {name: value.clone() for name, value in guide.state_dict().items()}
    state = torch.get_rng_state()
    joint(regression, guide, args, 50)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in guide.state_dict().items())


def test_assignments_of_a_mixture_are_summed_out():
    """The same model with ``MixtureSameFamily`` has the same evidence: within 4.5 standard errors, seeds fixed."""
    x = torch.cat([torch.randn(5, dtype=F64) - 2, torch.randn(5, dtype=F64) + 2])

    def mixture(marked):
        def model(x):
            weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2, dtype=F64)))
            with pyro.plate("components", 2):
                loc = pyro.sample("loc", dist.Normal(torch.zeros((), dtype=F64), 3.0))
            with pyro.plate("data", len(x)):
                if marked:
                    k = pyro.sample("k", dist.Categorical(weights), infer={"enumerate": "parallel"})
                    pyro.sample("x", dist.Normal(loc[k], 1.0), obs=x)
                else:
                    pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(loc, 1.0)), obs=x)

        return model

    for method in ("auto", "iw", "laplace"):
        one, other = (joint(mixture(marked), None, (x,), 2000, method=method) for marked in (True, False))
        assert abs(one.log_px - other.log_px) < 4.5 * (one.std_error**2 + other.std_error**2).sqrt()


def test_tensors_of_one_data_set_may_differ_in_length():
    """Two samples with one mean, of 7 and 4: the closed form of 11 correlated normals."""

    def two(a, b):
        mean = pyro.sample("mean", dist.Normal(torch.zeros((), dtype=F64), 1.0))
        with pyro.plate("first", len(a)):
            pyro.sample("a", dist.Normal(mean, 1.0), obs=a)
        with pyro.plate("second", len(b)):
            pyro.sample("b", dist.Normal(mean, 1.0), obs=b)

    a, b = torch.randn(7, dtype=F64), torch.randn(4, dtype=F64)
    covariance = torch.eye(11, dtype=F64) + 1
    exact = dist.MultivariateNormal(torch.zeros(11, dtype=F64), covariance).log_prob(torch.cat([a, b]))
    ev = joint(two, None, (a, b), 2000)
    assert abs(ev.log_px - exact) < 4.5 * ev.std_error + 1e-6
