"""The contract of every guide family: one line in a table gives a family every check."""

from __future__ import annotations

import contract
import pytest
import torch
from scipy import stats
from torch import nn

from pyro_vae.inference import AmortizedGuide, guides
from pyro_vae.models import mlp

DIM = 3
FAMILIES = {"DiagonalNormal": lambda: guides.DiagonalNormal(DIM)}


def test_every_family_is_in_the_table():
    assert contract.shipped(guides, guides.GuideFamily) == {name.split(",")[0] for name in FAMILIES}


@pytest.mark.parametrize("leading", [(), (5,), (2, 5)])
@pytest.mark.parametrize("name", FAMILIES)
def test_shapes_for_any_leading_dimensions(name, leading):
    contract.check_shapes(FAMILIES[name](), leading, (DIM,))


@pytest.mark.parametrize("name", FAMILIES)
def test_density_integrates_to_one(name):
    contract.check_integrates_to_one(contract.call(FAMILIES[name]().double()))


@pytest.mark.parametrize("name", FAMILIES)
def test_gradient_reaches_every_parameter_and_feature(name):
    contract.check_gradients(FAMILIES[name]())


@pytest.mark.parametrize("name", FAMILIES)
def test_state_dict_round_trip_and_device(name, device):
    contract.check_round_trip(FAMILIES[name], device)


def test_diagonal_normal_draws_have_its_moments():
    # Kolmogorov-Smirnov at 1e-4 in all.
    h = torch.randn(2 * DIM, dtype=torch.float64)
    x = guides.DiagonalNormal(DIM)(h).sample((4000,))
    for i in range(DIM):
        cdf = stats.norm(h[i].item(), h[DIM + i].exp().item()).cdf
        assert stats.kstest(x[:, i].numpy(), cdf).pvalue > 1e-4 / DIM


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: guides.DiagonalNormal(2.0), r"Expected dim to be an integer >= 1; got 2\.0"),
        (lambda: AmortizedGuide(4, guides.DiagonalNormal(2), mlp(), scale=0.0), "Expected scale > 0 for the encoder"),
    ],
)
def test_bad_settings_get_one_clear_line(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_guide_standardises_what_the_encoder_sees_and_nothing_else():
    encoder = nn.Linear(4, 4)
    guide = AmortizedGuide(4, guides.DiagonalNormal(2), encoder, loc=torch.arange(4.0), scale=2.0)
    x = torch.randn(3, 4)
    expected = guide.family(encoder((x - torch.arange(4.0)) / 2))
    torch.testing.assert_close(guide.posterior(x).mean, expected.mean)
    with pytest.raises(ValueError, match=r"Expected x of shape \(N, 4\); got \(3, 5\)"):
        guide.posterior(torch.randn(3, 5))
