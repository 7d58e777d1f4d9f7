"""Whether a pair of programs can run with all particles at once: tried on a few data, particle against particle."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pyro_vae.inference.programs.again import RandomState, Replay
from pyro_vae.inference.programs.call import (
    Args,
    Program,
    full_precision,
    modules_of,
    modules_of_both,
    training_mode,
    unvalidated,
)
from pyro_vae.inference.programs.plates import (
    ONE_DATUM,
    PARTICLES,
    Plates,
    SeveralPlatesError,
    StructureError,
    plates_at,
)
from pyro_vae.inference.programs.sites import Site, event_dim, sample_sites
from pyro_vae.inference.programs.state import untouched
from pyro_vae.inference.programs.structure import check_structure
from pyro_vae.inference.programs.summed import Untraced, run_model
from pyro_vae.inference.programs.trial import awaits_data, store_kept, trial

PROBES = (3, 2, 1)
"""Numbers of data on which a pair is tried, one after another where a plate is as large as the first."""
TRIED, TRIED_WHERE_VALUES_ARE_READ = 2, 16
"""Particles that are run at once and each alone, to compare."""


@torch.no_grad()
def find_plates(model: Program, guide: Program | None, args: Args) -> Plates:
    """Return how the batch dimensions of the programs' own plates lie, and how particles can run beside them.

    A first few of the data are enough, and the rest are not looked at, unless the programs are tied to their number.

    Particles take one more dimension on the left, so that z has shape (K, B, D). A program that indexes or
    normalises along a dimension counted from the left (``softmax(z, dim=1)``, ``z.view(B, -1)``) then fails, or
    mixes data in silence; so does batch normalisation. So two particles are run together and each again alone; where
    the log_prob of any site differs, or the joint run fails, particles are run as further data, two copies of each,
    and compared likewise. Where that fails too, a warning says so and particles are run one by one.

    The programs are left as they were, see ``trial``.

    Args:
        model: Pyro program for p(x, z).
        guide: Pyro program for q(z | x); None where latents are drawn from the prior.
        args: their arguments, B data, tensors of shape (B, *event).

    Raises:
        ValueError: if the programs have no per-datum weights at all.
    """
    guide = Prior(model) if guide is None else guide
    with _comparable(model, guide, args[0].device):
        few, plates = _few(model, guide, args)
        if plates == ONE_DATUM:  # of which the programs do not know that it is one: see Particles
            return plates
        reason = _why_not(model, guide, few, plates) or _why_not_elsewhere(model, guide, few, plates)
        if not reason:
            return plates
        copies = replace(plates, particles="copies")
        if not (_why_not(model, guide, few, copies) or _why_not_elsewhere(model, guide, few, copies)):
            return copies
    warnings.warn(
        f"The programs do not run with all particles at once, so they run one by one, more slowly: {reason[:300]} "
        "With K particles z has shape (K, B, ...): count dimensions from the right, dim=-1.",
        stacklevel=2,
    )
    return plates.single


@contextmanager
def _comparable(model: Program, guide: Program, device: torch.device) -> Iterator[None]:
    """Try programs so that two runs differ only where one depends on what the other has not: see ``trial``."""
    with training_mode(model, guide, False), full_precision(), trial(model, guide, device), _NoDropout():
        yield


@contextmanager
def particles_beside(plates: Plates, num_particles: int, args: Args) -> Iterator[Args]:
    """Yield arguments on which programs run K particles at once: the data in a plate of particles, or copies of them.

    Args:
        plates: how particles run.
        num_particles: K.
        args: B data.
    """
    if plates.particles == "copies":
        yield tuple(arg.repeat(num_particles, *[1] * (arg.ndim - 1)) for arg in args)
    else:
        with pyro.plate(PARTICLES, num_particles, dim=-1 - plates.depth):
            yield args


class Prior:
    """A program that draws the model's latents from p(z), to take a guide's place.

    Args:
        model: Pyro program for p(x, z).
    """

    def __init__(self, model: Program) -> None:
        self.model = model

    def __call__(self, *args: Tensor) -> None:
        """Draw the latents."""
        Untraced()(poutine.block(self.model, hide_fn=lambda msg: msg["type"] == "sample" and msg["is_observed"]))(*args)


def trace_pair(model: Program, guide: Program, args: Args) -> tuple[Trace, Trace]:
    """Trace the guide, replay the model against it, and score every site; returns (model, guide) traces."""
    guide_trace = poutine.trace(guide).get_trace(*args)
    model_trace = run_model(Replay(guide_trace)(model), args, guide_trace.nodes)
    return model_trace, latents_of(model_trace) if isinstance(guide, Prior) else scored(guide_trace)


def latents_of(trace: Trace) -> Trace:
    """Return a copy of a scored trace with its latent sites alone: the trace of the prior."""
    copy = trace.copy()
    for name, site in sample_sites(trace).items():
        if site["is_observed"]:
            copy.remove_node(name)
    return copy


def scored(trace: Trace) -> Trace:
    """Drop subsample sites and compute the log_prob of the others."""
    trace = poutine.util.prune_subsample_sites(trace)
    trace.compute_log_prob()
    return trace


def _few(model: Program, guide: Program, args: Args) -> tuple[Args, Plates]:
    """Return a few data, or all where the programs are tied to their number, and how the plates lie."""
    for count in () if awaits_data(model, guide) else PROBES:
        few = tuple(arg[:count] for arg in args)
        try:
            with store_kept() as made:
                plates = check_structure(*trace_pair(model, guide, few), len(few[0]))
                if not made(model, guide):
                    return few, plates
            break
        except StructureError:
            raise
        except SeveralPlatesError:
            continue
        except Exception:  # the run on all data says what is wrong, if anything is
            break
    return args, check_structure(*trace_pair(model, guide, args), len(args[0]))


def _why_not(model: Program, guide: Program, args: Args, plates: Plates) -> str:
    """Return why particles cannot run at once in this way, "" if they can."""
    try:
        number = TRIED
        modules = modules_of_both(model, guide)
        with particles_beside(plates, number, args) as many, unvalidated(), _Asked() as asked, untouched(modules):
            together = trace_pair(model, guide, many)
        if asked.values:  # a branch that two particles take alike is one that others may not
            number = TRIED_WHERE_VALUES_ARE_READ
            with particles_beside(plates, number, args) as many, untouched(modules):
                together = trace_pair(model, guide, many)
        check_structure(*together, len(many[0]), plates)
        return _difference(model, guide, args, together, plates, number)
    except Exception as error:  # whatever a program that was not written for it raises
        return (str(error).splitlines() or [type(error).__name__])[0]


def _why_not_elsewhere(model: Program, guide: Program, args: Args, plates: Plates) -> str:
    """Say likewise at other parameters, where some are constant: weights that start at 0 do not show what they mix.

    They are put back. Where the programs cannot run so, that says nothing.
    """
    owned = {id(p): p for module in modules_of_both(model, guide) for p in module.parameters()}
    every = owned | {id(p): p for p in pyro.get_param_store()._params.values()}
    flat = [p for p in every.values() if p.is_floating_point() and p.numel() > 1 and bool((p == p.flatten()[0]).all())]
    before = [p.detach().clone() for p in flat]
    try:
        for p in flat:
            p.data.add_(torch.randn_like(p), alpha=0.1)
        reason = _why_not(model, guide, args, plates) if flat else ""
    finally:
        for p, value in zip(flat, before, strict=True):
            p.data.copy_(value)
    return reason if "a particle's log_prob depends" in reason else ""


class _NoDropout(TorchFunctionMode):
    """Runs networks without dropout that is never off, so that particles can be compared."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in _DROPOUT else func(*args, **(kwargs or {}))


