"""Products that are split between two cores have the values of whole ones, and others stay whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pyro_vae.inference.compile.compile import agree
from pyro_vae.inference.compile.record import record
from pyro_vae.inference.compile.rewrites import rewrite
from pyro_vae.inference.compile.splitting import by_input, by_weight, forwards

pytestmark = pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="PyTorch without MKL")
WHOLE = {"aten.addmm.default", "aten.mm.default"}


@pytest.fixture(autouse=True)
def _two_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


def test_each_way_has_the_value_of_the_whole_product():
    torch.manual_seed(0)
    bias, x, weight, g = (torch.randn(*size, dtype=torch.float64) for size in ((6,), (5, 3), (6, 3), (5, 6)))
    torch.testing.assert_close(forwards(bias, x, weight.t()), x @ weight.t() + bias, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(by_input(g, weight), g @ weight, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(by_weight(g.t(), x), g.t() @ x, rtol=1e-13, atol=1e-13)


def products(layer, x):
    """Record value and gradients of a layer, rewrite them, check the values, and return which products there are."""

    def function(x):
        y = layer(x).tanh()
        return y.detach(), *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])

    x = x.requires_grad_()
    graph = record(function, x)
    run = torch.no_grad()(graph)
    expected = run(x)
    rewrite(graph)
    assert agree(run(x), expected)
    assert [value.stride() for value in run(x)] == [value.stride() for value in expected]
    used = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    return [name for name in used if name in WHOLE or name == "aten.bmm.default"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("biased", [True, False])
def test_a_layer_and_its_gradients_are_split(dtype, biased):
    used = products(nn.Linear(30, 128, bias=biased, dtype=dtype), torch.randn(20, 30, dtype=dtype))
    assert used == (["aten.bmm.default"] if biased else ["aten.mm.default"]) + 2 * ["aten.bmm.default"]


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        pytest.param(nn.Linear(30, 126), torch.randn(20, 30), id="few rows"),
        pytest.param(nn.Linear(30, 129), torch.randn(20, 30), id="an odd number of rows"),
        pytest.param(nn.Linear(30, 128), torch.randn(129, 30), id="more data than rows"),
        pytest.param(nn.Linear(30, 128, dtype=torch.bfloat16), torch.randn(20, 30, dtype=torch.bfloat16), id="bf16"),
    ],
)
def test_other_products_stay_whole(layer, x):
    assert set(products(layer, x)) <= WHOLE


def test_products_stay_whole_with_another_number_of_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert set(products(nn.Linear(30, 128), torch.randn(20, 30))) <= WHOLE


def test_products_of_products_are_split_too():
    layer = nn.Sequential(nn.Linear(30, 128), nn.Linear(128, 256))  # with nothing between them
    assert products(layer, torch.randn(20, 30)) == 6 * ["aten.bmm.default"]
