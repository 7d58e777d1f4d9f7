"""Importance weighting with the guide as proposal, or a mixture of guide and prior, and the jackknife of its bias."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_vae.core.checks import check_int
from pyro_vae.inference.compile.compile import compile_programs, layout
from pyro_vae.inference.programs.again import RandomState, Replay, run_again
from pyro_vae.inference.programs.call import Args, Program, unvalidated
from pyro_vae.inference.programs.plates import Plates, plates_at
from pyro_vae.inference.programs.proposals import check_proposal
from pyro_vae.inference.programs.sites import event_dim, sample_sites
from pyro_vae.inference.programs.summed import run_model
from pyro_vae.inference.programs.vectorize import Prior, scored
from pyro_vae.inference.programs.weights import weight_terms
from pyro_vae.inference.scoring.base import Method, Programs, Weights
from pyro_vae.inference.scoring.refinement import NUM_PARTICLES, CompiledRefinement, refine
from pyro_vae.inference.scoring.tail import JackknifeStream, WeightStream

LogWeights = Callable[[Args, int], Tensor]
"""A function of a chunk of data and a number of particles k that returns log weights, shape (k, B)."""


def defensive_log_weights(
    model: Program, guide: Program, args: Args, num_particles: int, share: float, *, plates: Plates | None
) -> Tensor:
    """Return log weights of draws from (1 - alpha) q(z|x) + alpha p(z), shape (K, B), in nats.

        log w = log p(x|z) + log p(z) - log[(1 - alpha) q(z|x) + alpha p(z)]

    All latents of a particle and datum come from the one or from the other.

    Args:
        model: Pyro program for p(x, z).
        guide: Pyro program for q(z | x).
        args: their arguments, B data, tensors of shape (B, *event).
        num_particles: K.
        share: alpha.
        plates: how the programs' plates lie, and how particles run; see ``find_plates``.

    Source: Hesterberg (1995), Weighted Average Importance Sampling and Defensive Mixture Distributions.
    """

    def tracer(model: Program, guide: Program, args: Args) -> tuple[Trace, Trace]:
        return _trace_mixture(model, guide, args, share, plates)

    terms = weight_terms(model, guide, args, num_particles, plates=plates, tracer=tracer)
    log_p = terms.log_prior
    log_q = terms.log_q.nan_to_num(-math.inf, math.inf, -math.inf)  # a draw of the prior may be none of the guide's
    log_q = torch.logaddexp(math.log1p(-share) + log_q, math.log(share) + log_p)
    return terms.log_likelihood + log_p - log_q


def _trace_mixture(
    model: Program, guide: Program, args: Args, share: float, known: Plates | None
) -> tuple[Trace, Trace]:
    """Draw each particle's latents from guide or prior, and score them under both programs."""
    before = RandomState(args[0].device)
    drawn = poutine.util.prune_subsample_sites(poutine.trace(guide).get_trace(*args))
    prior = sample_sites(poutine.trace(model).get_trace(*args))
    mixed, from_prior = drawn.copy(), None
    sites = sample_sites(drawn)
    plates = plates_at(sites, len(args[0])) if known is None else replace(known, particles="plate")
    for name, site in sites.items():
        if site["is_observed"]:
            continue
        if name not in prior:
            raise ValueError(f"Expected no auxiliary site in the guide for a defensive mixture; got {name!r}.")
        if from_prior is None:
            shape = plates.by_datum(site["value"], event_dim(site), len(args[0])).shape[:2]
            from_prior = torch.rand(shape, device=site["value"].device) < share
        chosen = plates.weighing(from_prior, event_dim(site))
        mixed.nodes[name] = {**site, "value": torch.where(chosen, prior[name]["value"], site["value"])}
    with unvalidated():
        model_trace = run_model(Replay(mixed)(model), args, mixed.nodes)
        return model_trace, scored(run_again(guide, args, mixed, before))


