"""Running a guide once and scoring its draw again: the draw altered, or the guide's parameters held still."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_vae.inference.programs.again import RandomState, Replay, run_again
from pyro_vae.inference.programs.call import Args, Program, modules_of
from pyro_vae.inference.programs.latents import refusing_unscorable
from pyro_vae.inference.programs.sites import Site, sample_sites
from pyro_vae.inference.programs.summed import run_model
from pyro_vae.inference.programs.vectorize import scored


class Rescorer:
    """Tracer for ``weight_terms``: draws z from the guide, then scores ``alter(z)`` under both programs.

    Args:
        alter: returns the value that is scored of a latent site, by the site and the number of the run.
        freeze: hold the guide's parameters still while q(z | x) is scored, so that its gradient flows through z
            alone.
        freeze_model: hold the model's parameters still while p(x, z) is scored.
    """

    def __init__(self, alter: Callable[[Site, int], Tensor], freeze: bool, freeze_model: bool = False) -> None:
        self.alter, self.freeze, self.freeze_model = alter, freeze, freeze_model
        self.runs = 0
        """How often it has run."""

    def __call__(self, model: Program, guide: Program, args: Args) -> tuple[Trace, Trace]:
        """Return the scored (model, guide) traces."""
        before = RandomState(args[0].device)
        with poutine.trace(param_only=True) as capture:
            drawn = poutine.trace(guide).get_trace(*args)
        altered = drawn.copy()
        for name, site in sample_sites(drawn).items():
            if not site["is_observed"]:
                altered.nodes[name] = {**site, "value": self.alter(site, self.runs)}
        self.runs += 1
        with _frozen(guide, capture.trace, self.freeze), refusing_unscorable('Use gradient="pathwise".'):
            guide_trace = scored(run_again(guide, args, altered, before))
        with poutine.trace(param_only=True) as model_params:
            model_trace = run_model(Replay(altered)(model), args, altered.nodes)
        if self.freeze_model:
            with _frozen(model, model_params.trace, True):
                model_trace = run_model(Replay(altered)(model), args, altered.nodes)
        return model_trace, guide_trace


@contextmanager
def _frozen(program: Program, params: Trace, freeze: bool) -> Iterator[None]:
    """Build no graph to a program's parameters, those of its modules and those it announces."""
    owned = [p for module in modules_of(program) for p in module.parameters()]
    announced = [site["value"].unconstrained() for site in params.nodes.values() if site["type"] == "param"]
    held = [p for p in {id(p): p for p in [*owned, *announced]}.values() if freeze and p.requires_grad]
    for param in held:
        param.requires_grad_(False)
    try:
        with warnings.catch_warnings():  # pyro.module warns of each of them
            warnings.filterwarnings("ignore", ".*was not registered in the param store because requires_grad=False")
            yield
    finally:
        for param in held:
            param.requires_grad_(True)


def unaltered(site: Site, run: int) -> Tensor:
    """Score the draw as it is, but as a new tensor: flows cache what they drew by the tensor's identity."""
    return site["value"].view_as(site["value"])


def detached(site: Site, run: int) -> Tensor:
    """Score the draw as a constant."""
    return site["value"].detach()
