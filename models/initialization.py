"""Where training starts: at the data's marginal, before the decoder has learnt anything from z."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_vae.core.checks import check_positive_int
from pyro_vae.models.observe import leave_out_missing

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
POOL = 1024
"""Largest number of values that the pseudo-datum takes."""
ADAM_STEPS = 1000
"""Steps of 0.05 where L-BFGS fails from the start: a bias of 50 is within reach."""


def start_at_data(model: nn.Module, x: Tensor | tuple[Tensor, ...], *, steps: int = 200) -> None:
    """Set the bias of the decoder's last affine layer, and what the likelihood learns, to the data's marginal.

        h* = argmax_h  sum_n log p(x_n | h) + E log p(x' | h),   h = the decoder's output if z had no effect

    x' is one pseudo-datum whose entries all equal one value, drawn from the entries of all data. It shrinks each
    entry's marginal towards the pooled one with the weight 1 / (N + 1), so that a pixel that is never on has a
    finite logit: for Bernoulli pixels h* = logit((sum_n x_n + mean of all entries) / (N + 1)). It is left out where
    such a datum is outside the likelihood's support. Where one bias serves many entries, as in a convolution,
    they share it. The layer's weights stay as they are, and with them the effect of z, which is random at first.

    Args:
        model: Pyro program as a module with a ``decoder`` and a ``likelihood``, such as ``VAE``; changed in place.
        x: training data, shape (N, *event), or the tuple of tensors that the program is called with. Some
            thousands are enough.
        steps: largest number of L-BFGS iterations.

    Raises:
        ValueError: for data that the model cannot have produced, if the decoder's last affine layer has no bias, or
            if no finite bias is best.
    """
    check_positive_int(steps, "steps")
    args = x if isinstance(x, tuple) else (x,)
    decoder, likelihood = _part(model, "decoder"), _part(model, "likelihood")
    check_data = getattr(model, "check_data", None)
    if check_data is not None:
        check_data(args[0])
    name, decoder_input = _last_affine_layer(model, decoder, tuple(arg[:1] for arg in args))
    # On a copy, in float64: in float32 large means would end up a good part of a standard deviation away.
    twins = _double(copy.deepcopy(decoder)), _double(copy.deepcopy(likelihood))
    marginal = _Marginal(*twins, name, _double(decoder_input))
    _maximize(marginal, _double(args[0]), steps)
    with torch.no_grad():
        decoder.get_submodule(name).bias.copy_(marginal.layer.bias)
        for ours, found in zip(likelihood.parameters(), marginal.likelihood.parameters(), strict=True):
            ours.copy_(found)


def _part(model: nn.Module, name: str) -> Any:
    part = getattr(model, name, None)
    if not isinstance(part, nn.Module):
        raise ValueError(f"Expected a model with a {name}, as VAE has; {type(model).__name__} has none.")
    return part


def _double(part: Any) -> Any:
    return part.to("cpu", torch.float64)


class _Marginal:
    """p(x|h) as a function of the last layer's bias alone."""

    layer: Any

    def __init__(self, decoder: nn.Module, likelihood: nn.Module, name: str, decoder_input: Tensor) -> None:
        self.decoder, self.likelihood, self.decoder_input = decoder, likelihood, decoder_input
        self.layer = decoder.get_submodule(name)
        nn.init.zeros_(self.layer.bias)
        self.learnt: list[Tensor] = [self.layer.bias, *(p for p in likelihood.parameters() if p.requires_grad)]

    def __call__(self) -> Any:
        """Return p(x|h), batch shape ()."""
        handle = self.layer.register_forward_hook(_bias_alone)
        try:
            return self.likelihood(self.decoder(self.decoder_input)[0])
        finally:
            handle.remove()


def _bias_alone(layer: Any, args: Any, output: Tensor) -> Tensor:
    spatial = output.ndim - 2 if isinstance(layer, CONVOLUTIONS) else 0
    return layer.bias.reshape(-1, *[1] * spatial).expand_as(output)


def _maximize(marginal: _Marginal, x: Tensor, steps: int) -> None:
    """Maximise the likelihood of data and pseudo-datum, in place, by L-BFGS.

    Where its long steps overflow, as exp(h) does of a scale that starts far from the data's, Adam goes first.
    """
    support = getattr(marginal.likelihood, "support", marginal().support)
    pseudo = _pseudo_data(marginal(), support, x)

    def loss() -> Tensor:
        p = marginal()
        total = _log_prob(p, support, x).sum()
        return -(total if pseudo is None else total + p.log_prob(pseudo).mean()) / len(x)

    start = [p.detach().clone() for p in marginal.learnt]
    lbfgs = partial(
        torch.optim.LBFGS, max_iter=steps, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )
    if _descend(marginal, loss, lbfgs, 1):
        return
    _set(marginal, start)
    if not _descend(marginal, loss, partial(torch.optim.Adam, lr=0.05), ADAM_STEPS):
        raise ValueError(
            "Found no finite bias that makes the data most likely. Check the data with model.check_data(x), or train "
            "without start_at_data."
        )
    near = [p.detach().clone() for p in marginal.learnt]
    if not _descend(marginal, loss, lbfgs, 1):
        _set(marginal, near)


def _descend(marginal: _Marginal, loss: Callable[[], Tensor], optimizer: Callable[..., Any], count: int) -> bool:
    """Take steps down the loss, and say whether all is finite then."""
    stepper = optimizer(marginal.learnt)

    def closure() -> Tensor:
        stepper.zero_grad()
        value = loss()
        value.backward()
        return value.detach()

    try:
        for _ in range(count):
            stepper.step(closure)
        return bool(closure().isfinite()) and all(bool(p.isfinite().all()) for p in marginal.learnt)
    except ValueError:  # a distribution that refuses its parameters, NaN by then
        return False


@torch.no_grad()
def _set(marginal: _Marginal, values: list[Tensor]) -> None:
    for parameter, value in zip(marginal.learnt, values, strict=True):
        parameter.copy_(value)


def _log_prob(p: Any, support: Any, x: Tensor) -> Tensor:
    """Return log p(x_n|h), shape (N,), of what is not missing."""
    if not x.isnan().any():
        return p.log_prob(x)
    p_x, filled = leave_out_missing(p, x, support)
    return p_x.log_prob(filled)


@torch.no_grad()
def _last_affine_layer(model: nn.Module, decoder: nn.Module, datum: tuple[Tensor, ...]) -> tuple[str, Tensor]:
    """Run the program on one datum; return which affine layer the decoder calls last, and the decoder's own input."""
    called: list[Any] = []
    inputs: list[Tensor] = []
    affine = {m: name for name, m in decoder.named_modules() if isinstance(m, (nn.Linear, *CONVOLUTIONS))}
    handles = [m.register_forward_hook(lambda m, args, output: called.append(m)) for m in affine]
    handles.append(decoder.register_forward_hook(lambda m, args, output: inputs.append(args[0])))
    device = next(decoder.parameters(), datum[0]).device
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), poutine.block():
            model(*(arg.to(device) for arg in datum))
    finally:
        for handle in handles:
            handle.remove()
    if not called or called[-1].bias is None:
        got = repr(called[-1]) if called else "none"
        raise ValueError(f"Expected the decoder's last affine layer to have a bias; got {got}. Give it bias=True.")
    return affine[called[-1]], inputs[-1]


@torch.no_grad()
def _pseudo_data(p: Any, support: Any, x: Tensor) -> Tensor | None:
    """Return constant data at evenly spaced order statistics of all entries, or nothing outside the support."""
    pool = x[~x.isnan()].sort().values
    index = torch.linspace(0, len(pool) - 1, min(POOL, len(pool))).round().long()
    constant = pool[index].reshape(-1, *[1] * (x.ndim - 1)).expand(-1, *x.shape[1:])
    return constant if support.check(constant).all() and p.log_prob(constant).isfinite().all() else None
