"""The geometry of convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pyro_vae.models import VAE, conv, deconv, likelihoods, priors
from pyro_vae.models.networks.convolution import Residual, with_constant_channels


@pytest.mark.parametrize("residual_blocks", [0, 1])
def test_a_shift_of_the_image_shifts_the_maps(residual_blocks):
    # Two halvings: 4 pixels are one place on the maps, away from the border.
    network = conv((4, 3), residual_blocks=residual_blocks)(torch.Size((1, 160, 160)), 2).double()
    x = torch.zeros(1, 1, 160, 160, dtype=torch.float64)
    x[..., 76:84, 76:84] = torch.randn(8, 8, dtype=torch.float64)
    maps, shifted = (network.stages(v)[..., 8:-8, 8:-8] for v in (x, x.roll((4, 8), (-2, -1))))
    torch.testing.assert_close(shifted, maps.roll((1, 2), (-2, -1)))
    assert (shifted - maps).abs().max() > 0.01


@pytest.mark.parametrize("residual_blocks", [0, 1])
def test_a_shift_of_the_maps_shifts_the_decoded_image(residual_blocks):
    network = deconv((1, 64, 64), (3, 4), residual_blocks=residual_blocks)(torch.Size((2,)), 64 * 64).double()
    maps = torch.zeros(1, 3, 16, 16, dtype=torch.float64)
    maps[..., 7:9, 7:9] = torch.randn(2, 2, dtype=torch.float64)
    image, shifted = (network.stages(v)[..., 12:-12, 12:-12] for v in (maps, maps.roll((1, 2), (-2, -1))))
    torch.testing.assert_close(shifted, image.roll((4, 8), (-2, -1)))
    assert (shifted - image).abs().max() > 0.01


def test_neighbouring_features_are_neighbouring_pixels():
    network = deconv((1, 12, 12), (4,))(torch.Size((2,)), 144).double()
    small = torch.zeros(1, 4, 6, 6, dtype=torch.float64)
    flat = network.stages(small).flatten()
    small[0, :, 2, 3] = 5.0
    rows, columns = (network.stages(small).flatten() - flat).unflatten(0, (12, 12)).nonzero().unbind(1)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (3, 5, 5, 7)  # one pixel around (4, 6)


def test_a_residual_block_adds_to_its_input():
    block = Residual(3, 3, nn.ReLU).double()
    nn.init.zeros_(block.branch[-1].weight)
    nn.init.zeros_(block.branch[-1].bias)
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(block(x), x)


def test_convolutions_in_a_vae():
    model = VAE(priors.StandardNormal(2), likelihoods.Normal((1, 5, 7), "datum"), deconv((1, 5, 7), (3, 2)))
    assert model.sample(4).shape == (4, 1, 5, 7)
    flat = VAE(priors.StandardNormal(2), likelihoods.Bernoulli(35), deconv((5, 7), (3,)))
    assert flat.sample(4).shape == (4, 35)


def test_entries_behind_a_flat_image_are_constant_channels():
    torch.manual_seed(0)
    network = with_constant_channels(conv((4,)), (1, 6, 5), 2)(torch.Size((32,)), 3)
    image, entries = torch.rand(7, 1, 6, 5), torch.tensor([2.0, -1.0])
    channels = torch.cat([image, entries[:, None, None].expand(7, 2, 6, 5)], 1)
    flat = torch.cat([image.flatten(1), entries.expand(7, 2)], 1)
    torch.testing.assert_close(network(flat), network.network(channels))
