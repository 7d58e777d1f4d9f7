"""Hierarchies of latent layers, against the linear one, whose posterior and evidence are normal."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from truth import LinearHierarchy

from pyro_vae.inference import evidence, guides, log_weights, objectives, weight_terms
from pyro_vae.inference.guides import HierarchicalGuide, LadderGuide
from pyro_vae.models import HierarchicalVAE, likelihoods, mlp, priors

F64 = torch.float64
LINEAR = LinearHierarchy()


@pytest.mark.parametrize("name", LINEAR.kinds)
def test_weights_of_the_exact_guide_are_constant_and_equal_to_the_evidence(name):
    model = LINEAR.model()
    x = 2 * torch.randn(5, 3, dtype=F64)
    log_w = log_weights(model, LINEAR.guide(name, model), x, 7)
    torch.testing.assert_close(log_w, LINEAR.log_px(x).expand(7, 5))


@pytest.mark.parametrize("name", LINEAR.kinds)
def test_evidence_of_an_inexact_guide(name):
    # 4 standard errors for each of 6 data; the guide is too wide, so that its weights are bounded.
    model = LINEAR.model()
    guide = LINEAR.guide(name, model)
    with torch.no_grad():
        last = guide.layers[0].encoder.layers[0] if name == "bottom-up" else guide.heads[1]
        last.bias[-1] += 0.3
    x = torch.randn(6, 3, dtype=F64)
    found = evidence(model, guide, x, 4000, method="iw", progress=False)
    assert ((found.log_px - LINEAR.log_px(x)).abs() < 4 * found.std_error).all()
    assert (found.std_error > 1e-4).all()


@pytest.mark.parametrize("name", LINEAR.kinds)
def test_gradient_of_the_bound_at_the_exact_guide_is_that_of_the_evidence(name):
    # At the exact posterior the guide's own terms have a gradient of mean zero, which "stl" leaves out: the rest is
    # the Fisher identity. Its Monte Carlo error over 2,000 particles is the tolerance, 5 standard errors.
    model = LINEAR.model()
    guide = LINEAR.guide(name, model)
    x = torch.randn(4, 3, dtype=F64)
    bias = LINEAR.bias.clone().requires_grad_()
    exact = dist.MultivariateNormal(LINEAR.mean - LINEAR.bias + bias, LINEAR.covariance).log_prob(x).mean()
    (expected,) = torch.autograd.grad(exact, bias)
    parameter = model.decoder.layers[0].bias
    draws = []
    for _ in range(40):
        loss = objectives.ELBO(50, gradient="stl").differentiable_loss(model, guide, x)
        draws.append(-torch.autograd.grad(loss, parameter)[0])
    draws = torch.stack(draws)
    assert ((draws.mean(0) - expected).abs() < 5 * draws.std(0) / 40**0.5 + 1e-12).all()


def _by_hand(kind, model, guide, x, noise):
    """Return log w of a two-layer pair, shape (N,), from the noise of its draws, with nothing of Pyro's."""

    def split(h):
        loc, log_scale = h.chunk(2, -1)
        return loc, log_scale.exp()

    def log_normal(z, loc, scale):
        return dist.Normal(loc, scale).log_prob(z).sum(-1)

    if kind == "ladder":
        d_1 = guide.encoders[0](x)
        (m, s), top = split(guide.heads[0](d_1)), split(guide.heads[1](guide.encoders[1](d_1)))
        z_2 = top[0] + top[1] * noise["z_2"]
        m_p, s_p = split(model.transitions[0].network(z_2))
        low = (m * s_p**2 + m_p * s**2) / (s**2 + s_p**2), s * s_p / (s**2 + s_p**2).sqrt()
        z_1 = low[0] + low[1] * noise["z_1"]
    else:
        low = split(guide.layers[0].encoder(x))
        z_1 = low[0] + low[1] * noise["z_1"]
        top = split(guide.layers[1].encoder(z_1))
        z_2 = top[0] + top[1] * noise["z_2"]
    log_q = log_normal(z_1, *low) + log_normal(z_2, *top)
    log_z = log_normal(z_2, 0.0, 1.0) + log_normal(z_1, *split(model.transitions[0].network(z_2)))
    return log_z + dist.Bernoulli(logits=model.decoder(z_1)).log_prob(x).sum(-1) - log_q


