"""The contract of every part: one line in a table gives a part every check."""

from __future__ import annotations

import copy
import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import nn
from torch.distributions import Distribution, constraints

from pyro_vae.inference import AmortizedGuide, guides, log_weights, weight_terms
from pyro_vae.models import VAE, likelihoods, mlp, priors

DIM = 3
PRIORS = {"StandardNormal": lambda: priors.StandardNormal(DIM)}
LIKELIHOODS = {
    "Bernoulli": lambda: likelihoods.Bernoulli((2, 2)),
    "Binomial": lambda: likelihoods.Binomial((4,), total_count=3),
    "Normal, fixed": lambda: likelihoods.Normal((4,), scale=0.5),
    "Normal, shared": lambda: likelihoods.Normal((2, 2), scale="shared"),
    "Normal, dimension": lambda: likelihoods.Normal((4,), scale="dimension"),
    "Normal, datum": lambda: likelihoods.Normal((4,), scale="datum"),
}
FAMILIES = {"DiagonalNormal": lambda: guides.DiagonalNormal(DIM)}
PARTS = {**PRIORS, **LIKELIHOODS, **FAMILIES}
OUTSIDE = {
    "Bernoulli": (0.37, r"in \{0, 1\} for Bernoulli; got 0\.37 at index \(0, 1, 0\)"),
    "Binomial": (4.0, r"in \{0, \.\.\., 3\} for Binomial; got 4 at index \(0, 1\)"),
}


def _call(part: nn.Module, leading: tuple[int, ...] = (), dtype: torch.dtype = torch.float64) -> Distribution:
    """Call a prior with nothing, any other part with random features of the width it asks for."""
    if not hasattr(part, "num_features"):
        return part()
    return part(torch.randn(*leading, part.num_features, dtype=dtype))


def test_every_public_part_is_in_the_table():
    for room, base, table in (
        (priors, priors.Prior, PRIORS),
        (likelihoods, likelihoods.Likelihood, LIKELIHOODS),
        (guides, guides.GuideFamily, FAMILIES),
    ):
        shipped = {name for name, c in vars(room).items() if isinstance(c, type) and issubclass(c, base) and c != base}
        assert shipped == {name.split(",")[0] for name in table}


@pytest.mark.parametrize("name", PRIORS)
def test_prior_has_no_batch_shape(name):
    assert _call(PRIORS[name]().double()).batch_shape == ()
    assert _call(PRIORS[name]()).event_shape == (DIM,)


@pytest.mark.parametrize("leading", [(), (5,), (2, 5)])
@pytest.mark.parametrize("name", [*LIKELIHOODS, *FAMILIES])
def test_shapes_for_any_leading_dimensions(name, leading):
    part = PARTS[name]().double()
    q = _call(part, leading)
    assert q.batch_shape == leading
    assert q.event_shape == getattr(part, "event_shape", (DIM,))
    assert q.log_prob(q.sample()).shape == leading
    assert q.log_prob(q.sample()).dtype == torch.float64


@pytest.mark.parametrize("name", PARTS)
def test_log_prob_normalises(name):
    """Sums to one over a finite support; over a continuous one, the mean of g(x) / p(x) under p is one.

    g is a normal with the spread of p's own draws shrunk to 0.8, so that g / p has a finite variance; 200,000
    draws, 5 standard errors.
    """
    p = _call(PARTS[name]().double())
    support = getattr(PARTS[name](), "support", None)
    values = {"Bernoulli": range(2), "Binomial": range(4)}.get(name)
    if values is not None:
        grid = torch.tensor(list(itertools.product(values, repeat=4)), dtype=torch.float64)
        total = p.log_prob(grid.reshape(-1, *p.event_shape)).exp().sum()
        torch.testing.assert_close(total, torch.ones((), dtype=torch.float64))
        return
    assert support in (None, constraints.real)
    x = p.sample((200_000,))
    g = torch.distributions.Normal(x.mean(0), 0.8 * x.std(0))
    ratio = (g.log_prob(x).flatten(1).sum(1) - p.log_prob(x)).exp()
    assert ratio.mean().item() == pytest.approx(1.0, abs=5 * ratio.std().item() / len(x) ** 0.5)


