"""Whether a pair of programs can run with all particles at once: tried on a few data, particle against particle."""

from __future__ import annotations

import warnings

import pyro
import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_vae.inference.programs.call import Args, Program, fork_rng, full_precision, training_mode
from pyro_vae.inference.programs.structure import PARTICLES, StructureError, check_structure, sample_sites

PROBES = 3


@torch.no_grad()
def find_plate_depth(model: Program, guide: Program | None, args: Args) -> int:
    """Return how many batch dimensions the programs' own plates use, or 0 to run particle by particle.

    A first few of the data are enough, and the rest are not looked at, unless the programs are tied to their number.

    Particles take one more dimension on the left, so that z has shape (K, B, D). A program that indexes or
    normalises along a dimension counted from the left (``softmax(z, dim=1)``, ``z.view(B, -1)``) then fails, or
    mixes data in silence. So two particles are run together and each again alone; where the log_prob of any site
    differs, or the joint run fails, a warning says so and the particles are run one by one.

    The global generator and the programs' training mode are left as they were.

    Args:
        model: Pyro program for p(x, z).
        guide: Pyro program for q(z | x); None where latents are drawn from the prior.
        args: their arguments, B data, tensors of shape (B, *event).

    Raises:
        ValueError: if the programs have no per-datum weights at all.
    """
    guide = prior_program(model) if guide is None else guide
    with poutine.block(), fork_rng(args[0].device), training_mode(model, guide, False), full_precision():
        probe, depth = _few(model, guide, args)
        if depth == 0:  # one datum of which the programs do not know that it is one: see Particles
            return 0
        num_data = len(probe[0])
        try:
            with pyro.plate(PARTICLES, 2, dim=-1 - depth):
                together = trace_pair(model, guide, probe)
            check_structure(*together, num_data)
            reason = _difference(model, guide, probe, together)
        except Exception as error:  # whatever a program that was not written for a second batch dimension raises
            reason = (str(error).splitlines() or [type(error).__name__])[0]
    if reason:
        warnings.warn(
            f"The programs do not run with all particles at once, so they run one by one, more slowly: {reason[:300]} "
            "With K particles z has shape (K, B, ...): count dimensions from the right, dim=-1.",
            stacklevel=2,
        )
    return 0 if reason else depth


def prior_program(model: Program) -> Program:
    """Return a program that draws the model's latents from p(z), to take a guide's place."""
    return poutine.block(model, hide_fn=lambda msg: msg["type"] == "sample" and msg["is_observed"])


def trace_pair(model: Program, guide: Program, args: Args) -> tuple[Trace, Trace]:
    """Trace the guide, replay the model against it, and score every site; returns (model, guide) traces."""
    guide_trace = poutine.trace(guide).get_trace(*args)
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args)
    return scored(model_trace), scored(guide_trace)


def scored(trace: Trace) -> Trace:
    """Drop subsample sites and compute the log_prob of the others."""
    trace = poutine.util.prune_subsample_sites(trace)
    trace.compute_log_prob()
    return trace


def _few(model: Program, guide: Program, args: Args) -> tuple[Args, int]:
    """Return a few data, or all where the programs are tied to their number, and the data plate's depth."""
    few = tuple(arg[:PROBES] for arg in args)
    try:
        return few, check_structure(*trace_pair(model, guide, few), len(few[0]))
    except StructureError:
        raise
    except Exception:  # the run on all data says what is wrong, if anything is
        return args, check_structure(*trace_pair(model, guide, args), len(args[0]))


@torch.no_grad()
def runs_on_fewer(program: Program, args: Args) -> bool:
    """Say whether a program runs on a single one of the data, and is not tied to their number, as by its parameters."""
    if len(args[0]) == 1:
        return True
    with poutine.block(), fork_rng(args[0].device):
        try:
            trace = poutine.trace(program).get_trace(*(arg[:1] for arg in args))
            sites = sample_sites(poutine.util.prune_subsample_sites(trace)).values()
            return all(min(site["cond_indep_stack"], key=lambda frame: frame.dim).size == 1 for site in sites)
        except Exception:  # whatever a program raises on fewer data than it was made for
            return False


def _difference(model: Program, guide: Program, args: Args, together: tuple[Trace, Trace]) -> str:
    """Return which site's log_prob differs between two particles run together and each alone, or ""."""
    for k in range(2):
        latents = {n: s["value"][k] for n, s in sample_sites(together[1]).items() if not s["is_observed"]}
        alone = [_alone(program, args, latents) for program in (model, guide)]
        again = [_alone(program, args, latents) for program in (model, guide)]
        for many, one, repeat in zip(together, alone, again, strict=True):
            for name, site in sample_sites(many).items():
                single = one.nodes[name]["log_prob"]
                if not torch.equal(single, repeat.nodes[name]["log_prob"]):
                    return ""  # random beyond its sites, such as dropout: there is nothing to compare
                if not torch.allclose(site["log_prob"][k], single, rtol=1e-3, atol=1e-3, equal_nan=True):
                    return f"at site {name!r} a particle's log_prob depends on the other particles or data."
    return ""


def _alone(program: Program, args: Args, latents: dict[str, Tensor]) -> Trace:
    return scored(poutine.trace(poutine.condition(program, data=latents)).get_trace(*args))
