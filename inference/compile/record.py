"""Functions of tensors recorded as graphs of tensor operations, free of the Python that built them."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any, TypeVar

import pyro.util
import torch
from torch import Tensor
from torch._subclasses import fake_tensor
from torch.distributions import Distribution
from torch.fx import GraphModule
from torch.nn.functional import one_hot
from torch.overrides import TorchFunctionMode

from pyro_vae.inference.compile.graph import Node, choose_in_place
from pyro_vae.inference.compile.worthwhile import is_worthwhile
from pyro_vae.inference.programs.call import fork_rng, unvalidated
from pyro_vae.inference.programs.particles import cholesky_or_nan

Function = Callable[..., tuple[Tensor | None, ...]]
Tensors = TypeVar("Tensors", bound=tuple[Tensor, ...])
_NUMBERS = {getattr(Tensor, f"__{name}__") for name in ("bool", "float", "int", "index", "complex")}
"""What makes a Python number of a tensor."""
_ARRAYS = {Tensor.tolist, Tensor.numpy, Tensor.__array__}
"""What reads the memory of a tensor, which no record shows."""
REASONS = {
    "tracing tensor": "a program reads the value of a tensor in Python, as .item() and `if tensor:` do",
    "data-dependent": "the shapes or the control flow of a program depend on the values of tensors",
    "dynamic shape": "the shapes or the control flow of a program depend on the values of tensors",
    "C++ compiler": "there is no C++ compiler; install one, such as g++, or name it in the variable CXX",
    "triton": "there is no working Triton, which compiles for the GPU",
}
"""What errors of the compiler mean, by a part of their message."""


class CannotCompileError(Exception):
    """A function that has to run as it is; the message is the reason, in one line."""


def record(function: Function, *example: Tensor) -> GraphModule:
    """Return the tensor operations of a function at an example, gradients that it takes included, as a graph.

    Parameters and buffers that the function reaches by itself are part of the graph by reference, so that it sees
    what they become. Numbers that the function reads from tensors alone to compute with, as Pyro's objectives do,
    stay tensors.

    Args:
        function: takes tensors and returns tensors, with None for a gradient that does not exist.
        example: its arguments.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    with unvalidated(), _without_questions(), _no_opaque_lstm(), _no_stacks(), fork_rng(example[0].device):
        graph = make_fx(lambda *args: function(*args))(*example)
    if not choose_in_place(graph):
        raise CannotCompileError(REASONS["data-dependent"])
    _refuse_dynamic_shapes(graph)
    _refuse_noise_elsewhere(graph, example[0].device)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _no_opaque_lstm() -> AbstractContextManager[None]:
    """Keep torch from oneDNN's LSTM, whose gradient cannot be recorded; what else oneDNN does is chosen at run time."""
    return _replaced(torch.backends.mkldnn, enabled=False)


def _no_stacks() -> AbstractContextManager[None]:
    """Keep torch from looking up the Python stack at each operation, a quarter of the time, for errors of its own."""
    quick = SimpleNamespace(**{**vars(traceback), "extract_stack": list})
    return _replaced(fake_tensor, traceback=quick) if hasattr(fake_tensor, "traceback") else nullcontext()


def _refuse_dynamic_shapes(graph: GraphModule) -> None:
    """Refuse what selects by value: sizes that Python read from the selection are those of the example."""
    for node in graph.graph.nodes:
        tags = getattr(node.target, "tags", ())
        if torch.Tag.dynamic_output_shape not in tags:
            continue
        indices = [i.meta.get("val") for i in node.args[1] if i is not None] if "index" in str(node.target) else None
        chosen = indices is None or any(i is None or i.dtype in (torch.bool, torch.uint8) for i in indices)
        if chosen and _reaches_values([i for i in node.args[1] if i is not None] if indices else [node]):
            raise CannotCompileError(REASONS["data-dependent"])


def _refuse_noise_elsewhere(graph: GraphModule, device: torch.device) -> None:
    """Refuse random numbers that the CPU draws for a GPU: a replayed graph would have the same ones each time."""
    for node in graph.graph.nodes:
        drawn = node.meta.get("val")
        seeded = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        if seeded and isinstance(drawn, Tensor) and drawn.device != device:
            raise CannotCompileError(f"a program draws random numbers on {drawn.device} for data on {device}")


