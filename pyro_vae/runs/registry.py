"""What can be plugged in, by name or as ``package.module.Class``, and how it is built from a config."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import pyro.infer

from pyro_vae.core.checks import did_you_mean
from pyro_vae.core.flows import FLOW_KINDS
from pyro_vae.inference import guides, methods, objectives
from pyro_vae.models import likelihoods, networks, priors
from pyro_vae.runs import kinds as pairs
from pyro_vae.runs.own_parts import find_class, kinds_of, parts_in

Spec = dict[str, Any]
"""A part in a config file: {"class_path": ..., "init_args": {...}}."""

ROOMS: dict[str, tuple[Any, type]] = {
    "model": (pairs, pairs.Pair),
    "prior": (priors, priors.Prior),
    "likelihood": (likelihoods, likelihoods.Likelihood),
    "guide": (guides, guides.GuideFamily),
    "encoder": (networks, networks.NetworkFactory),
    "decoder": (networks, networks.NetworkFactory),
    "objective": (objectives, objectives.Objective),
    "method": (methods, methods.Method),
}
STOCK_OBJECTIVES = (
    "Trace_ELBO", "TraceMeanField_ELBO", "TraceGraph_ELBO", "TraceEnum_ELBO", "RenyiELBO", "ReweightedWakeSleep",
)  # fmt: skip
ELSEWHERE = {"encoder": {"deconv"}, "decoder": {"conv"}}
"""What a room holds that is none of a kind's parts."""


def known_parts(kind: str) -> dict[str, type]:
    """Return {name: class} of the parts of one kind: a key of ``ROOMS``."""
    room, base = ROOMS[kind]
    ours = {
        name: part
        for name, part in vars(room).items()
        if inspect.isclass(part)
        and issubclass(part, base)
        and not inspect.isabstract(part)
        and part is not base
        and name not in ELSEWHERE.get(kind, ())
    }
    stock = {name: getattr(pyro.infer, name) for name in STOCK_OBJECTIVES} if kind == "objective" else {}
    return ours | stock


def find_part(kind: str, name: str) -> type:
    """Return the class of a part given by name or as ``package.module.Class``.

    Raises:
        ValueError: if there is none, naming the nearest known one.
    """
    known = known_parts(kind)
    folded = {k.lower(): part for k, part in known.items()}
    plain = name.rpartition(".")[2] if name.startswith("pyro_vae.") else name  # wherever a version has it
    if plain.lower() in folded:
        return known.get(plain, folded[plain.lower()])
    if "." not in name:
        near = did_you_mean(name, known)
        raise ValueError(f"Unknown {kind} {name!r}.{near} Known: {', '.join(known)}; or give package.module.Class.")
    return find_class(name, f"{kind} {name!r}")


def class_path(part: type) -> str:
    """Return the dotted path under which a config file names a class: the public one, where it has one."""
    for room in (*(room for room, _ in ROOMS.values()), pyro.infer):
        if getattr(room, part.__name__, None) is part:
            return f"{room.__name__}.{part.__name__}"
    return f"{part.__module__}.{part.__qualname__}"


def build_part(kind: str, spec: Spec, **known: Any) -> Any:
    """Build a part, filling in what the rest of the model already determines, such as ``dim``.

    Args:
        kind: as in ``known_parts``.
        spec: class_path and init_args.
        known: values for parameters that the class may have; arguments in the spec win.

    Raises:
        ValueError: if the class does not take the arguments.
    """
    part = find_part(kind, spec["class_path"])
    accepted = inspect.signature(part).parameters
    filled = {name: value for name, value in known.items() if name in accepted and value is not None}
    try:
        return part(**(filled | spec.get("init_args", {})))
    except TypeError as error:
        raise ValueError(f"Cannot build {kind} {part.__name__}: {error}") from error


def takes(kind: str, spec: Spec, argument: str) -> bool:
    """Say whether a part's constructor has an argument of this name."""
    return argument in inspect.signature(find_part(kind, spec["class_path"])).parameters


def describe_spec(spec: Spec) -> str:
    """Return a part as it would be written in Python, leaving out arguments at their defaults."""
    shown = [f"{k}={v}" for k, v in changed_arguments(spec).items()]
    return f"{spec['class_path'].rpartition('.')[2]}({', '.join(shown)})"