@pytest.mark.parametrize("name", [n for n in PARTS if not n.startswith(("Bernoulli", "Binomial"))])
def test_continuous_samples_agree_with_log_prob(name):
    """-log p(x) - entropy has mean 0 under p, and each coordinate passes Kolmogorov-Smirnov at 1e-4 a part."""
    p = _call(PARTS[name]().double())
    x = p.sample((4000,)).flatten(1)
    base = p.base_dist
    for i, (loc, scale) in enumerate(zip(base.loc.flatten(), base.scale.flatten(), strict=True)):
        assert stats.kstest(x[:, i].numpy(), stats.norm(loc.item(), scale.item()).cdf).pvalue > 1e-4 / x.shape[1]


@pytest.mark.parametrize("name", ["Bernoulli", "Binomial"])
def test_discrete_samples_agree_with_log_prob(name):
    p = _call(PARTS[name]().double())
    values = range(2) if name == "Bernoulli" else range(4)
    grid = torch.tensor(list(itertools.product(values, repeat=4)), dtype=torch.float64).reshape(-1, *p.event_shape)
    expected = 20_000 * p.log_prob(grid).exp()
    x = p.sample((20_000,))
    observed = torch.stack([(x == g).flatten(1).all(1).sum() for g in grid])
    kept = expected >= 5
    other = [[20_000 - table[kept].sum().item()] for table in (observed.double(), expected)]
    tables = [torch.cat([t[kept].double(), torch.tensor(o)]) for t, o in zip((observed, expected), other, strict=True)]
    if tables[1][-1] < 1e-9:
        tables = [table[:-1] for table in tables]
    assert stats.chisquare(tables[0].numpy(), tables[1].numpy()).pvalue > 1e-4


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_constants_are_those_of_scipy(name):
    """A dropped binomial coefficient or 2 pi would pass every test of shape."""
    part = LIKELIHOODS[name]().double()
    h = torch.randn(part.num_features, dtype=torch.float64)
    p = part(h)
    x = p.sample()
    if name.startswith("Normal"):
        sd = h[4:].exp() if name.endswith("datum") else part.log_scale.exp().expand(part.event_shape).flatten()
        expected = stats.norm.logpdf(x.flatten(), h[:4], sd.detach())
    else:
        count = getattr(part, "total_count", 1)
        expected = stats.binom.logpmf(x.flatten(), count, torch.sigmoid(h))
    assert p.log_prob(x).item() == pytest.approx(expected.sum(), abs=1e-9)


@pytest.mark.parametrize("name", PARTS)
def test_gradient_reaches_every_parameter_and_feature(name):
    part = PARTS[name]()
    h = torch.randn(7, part.num_features, requires_grad=True) if hasattr(part, "num_features") else None
    q = part() if h is None else part(h)
    q.log_prob(q.sample()).sum().backward() if h is not None or any(True for _ in part.parameters()) else None
    for tensor in [*part.parameters(), *([] if h is None else [h])]:
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().sum() > 0


@pytest.mark.parametrize("name", PARTS)
def test_state_dict_round_trip_and_device(name, device):
    part, other = PARTS[name]().to(device), PARTS[name]().to(device)
    with torch.no_grad():
        for p in part.parameters():
            p.add_(0.3)
    other.load_state_dict(part.state_dict())
    leading = () if not hasattr(part, "num_features") else (torch.randn(part.num_features, device=device),)
    x = part(*leading).sample()
    assert x.device.type == device.type
    assert torch.equal(part(*leading).log_prob(x), other(*leading).log_prob(x))


