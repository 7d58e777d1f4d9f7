"""Functions of tensors recorded as graphs of tensor operations, free of the Python that built them, and compiled."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pyro.util
import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.fx import GraphModule, Node
from torch.nn.functional import one_hot
from torch.overrides import TorchFunctionMode

from pyro_vae.inference.precision import rounding
from pyro_vae.inference.programs import fork_rng, unvalidated
from pyro_vae.inference.rewrites import rewrite

Function = Callable[..., tuple[Tensor | None, ...]]
REASONS = {
    "tracing tensor": "a program reads the value of a tensor in Python, as .item() and `if tensor:` do",
    "data-dependent": "the shapes or the control flow of a program depend on the values of tensors",
    "dynamic shape": "the shapes or the control flow of a program depend on the values of tensors",
    "C++ compiler": "there is no C++ compiler; install one, such as g++, or name it in the variable CXX",
    "triton": "there is no working Triton, which compiles for the GPU",
}
"""What errors of the compiler mean, by a part of their message."""


def check_compile(setting: bool | str) -> None:
    """Refuse what is no setting of ``compile``, with a ``ValueError``."""
    if setting not in ("auto", True, False):
        raise ValueError(f'Expected compile to be "auto", True or False; got {setting!r}.')


def layout(inputs: tuple[Tensor, ...]) -> list[tuple[torch.Size, torch.dtype, tuple[int, ...]]]:
    """Return what a graph takes for granted of its inputs: shapes, dtypes and the layout in memory."""
    return [(arg.shape, arg.dtype, arg.stride()) for arg in inputs]


class CannotCompileError(Exception):
    """A function that has to run as it is; the message is the reason, in one line."""


class NotWorthwhileError(CannotCompileError):
    """A function whose compilation would take longer than it saves."""


def record(function: Function, *example: Tensor) -> GraphModule:
    """Return the tensor operations of a function at an example, gradients that it takes included, as a graph.

    Parameters and buffers that the function reaches by itself are part of the graph by reference, so that it sees
    what they become. Numbers that the function reads from tensors alone to compute with, as Pyro's objectives do,
    stay tensors.

    Args:
        function: takes tensors and returns tensors, with None for those that there are not.
        example: its arguments.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    with unvalidated(), _without_questions(), fork_rng(example[0].device):
        graph = make_fx(lambda *args: function(*args))(*example)
    _refuse_dynamic_shapes(graph)
    _refuse_noise_elsewhere(graph, example[0].device)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def compiled(
    function: Function,
    example: tuple[Tensor, ...],
    other: tuple[Tensor, ...],
    most_operations: float = math.inf,
    around: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Function:
    """Return a compiled function of the same values and the same random numbers, for inputs of the example's shapes.

    Args:
        function: as in ``record``; called once before, since what it finds out on its first call is no part of it.
        example: its arguments.
        other: further arguments, on which the compiled function is compared with the function as it is.
        most_operations: how many operations are worth compiling; the time that it takes is about proportional.
        around: surrounds each of the runs that are compared, to put back what they change.

    Raises:
        CannotCompileError: if it cannot be recorded or compiled, or has other values then.
        NotWorthwhileError: if it has more operations.
    """
    try:
        with warnings.catch_warnings(), unvalidated():  # the compiler would turn validation off for good
            warnings.simplefilter("ignore")  # advice of the compiler on its own settings
            graph = record(function, *example)
            if len(graph.graph.nodes) > most_operations:
                raise NotWorthwhileError(f"{len(graph.graph.nodes)} operations take longer to compile than it saves")
            rewrite(graph)
            fast = torch.no_grad()(torch.compile(graph, options=_options()))
            differs = not agree(*(_at_fixed_noise(f, other, around) for f in (fast, function)))
    except CannotCompileError:
        raise
    except Exception as error:  # whatever Python that cannot be recorded, or a compiler that is not there, raises
        raise CannotCompileError(_reason(error)) from error
    if differs:
        raise CannotCompileError("its record has other values at other data: the program acts on more than tensors")
    return fast


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


def _options() -> dict[str, Any]:
    """Have random numbers drawn by torch's own generator, as in a run that is not compiled, and skip what is checked.

    Callers see to it that shapes are those of the example; a graph has nothing else that could change. What the
    processor says of its vector instructions is taken on trust: to build a library with each takes seconds.
    """
    options: dict[str, Any] = {"fallback_random": True, "cpp.vec_isa_ok": True}
    if hasattr(torch.compiler, "skip_all_guards_unsafe"):
        options["guard_filter_fn"] = torch.compiler.skip_all_guards_unsafe
    return options


def agree(left: tuple[Tensor | None, ...], right: tuple[Tensor | None, ...]) -> bool:
    """Say whether two results, a value and its gradients, are equal up to rounding.

    Judged by the largest entry of each tensor, and where that is no more than the rounding error of others, as a
    gradient is that is 0 in theory, by the largest of all gradients.
    """
    sizes = [0.0 if b is None else _largest(b) for b in right]

    def close(a: Tensor | None, b: Tensor | None, size: float) -> bool:
        if a is None or b is None:
            return a is b
        tolerance = rounding() if a.dtype.itemsize <= 4 else 1e-8
        atol = tolerance * (size + 1e-3 * max(sizes[1:], default=0.0))
        return torch.allclose(a, b, rtol=tolerance, atol=atol, equal_nan=True)

    return all(close(*three) for three in zip(left, right, sizes, strict=True))


def _largest(values: Tensor) -> float:
    """Return the largest finite absolute value, 0 of none."""
    return float(values.abs().nan_to_num(0.0, 0.0, 0.0).max()) if values.numel() else 0.0


def _at_fixed_noise(
    function: Function, args: tuple[Tensor, ...], around: Callable[[], AbstractContextManager[object]]
) -> tuple[Tensor | None, ...]:
    with around(), fork_rng(args[0].device, 0):
        return function(*args)


def _reason(error: Exception) -> str:
    text = f"{type(error).__name__} {error}"
    known = next((reason for part, reason in REASONS.items() if part in text), None)
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "backend=" not in line]
    return known or (lines or [type(error).__name__])[0][:200]


_NUMBERS = {getattr(Tensor, f"__{name}__") for name in ("bool", "float", "int", "index", "complex")}
_ARRAYS = {Tensor.tolist, Tensor.numpy, Tensor.__array__}


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


def _cholesky(matrix: Tensor, **options: Any) -> Tensor:
    factor, failure = torch.linalg.cholesky_ex(matrix, **options)
    return torch.where(failure[..., None, None] == 0, factor, math.nan)


def _normal(mean: Any, std: Any, *rest: Any, **options: Any) -> Tensor:
    if not isinstance(mean, Tensor) or not isinstance(std, Tensor) or rest or options:
        return torch.normal(mean, std, *rest, **options)
    shape = torch.broadcast_shapes(mean.shape, std.shape)
    return torch.empty(shape, dtype=mean.dtype, device=mean.device).normal_() * std + mean


_UNASKED: dict[Any, Callable[..., Tensor]] = {
    one_hot: _one_hot,
    torch.linalg.cholesky: _cholesky,
    torch.normal: _normal,
}
"""What looks at values before it goes on, so that a GPU is waited for, and what gives the same without a look."""


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
    """Give an object other attributes for the while."""
    before = {name: getattr(owner, name) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)
