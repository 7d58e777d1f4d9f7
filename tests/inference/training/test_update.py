"""The update of a compiled step is the optimizer's own, and what a capture needs of the optimizer."""

from __future__ import annotations

from functools import partial
from itertools import cycle

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import ExponentialLR, OneCycleLR
from torch.optim.optimizer import register_optimizer_step_pre_hook

from pyro_vae.inference.training.update import Update, fuse, gradients_to_copy, host_settings, make_capturable


def test_gradients_that_are_shared_or_laid_out_otherwise_are_found():
    parameters = [torch.zeros(2, 3), torch.zeros(3), torch.zeros(3), torch.zeros(2)]
    shared = torch.ones(3)
    assert gradients_to_copy([torch.arange(6.0).reshape(3, 2).t(), shared, shared, torch.ones(2)], parameters) == [0, 2]
    assert gradients_to_copy([None, parameters[1], None, torch.ones(2)], parameters) == [1]


DTYPES = torch.float32, torch.float64, torch.float32, torch.float32


def train(optimizer, update, fused=True):
    """Return the parameters after ten updates with a learning rate that falls, by the gradient of a quadratic form."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        params = [nn.Parameter(torch.randn(n, dtype=dtype)) for n, dtype in zip((12, 5, 4, 2), DTYPES, strict=True)]
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.3}]  # the last one never has a gradient
    optimizer = optimizer(groups)
    if fused:
        fuse(optimizer)
    step = update(optimizer)
    for _ in range(10):
        for p in params[:3]:
            p.grad = p.detach() - 1
        step()
        for group in optimizer.param_groups:
            group["lr"] *= 0.9
    return params, optimizer


OPTIMIZERS = {
    "Adam": partial(Adam, lr=0.1),
    "Adam, decay": partial(Adam, lr=0.1, weight_decay=0.1, betas=(0.8, 0.9), eps=1e-3),
    "Adam, upwards": partial(Adam, lr=0.1, maximize=True),
    "AdamW": partial(AdamW, lr=0.1),
    "betas in tensors": partial(Adam, lr=0.1, betas=(torch.tensor(0.9), torch.tensor(0.99))),
    "amsgrad": partial(Adam, lr=0.1, amsgrad=True),
    "foreach": partial(Adam, lr=0.1, foreach=True),
    "SGD": partial(SGD, lr=0.1, momentum=0.9),
    "RMSprop": partial(RMSprop, lr=0.1),
}
DIRECT = {"Adam", "Adam, decay", "Adam, upwards", "AdamW"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_the_step_of_the_optimizer(name):
    params, optimizer = train(OPTIMIZERS[name], Update)
    expected, reference = train(OPTIMIZERS[name], lambda optimizer: optimizer.step)
    for p, q in zip(params, expected, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0)
    for p, q in zip(params, expected, strict=True):
        torch.testing.assert_close(optimizer.state[p], reference.state[q], rtol=0, atol=0)


def test_the_optimizer_may_take_a_step_in_between():
    expected, reference = train(OPTIMIZERS["Adam"], lambda optimizer: optimizer.step)
    params, optimizer = train(OPTIMIZERS["Adam"], lambda optimizer: alternating(Update(optimizer), optimizer.step))
    for p, q in zip(params, expected, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0)
    torch.testing.assert_close(optimizer.state_dict()["state"], reference.state_dict()["state"], rtol=0, atol=0)


def alternating(*functions):
    turns = cycle(functions)
    return lambda: next(turns)()


def counting(optimizer):
    calls = []
    step = optimizer.step
    optimizer.step = lambda: calls.append(1) or step()
    optimizer.calls = calls
    return Update(optimizer)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_only_plain_adam_is_taken_directly(name):
    _, optimizer = train(OPTIMIZERS[name], counting)
    assert len(optimizer.calls) == (1 if name in DIRECT else 10)


def test_a_hook_of_the_user_is_called_each_time():
    calls = []

    def hooked(params):
        optimizer = Adam(params)
        optimizer.register_step_post_hook(lambda *_: calls.append(1))
        return optimizer

    train(hooked, Update)
    assert len(calls) == 10


def test_a_hook_on_all_optimizers_is_called_each_time():
    calls = []
    handle = register_optimizer_step_pre_hook(lambda *_: calls.append(1))
    try:
        train(Adam, Update)
    finally:
        handle.remove()
    assert len(calls) == 10


def test_an_optimizer_keeps_its_count_and_rate_on_the_device(device):
    parameters = [nn.Parameter(torch.ones(3, device=device))]
    optimizer = Adam(parameters, lr=1e-3)
    scheduler = ExponentialLR(optimizer, 0.5)
    parameters[0].grad = torch.ones(3, device=device)
    optimizer.step()
    assert make_capturable(optimizer)
    rate = optimizer.param_groups[0]["lr"]
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] is rate
    assert float(rate) == pytest.approx(5e-4)
    assert optimizer.state[parameters[0]]["step"].device == parameters[0].device
    assert not make_capturable(torch.optim.SGD(parameters, 0.1))


def test_a_momentum_that_a_scheduler_moves_is_seen():
    parameters = [nn.Parameter(torch.ones(3))]
    optimizer = Adam(parameters, lr=1e-3)
    scheduler = OneCycleLR(optimizer, 0.1, total_steps=10)
    optimizer.param_groups[0]["lr"] = torch.tensor(0.1)
    before = host_settings(optimizer)
    assert host_settings(optimizer) == before
    optimizer.step()
    scheduler.step()
    assert host_settings(optimizer) != before
    optimizer.param_groups[0]["betas"] = before[0]["betas"]
    assert host_settings(optimizer) == before


def test_an_optimizer_that_counts_on_the_host_is_fused_there_alone():
    for device, kind, fused in [
        ("cpu", torch.optim.Adagrad, True),
        ("meta", torch.optim.Adagrad, None),
        ("meta", torch.optim.Adam, True),
        ("meta", torch.optim.SGD, True),
        ("cpu", torch.optim.NAdam, None),
    ]:
        optimizer = kind([nn.Parameter(torch.ones(3, device=device))], lr=0.1)
        fuse(optimizer)
        assert optimizer.param_groups[0].get("fused") is fused
