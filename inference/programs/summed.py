"""Discrete latents that the model alone has, summed out: log p(x, z) = log sum_c p(x, z, c)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_vae.inference.programs.call import Args, Program
from pyro_vae.inference.programs.log_einsum import log_sum
from pyro_vae.inference.programs.sites import SUMMED, Site, distribution_name, sample_sites
from pyro_vae.inference.programs.structure import check_value


def is_to_be_summed(site: Any) -> bool:
    """Say whether a latent is marked as one to sum out, ``infer={"enumerate": "parallel"}``."""
    return not site["is_observed"] and site["infer"].get("enumerate") == "parallel"


class Untraced(Messenger):
    """Handler that keeps latents which are to be summed out from the trace, though they are drawn."""

    def _pyro_sample(self, msg: Any) -> None:
        if is_to_be_summed(msg):
            msg["infer"] = {**msg["infer"], "_do_not_trace": True, "is_auxiliary": True}


class _Undrawn(Messenger):
    """Handler that gives latents which are to be summed out a value without drawing it, and notes their names."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def _pyro_sample(self, msg: Any) -> None:
        if is_to_be_summed(msg) and not msg["done"]:
            if not msg["fn"].has_enumerate_support:
                raise ValueError(
                    f"Cannot sum out latent site {msg['name']!r} ({distribution_name(msg['fn'])}): it has no "
                    "enumeration of its values. Sample it in the guide."
                )
            self.names.append(msg["name"])
            msg["value"], msg["done"] = msg["fn"].enumerate_support()[0], True


class _Enumerated(EnumMessenger):
    """Handler that sums over marked latents, around handlers that give others their values."""

    def _pyro_sample(self, msg: Any) -> None:
        given, mark = msg["done"] and not msg["is_observed"], msg["infer"].get("enumerate")
        if given:  # it depends on latents like the others, and is not one to sum over
            msg["done"] = False
            msg["infer"]["enumerate"] = None
        super()._pyro_sample(msg)
        if given:
            msg["done"] = True
            msg["infer"]["enumerate"] = mark

    def _pyro_post_sample(self, msg: Any) -> None:
        """Note the dimensions of a value by its shape, since ``torch.vmap`` hides its data."""
        value = msg["value"]
        msg["value"] = torch.empty(value.shape, device="meta")
        super()._pyro_post_sample(msg)
        msg["value"] = value


def run_model(model: Program, args: Args, given: Collection[str] = ()) -> Trace:
    """Run a model and score its sites, with discrete latents that are marked for it summed out.

    Pyro's ``config_enumerate`` and ``infer={"enumerate": "parallel"}`` mark them. A site whose density depends on
    such a latent has in its place the conditional one given the sites before it, latents first,

        log p(v_i | v_1, ..., v_(i-1)) = log sum_c p(v_1, ..., v_i, c) - log sum_c p(v_1, ..., v_(i-1), c)

    so that they add up to log p(x, z). The sums are those of Pyro's tensor variable elimination, over plates and along
    ``pyro.markov``.

    Args:
        model: Pyro program for p(x, z), under handlers that give z.
        args: its arguments.
        given: latents that are not summed out, marked or not: those of the guide.

    Raises:
        ValueError: for a marked latent without an enumeration.

    Source: Obermeyer et al. (2019), Tensor Variable Elimination for Plated Factor Graphs.
    """
    with _Undrawn() as first:
        trace = poutine.util.prune_subsample_sites(poutine.trace(model).get_trace(*args))
    summed = [name for name in first.names if name not in given]
    if not summed:
        trace.compute_log_prob()
        return trace
    frames = [f for site in sample_sites(trace).values() for f in site["cond_indep_stack"] if f.vectorized]
    with _Enumerated(first_available_dim=min((f.dim for f in frames), default=0) - 1):
        trace = poutine.util.prune_subsample_sites(poutine.trace(model).get_trace(*args))
    trace.compute_log_prob()
    return _without(trace, set(summed))


def _without(trace: Trace, summed: set[str]) -> Trace:
    """Return a scored trace without the latents that are summed out, the densities that depend on them conditional."""
    sites = sample_sites(trace)
    shared = _Shared(sites)
    for name, site in sites.items():
        if name not in summed:
            check_value(site, f"site {name!r} of the model")
        # A latent that is masked out is none: its density sums to 1.
        log_prob = scale_and_mask(site["unscaled_log_prob"], mask=None if name in summed else site["mask"])
        site["log_prob"] = shared.expanded(log_prob)
    trace.pack_tensors()
    plates = set(trace.plate_to_symbol.values())
    depends = [n for n, s in sites.items() if n not in summed and set(s["packed"]["log_prob"]._pyro_dims) - plates]
    before: Tensor | float = 0.0
    factors = list(summed)
    for name in sorted(depends, key=lambda name: bool(sites[name]["is_observed"])):  # latents first
        factors.append(name)
        total = shared.contracted(trace, factors)
        trace.nodes[name] = shared.site(sites[name], total - before)
        before = total
    for name in summed:
        trace.remove_node(name)
    return trace


class _Shared:
    """The plates that all sites share, for each entry of which latents are summed out."""

    def __init__(self, sites: dict[str, Site]) -> None:
        frames = [{f for f in site["cond_indep_stack"] if f.vectorized} for site in sites.values()]
        self.frames = sorted(set.intersection(*frames), key=lambda frame: frame.dim)
        self.shape = [1] * -min((frame.dim for frame in self.frames), default=0)
        for frame in self.frames:
            sizes = [s["log_prob"].shape[frame.dim] for s in sites.values() if s["log_prob"].ndim >= -frame.dim]
            self.shape[frame.dim] = max(sizes)

    def expanded(self, log_prob: Tensor) -> Tensor:
        """Return a density with all entries of the shared plates."""
        return torch.broadcast_tensors(log_prob, log_prob.new_zeros(self.shape))[0]

    def contracted(self, trace: Trace, names: list[str]) -> Tensor:
        """Return the log of the sum over latents of the product of these sites' densities."""
        operands = [trace.nodes[name]["packed"]["log_prob"] for name in names]
        inputs = [operand._pyro_dims for operand in operands]
        symbol_of = trace.plate_to_symbol
        present = set("".join(inputs))
        output = "".join(symbol_of[frame.name] for frame in self.frames if symbol_of[frame.name] in present)
        plates = "".join(present & set(symbol_of.values()))
        return log_sum(operands, inputs, output, plates).reshape(self.shape)

    def site(self, site: Site, log_prob: Tensor) -> Site:
        """Return a site with another density, in the shared plates alone."""
        stack = tuple(f for f in site["cond_indep_stack"] if f in self.frames or not f.vectorized)
        scored = {"log_prob": log_prob, "unscaled_log_prob": log_prob, "log_prob_sum": log_prob.sum()}
        return {**site, **scored, "mask": None, "scale": 1.0, "cond_indep_stack": stack, SUMMED: True}
