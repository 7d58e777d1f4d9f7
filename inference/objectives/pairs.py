"""What an objective finds out once about each pair of programs, and keeps as long as they live."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from pyro.poutine import runtime
from pyro.poutine.messenger import Messenger
from pyro.poutine.scale_messenger import ScaleMessenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vae.inference.programs.call import Program

T = TypeVar("T")


class PerPair(Generic[T]):
    """One value for each pair of programs, forgotten with either of them.

    A bound method is known by its object and its name, since it is a new one at each access. What cannot be hashed or
    weakly referenced is found out each time.
    """

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Any, WeakKeyDictionary[Any, dict[tuple[str, str], T]]] = WeakKeyDictionary()

    def has(self, model: Program, guide: Program) -> bool:
        """Say whether the value of a pair is known."""
        try:
            (m, of_model), (g, of_guide) = _owner(model), _owner(guide)
            return (of_model, of_guide) in self._known.get(m, {}).get(g, {})
        except TypeError:
            return False

    def get(self, model: Program, guide: Program, find: Callable[[], T]) -> T:
        """Return the value of a pair, found out by ``find`` where it is not known."""
        try:
            (m, of_model), (g, of_guide) = _owner(model), _owner(guide)
            known = self._known.setdefault(m, WeakKeyDictionary()).setdefault(g, {})
        except TypeError:
            return find()
        if (of_model, of_guide) not in known:
            known[of_model, of_guide] = find()
        return known[of_model, of_guide]

    def __reduce__(self) -> tuple[type[PerPair[T]], tuple[()]]:
        """Travel empty: what was found out about programs has no meaning in another process."""
        return PerPair, ()


def _owner(program: Program) -> tuple[Any, str]:
    """Return what a program lives as long as, and its name there."""
    owner = getattr(program, "__self__", None)
    return (program, "") if owner is None else (owner, program.__name__)


class Scales(Messenger):
    """Handler around a pair that notes the sites under ``poutine.scale``, which those of plates and KLWeight are not.

    A scale that is a tensor is not read, which would wait for the device: it is taken to be other than 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sites: dict[str, None] = {}

    def _pyro_sample(self, msg: Any) -> None:
        scales = [handler.scale for handler in runtime._PYRO_STACK if isinstance(handler, ScaleMessenger)]
        if not site_is_subsample(msg) and any(isinstance(scale, Tensor) or scale != 1 for scale in scales):
            self.sites[msg["name"]] = None

    def warn(self) -> bool:
        """Warn of the scales noted; say whether there are any."""
        if self.sites:
            names = ", ".join(map(repr, self.sites))
            warnings.warn(
                f"The scale that poutine.scale sets at {names} is left out: log w is that of single data, unscaled. To "
                "weight the KL term, use fit(kl_warmup=...) or ELBO(beta=...); pyro.infer.Trace_ELBO() keeps scales.",
                stacklevel=2,
            )
        return bool(self.sites)