@dataclass(frozen=True)
class _Importance(Method):
    defensive: float = 0.0
    refine: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.defensive, float | int) or not 0 <= self.defensive < 1:
            raise ValueError(f"Expected 0 <= defensive < 1, the prior's share of the draws; got {self.defensive!r}.")
        check_int(self.refine, "refine", 0, "It is the number of gradient steps.")

    @property
    def particles_of_its_own(self) -> int:
        """Particles for each datum that a guide is fitted with."""
        return NUM_PARTICLES if self.refine else 1

    def check(self, model: Program, guide: Program, batch: Args) -> None:
        """Refuse a point mass as a proposal; warn of one that cannot reach what the prior can."""
        check_proposal(model, guide, batch)

    def weights(
        self, programs: Programs, batch: Args, counts: list[int], advance: Callable[[int], object]
    ) -> Iterator[Weights]:
        """Yield log p(x, z) - log q(z) for z drawn from the guide, refined or mixed with the prior where asked."""
        log_weights = self._of_data(self._tied(programs), batch)
        for count in counts:
            yield Weights(log_weights(batch, count))
            advance(count * len(batch[0]))

    def compile(self, programs: Programs, chunk: Args, other: Args, count: int) -> _Compiled:
        """Return the compiled log weights, and with ``refine`` the compiled gradient that fits the guide."""
        refinement = (
            CompiledRefinement(programs.model, programs.guide, chunk, other, self._tied(programs).plates)
            if self.refine
            else None
        )
        programs = replace(self._tied(programs), guide=refinement.guide) if refinement else programs
        return _Compiled(
            _CompiledWeights(programs, self._weigh(programs, programs.guide), chunk, other, count), refinement
        )

    def _tied(self, programs: Programs) -> Programs:
        """Return the programs, to run as they can with a guide that is fitted to each datum, where one is."""
        return replace(programs, plates=programs.plates.tied) if self.refine and programs.plates else programs

    def _of_data(self, programs: Programs, batch: Args) -> LogWeights:
        """Return the function that weighs these data, compiled if it was; with ``refine`` that of a fitted guide."""
        compiled: _Compiled | None = programs.compiled
        guide = programs.guide
        if self.refine:
            how = None if compiled is None else compiled.refinement
            guide = refine(programs.model, guide, batch, self.refine, plates=programs.plates, compiled=how)
        if compiled is not None and compiled.weights.guide is guide:
            return compiled.weights
        return self._weigh(programs, guide)

    def _weigh(self, programs: Programs, guide: Program) -> LogWeights:
        def log_weights(batch: Args, count: int) -> Tensor:
            if self.defensive and not isinstance(guide, Prior):  # a mixture of the prior with itself
                return defensive_log_weights(
                    programs.model, guide, batch, count, self.defensive, plates=programs.plates
                )
            return weight_terms(programs.model, guide, batch, count, plates=programs.plates).log_w

        return log_weights


class _CompiledWeights:
    """The log weights of a chunk of data, compiled for its shapes and number of particles; of others as they are."""

    def __init__(self, programs: Programs, function: LogWeights, chunk: Args, other: Args, count: int) -> None:
        self.guide = programs.guide
        self._function, self._count, self._layout = function, count, layout(chunk)
        self._graph = compile_programs(
            programs.model, programs.guide, lambda *args: (function(args, count),), chunk, other
        )

    def __call__(self, batch: Args, count: int) -> Tensor:
        if count != self._count or layout(batch) != self._layout:
            return self._function(batch, count)
        (log_w,) = self._graph(*batch)
        assert log_w is not None  # the graph returns what the function returns
        return log_w


@dataclass(frozen=True)
class _Compiled:
    """What was compiled: the weights, and the gradient by which their guide is fitted to data, if it is."""

    weights: _CompiledWeights
    refinement: CompiledRefinement | None


@dataclass(frozen=True)
class IW(_Importance):
    """Importance weighting, log p(x) ~ log (1/K) sum_k p(x, z_k) / q(z_k | x), a stochastic lower bound.

    Args:
        defensive: share alpha of the draws that come from the prior instead of the guide, their density being
            the mixture's, (1 - alpha) q(z|x) + alpha p(z): no weight then exceeds p(x|z) / alpha, whatever the
            guide misses (Hesterberg, 1995).
        refine: gradient steps that fit a guide of its own to each datum from where the encoder puts it, before
            the draws that count are made; see ``refine``.

    Raises:
        ValueError: if a setting is out of its range.

    Source: Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, section 3.
    """

    title: ClassVar = "importance weighting"


@dataclass(frozen=True)
class Jackknife(_Importance):
    """Importance weighting without its bias of first order: J = K L_K - (K - 1) mean_i L_(K-1) without i.

    The bias of L_K is of order 1/K, that of J of order 1/K^2; J is no lower bound, in exchange. Where k-hat is
    high the expansion in 1/K does not hold, and neither estimate is to be trusted. All K weights of a chunk of
    data are held in memory.

    Args:
        defensive: share of the draws that come from the prior instead of the guide, at their mixture's density.
        refine: gradient steps that fit a guide of its own to each datum before the draws that count are made.

    Raises:
        ValueError: if a setting is out of its range.

    Source: Nowozin (2018), Debiasing Evidence Approximations: On Importance-Weighted Autoencoders and Jackknife
    Variational Inference, section 3.
    """

    title: ClassVar = "jackknife"
    debiased: ClassVar = True

    def stream(self, num_data: int, num_particles: int, device: torch.device) -> WeightStream:
        """Return what takes in the log weights of B data and reduces them."""
        return JackknifeStream(num_data, num_particles, device)
