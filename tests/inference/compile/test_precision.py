"""Lower precision reaches the layers of networks, and neither distributions nor what comes after."""

from __future__ import annotations

import math
import threading

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import PIXELS, losses_of, make_pair, quick, weights_of
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae.inference import AmortizedGuide, evidence, guides, log_weights, methods
from pyro_vae.inference.compile.compile import agree
from pyro_vae.inference.compile.precision import at_precision, in_precision
from pyro_vae.inference.objectives import ELBO, IWAE
from pyro_vae.inference.programs.call import fork_rng, full_precision
from pyro_vae.inference.programs.vectorize import find_plates
from pyro_vae.inference.training.checkpoints import load_checkpoint
from pyro_vae.inference.training.step import Stepper
from pyro_vae.models import VAE, conv, deconv, likelihoods, mlp, priors


def lower(*programs):
    return tuple(in_precision(program, "bf16") for program in programs)


def weights(model, guide, x=PIXELS):
    torch.manual_seed(0)
    return log_weights(model, guide, x, 5)


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Linear(5, 4), torch.randn(3, 5)),
        (nn.Conv2d(2, 3, 3), torch.randn(2, 2, 5, 5)),
        (nn.ConvTranspose2d(2, 3, 3), torch.randn(2, 2, 5, 5)),
        (nn.Conv1d(2, 3, 3), torch.randn(2, 2, 5)),
    ],
)
def test_a_layer_takes_bfloat16_and_returns_float32(layer, x):
    low = in_precision(layer, "bf16")(x)
    assert low.dtype == torch.float32
    assert not torch.equal(low, layer(x))
    torch.testing.assert_close(low, layer(x), rtol=0.02, atol=0.02)

    low.sum().backward()
    assert {p.grad.dtype for p in layer.parameters()} == {torch.float32}
    torch.testing.assert_close(low, layer.bfloat16()(x.bfloat16()).float())


def test_nothing_else_is_rounded():
    x = torch.randn(4, 4)

    def program(x):
        return x @ x, x.exp().sum(), torch.einsum("ij,jk", x, x)

    assert all(torch.equal(a, b) for a, b in zip(in_precision(program, "bf16")(x), program(x), strict=True))
    layer = nn.Linear(4, 4).double()
    assert torch.equal(in_precision(layer, "bf16")(x.double()), layer(x.double()))
    assert in_precision(layer, None) is in_precision(layer, "tf32") is layer


def test_log_weights_are_those_of_float32_up_to_rounding():
    model, guide = make_pair(hidden=(64,))
    exact, low = weights(model, guide), weights(*lower(model, guide))
    assert low.dtype == torch.float32
    assert not torch.equal(low, exact)
    torch.testing.assert_close(low, exact, rtol=0, atol=0.1)
    with full_precision():
        assert torch.equal(weights(*lower(model, guide)), exact)


def test_how_particles_run_is_found_out_without_rounding():
    """Two particles together and each alone differ by more than an error in bfloat16."""
    layer, seen = nn.Linear(2, 6), []

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            seen.append(torch.allclose(layer(z), z @ layer.weight.T + layer.bias, atol=1e-5))
            pyro.sample("x", dist.Bernoulli(logits=layer(z)).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))

    find_plates(*lower(model, guide), (PIXELS,))
    assert seen
    assert all(seen)
    log_weights(*lower(model, guide), PIXELS, 1)
    assert not seen[-1]


class Stretched(dist.Normal):
    """A distribution with a layer of its own, which drawing and scoring go through, as those of a flow do."""

    def __init__(self, loc, scale) -> None:
        super().__init__(loc, scale)
        self.layer = nn.Linear(1, 1).requires_grad_(False)
        nn.init.constant_(self.layer.weight, 0.7)
        nn.init.constant_(self.layer.bias, 0.3)

    def rsample(self, sample_shape=()):
        return self.layer(super().rsample(torch.Size(sample_shape))[..., None])[..., 0]

    def log_prob(self, value):
        inner = (value - 0.3) / 0.7
        assert torch.allclose(self.layer(inner[..., None])[..., 0], value, atol=1e-5)
        return super().log_prob(inner) - math.log(0.7)

    def expand(self, batch_shape, _instance=None):
        return Stretched(self.loc.expand(batch_shape), self.scale.expand(batch_shape))


def test_a_distribution_draws_and_scores_with_one_precision():
    layer = nn.Linear(1, 1)

    def program(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Stretched(torch.zeros(len(x)), 1.0))
            return layer(x[:, None])[:, 0]

    traces = []
    for run in (*lower(program), program):
        torch.manual_seed(0)
        traces.append(pyro.poutine.trace(run).get_trace(torch.linspace(0.1, 1, 20)))
        traces[-1].compute_log_prob()
    low, exact = (trace.nodes["z"] for trace in traces)
    assert torch.equal(low["value"], exact["value"])
    assert torch.equal(low["log_prob"], exact["log_prob"])
    low, exact = (trace.nodes["_RETURN"]["value"] for trace in traces)
    assert not torch.equal(low, exact)


def test_flows_run():
    model = VAE(priors.Flow(2), likelihoods.Bernoulli(6), mlp((8,)))
    guide = AmortizedGuide(6, guides.DiagonalNormal(2), mlp((8,)))
    torch.testing.assert_close(weights(*lower(model, guide)), weights(model, guide), rtol=0, atol=0.1)