def changed_arguments(spec: Spec) -> Spec:
    """Return the arguments of a part that are not at their defaults; a learning rate always."""
    module, _, name = spec["class_path"].rpartition(".")
    defaults = inspect.signature(getattr(import_module(module), name)).parameters
    given = {k: v for k, v in spec.get("init_args", {}).items() if v is not None}
    return {k: v for k, v in given.items() if k == "lr" or v != _plain(defaults[k].default)}


def _plain(value: Any) -> Any:
    """Return a default as a config file spells it: tuples are lists there."""
    return list(value) if isinstance(value, tuple) else value


def list_parts() -> str:
    """Return everything that can be plugged in, one line each."""
    lines = []
    for kind in ROOMS:
        lines.append(f"{kind}s")
        lines += [f"  {name:<22} {_summary(part)}" for name, part in known_parts(kind).items()]
    lines.append("kinds of flow (--prior Flow --prior.kind KIND, --guide Flow --guide.kind KIND)")
    lines += [f"  {kind:<22} {what}" for kind, what in FLOW_KINDS.items()]
    return "\n".join(lines)


def describe_part(name: str) -> str:
    """Return a part's signature, docstring and options, of each kind that has one so named; or a module's own parts.

    Args:
        name: that of a part shipped here, the dotted one of a class, or that of a module.

    Raises:
        ValueError: if no part has that name, or the module holds none.
    """
    every = [(known, kind, part) for kind in ROOMS for known, part in known_parts(kind).items()]
    found = [entry for entry in every if entry[0].lower() == name.lower()]
    if found:
        return "\n\n\n".join(_described(*entry) for entry in found)
    if (own := parts_in(name, ROOMS)) is not None:
        return _list_module(name, own)
    if "." in name:
        part = find_class(name, f"part {name!r}")
        kinds = kinds_of(part, ROOMS) or ["part"]
        return "\n\n\n".join(_described(name, kind, part) for kind in kinds)
    near = did_you_mean(name, [known for known, _, _ in every] + [path.stem for path in Path().glob("*.py")])
    raise ValueError(f"Unknown part {name!r}.{near} `pyro-vae parts` lists all.")


def _list_module(name: str, parts: dict[str, type]) -> str:
    if not parts:
        raise ValueError(
            f"{name} holds no part: no class with a forward() that returns a distribution, made with dim or "
            "event_shape, and no network, made with in_shape and out_features."
        )
    lines = [f"  {known:<22} {'/'.join(kinds_of(part, ROOMS))}: {_summary(part)}" for known, part in parts.items()]
    return "\n".join([f"{name} (as --KIND {name}.NAME)", *lines])


def _described(name: str, kind: str, part: type) -> str:
    options = " ".join(f"--{kind}.{option}" for option in options_of(part))
    lines = [f"{name}{_signature(part)}: --{kind} {name}", _doc(part) or "No docstring."]
    return "\n\n".join([*lines, f"Options: {options}"] if options else lines)


def _doc(part: type) -> str:
    """Return a class's own docstring, none that it inherits."""
    return inspect.cleandoc(part.__doc__ or "")


FOUND_ELSEWHERE = {
    "self",
    "dim",
    "event_shape",
    "data",
    "guide",
    "in_shape",
    "out_features",
    "image_shape",
    "params",
    "optimizer",
}
"""Arguments of parts that are no options: data, latent dimension and pictures determine them."""


def options_of(part: type) -> list[str]:
    """Return the arguments of a part that are options of the command line."""
    names = inspect.signature(part).parameters
    kept = {"guide"} if issubclass(part, pairs.Pair) else set()
    shared = {"activation"} if issubclass(part, networks.NetworkFactory) else set()
    return [name for name in names if name not in (FOUND_ELSEWHERE | shared) - kept]


def _signature(part: type) -> str:
    """Return a part's arguments and their defaults, without annotations, a class by its name."""
    parameters = [p.replace(annotation=p.empty) for p in inspect.signature(part).parameters.values()]
    shown = str(inspect.Signature(parameters))
    for value in (p.default for p in parameters):
        if isinstance(value, type) and value is not inspect.Parameter.empty:
            shown = shown.replace(repr(value), value.__name__)
    return shown


def _summary(part: type) -> str:
    first = _doc(part).split("\n\n")[0]
    return " ".join(first.split()).split(". ")[0][:120]
