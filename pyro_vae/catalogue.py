"""What can be plugged in, by name or as ``package.module.Class``, and how it is built from a config."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import pyro.infer

from pyro_vae import pairs
from pyro_vae._checks import did_you_mean
from pyro_vae._flows import FLOW_KINDS
from pyro_vae.inference import guides, methods, objectives
from pyro_vae.models import likelihoods, networks, priors

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
        if inspect.isclass(part) and issubclass(part, base) and part is not base and name not in ELSEWHERE.get(kind, ())
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
    if name.lower() in folded:
        return known.get(name, folded[name.lower()])
    module, _, attribute = name.rpartition(".")
    if not module:
        near = did_you_mean(name, known)
        raise ValueError(f"Unknown {kind} {name!r}.{near} Known: {', '.join(known)}; or give package.module.Class.")
    try:
        room = import_module(module)
        found = getattr(room, attribute)
    except ImportError as error:
        raise ValueError(f"Cannot import {kind} {name!r}: {error}. Is it in the working directory?") from error
    except AttributeError:
        classes = [known for known, value in vars(room).items() if inspect.isclass(value)]
        raise ValueError(
            f"Cannot import {kind} {name!r}: {module} has no {attribute}.{did_you_mean(attribute, classes)}"
        ) from None
    if not inspect.isclass(found):
        raise ValueError(f"Expected {kind} {name!r} to be a class; got {type(found).__name__}.")
    return found


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
    """Return a part's signature and docstring, formula, arguments and source; of each kind that has one so named.

    Raises:
        ValueError: if no part of any kind has that name.
    """
    every = [(known, kind, part) for kind in ROOMS for known, part in known_parts(kind).items()]
    found = [entry for entry in every if entry[0].lower() == name.lower()]
    if not found:
        near = did_you_mean(name, [known for known, _, _ in every])
        raise ValueError(f"Unknown part {name!r}.{near} `pyro-vae parts` lists all.")
    return "\n\n\n".join(
        f"{known}{_signature(part)}: --{kind} {known}\n\n{inspect.getdoc(part)}" for known, kind, part in found
    )


FOUND_ELSEWHERE = {"self", "dim", "event_shape", "data", "guide", "in_shape", "out_features", "image_shape", "params"}
"""Arguments of parts that are no options: data, latent dimension and pictures determine them."""


def options_of(part: type) -> list[str]:
    """Return the arguments of a part that are options of the command line."""
    names = inspect.signature(part).parameters
    kept = {"guide"} if issubclass(part, pairs.Pair) else set()
    return [name for name in names if name not in FOUND_ELSEWHERE - kept]


def _signature(part: type) -> str:
    parameters = [p.replace(annotation=p.empty) for p in inspect.signature(part).parameters.values()]
    return str(inspect.Signature(parameters))


def _summary(part: type) -> str:
    first = (inspect.getdoc(part) or "").split("\n\n")[0]
    return " ".join(first.split()).split(". ")[0][:120]
