"""A whole training step on a GPU as one CUDA graph: loss, gradient, clipping and the optimizer's update."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer

Step = Callable[..., Tensor]
WARM_UP = 3
"""Steps before the capture: libraries set up their workspaces in them, and the optimizer its state."""


class WholeStep:
    """A step that is run a few times as it is, then captured and replayed, without a word to the host.

    Args:
        step: takes the inputs, updates the parameters and returns the loss; all on one GPU.
        inputs: tensors of the shapes that all inputs have.
        capture: makes a replay of a function without arguments; ``capture_cuda``, but for tests.
    """

    def __init__(
        self,
        step: Step,
        inputs: tuple[Tensor, ...],
        capture: Callable[[Callable[[], None]], Callable[[], None]] | None = None,
    ) -> None:
        self._step, self._capture = step, capture or capture_cuda
        self._inputs = [torch.empty_like(value) for value in inputs]
        self._loss: Tensor | None = None
        self._replay: Callable[[], None] | None = None
        self._calls = 0

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Take one step; the loss that is returned is overwritten by the next one."""
        for held, value in zip(self._inputs, inputs, strict=True):
            held.copy_(value)
        self._calls += 1
        if self._calls <= WARM_UP:
            _on_side_stream(self._run)
        else:
            if self._replay is None:
                self._replay = self._capture(self._run)  # noted down, not run
            self._replay()
        assert self._loss is not None  # set by the run
        return self._loss

    def _run(self) -> None:
        self._loss = self._step(*self._inputs)


def capture_cuda(function: Callable[[], None]) -> Callable[[], None]:
    """Note down the kernels of a function, without running them, and return what launches them all at once."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def _on_side_stream(function: Callable[[], None]) -> None:
    """Run on a stream of its own, as a capture asks of what goes before it; on the CPU there is none."""
    if not torch.cuda.is_available():
        function()
        return
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        function()
    torch.cuda.current_stream().wait_stream(side)


def make_capturable(optimizer: Optimizer) -> bool:
    """Keep the optimizer's step count and learning rate on the GPU, so that a capture sees them change.

    Returns:
        whether the optimizer can: one without the option ``capturable``, such as SGD, must hold no state on the
        host and have a learning rate that is never changed, which is not known, so it is not captured.
    """
    if not all("capturable" in group for group in optimizer.param_groups):
        return False
    for group in optimizer.param_groups:
        device = group["params"][0].device
        group["capturable"] = True
        group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=device)
        for param in group["params"]:
            state = optimizer.state.get(param, {})
            if "step" in state:
                state["step"] = torch.as_tensor(state["step"], dtype=torch.float32, device=device)
    return True
