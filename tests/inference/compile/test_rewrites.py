"""What replaces operations of a recorded graph has their values, and replaces them where it should."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli

from pyro_vae.inference.compile.compile import agree, compile_function
from pyro_vae.inference.compile.record import record
from pyro_vae.inference.compile.rewrites import MANY, rewrite, sum_of_log_bernoullis

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")
ROWS, WIDTH = 400, 300
assert ROWS * WIDTH * WIDTH > MANY


def rewritten(function, *example):
    """Record a function, check that the graph has its values after it is rewritten too, and return its operations."""
    graph = record(function, *example)
    run = torch.no_grad()(graph)
    expected = run(*example)
    rewrite(graph)
    assert agree(run(*example), expected)
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


def bernoulli(logits, x, shape):
    return (Bernoulli(logits=logits).log_prob(x).reshape(shape).sum(-1),)


@pytest.mark.parametrize("size", [1, 2, 7, 12, 64, 67, 100, 784, 3072])
def test_sum_of_log_bernoullis_is_their_log_prob(size):
    torch.manual_seed(0)
    logits, x = 10 * torch.randn(5, size, dtype=torch.float64), torch.rand(5, size, dtype=torch.float64).round()
    expected = nn.functional.logsigmoid((2 * x - 1) * logits).sum(-1)
    torch.testing.assert_close(sum_of_log_bernoullis(logits, x), expected, rtol=1e-13, atol=1e-15 * size)


@pytest.mark.parametrize("logit", [-1e4, -20.0, -1e-3, 0.0, 5.0, 50.0])
@pytest.mark.parametrize("x", [0.0, 1.0])
@pytest.mark.parametrize("size", [64, 784, 3072])
def test_sum_of_log_bernoullis_neither_overflows_nor_rounds_more_than_torch(logit, x, size):
    logits, values = torch.full((1, size), logit), torch.full((1, size), x)
    exact = nn.functional.logsigmoid((2 * values - 1) * logits.double()).sum(-1)
    torch.testing.assert_close(sum_of_log_bernoullis(logits, values).double(), exact, rtol=3e-6, atol=1e-7 * size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("event", [(64,), (1, 8, 8)])
def test_a_bernoulli_likelihood_takes_fewer_logarithms(dtype, event):
    logits, x = torch.randn(3, 5, *event, dtype=dtype), torch.rand(3, 5, *event, dtype=dtype).round()
    operations = rewritten(lambda logits, x: bernoulli(logits, x, (3, 5, -1)), logits, x)
    assert "aten.prod.dim_int" in operations
    assert not any("binary_cross_entropy" in operation for operation in operations)


def test_a_gradient_through_it_stays():
    def gradient(logits, x):
        logits = logits.detach().requires_grad_()
        (value,) = bernoulli(logits, x, (5, 64))
        return value.detach(), *torch.autograd.grad(value.sum(), logits)

    operations = rewritten(gradient, torch.randn(5, 64), torch.rand(5, 64).round())
    assert "aten.prod.dim_int" in operations
    assert "aten.sigmoid.default" in operations


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda a, x: bernoulli(a, x, (5, 67)), id="a prime number"),
        pytest.param(lambda a, x: (Bernoulli(logits=a).log_prob(x).sum(0),), id="sums over data"),
        pytest.param(lambda a, x: ((p := Bernoulli(logits=a).log_prob(x)).sum(-1), p.exp()), id="single terms used"),
        pytest.param(lambda a, x: (nn.functional.binary_cross_entropy_with_logits(a, x),), id="a mean"),
        pytest.param(lambda a, x: (Bernoulli(logits=a).log_prob(x).sum(-1, keepdim=True),), id="a dimension kept"),
        pytest.param(
            lambda a, x: (-nn.functional.binary_cross_entropy_with_logits(a, x, x, reduction="none").sum(-1),),
            id="weights",
        ),
    ],
)
def test_other_sums_stay(function):
    operations = rewritten(function, torch.randn(5, 67), torch.rand(5, 67).round())
    assert "aten.prod.dim_int" not in operations


@pytest.mark.parametrize(
    ("logits", "x", "dtype"),
    [
        (torch.float32, torch.float32, torch.float64),
        (torch.float64, torch.float32, None),
        (torch.float32, torch.float64, None),
    ],
)
def test_sums_of_two_precisions_stay(logits, x, dtype):
    example = torch.randn(5, 64, dtype=logits), torch.rand(5, 64).round().to(x)
    operations = rewritten(lambda a, x: (Bernoulli(logits=a).log_prob(x).sum(-1, dtype=dtype),), *example)
    assert "aten.prod.dim_int" not in operations


@pytest.mark.parametrize(
    "of",
    [
        pytest.param(lambda logits, x: (logits.permute(0, 2, 3, 1), x), id="channels last"),
        pytest.param(lambda logits, x: (logits[:, :, :1], x), id="shared logits"),
        pytest.param(lambda logits, x: (logits, x[:, :, :1]), id="shared data"),
    ],
)
def test_any_layout_is_flattened(of):
    example = torch.randn(5, 4, 4, 4), torch.rand(5, 4, 4, 4).round()
    assert "aten.prod.dim_int" in rewritten(lambda *args: bernoulli(*of(*args), (5, -1)), *example)


def test_logits_and_data_are_read_before_they_are_overwritten():
    def overwriting(logits, x):
        logits, x = logits.clone(), x.clone()
        each = Bernoulli(logits=logits).log_prob(x)
        return each, logits.mul_(2), x.zero_()

    def summed(logits, x):
        each, *_ = overwriting(logits, x)
        return (each.sum(-1),)

    assert "aten.prod.dim_int" in rewritten(summed, torch.randn(5, 64), torch.rand(5, 64).round())


@needs_onednn
@pytest.mark.parametrize("activation", [nn.Tanh(), nn.ReLU(), nn.Sigmoid(), nn.ELU(), nn.Identity()])
@pytest.mark.parametrize("shape", [(ROWS,), (4, ROWS // 4)])
def test_a_large_layer_is_one_operation(activation, shape):
    layer = nn.Linear(WIDTH, WIDTH)
    operations = rewritten(lambda x: (activation(layer(x)),), torch.randn(*shape, WIDTH))
    assert "pyro_vae.linear.default" in operations
    assert not {"aten.addmm.default", "aten.tanh.default", "aten.sigmoid.default"} & {*operations}


@needs_onednn
@pytest.mark.parametrize("activation", [nn.Tanh(), nn.ReLU(), nn.Sigmoid()])
def test_what_is_no_number_stays_so(activation):
    layer, x = nn.Linear(WIDTH, WIDTH), torch.randn(ROWS, WIDTH)
    x[0, 0] = torch.nan
    graph = record(lambda x: (activation(layer(x)),), x)
    rewrite(graph)
    assert graph(x)[0][0].isnan().all()


@needs_onednn
def test_gradients_of_large_layers_agree():
    net = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH, bias=False), nn.ReLU())

    def gradient(x):
        loss = net(x).square().mean()
        return loss.detach(), *torch.autograd.grad(loss, list(net.parameters()))

    operations = rewritten(gradient, torch.randn(ROWS, WIDTH))
    assert operations.count("pyro_vae.linear.default") == 3  # two layers, and the gradient between them


@needs_onednn
@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda h: (h.tanh(), h.exp()), id="before the activation"),
        pytest.param(lambda h: (h.view(4, -1, WIDTH).tanh(), h.exp()), id="before the view"),
        pytest.param(lambda h: ((v := h.view(4, -1, WIDTH)).tanh(), v.exp()), id="between view and activation"),
    ],
)
def test_what_is_used_before_the_activation_is_kept(function):
    layer = nn.Linear(WIDTH, WIDTH)
    operations = rewritten(lambda x: function(layer(x)), torch.randn(ROWS, WIDTH))
    assert "pyro_vae.linear.default" in operations
    assert "aten.tanh.default" in operations


@pytest.mark.parametrize(
    ("function", "example"),
    [
        pytest.param(nn.Linear(WIDTH, WIDTH), torch.randn(20, WIDTH), id="small"),
        pytest.param(nn.Linear(WIDTH, WIDTH).double(), torch.randn(ROWS, WIDTH).double(), id="float64"),
        pytest.param(lambda x: x.t() @ torch.ones(ROWS, WIDTH), torch.randn(ROWS, WIDTH), id="by columns"),
        pytest.param(
            lambda x: torch.addmm(torch.ones(WIDTH), x, torch.ones(WIDTH, WIDTH), beta=2),
            torch.randn(ROWS, WIDTH),
            id="a multiple of the bias",
        ),
        pytest.param(
            lambda x: torch.addmm(torch.ones(ROWS, WIDTH), x, torch.ones(WIDTH, WIDTH)),
            torch.randn(ROWS, WIDTH),
            id="a matrix added",
        ),
        pytest.param(
            lambda x: torch.addmm(torch.ones(1), x, torch.ones(WIDTH, WIDTH)), torch.randn(ROWS, WIDTH), id="one bias"
        ),
        pytest.param(
            lambda x: torch.addmm(torch.ones(1).expand(WIDTH), x, torch.ones(WIDTH, WIDTH)),
            torch.randn(ROWS, WIDTH),
            id="one bias for all",
        ),
        pytest.param(
            lambda x: torch.addmm(torch.arange(2.0 * WIDTH)[::2], x, torch.ones(WIDTH, WIDTH)),
            torch.randn(ROWS, WIDTH),
            id="every other bias",
        ),
    ],
)
def test_other_products_stay(function, example):
    assert "pyro_vae.linear.default" not in rewritten(lambda x: (function(x),), example)


@needs_onednn
def test_a_bias_that_is_computed_is_taken():
    bias = nn.Parameter(torch.randn(WIDTH))
    weight = torch.randn(WIDTH, WIDTH)
    rewritten(lambda x: (torch.addmm(bias.exp(), x, weight).tanh(),), torch.randn(ROWS, WIDTH))


@needs_onednn
def test_it_compiles():
    layer = nn.Linear(WIDTH, 128)

    def loss(h, x):
        (log_p,) = bernoulli(layer(h), x, (2 * ROWS, 128))
        return log_p.detach(), *torch.autograd.grad(log_p.sum(), list(layer.parameters()))

    example, other = [(torch.randn(2 * ROWS, WIDTH), torch.rand(2 * ROWS, 128).round()) for _ in range(2)]
    assert agree(compile_function(loss, example, other)(*other), loss(*other))
