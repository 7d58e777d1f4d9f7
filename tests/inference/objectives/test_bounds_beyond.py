"""TVO, RWS, CUBO, free bits, and the objectives of the aggregated posterior, against exact answers."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from test_gradients import Coin, TwoLayers, X, _agree, _mean_gradient
from torch import nn
from truth import LinearGaussian

from pyro_vae.inference import AmortizedGuide, fit, gradient_snr, guides, schedules
from pyro_vae.inference.objectives import CUBO, ELBO, IWAE, RWS, TVO, BetaTCVAE, FreeBits, InfoVAE
from pyro_vae.inference.objectives.aggregate import mmd
from pyro_vae.models import VAE, likelihoods, mlp, priors


def _coin_terms(program, x):
    """Return log q and log w of the two values of z, shape (2, N)."""
    z = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    log_q = dist.Bernoulli(logits=program.a * x + program.b).log_prob(z.expand(2, len(x)))
    log_prior = dist.Bernoulli(logits=program.logit).log_prob(z)
    log_lik = dist.Normal(torch.where(z > 0, program.high, program.low), 1.0).log_prob(x)
    return log_q, log_lik + log_prior - log_q


def _coin_tvo(program, x, points, widths):
    log_q, log_w = _coin_terms(program, x)
    total = 0.0
    for b, width in zip(points, widths, strict=True):
        total = total + width * ((log_q + b * log_w).softmax(0) * log_w).sum(0)
    return total


def test_tvo_with_one_partition_is_the_elbo_and_rises_with_partitions_to_iwae_at_most():
    log_w = torch.randn(6, 50, dtype=torch.float64)
    values = [TVO(6, s).bound(log_w) for s in (1, 2, 5, 50, 2000)]
    torch.testing.assert_close(values[0], ELBO(6).bound(log_w))
    means = [value.mean().item() for value in values]
    assert means == sorted(means)
    # int_0^1 d/db log mean w^b db = log mean w: the left sums rise to it.
    torch.testing.assert_close(TVO(6, 20_000, beta_1=1e-4).bound(log_w), IWAE(6).bound(log_w), atol=2e-3, rtol=0)


def test_tvo_covariance_gradient_is_consistent():
    # 2,000 particles, 30 repeats x 60 data; the self-normalised bias is O(1/K): 5 standard errors and 0.003.
    program, objective = Coin(), TVO(2000, 3)
    points, widths = objective.partition(X)
    exact = program.gradient(_coin_tvo(program, X, points, widths).mean())
    mean, error = _mean_gradient(program, objective, 30, copies=20)
    assert ((mean - exact).abs() < 5 * error + 3e-3).all(), (mean, exact, error)


@pytest.mark.parametrize("gradient", ["score", "vimco"])
def test_tvo_gradients_of_the_estimate_are_unbiased(gradient):
    program, objective = Coin(), TVO(3, 2, gradient=gradient)
    exact = program.gradient(program.exact(objective.bound, 3, X).mean())
    _agree(*_mean_gradient(program, objective, 60), exact)


@pytest.mark.parametrize("phi", ["wake", "sleep", "both"])
def test_rws_gradients_are_those_of_their_definitions(phi):
    # wake: K = 2,000 normalised weights are the posterior up to O(1/K); sleep: the mean over the model's draws.
    program, objective = Coin(), RWS(2000, phi=phi)
    log_q, log_w = _coin_terms(program, X)
    posterior = (log_q + log_w).softmax(0).detach()
    theta = (posterior * (log_q.detach() + log_w + (log_q - log_q.detach()))).sum(0).mean()
    wake = (posterior * log_q).sum(0).mean()
    grid = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    z = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    prior = dist.Bernoulli(logits=program.logit).log_prob(z).exp()
    density = dist.Normal(torch.where(z > 0, program.high, program.low), 1.0).log_prob(grid).exp()
    log_q_grid = dist.Bernoulli(logits=program.a * grid + program.b).log_prob(z.expand(2, len(grid)))
    sleep = ((prior * density).detach() * log_q_grid).sum() * (grid[1] - grid[0])
    guide_part = {"wake": wake, "sleep": sleep, "both": (wake + sleep) / 2}[phi]
    exact = program.gradient(theta + guide_part)
    mean, error = _mean_gradient(program, objective, 40, copies=20)
    assert ((mean - exact).abs() < 5 * error + 3e-3).all(), (mean, exact, error)


def test_rws_value_is_the_iwae_bound_and_it_fits_a_discrete_model():
    program = Coin()
    model, guide = program.model, program.guide
    values = []
    for objective in (RWS(5), IWAE(5)):
        objective.loss(model, guide, X)
        torch.manual_seed(0)
        values.append(objective.loss(model, guide, X))
    assert values[0] == pytest.approx(values[1])
    x = torch.cat([torch.randn(200, dtype=torch.float64) + 3, torch.randn(200, dtype=torch.float64) - 2])
    adam = lambda p: torch.optim.Adam(p, lr=0.05)  # noqa: E731
    fit(model, guide, x, objective=RWS(5, phi="both"), epochs=60, optimizer=adam, progress=False)
    assert program.high.item() == pytest.approx(3.0, abs=0.4)


@pytest.mark.filterwarnings("ignore:CUBO fits the guide alone")
def test_cubo_bounds_from_above_and_trains_the_guide_alone():
    truth = LinearGaussian.random(1, 2)
    x = truth.sample(50)
    exact = truth.marginal.log_prob(x).mean().item()
    # A guide that is too wide keeps E[w^2] finite; 20,000 particles leave a bias far below the gap of about 0.1.
    upper = CUBO(20_000).loss(truth.model, truth.guide(1.5), x)
    lower = -IWAE(50).loss(truth.model, truth.guide(1.5), x)
    assert lower < exact + 0.01
    assert upper > exact + 0.02
    assert CUBO(5).loss(truth.model, truth.exact_guide, x) == pytest.approx(exact, abs=1e-9)
    program = TwoLayers()
    gradient = program.gradient(CUBO(5).differentiable_loss(program.model, program.guide, X))
    assert gradient[:2].abs().sum() == 0
    assert (gradient[2:].abs() > 0).all()


def _pair(latent=3):
    model = VAE(priors.StandardNormal(latent), likelihoods.Bernoulli(6), mlp((8,))).double()
    guide = AmortizedGuide(6, guides.DiagonalNormal(latent), mlp((8,))).double()
    return model, guide, (torch.rand(20, 6) < 0.4).double()


def test_free_bits_floor_each_dimension_of_the_minibatch_mean():
    model, guide, x = _pair()
    q = guide.posterior(x)
    loc, scale = q.base_dist.loc, q.base_dist.scale
    kl = (0.5 * (loc**2 + scale**2 - 1) - scale.log()).mean(0)  # (D,), closed form
    floor = kl.sort().values[1].item() + 1e-4
    objective = FreeBits(floor, num_particles=4)
    objective.loss(model, guide, x)
    torch.manual_seed(0)
    loss = objective.differentiable_loss(model, guide, x)
    torch.manual_seed(0)
    terms = objective.weight_terms(model, guide, (x,))
    expected = kl.clamp(min=floor).sum() - terms.likelihood["x"].mean()
    torch.testing.assert_close(loss, expected)
    # No floor: the ELBO with an analytic KL.
    torch.manual_seed(0)
    free = FreeBits(0.0, num_particles=4).value(model, guide, (x,)).mean()
    torch.manual_seed(0)
    torch.testing.assert_close(free, ELBO(4, kl="analytic").value(model, guide, (x,)).mean())
    by_site = FreeBits(1e6, per="site").loss(model, guide, x)
    assert by_site > 1e6


def test_free_bits_want_a_prior_that_factorises():
    locs = torch.randn(2, 3, dtype=torch.float64)
    mixture = dist.MixtureSameFamily(dist.Categorical(torch.ones(2).double()), dist.Normal(locs, 1.0).to_event(1))
    _, guide, x = _pair()
    model = VAE(mixture, likelihoods.Bernoulli(6), mlp((8,))).double()
    with pytest.raises(ValueError, match=r"the prior at latent site 'z' to factorise.*per=.site."):
        FreeBits(0.1).loss(model, guide, x)
    assert math.isfinite(FreeBits(0.1, per="site").loss(model, guide, x))


def test_beta_tcvae_parts_sum_to_the_kl_sample_and_unit_weights_give_the_elbo():
    model, guide, x = _pair()
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
    model, guide, x = _pair(latent=2)
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
    model, guide, x = _pair()
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


@pytest.mark.parametrize(
    "objective",
    [
        TVO(5),
        TVO(5, gradient="pathwise"),
        RWS(5),
        RWS(5, phi="both"),
        FreeBits(),
        BetaTCVAE(60),
        InfoVAE(),
        IWAE(5, "dreg"),
    ],
    ids=lambda o: f"{type(o).__name__}-{o.gradient}",
)
def test_every_objective_trains_a_vae(objective):
    torch.manual_seed(0)
    model, guide, _ = _pair()
    x = (torch.rand(60, 6) < torch.tensor([0.1, 0.9, 0.1, 0.9, 0.5, 0.5])).double()
    before = [p.clone() for m in (model, guide) for p in m.parameters()]
    result = fit(
        model, guide, x, objective=objective, epochs=15, batch_size=20, valid=x[:20], kl_warmup=2, progress=False
    )
    after = [p for m in (model, guide) for p in m.parameters()]
    assert all((a != b).any() for a, b in zip(after, before, strict=True))
    assert result.history[-1]["loss"] < result.history[2]["loss"]
    assert math.isfinite(result.history[-1]["valid_bound"])


def test_signal_falls_with_k_for_the_pathwise_guide_gradient_and_not_for_dreg():
    """Rainforth et al. (2018): O(1/sqrt K) against O(sqrt K); from K = 1 to 64, 300 repeats, ratios known to 4%."""
    torch.manual_seed(3)
    model, guide, x = _pair(latent=2)
    fit(model, guide, x, epochs=100, batch_size=20, progress=False)
    ratios = {
        (name, k): gradient_snr(model, guide, x, IWAE(k, name), num_repeats=300)
        for name in ("pathwise", "dreg")
        for k in (1, 64)
    }
    assert ratios["pathwise", 64].guide < 0.7 * ratios["pathwise", 1].guide
    assert ratios["dreg", 64].guide > 2 * ratios["pathwise", 64].guide
    for name in ("pathwise", "dreg"):
        assert ratios[name, 64].model > 2 * ratios[name, 1].model
    again = [gradient_snr(model, guide, x, IWAE(4), num_repeats=5) for _ in range(2)]
    assert again[0] == again[1]


def test_schedules():
    assert [schedules.linear(4)(t) for t in (0, 1, 4, 9)] == [0.0, 0.25, 1.0, 1.0]
    assert [schedules.cyclical(10)(t) for t in (0, 2.5, 5, 9, 10, 12.5)] == [0.0, 0.5, 1.0, 1.0, 0.0, 0.5]
    assert schedules.constant(0.3)(7) == 0.3
    model, guide, x = _pair()
    settings = dict(epochs=6, batch_size=10, progress=False)
    cycle = fit(model, guide, x, kl_warmup=schedules.cyclical(4), **settings)
    assert [row["kl_weight"] for row in cycle.history] == [0.5, 1.0, 1.0, 0.0, 0.5, 1.0]
    with pytest.raises(ValueError, match=r"Expected ramp in \(0, 1\]"):
        schedules.cyclical(4, ramp=0.0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TVO(5, beta_1=0.0), r"Expected beta_1 in \(0, 1\)"),
        (lambda: TVO(5, 0), "Expected num_partitions to be an integer >= 1"),
        (lambda: RWS(5, phi="dream"), "Expected phi to be"),
        (lambda: CUBO(5, order=0.5), "Expected order >= 1"),
        (lambda: FreeBits(-1.0), "Expected floor >= 0"),
        (lambda: FreeBits(per="pixel"), "Expected per to be"),
        (lambda: BetaTCVAE(0), "Expected num_data to be an integer >= 1"),
    ],
)
def test_settings_are_checked(build, message):
    with pytest.raises(ValueError, match=message):
        build()


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


def _nested_model(x):
    with pyro.plate("data", x.shape[0], dim=-2):
        with pyro.plate("groups", 3, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum((-2, -1), keepdim=False)[..., None], 1.0), obs=x)


def _nested_guide(x):
    with pyro.plate("data", x.shape[0], dim=-2), pyro.plate("groups", 3, dim=-1):
        loc = x[..., None] * torch.tensor([0.3, -0.2], dtype=x.dtype)
        pyro.sample("z", dist.Normal(loc.expand(*x.shape[:-1], 3, 2), 0.7).to_event(1))


def test_free_bits_sum_over_inner_plates_and_mind_the_order_of_sites():
    x = torch.randn(5, 1, dtype=torch.float64)
    for num_particles in (1, 4):
        values = []
        for objective in (FreeBits(0.0, num_particles=num_particles), ELBO(num_particles, kl="analytic")):
            objective.loss(_nested_model, _nested_guide, x)
            torch.manual_seed(0)
            values.append(objective.loss(_nested_model, _nested_guide, x))
        assert values[0] == pytest.approx(values[1])
    layers = TwoLayers()  # the guide draws b before a, the model a before b: no closed form holds site by site
    torch.manual_seed(0)
    floorless = FreeBits(0.0).value(layers.model, layers.guide, X)
    torch.manual_seed(0)
    terms = ELBO().weight_terms(layers.model, layers.guide, (X,))
    penalty = sum((terms.guide[name] - terms.prior[name]).mean().clamp(min=0) for name in "ab")
    torch.testing.assert_close(floorless, terms.likelihood["x"][0] - penalty)


def test_penalties_refuse_latents_that_they_would_get_wrong():
    x = torch.randn(3, 1, dtype=torch.float64)
    for objective in (BetaTCVAE(10), InfoVAE()):
        with pytest.raises(ValueError, match=r"event shape \(D,\) in the data plate alone"):
            objective.loss(_nested_model, _nested_guide, x)

    def flow_guide(x):
        base = dist.Normal(torch.zeros(3, dtype=x.dtype), 1.0).expand([len(x), 3]).to_event(1)
        flow = dist.transforms.AffineTransform(torch.ones(3, dtype=x.dtype), 2.0, event_dim=1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.TransformedDistribution(base, [flow]))

    model, _, x = _pair()
    for objective in (FreeBits(), BetaTCVAE(10)):
        with pytest.raises(ValueError, match="the guide at latent site 'z' to factorise"):
            objective.loss(model, flow_guide, x)


def test_enumeration_is_unscaled_validates_and_takes_one_particle():
    program = Coin()
    exact = program.exact(lambda log_w: log_w.mean(0), 1, X).mean().item()

    def scaled(x):
        with pyro.poutine.scale(scale=10.0):
            program.model(x)

    def scaled_guide(x):
        with pyro.poutine.scale(scale=10.0):
            program.guide(x)

    objective = ELBO(gradient="enumerate")
    assert objective.loss(scaled, scaled_guide, X) == pytest.approx(-exact)
    result = fit(program.model, program.guide, X, objective=objective, valid=X, batch_size=3, epochs=2, progress=False)
    assert math.isfinite(result.history[-1]["valid_bound"])
    with pytest.raises(ValueError, match='Expected num_particles=1 with gradient="enumerate"'):
        ELBO(3, gradient="enumerate")


class Affine(nn.Module):
    """A flow guide whose parameters live in its transform, and which caches what it drew, as Pyro's flows do."""

    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(0.5, dtype=torch.float64).log() / 2)

    def forward(self, x):
        base = dist.Normal(torch.zeros_like(x), 1.0)
        flow = torch.distributions.AffineTransform(x / 2, self.log_scale.exp(), cache_size=1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.TransformedDistribution(base, [flow]))


