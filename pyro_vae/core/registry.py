"""Parts by name: the classes of one kind, ours and a user's own, and how one is built from what a config says of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from pyro_vae.core.checks import did_you_mean

OURS = "pyro_vae."
"""How the dotted names of this library start."""
ARGUMENTS = ("init_args", "dict_kwargs")
"""Keys beside a class's path under which jsonargparse has arguments: those of its signature, and further ones."""
FILLED_IN = frozenset({"dim", "event_shape", "data", "guide"})
"""Arguments of parts that the latent dimension, the data and the guide determine."""


@dataclass(frozen=True)
class Spec:
    """A part as a config names it.

    Attributes:
        class_path: a plain name, such as "VampPrior", or the dotted one of a user's own class.
        init_args: arguments of the class; lists stand for tuples.
    """

    class_path: str
    init_args: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, value: Any) -> Spec:
        """Return what a config file or a parser holds, a name or a mapping with ``class_path``, as a spec.

        Raises:
            ValueError: for anything else.
        """
        if isinstance(value, str):
            return cls(value)
        arguments = [value.get(key) or {} for key in ARGUMENTS] if isinstance(value, Mapping) else [value]
        named = isinstance(value, Mapping) and isinstance(value.get("class_path"), str)
        if not named or value.keys() - {"class_path", *ARGUMENTS} or not all(isinstance(a, Mapping) for a in arguments):
            raise ValueError(f"Expected the name of a class, or class_path and init_args; got {value!r}.")
        return cls(value["class_path"], _plain({k: v for group in arguments for k, v in group.items()}))

    @property
    def name(self) -> str:
        """The last piece of the class's name."""
        return self.class_path.rpartition(".")[2]

    def as_dict(self) -> dict[str, Any]:
        """Return the spec as a config file holds it."""
        return {"class_path": self.class_path} | ({"init_args": dict(self.init_args)} if self.init_args else {})