@pytest.mark.parametrize("compile", [False, True])
def test_fit_trains_the_programs_that_it_was_given(tmp_path, recorded_only, compile):
    settings = {"objective": IWAE(3), "valid": PIXELS[:20], "patience": 3, "kl_warmup": 2, "compile": compile}
    exact = quick(*make_pair(hidden=(64,)), PIXELS, **settings)
    programs, others = make_pair(hidden=(64,)), make_pair(1, (64,))
    start = weights_of(*programs)
    low = quick(*programs, PIXELS, **settings, precision="bf16", checkpoint=tmp_path / "run.pt")
    assert low.execution.startswith("compiled" if compile else "eager")
    assert losses_of(low) != losses_of(exact)
    assert losses_of(low) == pytest.approx(losses_of(exact), abs=0.02)
    assert not torch.allclose(weights_of(*programs), start)
    load_checkpoint(tmp_path / "run.pt", *others)
    assert torch.equal(weights_of(*others), weights_of(*programs))


@pytest.mark.parametrize("compile", [False, True])
def test_evidence_is_that_of_float32_up_to_rounding(recorded_only, compile):
    programs = make_pair(hidden=(64,))
    exact, low = (
        evidence(*programs, PIXELS, 50, compile=compile, precision=precision, method="iw", progress=False)
        for precision in (None, "bf16")
    )
    assert not torch.equal(low.log_px, exact.log_px)
    torch.testing.assert_close(low.log_px, exact.log_px, rtol=0, atol=0.05)


@pytest.mark.parametrize("how", [methods.IW(refine=2), methods.IW(defensive=0.2)])
def test_methods_do_the_same(how):
    programs = make_pair(hidden=(64,))
    exact, low = (
        evidence(*programs, PIXELS[:20], 20, method=how, precision=precision, progress=False)
        for precision in (None, "bf16")
    )
    torch.testing.assert_close(low.log_px, exact.log_px, rtol=0, atol=0.02)


def test_chunks_keep_their_precision_in_a_backward_pass_of_another_thread():
    """The backward pass of a GPU is run by a thread of its own."""
    programs = make_pair(hidden=(64,))

    def gradient(run):
        torch.manual_seed(0)
        loss = IWAE(6, chunk_size=40).differentiable_loss(*lower(*programs), PIXELS[:20])
        for p in (p for program in programs for p in program.parameters()):
            p.grad = None
        run(loss.backward)
        return torch.cat([p.grad.flatten() for program in programs for p in program.parameters()])

    def in_thread(function):
        thread = threading.Thread(target=function)
        thread.start()
        thread.join()

    assert torch.equal(gradient(in_thread), gradient(lambda function: function()))


def test_tf32_is_torchs_switch_and_is_put_back():
    model, guide = make_pair()
    seen = set()

    def watching(x):
        seen.add(torch.get_float32_matmul_precision())
        return model(x)

    quick(watching, guide, PIXELS, precision="tf32", epochs=1)
    evidence(watching, guide, PIXELS, 5, precision="tf32", method="iw", progress=False)
    assert seen == {"high"}
    assert torch.get_float32_matmul_precision() == "highest"

    def failing(x):
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        quick(failing, guide, PIXELS, precision="tf32")
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="torch has the older switch alone")
@pytest.mark.parametrize("precision", [None, "bf16", "tf32"])
def test_torchs_newer_switch_is_left_alone(precision):
    switch = torch.backends.cuda.matmul
    before, switch.fp32_precision = switch.fp32_precision, "tf32"
    try:
        quick(*make_pair(), PIXELS, precision=precision, epochs=1)
        evidence(*make_pair(), PIXELS, 5, precision=precision, method="iw", progress=False)
        assert switch.fp32_precision == "tf32"
    finally:
        switch.fp32_precision = before


def test_compiled_graphs_may_round_as_bfloat16_does_in_bfloat16_alone():
    left, right, wrong = (torch.tensor([1.0]),), (torch.tensor([1.01]),), (torch.tensor([1.1]),)
    assert not agree(left, right)
    with at_precision("bf16", torch.device("cpu")):
        assert agree(left, right)
        assert not agree(left, wrong)
        assert not agree((left[0].double(),), (right[0].double(),))


def test_other_names_are_refused():
    message = r'Expected precision to be "tf32", "bf16" or None; got \'bf17\'.* Did you mean'
    with pytest.raises(ValueError, match=message):
        quick(*make_pair(), PIXELS, precision="bf17")
    with pytest.raises(ValueError, match=message):
        evidence(*make_pair(), PIXELS, 5, precision="bf17")


class ConvolutionsInTF32(TorchDispatchMode):
    """Rounds the factors of convolutions to 10 bits, as kernels of a GPU do."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default):
            args = [self.rounded(arg) if isinstance(arg, torch.Tensor) else arg for arg in args]
        return func(*args, **(kwargs or {}))

    @staticmethod
    def rounded(x):
        return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def test_a_compiled_graph_may_take_other_kernels_for_convolutions_on_a_gpu():
    shape, batch = (1, 14, 14), (torch.rand(50, 1, 14, 14) < 0.2).float()
    model = VAE(priors.StandardNormal(20), likelihoods.Bernoulli(shape), deconv(shape, (16, 8)))
    guide = AmortizedGuide(shape, guides.DiagonalNormal(20), conv((8, 16)))
    stepper = Stepper(model, guide, ELBO(), torch.optim.Adam, None, (batch,))
    with fork_rng(batch.device, 0):
        full = stepper.gradient((batch,))
    with fork_rng(batch.device, 0), ConvolutionsInTF32():
        rounded = stepper.gradient((batch,))
    for device, programs, precision, agrees in [
        ("cuda", (model, guide), None, True),
        ("cpu", (model, guide), "tf32", False),
        ("cuda", make_pair(), None, False),
        ("cuda", make_pair(), "tf32", True),
    ]:
        with at_precision(precision, torch.device(device), *programs):
            assert agree(rounded, full) is agrees
