"""Guides of hierarchies: the product of messages, sharing with the model, training, and what is refused."""

from __future__ import annotations

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import deep_pair
from torch import nn
from truth import LinearHierarchy

from pyro_vae.inference import fit, guides, log_weights, objectives
from pyro_vae.inference.guides import HierarchicalGuide, LadderGuide
from pyro_vae.inference.guides.ladder import combine
from pyro_vae.models import mlp

LINEAR = LinearHierarchy()


F64 = torch.float64
NORMAL = guides.DiagonalNormal


def test_combine_is_the_normalised_product_of_the_densities():
    m, s = torch.randn(4, 2, dtype=F64), torch.rand(4, 2, dtype=F64) + 0.5
    p = dist.Normal(torch.randn(4, 2, dtype=F64), torch.rand(4, 2, dtype=F64) + 0.3).to_event(1)
    grid = torch.linspace(-12, 12, 6001, dtype=F64)[:, None, None]
    product = (dist.Normal(m, s).log_prob(grid) + p.base_dist.log_prob(grid)).exp()
    density = product / torch.trapezoid(product, grid.flatten(), dim=0)
    torch.testing.assert_close(combine((m, s), p).log_prob(grid).exp(), density, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", LINEAR.kinds)
def test_three_layers_train_and_every_parameter_gets_a_gradient(kind):
    model, guide = deep_pair(kind)
    x = torch.bernoulli(torch.full((40, 2, 3), 0.3))
    before = copy.deepcopy((model.state_dict(), guide.state_dict()))
    result = fit(model, guide, x, objective=objectives.IWAE(3), epochs=2, batch_size=20, progress=False)
    assert all(math.isfinite(row["loss"]) for row in result.history)
    for module, old in zip((model, guide), before, strict=True):
        assert all(not torch.equal(value, old[name]) for name, value in module.named_parameters())


@pytest.mark.parametrize("kind", LINEAR.kinds)
@pytest.mark.parametrize("objective", [pyro.infer.Trace_ELBO(), objectives.IWAE(4, "dreg")], ids=["stock", "dreg"])
def test_they_work_in_stock_svi(kind, objective):
    model, guide = deep_pair(kind)
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), objective)
    x = torch.tensor([[0.0, 1, 1], [1, 0, 0]]).expand(30, 2, 3)
    losses = [svi.step(x) for _ in range(60)]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


def test_the_ladder_shares_the_models_networks():
    model, guide = deep_pair("ladder")
    assert guide.transitions is model.transitions
    both = copy.deepcopy((model, guide))
    assert both[1].transitions is both[0].transitions
    other_model, other_guide = deep_pair("ladder")
    other_model.load_state_dict(model.state_dict())
    other_guide.load_state_dict(guide.state_dict())
    x = torch.ones(2, 2, 3)
    torch.manual_seed(1)
    first = log_weights(model, guide, x, 3)
    torch.manual_seed(1)
    torch.testing.assert_close(log_weights(other_model, other_guide, x, 3), first)


def test_posterior_of_the_first_layer():
    guide, x = LINEAR.bottom_up(), torch.randn(5, 3, dtype=F64)
    q = guide.posterior(x)
    assert q.batch_shape == (5,)
    assert q.event_shape == (1,)


@pytest.mark.parametrize("kind", LINEAR.kinds)
def test_float64_and_device(kind, device):
    model, guide = (module.to(device, F64) for module in deep_pair(kind))
    log_w = log_weights(model, guide, torch.ones(3, 2, 3, dtype=F64, device=device), 2)
    assert log_w.dtype == F64
    assert log_w.device.type == model.sample(2).device.type == device.type


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: HierarchicalGuide(3, (NORMAL(2), NORMAL(2)), (mlp(),)),
            "Expected one encoder for each of the 2 layers",
        ),
        (lambda: HierarchicalGuide(3, (NORMAL(2),), mlp()), "Expected one encoder for each of the 1 layers"),
        (
            lambda: LadderGuide(3, nn.Linear(2, 2), (mlp(),), widths=(3,)),
            "with latent_dims and transitions.*Linear",
        ),
        (lambda: LadderGuide(3, LINEAR.model(), (mlp(),), widths=(3, 3)), "Expected one encoder for each of the 2"),
        (lambda: LadderGuide(3, LINEAR.model(), (mlp(),) * 2, widths=(3,)), "Expected one width for each of the 2"),
        (lambda: LadderGuide(3, LINEAR.model(), (mlp(),) * 2, widths=(3, 0)), "Expected widths to be an integer >= 1"),
        (
            lambda: log_weights(LINEAR.model(), LINEAR.bottom_up(), torch.zeros(2, 4, dtype=F64)),
            r"Expected x of shape \(N, 3\); got \(2, 4\)",
        ),
        (
            lambda: LINEAR.ladder(LINEAR.model())(torch.zeros(2, 4, dtype=F64)),
            r"Expected x of shape \(N, 3\); got \(2, 4\)",
        ),
        (
            lambda: log_weights(
                LINEAR.model(),
                HierarchicalGuide(3, (NORMAL(2), NORMAL(1)), (mlp(), mlp())).double(),
                torch.zeros(2, 3, dtype=F64),
            ),
            r"Expected z_1 of event shape \(1,\), the prior's; the guide draws \(2, 2\)",
        ),
    ],
)
def test_mistakes_get_one_clear_line(build, message):
    with pytest.raises(ValueError, match=message):
        build()
