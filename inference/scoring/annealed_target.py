"""The target of annealing paths as one compiled graph, for all chunks of data of one shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torch import Tensor

from pyro_vae.inference.annealing.hmc import Target
from pyro_vae.inference.annealing.unconstrained import Args
from pyro_vae.inference.compile.compile import layout
from pyro_vae.inference.compile.record import CannotCompileError
from pyro_vae.inference.compile.state import compile_programs

if TYPE_CHECKING:
    from pyro_vae.inference.annealing.path import Path


class CompiledTarget:
    """Log densities of a path and their gradients as one compiled graph, of which the data are inputs.

    Args:
        path: a path with the programs, the number of chains, and the shape of the data.
        other: other data of this shape, on which the graph is compared with the programs.

    Raises:
        CannotCompileError: where the programs have to run as they are.
    """

    def __init__(self, path: Path, other: Args) -> None:
        space = path.space
        if space.one_by_one:
            raise CannotCompileError("the particles run one by one")
        example = (space.start.contiguous(), *space.args)
        self._layout = layout(example)
        others = (0.5 * example[0] + 0.25, *other)
        self._graph = compile_programs(space.model, space.guide, path.evaluate, example, others)

    def at(self, start: Tensor, args: Args) -> Target | None:
        """Return the target for these chains and data, None where they have another shape."""
        if layout((start.contiguous(), *args)) != self._layout:
            return None

        def target(u: Tensor) -> tuple[Tensor, Tensor]:
            return cast("tuple[Tensor, Tensor]", self._graph(u.contiguous(), *args))

        return target
