"""Minibatches of data that stay off the device are those of data on it."""

from __future__ import annotations

import pytest
import torch
from programs import PIXELS, losses_of, make_pair, quick, weights_of

from pyro_vae.inference.compile.compile import layout
from pyro_vae.inference.programs.loop import send, split_data
from pyro_vae.inference.training.batches import Minibatches, fits_in_memory, one_ahead

CPU, META = torch.device("cpu"), torch.device("meta")


def epochs_of(resident, transform=torch.bernoulli):
    """Two epochs in which each step draws random numbers too, as training does."""
    torch.manual_seed(0)
    batches = Minibatches((PIXELS * 0.5, torch.arange(60)), 25, CPU, transform, resident)
    return [(*batch, torch.rand(1)) for _ in range(2) for batch in batches]


def test_minibatches_do_not_depend_on_where_the_data_are():
    resident, streamed = epochs_of(True), epochs_of(False)
    assert [len(batch[0]) for batch in streamed] == [25, 25, 10] * 2
    for left, right in zip(resident, streamed, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
    first, second = (torch.cat([batch[1] for batch in epoch]) for epoch in (streamed[:3], streamed[3:]))
    assert torch.equal(first.sort().values, torch.arange(60))
    assert not torch.equal(first, second)


def test_streamed_minibatches_are_copied_and_the_data_stay():
    batches = Minibatches((PIXELS,), 25, META, torch.bernoulli, False)
    assert {batch[0].device for batch in batches} == {META}
    assert batches.args[0].device == CPU
    assert [batch[0].shape for batch in batches.examples()] == [(25, 6), (25, 6)]
    assert {batch[0].device for batch in batches.examples()} == {META}
    sent = [send(batch, META)[0] for batch in split_data((PIXELS,), 25)]
    assert [(x.device, len(x)) for x in sent] == [(META, 25), (META, 25), (META, 10)]
    assert send((PIXELS,), CPU)[0] is PIXELS


def test_examples_are_the_ends_of_the_data():
    first, last = Minibatches((PIXELS, torch.arange(60)), 25, CPU, lambda x: x + 1, True).examples()
    assert torch.equal(first[0], PIXELS[:25] + 1)
    assert torch.equal(first[1], torch.arange(25))
    assert torch.equal(last[1], torch.arange(35, 60))


@pytest.mark.parametrize("transform", [lambda x: x[:, ::2], lambda x: x[:, :1].expand(-1, 3), lambda x: x.T.clone().T])
def test_a_copy_of_a_minibatch_has_its_layout(transform):
    batches = Minibatches((PIXELS, torch.arange(60)), 25, CPU, transform, True)
    for batch in [*batches, *batches.examples()]:
        assert layout(tuple(torch.empty_like(value) for value in batch)) == layout(batch)


def test_the_next_minibatch_is_on_its_way_when_one_is_used():
    events = []

    def made():
        for number in range(3):
            events.append(f"made {number}")
            yield number

    for number in one_ahead(made()):
        events.append(f"used {number}")
    assert events == ["made 0", "made 1", "used 0", "made 2", "used 1", "used 2"]


def test_data_fit_that_take_half_of_what_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2000, 10_000))
    cuda = torch.device("cuda")
    assert fits_in_memory((torch.zeros(250),), cuda)
    assert not fits_in_memory((torch.zeros(251),), cuda)
    assert not fits_in_memory((torch.zeros(200), torch.zeros(26, dtype=torch.int64)), cuda)
    assert fits_in_memory((torch.zeros(251),), CPU)


@pytest.mark.parametrize("compile", [False, True])
def test_fit_is_the_same_with_streamed_data(monkeypatch, recorded_only, compile):
    results, parameters = [], []
    for resident in (True, False):
        monkeypatch.setattr(
            "pyro_vae.inference.training.fit.fits_in_memory", lambda args, device, resident=resident: resident
        )
        programs = make_pair()
        settings = {"valid": PIXELS[:30], "transform": torch.bernoulli, "batch_size": 25, "compile": compile}
        results.append(quick(*programs, PIXELS, **settings))
        parameters.append(weights_of(*programs))
    assert losses_of(results[0]) == losses_of(results[1])
    assert results[0].history[-1]["valid_bound"] == results[1].history[-1]["valid_bound"]
    assert torch.equal(*parameters)