@pytest.mark.parametrize("name", OUTSIDE)
def test_support_is_checked_with_the_first_offender(name):
    value, message = OUTSIDE[name]
    part = LIKELIHOODS[name]()
    x = torch.zeros(2, *part.event_shape)
    model = VAE(priors.StandardNormal(2), part, mlp((3,)))
    model.check_data(x)
    x[0].view(-1)[1 if name == "Binomial" else 2] = value
    with pytest.raises(ValueError, match=message):
        model.check_data(x)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: priors.StandardNormal(0), "Expected dim to be an integer >= 1; got 0"),
        (lambda: guides.DiagonalNormal(2.0), r"Expected dim to be an integer >= 1; got 2\.0"),
        (lambda: likelihoods.Binomial(4, total_count=0), "Expected total_count to be an integer >= 1"),
        (lambda: likelihoods.Normal(4, scale=-1.0), r'Expected scale > 0, "shared", .*got -1\.0'),
        (lambda: likelihoods.Normal(4, scale="none"), r'"datum"; got .none.'),
        (lambda: VAE(lambda: torch.zeros(2), likelihoods.Bernoulli(4)), "Expected prior.. to return a distribution"),
        (lambda: _vae(decoder=3), "Expected a network factory such as mlp"),
        (lambda: _vae(decoder=lambda shape, width: width), "the network factory to return an nn.Module; got int"),
        (lambda: AmortizedGuide(4, guides.DiagonalNormal(2), mlp(), scale=0.0), "Expected scale > 0 for the encoder"),
        (lambda: _vae().sample(0), "Expected num_data to be an integer >= 1"),
    ],
)
def test_bad_settings_get_one_clear_line(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def _vae(decoder=None) -> VAE:
    return VAE(priors.StandardNormal(2), likelihoods.Bernoulli((2, 2)), decoder or mlp((5,)))


def test_vae_is_the_program_it_says():
    model = _vae()
    x = torch.bernoulli(torch.full((6, 2, 2), 0.5))
    trace = pyro.poutine.trace(model).get_trace(x)
    z = trace.nodes["z"]["value"]
    trace.compute_log_prob()
    assert z.shape == (6, 2)
    torch.testing.assert_close(trace.nodes["z"]["log_prob"], -0.5 * (z**2).sum(1) - math.log(2 * math.pi))
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], model.decode(z).log_prob(x))
    assert len(pyro.get_param_store()) == 0


def test_samples_have_the_law_of_the_program():
    # The mean of 20,000 draws of 4 pixels, 5 standard errors each.
    model = _vae()
    x = model.sample(20_000)
    z = torch.randn(200_000, 2)
    expected = model.decode(z).mean.mean(0)
    assert ((x.mean(0) - expected).abs() < 5 * 0.5 / 20_000**0.5).all()
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert not x.requires_grad


def test_ready_modules_are_taken_as_networks():
    decoder = nn.Linear(2, 4)
    assert _vae(decoder).decoder is decoder


def test_mlp_flattens_the_event():
    network = mlp((5, 6))(torch.Size((2, 3)), 4)
    assert network(torch.randn(7, 8, 2, 3)).shape == (7, 8, 4)
    assert mlp(())(torch.Size((3,)), 2)(torch.randn(3)).shape == (2,)


def test_guide_standardises_what_the_encoder_sees_and_nothing_else():
    encoder = nn.Linear(4, 4)
    guide = AmortizedGuide(4, guides.DiagonalNormal(2), encoder, loc=torch.arange(4.0), scale=2.0)
    x = torch.randn(3, 4)
    expected = guide.family(encoder((x - torch.arange(4.0)) / 2))
    torch.testing.assert_close(guide.posterior(x).mean, expected.mean)
    with pytest.raises(ValueError, match=r"Expected x of shape \(N, 4\); got \(3, 5\)"):
        guide.posterior(torch.randn(3, 5))