def _plain(value: Any) -> Any:
    """Return a value as a config file spells it: tuples are lists there."""
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _with_tuples(part: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments as a class declares them: what a config file has as a list, as a tuple where it is one."""
    parameters = inspect.signature(part).parameters

    def is_tuple(name: str) -> bool:
        declared = parameters.get(name, inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY))
        return isinstance(declared.default, tuple) or str(declared.annotation).startswith(("tuple", "typing.Tuple"))

    return {k: tuple(v) if isinstance(v, list) and is_tuple(k) else v for k, v in arguments.items()}


@dataclass(frozen=True)
class Registry:
    """The classes of one kind of part.

    A plain name is looked up among ours. A dotted name that starts with ``pyro_vae.`` is looked up by its last piece,
    so that a config from before a class moved is still read. Any other dotted name is imported, and the class refused,
    before it is called, unless it is of the kind.

    Attributes:
        kind: what messages and options call it, such as "prior".
        base: what ours derive from.
        room: a module, or the classes themselves by name; ours are those in it that derive from ``base``.
        what: what it is, for the help.
        accepts: what a class of a user's own may derive from instead of ``base``.
        without: names in the room that are none of the kind.
        others: further classes by name, from elsewhere.
        filled_in: arguments that data and other parts determine, which are no options.
        filled_in_ours: further ones of ours.
        always_shown: arguments that a description shows at their defaults too.
    """

    kind: str
    base: type
    room: ModuleType | Mapping[str, type]
    what: str = ""
    accepts: tuple[type, ...] = ()
    without: frozenset[str] = frozenset()
    others: Mapping[str, type] = field(default_factory=dict)
    filled_in: frozenset[str] = frozenset()
    filled_in_ours: frozenset[str] = frozenset()
    always_shown: frozenset[str] = frozenset()

    def known(self) -> dict[str, type]:
        """Return {name: class} of ours, and of others that are known by a plain name."""
        room = vars(self.room) if isinstance(self.room, ModuleType) else self.room
        return {name: part for name, part in room.items() if self._is_ours(name, part)} | dict(self.others)

    def _is_ours(self, name: str, part: Any) -> bool:
        fits = inspect.isclass(part) and issubclass(part, self.base) and part is not self.base
        return fits and not inspect.isabstract(part) and not name.startswith("_") and name not in self.without

    def find(self, name: str) -> type:
        """Return the class of a part given by name or as ``package.module.Class``.

        Raises:
            ValueError: if there is none, naming the nearest known one, or it is of another kind.
        """
        known = self.known()
        folded = {k.lower(): part for k, part in known.items()}
        plain = name.rpartition(".")[2] if name.startswith(OURS) else name
        if plain.lower() in folded:
            return known.get(plain, folded[plain.lower()])
        if "." not in name:
            near = did_you_mean(name, known)
            raise ValueError(
                f"Unknown {self.kind} {name!r}.{near} Known: {', '.join(known)}; or give package.module.Class."
            )
        return self.check(find_class(name, f"{self.kind} {name!r}"))

    def check(self, part: type) -> type:
        """Return a class as it is.

        Raises:
            ValueError: unless it is of the kind, before anything calls it.
        """
        if not issubclass(part, (self.base, *self.accepts)):
            wanted = " or ".join(base.__name__ for base in (self.base, *self.accepts))
            raise ValueError(f"Expected a class of {wanted} for the {self.kind}; got {dotted_name(part)}.")
        return part

    def name_of(self, part: type) -> str:
        """Return the name under which a config records a class: a plain one, or the dotted one of a user's own."""
        return next((name for name, known in self.known().items() if known is part), dotted_name(part))

    def build(self, spec: Spec, **known: Any) -> Any:
        """Build a part, filling in what the rest of the model already determines, such as ``dim``.

        Args:
            spec: its name and arguments.
            known: values for parameters that the class may have; arguments in the spec win, None counts as absent.

        Raises:
            ValueError: if the class does not take the arguments.
        """
        part: Callable[..., Any] = self.find(spec.class_path)
        accepted = inspect.signature(part).parameters
        filled = {name: value for name, value in known.items() if name in accepted and value is not None}
        try:
            return part(**(filled | _with_tuples(part, spec.init_args)))
        except TypeError as error:
            raise ValueError(f"Cannot build {self.kind} {spec.name}: {error}") from error

    def partial(self, spec: Spec) -> Callable[..., Any]:
        """Return the class with the spec's arguments, to be called with the rest, as a torch optimizer is."""
        part = self.find(spec.class_path)
        return partial(part, **_with_tuples(part, spec.init_args))

    def takes(self, spec: Spec, argument: str) -> bool:
        """Say whether a part's constructor has an argument of this name."""
        return argument in inspect.signature(self.find(spec.class_path)).parameters

    def options(self, part: type) -> list[str]:
        """Return the arguments of a class of the kind that are options."""
        return [name for name in inspect.signature(part).parameters if name not in self.skipped(part)]

    def skipped(self, part: type) -> frozenset[str]:
        """Return the arguments of a class of the kind that are no options."""
        return self.filled_in | (self.filled_in_ours if part in self.known().values() else frozenset())

    def takes_any(self, part: type) -> bool:
        """Say whether a class takes arguments that its signature does not name, ``**kwargs``."""
        return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(part).parameters.values())

    def same(self, left: Spec, right: Spec) -> bool:
        """Say whether two specs are of one class with the same arguments, those at their defaults included."""
        part = self.find(left.class_path)
        defaults = {name: _plain(p.default) for name, p in inspect.signature(part).parameters.items()}
        arguments = [defaults | dict(spec.init_args) for spec in (left, right)]
        return part is self.find(right.class_path) and arguments[0] == arguments[1]

    def changed(self, spec: Spec) -> dict[str, Any]:
        """Return the arguments of a part that are not at their defaults, and those that are always shown."""
        defaults = inspect.signature(self.find(spec.class_path)).parameters
        given = {name: value for name, value in spec.init_args.items() if value is not None}
        shown = {k for k in given if k not in defaults or given[k] != _plain(defaults[k].default)}
        return {k: v for k, v in given.items() if k in shown | self.always_shown}

    def describe(self, spec: Spec) -> str:
        """Return a part as it would be written in Python, leaving out arguments at their defaults."""
        return f"{spec.name}({', '.join(f'{k}={v}' for k, v in self.changed(spec).items())})"


def dotted_name(part: type) -> str:
    """Return the name by which a class is imported, ``package.module.Class``."""
    return f"{part.__module__}.{part.__qualname__}"


def load_module(name: str, wanted: str) -> ModuleType:
    """Import a module, of the user's own or not.

    Args:
        name: dotted name.
        wanted: what messages say is looked for, such as "prior 'mine.Wide'".

    Raises:
        ValueError: if it cannot be imported, whatever it raises.
    """
    try:
        return import_module(name)
    except ImportError as error:
        stems = sorted(path.stem for path in Path().glob("*.py"))
        near = "" if name in stems else did_you_mean(name, stems)
        raise ValueError(f"Cannot import {wanted}: {error}.{near} Is it in the working directory?") from error
    except Exception as error:  # the module's own code is run, which may fail in any way
        raise ValueError(f"Cannot import {wanted}: {name} raises {type(error).__name__}: {error}.") from error


def find_class(name: str, wanted: str) -> type:
    """Return a class by its dotted name.

    Args:
        name: package.module.Class.
        wanted: as in ``load_module``.

    Raises:
        ValueError: if there is none, naming the nearest class of its module.
    """
    module, _, attribute = name.rpartition(".")
    room = load_module(module, wanted)
    found = getattr(room, attribute, None)
    if found is None:
        near = did_you_mean(attribute, classes_in(room))
        raise ValueError(f"Cannot import {wanted}: {module} has no {attribute}.{near}")
    if not inspect.isclass(found):
        raise ValueError(f"Expected {wanted} to be a class; got {type(found).__name__}.")
    return found


def classes_in(room: ModuleType) -> Iterable[str]:
    """Return the names of the classes that a module holds."""
    return [name for name, value in vars(room).items() if inspect.isclass(value)]
