"""A whole training step on a GPU as one CUDA graph: loss, gradient, clipping and the optimizer's update."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

Step = Callable[..., Tensor]
Run = Callable[[], None]
WARM_UP = 3
"""Steps before the capture: libraries set up their workspaces in them, and the optimizer its state."""
WAITED = "called a synchronizing CUDA operation"
"""What torch says of an operation that waits; its notice that this mode is a prototype has other words."""
_broken: list[Any] = []
"""Captures that broke off: the allocator still asks them which memory is theirs, so that they have to stay."""


class CannotCaptureError(Exception):
    """A step that has to be launched kernel by kernel; the message is the reason, in one line."""


class WholeStep:
    """A step that is run a few times as it is, then captured and replayed without the host's part in it.

    A step that cannot be captured, such as one that waits for the GPU, goes on as it is, and a warning says why.

    Args:
        step: takes the inputs, updates the parameters and returns the loss; all on one GPU.
        inputs: tensors of the shapes that all inputs have.
        capture: makes a replay of a function without arguments; ``capture_cuda``, but for tests.
        watch: runs a function and returns why it cannot be captured, "" if it can; ``waits``, but for tests.
        settings: returns the numbers on the host that the step acts on; where they change it is captured anew.
    """

    def __init__(
        self,
        step: Step,
        inputs: tuple[Tensor, ...],
        capture: Callable[[Run], Run] | None = None,
        watch: Callable[[Run], str] | None = None,
        settings: Callable[[], object] = lambda: None,
    ) -> None:
        self._step, self._settings = step, settings
        self._capture, self._watch = capture or capture_cuda, watch or waits
        self._inputs = [torch.empty_like(value) for value in inputs]
        self._loss: Tensor | None = None
        self._replay: Run | None = None
        self._captured_settings: object = None
        self._capturable, self._calls = True, 0

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Take one step; the loss that is returned is overwritten by the next one."""
        for held, value in zip(self._inputs, inputs, strict=True):
            held.copy_(value)
        self._calls += 1
        with _on(self._inputs[0].device):
            if self._capturable and self._calls > WARM_UP:
                self._replay_or_capture()
            elif self._calls > WARM_UP:
                self._run()
            else:
                self._warm_up()
        assert self._loss is not None  # set by the run
        return self._loss

    def _run(self) -> None:
        self._loss = self._step(*self._inputs)

    def _warm_up(self) -> None:
        with _side_stream():
            if self._calls < WARM_UP:
                self._run()
            else:
                self._decide(self._watch(self._run))

    def _decide(self, obstacle: str) -> None:
        if obstacle:
            self._capturable, self._replay = False, None
            warnings.warn(f"The step cannot be one CUDA graph: {obstacle}. It stays compiled.", stacklevel=5)

    def _replay_or_capture(self) -> None:
        settings = self._settings()
        if self._replay is None or settings != self._captured_settings:
            try:
                self._replay = self._capture(self._run)  # noted down, not run
            except CannotCaptureError as error:
                self._decide(str(error))
            self._captured_settings = settings
        (self._replay or self._run)()


def capture_cuda(function: Run) -> Run:
    """Note down the kernels of a function, without running them, and return what launches them all at once.

    Raises:
        CannotCaptureError: where CUDA refuses; streams and random numbers are then as before.
    """
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    before = generator.clone_state()
    try:
        with torch.cuda.graph(graph):
            function()
    except Exception as error:  # whatever a kernel that asks the host raises, and the end of the capture after it
        torch.cuda.set_stream(stream)
        generator.graphsafe_set_state(before)  # the old one would believe that the capture goes on
        _broken.append(graph)
        cause = error.__context__ or error
        raise CannotCaptureError((str(cause).splitlines() or [type(cause).__name__])[0][:200]) from error
    return graph.replay


def waits(function: Run) -> str:
    """Run a function, and say whether it waits for the GPU, as none may in a capture."""
    if not torch.cuda.is_available():
        function()
        return ""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            function()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return "it waits for the GPU" if any(WAITED in str(w.message) for w in caught) else ""


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """Make a GPU the current one, whose streams are meant where none is named."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@contextmanager
def _side_stream() -> Iterator[None]:
    """Run on another stream, as CUDA wants it before a capture; on the CPU there are no streams."""
    if not torch.cuda.is_available():
        yield
        return
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        yield
    torch.cuda.current_stream().wait_stream(side)