_DROPOUT = {getattr(nn.functional, name) for name in dir(nn.functional) if name.rstrip("123d_").endswith("dropout")}
_DROPOUT |= {torch.dropout, torch.feature_dropout, torch.alpha_dropout, torch.feature_alpha_dropout}


class _Asked(TorchFunctionMode):
    """Notes whether Python reads the value of a tensor, as ``if tensor:`` and ``.item()`` do."""

    values = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.values = self.values or func in (Tensor.__bool__, Tensor.item, Tensor.__float__, Tensor.__int__)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def runs_on_fewer(program: Program, args: Args) -> bool:
    """Say whether a program runs on a single one of the data, and is not tied to their number, as by its parameters."""
    if len(args[0]) == 1:
        return True
    with trial(program, program, args[0].device):
        try:
            trace = poutine.trace(program).get_trace(*(arg[:1] for arg in args))
            return bool(plates_at(sample_sites(poutine.util.prune_subsample_sites(trace)), 1))
        except Exception:  # whatever a program raises on fewer data than it was made for
            return False


def is_divisible(model: Program, args: Args) -> bool:
    """Say whether some of the data have the densities alone that they have beside the others."""
    return runs_on_fewer(model, args) and not is_tied(model, Prior(model), args, args[0].device)


@torch.no_grad()
def is_tied(model: Program, guide: Program, args: Args, device: torch.device, most: int = 10_000) -> bool:
    """Say whether data have their densities only where all are run together, in their order.

    So it is with parameters of each datum, where programs run on all data and not on a few; with what is looked up by a
    datum's place, ``with plate as i: w[i]``; and where the density of a datum depends on the others, as through
    ``x.mean()``. The second half of the data, alone, has other densities then.

    Args:
        model: Pyro program for p(x, z), which has run before, see ``first_run``.
        guide: Pyro program for q(z | x).
        args: their arguments, N data, which may lie elsewhere than the programs on their device.
        device: the device.
        most: data that are looked at.
    """
    num_data = len(args[0])
    with _comparable(model, guide, device):
        for count in (c for c in PROBES if c < num_data):
            try:
                check_structure(*trace_pair(model, guide, _first(args, count, device)), count)
                break
            except StructureError:
                return False
            except SeveralPlatesError:
                continue
            except Exception:  # whatever a program raises on fewer data than it was made for
                return _runs(model, guide, _first(args, num_data, device))
        return num_data > 1 and _depends_on_the_rest(model, guide, _first(args, min(num_data, most), device))


