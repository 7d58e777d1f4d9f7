"""Layers of perceptrons."""

from __future__ import annotations

import torch

from pyro_vae.models import gated_mlp


def test_a_gated_layer_is_an_affine_map_times_a_gate():
    network = gated_mlp((4,))(torch.Size((3,)), 2).double()
    first, last = network.layers[0], network.layers[-1]
    x = torch.randn(5, 3, dtype=torch.float64)
    a, b = first.weight.chunk(2), first.bias.chunk(2)
    hidden = (x @ a[0].T + b[0]) * torch.sigmoid(x @ a[1].T + b[1])
    torch.testing.assert_close(network(x), hidden @ last.weight.T + last.bias)
