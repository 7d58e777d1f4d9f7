"""Which parameters a model and which its guide depends on, however they are kept: both may be methods of one module."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_vae.inference.programs.call import Args, Program, fork_rng, modules_of_both, training_mode
from pyro_vae.inference.programs.sites import sample_sites
from pyro_vae.inference.programs.vectorize import scored


@torch.enable_grad()
def used_parameters(model: Program, guide: Program, args: Args) -> tuple[list[Tensor], list[Tensor]]:
    """Return the parameters that log p(x, z) at a given z depends on, and those that z ~ q(z | x) or its density do.

    They are told apart by what a gradient reaches, not by where they are kept: a parameter of both programs is in
    both lists, and one that neither uses in none. The programs run once, in evaluation mode; the global generator and
    the mode are left as they were.

    Args:
        model: Pyro program for p(x, z).
        guide: Pyro program for q(z | x).
        args: their arguments, B data.
    """
    looking = fork_rng(args[0].device), training_mode(model, guide, False)
    with poutine.block(), looking[0], looking[1], poutine.trace(param_only=True) as announced:
        of_guide = scored(poutine.trace(guide).get_trace(*args))
        fixed = of_guide.copy()
        for name, site in sample_sites(of_guide).items():
            fixed.nodes[name] = {**site, "value": site["value"].detach()}
        of_model = scored(poutine.trace(poutine.replay(model, trace=fixed)).get_trace(*args))
    learnt = _learnt(model, guide, announced.trace)
    densities = [[site["log_prob"] for site in sample_sites(trace).values()] for trace in (of_model, of_guide)]
    draws = [site["value"] for site in sample_sites(of_guide).values()]
    return _reached(densities[0], learnt), _reached([*densities[1], *draws], learnt)


def _learnt(model: Program, guide: Program, announced: Trace) -> list[Tensor]:
    """Return the parameters of the programs' modules and those that they announce, each once."""
    owned = [p for module in modules_of_both(model, guide) for p in module.parameters()]
    loose = [site["value"].unconstrained() for site in announced.nodes.values() if site["type"] == "param"]
    return [p for p in {id(p): p for p in [*owned, *loose]}.values() if p.requires_grad]


def _reached(values: Iterable[Any], parameters: list[Tensor]) -> list[Tensor]:
    """Return the parameters that any of the values depends on."""
    outputs = [value.sum() for value in values if value.requires_grad]
    if not outputs or not parameters:
        return []
    gradients = torch.autograd.grad(outputs, parameters, allow_unused=True)
    return [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None]