@pytest.mark.parametrize("kind", LINEAR.kinds)
def test_log_weights_are_the_hand_formula_in_value_and_gradient(kind):
    model = HierarchicalVAE((3, 2), likelihoods.Bernoulli(4), (mlp((6,)), mlp((5,)))).double()
    networks = (mlp((6,)), mlp((5,)))
    if kind == "ladder":
        guide = LadderGuide(4, model, networks, widths=(6, 5)).double()
    else:
        guide = HierarchicalGuide(4, (guides.DiagonalNormal(3), guides.DiagonalNormal(2)), networks).double()
    x = torch.bernoulli(torch.full((5, 4), 0.4, dtype=F64))
    terms = weight_terms(model, guide, x)
    noise = {}
    for name, site in terms.guide_sites.items():
        base = site["fn"].base_dist
        noise[name] = ((site["value"] - base.loc) / base.scale).detach()
    ours, exact = terms.log_w.sum(0), _by_hand(kind, model, guide, x, noise)
    torch.testing.assert_close(ours, exact)
    every = list(dict.fromkeys([*model.parameters(), *guide.parameters()]))
    weights = torch.randn(5, dtype=F64)
    found, expected = (torch.autograd.grad(v @ weights, every) for v in (ours, exact))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_the_program_is_the_one_it_says():
    model = HierarchicalVAE((3, 2, 4), likelihoods.Bernoulli((2, 2)), mlp((5,)))
    x = torch.ones(6, 2, 2)
    trace = pyro.poutine.trace(model).get_trace(x)
    trace.compute_log_prob()
    sites = [name for name, site in trace.nodes.items() if site["type"] == "sample" and name != "data"]
    assert sites == ["z_3", "z_2", "z_1", "x"]
    z = {name: trace.nodes[name]["value"] for name in sites}
    assert [z[f"z_{layer}"].shape[-1] for layer in (1, 2, 3)] == [3, 2, 4]
    assert trace.nodes["z_3"]["fn"].log_prob(z["z_3"]).allclose(dist.Normal(0.0, 1.0).log_prob(z["z_3"]).sum(-1))
    for below, above in ((1, 2), (2, 3)):
        loc, log_scale = model.transitions[below - 1].network(z[f"z_{above}"]).chunk(2, -1)
        expected = dist.Normal(loc, log_scale.exp()).log_prob(z[f"z_{below}"]).sum(-1)
        torch.testing.assert_close(trace.nodes[f"z_{below}"]["log_prob"], expected)
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], model.decode(z["z_1"]).log_prob(x))
    assert len(pyro.get_param_store()) == 0


def test_samples_have_the_law_of_the_linear_hierarchy():
    # Mean and covariance of 20,000 draws, 5 standard errors of each entry.
    x = LINEAR.model().sample(20_000)
    covariance = LINEAR.covariance
    variances = covariance.diagonal()
    assert ((x.mean(0) - LINEAR.mean).abs() < 5 * (variances / 20_000).sqrt()).all()
    error = (torch.outer(variances, variances) + covariance**2).div(20_000).sqrt()
    assert ((x.T.cov() - covariance).abs() < 5 * error).all()


def test_the_architecture_of_burda_et_al_in_one_line():
    model = HierarchicalVAE((100, 50), likelihoods.Bernoulli(784), (mlp((200, 200)), mlp((100, 100))))
    guide = HierarchicalGuide(
        784, (guides.DiagonalNormal(100), guides.DiagonalNormal(50)), (mlp((200, 200)), mlp((100, 100)))
    )

    def widths(network):
        return [layer.out_features for layer in network.layers if isinstance(layer, nn.Linear)]

    assert widths(guide.layers[0].encoder) == [200, 200, 2 * 100]
    assert widths(guide.layers[1].encoder) == [100, 100, 2 * 50]
    assert widths(model.transitions[0].network) == [100, 100, 2 * 100]
    assert widths(model.decoder) == [200, 200, 784]
    assert log_weights(model, guide, torch.zeros(2, 784), 3).shape == (3, 2)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: HierarchicalVAE((), likelihoods.Bernoulli(3)), r"Expected latent_dims as dimensions .* got \(\)"),
        (lambda: HierarchicalVAE(5, likelihoods.Bernoulli(3)), r"Expected latent_dims as dimensions .* got 5"),
        (
            lambda: HierarchicalVAE((2, 0), likelihoods.Bernoulli(3)),
            "latent_dims to be an integer >= 1; got 0",
        ),
        (
            lambda: HierarchicalVAE((2, 2), likelihoods.Bernoulli(3), [mlp()]),
            "Expected 2 networks, one .* got 1",
        ),
        (
            lambda: HierarchicalVAE((2, 2), likelihoods.Bernoulli(3), nn.Linear(2, 3)),
            "a factory for all; got one",
        ),
        (
            lambda: HierarchicalVAE((2, 3), likelihoods.Bernoulli(3), prior=priors.StandardNormal(2)),
            r"Expected a prior of event shape \(3,\), the last of latent_dims; got \(2,\)",
        ),
        (
            lambda: HierarchicalVAE((2,), likelihoods.Bernoulli(3), prior=dist.Normal(torch.zeros(2), 1.0)),
            r"Expected prior\(\) to return a distribution with batch shape \(\)",
        ),
        (lambda: HierarchicalVAE((2,), likelihoods.Bernoulli(3)).sample(0), "Expected num_data to be an integer >= 1"),
        (
            lambda: HierarchicalVAE((2,), likelihoods.Bernoulli(3)).check_data(torch.full((2, 3), 0.5)),
            r"Expected x in \{0, 1\} for Bernoulli; got 0.5",
        ),
    ],
)
def test_mistakes_get_one_clear_line(build, message):
    with pytest.raises(ValueError, match=message):
        build()