@pytest.mark.parametrize("gradient", ["stl", "dreg"])
def test_flows_that_cache_have_the_gradient_of_the_frozen_guide(gradient):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    guide = Affine()  # the exact posterior, where the gradient without the score is 0 at every draw
    loss = ELBO(gradient=gradient).differentiable_loss(model, guide, X)
    (grad,) = torch.autograd.grad(loss, guide.log_scale)
    assert abs(grad.item()) < 1e-12


def _uniform_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
        pyro.factor("x", torch.where((x - z).abs() < 1.0, 0.0, -math.inf), has_rsample=True)


@pytest.mark.filterwarnings("ignore:Encountered .inf:UserWarning")  # Pyro points them out
@pytest.mark.parametrize(
    "objective", [IWAE(20, "dreg"), IWAE(20, "vimco"), IWAE(20, "score"), RWS(20)], ids=lambda o: o.gradient
)
def test_particles_of_weight_zero_do_not_spoil_a_finite_bound(objective):
    program = TwoLayers()

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(program.m * x, program.log_s.exp()))

    loss = objective.differentiable_loss(_uniform_model, guide, X[:2])
    assert loss.isfinite()
    assert torch.autograd.grad(loss, program.m)[0].isfinite()


def test_tvo_of_a_particle_of_weight_zero_is_minus_infinity_as_the_elbo_is():
    log_w = torch.tensor([[0.0], [-math.inf]])
    assert TVO(2, 3).bound(log_w).item() == -math.inf