def _reaches_values(nodes: list[Node]) -> bool:
    """Say whether what nodes return depends on inputs or parameters, as that of ``arange`` alone does not."""
    seen: set[Node] = set()
    while nodes:
        node = nodes.pop()
        if node.op in ("placeholder", "get_attr"):
            return True
        nodes += [n for n in node.all_input_nodes if n not in seen]
        seen.update(node.all_input_nodes)
    return False


class _KeepTensors(TorchFunctionMode):
    """Runs what asks for values without asking.

    ``.item()`` returns the tensor itself: arithmetic goes on with it, and a Python condition on it fails. So does a
    number made of a parameter or a buffer, which torch would take for a constant. ``one_hot`` of so many classes
    does not look whether there are as many, ``normal`` not at the signs of scales, and the Cholesky factor of a
    matrix that has none is NaN.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.item:
            return args[0].detach()
        if func in _NUMBERS:
            return func(args[0].detach())
        if func in _ARRAYS:  # torch reads the memory then, and no record shows it
            raise CannotCompileError(REASONS["tracing tensor"])
        if (unasked := _UNASKED.get(func)) is not None:
            return unasked(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _one_hot(index: Tensor, num_classes: int = -1) -> Tensor:
    if num_classes < 1:
        return one_hot(index, num_classes)
    return (index.unsqueeze(-1) == torch.arange(num_classes, device=index.device)).long()


def _normal(mean: Any, std: Any, *rest: Any, **options: Any) -> Tensor:
    if not isinstance(mean, Tensor) or not isinstance(std, Tensor) or rest or options:
        return torch.normal(mean, std, *rest, **options)
    shape = torch.broadcast_shapes(mean.shape, std.shape)
    return torch.empty(shape, dtype=mean.dtype, device=mean.device).normal_() * std + mean


def _set_item(y: Tensor, index: Any, value: Any) -> None:
    """Set what a mask selects, without the other way that torch goes where that is a single entry."""
    if isinstance(index, Tensor) and index.dtype is torch.bool and isinstance(value, Tensor) and value.ndim == 1:
        y.index_put_((index,), value)
    else:
        y[index] = value


_UNASKED: dict[Any, Callable[..., Tensor | None]] = {
    one_hot: _one_hot,
    torch.linalg.cholesky: cholesky_or_nan,
    torch.normal: _normal,
    Tensor.__setitem__: _set_item,
}
"""Functions that read values, for which a GPU is waited, and functions of the same results that do not."""


@contextmanager
def _without_questions() -> Iterator[None]:
    """Let Pyro's objectives run without a look at values: their sums stay tensors, and warnings of NaN wait."""

    def never(value: Any) -> bool:
        return False

    def unseen(fn: Distribution, value: Tensor) -> None:
        """Take a value unseen, also of a distribution that was made when arguments were checked."""

    looks = _replaced(pyro.util, torch_isnan=never, torch_isinf=never)
    with _KeepTensors(), looks, _replaced(Distribution, _validate_sample=unseen):
        yield


@contextmanager
def _replaced(owner: Any, **values: Any) -> Iterator[None]:
    """Give an object other attributes, and put back the old ones at the end."""
    before = {name: getattr(owner, name) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


def record_if_worthwhile(
    function: Callable[[Tensor], Tensors], example: Tensor, num_calls: int
) -> Callable[[Tensor], Tensors]:
    """Return a function of the same values without Pyro's and autograd's overhead, for inputs like the example.

    The function runs once at the example, gradients that it takes included, while every tensor operation is noted
    down. It is returned as it is where it is called too few times to pay, cannot be recorded, as control flow that
    depends on the input cannot, or where its record has other values at another point.

    Args:
        function: takes one tensor and returns several.
        example: an input.
        num_calls: how many calls are to come.
    """
    if not is_worthwhile(num_calls, "calls"):
        return function
    other = 0.5 * example + 0.25
    try:
        graph = record(function, example)
        same = all(torch.equal(*pair) for pair in zip(_finite(graph(other)), _finite(function(other)), strict=True))
    except (
        Exception
    ):  # whatever a program that needs its values raises; run as it is, it says what is wrong if anything
        return function
    return torch.no_grad()(graph) if same else function


def _finite(values: tuple[Tensor, ...]) -> list[Tensor]:
    return [value.nan_to_num(nan=0.123) for value in values]