def test_models_can_be_copied_after_training_steps():
    model = _vae()
    guide = AmortizedGuide((2, 2), guides.DiagonalNormal(2), mlp((5,)))
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), pyro.infer.Trace_ELBO())
    x = torch.ones(3, 2, 2)
    svi.step(x)
    copied = copy.deepcopy(model)
    before = [p.clone() for p in copied.parameters()]
    svi.step(x)
    assert all(torch.equal(a, b) for a, b in zip(before, copied.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


BARE = {
    "Pyro": lambda: dist.Normal(torch.zeros(2), 1.0).to_event(1),
    "torch": lambda: torch.distributions.Independent(torch.distributions.Laplace(torch.zeros(2), 1.0), 1),
    "mixture": lambda: torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(3)),
        torch.distributions.Independent(torch.distributions.Normal(torch.arange(6.0).reshape(3, 2), 1.0), 1),
    ),
    "transformed": lambda: torch.distributions.TransformedDistribution(
        torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), 1.0), 1),
        [torch.distributions.AffineTransform(torch.ones(2), torch.full((2,), 2.0), event_dim=1)],
    ),
}


@pytest.mark.parametrize("name", BARE)
def test_bare_distributions_are_priors_and_move(name):
    prior = BARE[name]()
    model = VAE(prior, likelihoods.Bernoulli((2, 2)), mlp((5,))).double()
    guide = AmortizedGuide((2, 2), guides.DiagonalNormal(2), mlp((5,))).double()
    x = torch.ones(4, 2, 2, dtype=torch.float64)
    terms = weight_terms(model, guide, x, 3)
    z = terms.guide_sites["z"]["value"]
    torch.testing.assert_close(terms.prior["z"], prior.log_prob(z.float()).double(), rtol=1e-4, atol=1e-4)
    assert terms.prior["z"].dtype == model.sample(2).dtype == torch.float64
    assert not hasattr(prior, "to_event") or name == "Pyro"  # the user's own object is left as it was
    if torch.cuda.is_available():
        assert model.cuda().prior().sample().device.type == "cuda"


def test_a_bare_distribution_with_something_to_learn_is_refused():
    loc = nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match=r"one of its tensors requires a gradient\. Write a module"):
        VAE(dist.Normal(loc, 1.0).to_event(1), likelihoods.Bernoulli(4))


def test_parts_may_return_distributions_of_torch():
    class Family(nn.Module):
        num_features = 4

        def forward(self, h):
            loc, scale = h.chunk(2, -1)
            return torch.distributions.Independent(torch.distributions.Normal(loc, scale.exp()), 1)

    guide = AmortizedGuide((2, 2), Family(), mlp((5,)))
    assert log_weights(_vae(), guide, torch.ones(3, 2, 2), 2).shape == (2, 3)


def test_a_likelihood_of_ones_own_needs_num_features_and_forward_alone():
    class Poisson(nn.Module):
        num_features = 3

        def forward(self, h):
            return torch.distributions.Independent(torch.distributions.Poisson(h.exp()), 1)

    model = VAE(priors.StandardNormal(2), Poisson(), mlp((5,)))
    model.check_data(torch.tensor([[0.0, 4.0, 1.0]]))
    assert model.sample(4).shape == (4, 3)
    with pytest.raises(ValueError, match=r"Expected x in \{0, 1, 2, \.\.\.\} for Poisson; got -1 at index \(0, 1\)"):
        model.check_data(torch.tensor([[0.0, -1.0, 1.0]]))
    with pytest.raises(ValueError, match=r"Expected x of shape \(N, 3\); got \(1, 2\)"):
        model.check_data(torch.zeros(1, 2))


def test_prior_and_guide_of_different_dimensions_are_refused():
    guide = AmortizedGuide((2, 2), guides.DiagonalNormal(1), mlp((5,)))
    with pytest.raises(ValueError, match=r"Expected z of event shape \(2,\), the prior's; the guide draws \(3, 1\)"):
        log_weights(_vae(), guide, torch.ones(3, 2, 2))