def _runs(model: Program, guide: Program, args: Args) -> bool:
    try:
        check_structure(*trace_pair(model, guide, args), len(args[0]))
    except Exception:  # which says what is wrong where the programs are run in earnest
        return False
    return True


def _depends_on_the_rest(model: Program, guide: Program, args: Args) -> bool:
    """Say whether the second half of the data has other densities alone than beside the first."""
    num_data, half = len(args[0]), len(args[0]) // 2
    try:
        with untouched(modules_of_both(model, guide)):
            traces = trace_pair(model, guide, args)
        plates = check_structure(*traces, num_data).single
    except Exception:  # which says what is wrong where the programs are run in earnest
        return False
    sites = {name: site for name, site in sample_sites(traces[1]).items() if not site["is_observed"]}
    rest = tuple(arg[half:] for arg in args)
    latents = {
        name: plates.as_run(plates.by_datum(site["value"], event_dim(site), num_data)[:, half:], event_dim(site))
        for name, site in sites.items()
    }

    try:
        before, alone = RandomState(rest[0].device), _alone(model, rest, latents)
        if not before.holds():
            return False  # random beside its sites: there is nothing to compare
        # The model alone: a guide's draws are weighed by its density, whatever that depends on.
        for name, site in sample_sites(alone).items():
            beside = plates.by_datum(traces[0].nodes[name]["unscaled_log_prob"], 0, num_data)[0, half:]
            found = plates.by_datum(site["unscaled_log_prob"], 0, num_data - half)[0]
            if not torch.allclose(beside, found, rtol=1e-3, atol=1e-3, equal_nan=True):
                return True
    except Exception:  # of a program that wants all data, which shows elsewhere
        return False
    return False


@torch.no_grad()
def first_run(model: Program, guide: Program, args: Args, device: torch.device) -> None:
    """Run programs once on all data, where they have parameters that are made by the first data that they see.

    So ``pyro.param("loc", lambda: x.mean())`` and Pyro's AutoGuides that have not run are those of all data, not of
    the first chunk of them. Others are left alone. The data may lie elsewhere than the programs on their device.
    """
    with training_mode(model, guide, False), trial(model, guide, device), store_kept() as made:
        try:
            trace_pair(model, guide, _first(args, 1, device))
        except Exception:  # on a single datum; what is wrong, if anything is, shows where they run on all
            return
        waiting = made(model, guide)
    if waiting or awaits_data(model, guide):
        trace_pair(model, guide, _first(args, len(args[0]), device))


def _first(args: Args, count: int, device: torch.device) -> Args:
    return tuple(arg[:count].to(device) for arg in args)


def _difference(
    model: Program, guide: Program, args: Args, together: tuple[Trace, Trace], plates: Plates, number: int
) -> str:
    """Return which site's log_prob differs between particles run together and each alone, or ""."""
    num_data, single = len(args[0]), plates.single

    def of(site: Site, key: str, how: Plates) -> Tensor:
        return how.by_datum(site[key], event_dim(site) if key == "value" else 0, num_data)

    for k in range(number):
        drawn = {n: s for n, s in sample_sites(together[1]).items() if not s["is_observed"]}
        latents = {n: single.as_run(of(s, "value", plates)[k][None], event_dim(s)) for n, s in drawn.items()}
        pairs = zip((model, guide), together, strict=True)
        for program, many in ((program, many) for program, many in pairs if not isinstance(program, Prior)):
            before = RandomState(args[0].device)
            try:
                one = _alone(program, args, latents)
            except (KeyError, NotImplementedError):  # a flow without an inverse, which no given value can be scored at
                continue
            if not before.holds():
                return "a program draws random numbers beside its sites, so that particles cannot be compared."
            for name, site in sample_sites(many).items():
                of_two, of_one = of(site, "log_prob", plates)[k], of(one.nodes[name], "log_prob", single)[0]
                if not torch.allclose(of_two, of_one, rtol=1e-3, atol=1e-3, equal_nan=True):
                    return f"at site {name!r} a particle's log_prob depends on the other particles or data."
    return ""


def _alone(program: Program, args: Args, latents: dict[str, Tensor]) -> Trace:
    with untouched(modules_of(program)):
        return run_model(poutine.condition(program, data=latents), args, latents)
