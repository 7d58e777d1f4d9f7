"""The loss of a minibatch and its gradient as one compiled graph, where that pays."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from pyro_vae.inference.compile.compile import NotWorthwhileError, agree, compile_programs, layout
from pyro_vae.inference.compile.record import CannotCompileError, Function
from pyro_vae.inference.compile.worthwhile import excess, is_worthwhile
from pyro_vae.inference.objectives.base import Objective
from pyro_vae.inference.programs.call import Args, fork_rng, modules_of_both, training_mode
from pyro_vae.inference.programs.state import Attributes, state_kept
from pyro_vae.inference.training.step import Stepper
from pyro_vae.inference.training.update import Update, fuse, gradients_to_copy, host_settings, make_capturable
from pyro_vae.inference.training.whole_step import WholeStep

MOST_OPERATIONS = 4000
"""Operations in the graph of a step that the fewest worthwhile steps pay for: each takes about 20 ms to compile, and
more in large graphs, and saves 8 us a step."""
LOSSES_FIRST = 1000
"""Losses without gradient that are computed as they are before they are compiled."""
MOST_UNROLLED = 8
"""Particles that run one by one of which a graph is made all the same."""
CHECK_EVERY = 500
"""Steps between two comparisons with the programs as they are."""


def compile_steps(
    stepper: Stepper,
    setting: bool | str,
    num_steps: int,
    batches: tuple[Args, Args],
    warms_up: bool,
    announce: Callable[[str], object],
) -> str:
    """Compile the steps to come, always if the setting is True, and if "auto" where they are many enough to pay.

    Whether that is so depends on the number of steps, particles and operations and not on a clock, so that the same
    call gives the same numbers each time.

    Args:
        stepper: whose steps.
        setting: True, False or "auto".
        num_steps: how many steps there are in all.
        batches: two minibatches of the shape that all have.
        warms_up: whether the weight of the KL term changes.
        announce: told what is being done.

    Returns:
        how the steps run, in words; where they were to be compiled and cannot be, a warning says why too.
    """
    work = num_steps * getattr(stepper.objective, "num_particles", 1)
    if not is_worthwhile(work, "steps", setting):
        return "eager"
    started = time.perf_counter()
    announce("compiling")
    most = math.inf if setting is True else MOST_OPERATIONS * excess(work, "steps")
    try:
        _refuse_one_by_one(stepper, batches[0])
        stepper.compiled = CompiledStep(stepper, *batches, warms_up, most)
    except NotWorthwhileError as reason:
        return f"eager: {reason}"
    except CannotCompileError as reason:
        warnings.warn(f"Cannot compile, so training runs eagerly: {reason}.", stacklevel=4)
        return f"eager: {reason}"
    stepper.compiled_loss = CompiledLoss(stepper, batches[0])
    return f"compiled in {time.perf_counter() - started:.1f} s"


def _refuse_one_by_one(stepper: Stepper, batch: Args) -> None:
    """Refuse particles that run one after another: a graph would hold the programs once for each of them."""
    objective = stepper.objective
    number = getattr(objective, "num_particles", 1)
    if number <= MOST_UNROLLED:
        return
    if isinstance(objective, Objective):
        together = objective.plates(stepper.model, stepper.guide, batch).together
    else:
        together = objective.vectorize_particles
    if not together:
        raise CannotCompileError(f"its {number} particles run one by one, and their graph takes longer than they do")


class CompiledLoss:
    """The loss without gradient, compiled once it has been asked for so often that it is likely to pay.

    Args:
        stepper: whose loss.
        batch: a minibatch of the shape that is compiled.
    """

    def __init__(self, stepper: Stepper, batch: Args) -> None:
        self._stepper, self._shapes, self._calls = stepper, layout(batch), 0
        self._graph: Function | None = None

    def __call__(self, batch: Args) -> Tensor | None:
        """Return the loss, or None where it is not compiled."""
        if layout(batch) != self._shapes:
            return None
        self._calls += 1
        if self._calls == LOSSES_FIRST:
            self._compile(batch)
        return None if self._graph is None else self._graph(*batch)[0]

    def _compile(self, batch: Args) -> None:
        stepper, other = self._stepper, tuple(arg.flip(0) for arg in batch)

        def loss(*batch: Tensor) -> tuple[Tensor]:
            return (torch.as_tensor(stepper.raw_loss(batch), dtype=stepper.parameters[0].dtype),)

        try:
            with training_mode(stepper.model, stepper.guide, False):
                self._graph = compile_programs(stepper.model, stepper.guide, loss, batch, other)
        except CannotCompileError as reason:
            warnings.warn(f"Cannot compile validation, so it runs eagerly: {reason}.", stacklevel=2)


class CompiledStep:
    """One step for minibatches of one shape: loss and gradient compiled, and on a GPU the update in one graph with it.

    Args:
        stepper: whose loss, parameters and optimizer.
        batch: a minibatch, whose shape all others have.
        other: another minibatch, on which the graph is compared with the programs.
        warms_up: whether the weight of the KL term changes; it is an input of the graph then.
        most_operations: how many operations in its graph are worth compiling.

    Raises:
        CannotCompileError: where the programs have to run as they are.
    """

    def __init__(
        self, stepper: Stepper, batch: Args, other: Args, warms_up: bool, most_operations: float = math.inf
    ) -> None:
        self.shapes = layout(batch)
        self._stepper, self._warms_up, self._until_check = stepper, warms_up, CHECK_EVERY
        inputs = self._inputs(batch, 1.0)
        self._parameters = list(stepper.parameters)  # others may turn up in a minibatch of another shape
        programs, others = (stepper.model, stepper.guide), self._inputs(other, 0.5)
        self._graph = compile_programs(*programs, self._gradient, inputs, others, most_operations)
        self._modules = modules_of_both(*programs)
        self._attributes = Attributes(self._modules)
        self._to_copy: list[int] | None = None
        stepper.optimizer.zero_grad()
        fuse(stepper.optimizer)
        self._take_step = Update(stepper.optimizer)
        self._step: Callable[..., Tensor] = self._update
        if batch[0].is_cuda and make_capturable(stepper.optimizer):
            self._step = WholeStep(self._update, inputs, settings=partial(host_settings, stepper.optimizer))

    def fits(self, batch: Args) -> bool:
        """Say whether a minibatch has the shape that the graph was compiled for."""
        return layout(batch) == self.shapes

    def __call__(self, batch: Args, beta: float) -> Tensor:
        """Take one step and return the loss before it, which the next step may overwrite."""
        return self._step(*self._inputs(batch, beta))

    def _update(self, *inputs: Tensor) -> Tensor:
        for parameter in self._parameters:
            parameter.grad = None
        loss, *gradients = self._graph(*inputs)
        assert loss is not None  # the graph returns what ``gradient`` returns
        if self._to_copy is None:
            self._to_copy = gradients_to_copy(gradients, self._parameters)
        for i, (parameter, gradient) in enumerate(zip(self._parameters, gradients, strict=True)):
            if gradient is not None and i in self._to_copy:
                gradient = torch.empty_like(parameter).copy_(gradient)
            parameter.grad = gradient
        self._stepper.update(self._take_step)
        return loss

    def holds(self, batch: Args, beta: float) -> bool:
        """Say whether the graph still has the programs' values, compared from time to time.

        It has not where a program keeps count of its calls, say, in an attribute that is no tensor.
        """
        if self._attributes.changed():
            return False
        self._until_check -= 1
        if self._until_check > 0:
            return True
        self._until_check = CHECK_EVERY
        inputs = self._inputs(batch, beta)
        results = []
        for function in (self._graph, self._gradient):
            with state_kept(self._modules), fork_rng(batch[0].device):
                results.append(function(*inputs))
        return agree(*results)

    def _gradient(self, *inputs: Tensor) -> tuple[Tensor | None, ...]:
        batch, beta = (inputs[:-1], inputs[-1]) if self._warms_up else (inputs, 1.0)
        return self._stepper.gradient(batch, beta)[: 1 + len(self._parameters)]

    def _inputs(self, batch: Args, beta: float) -> Args:
        """Return the inputs of the graph: the weight of the KL term is one of them where it changes."""
        if not self._warms_up:
            return batch
        return *batch, torch.full((), beta, dtype=torch.float64, device=batch[0].device)
