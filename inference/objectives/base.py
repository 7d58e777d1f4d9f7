"""The base of all objectives: a bound, a gradient estimator and K, as one ``pyro.infer.ELBO``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import pyro.infer
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_vae.core.checks import check_positive_int, did_you_mean
from pyro_vae.inference.objectives.chunks import by_chunk
from pyro_vae.inference.objectives.gradients import ESTIMATORS, check_reparameterised
from pyro_vae.inference.objectives.pairs import PerPair, Scales
from pyro_vae.inference.programs.call import Args, Program, as_args, short_errors
from pyro_vae.inference.programs.loop import split_particles
from pyro_vae.inference.programs.plates import Plates
from pyro_vae.inference.programs.vectorize import find_plates, trace_pair
from pyro_vae.inference.programs.weights import Tracer, WeightTerms, weight_terms

OF_SEVERAL = ("vimco", "covariance")
"""Estimators that compare the particles of a datum, and whose gradient for the guide is noise alone at K = 1."""


class Objective(pyro.infer.ELBO):
    """Base class: ``loss`` = -bound, the mean over data, in nats per datum.

    The mean, where Pyro's own objectives take the sum, so that the learning rate does not depend on B. Works
    in ``pyro.infer.SVI``, in ``fit``, and in torch style: ``objective(model, guide)(x).backward()``.

    Args:
        num_particles: K.
        gradient: the gradient's estimator, one of ``gradients``.
        chunk_size: largest number of (particle, datum) pairs whose graph is in memory at once, though at least one
            particle of every datum; all K if absent. Each chunk runs again in the backward pass with the same random
            numbers, for a third to a half more time. Batch normalisation in the networks sees a chunk at a time.
    """

    gradients: ClassVar[tuple[str, ...]] = ("pathwise",)
    """The estimators that this bound offers."""

    def __init__(self, num_particles: int = 1, gradient: str = "pathwise", chunk_size: int | None = None) -> None:
        check_positive_int(num_particles, "num_particles")
        if chunk_size is not None:
            check_positive_int(chunk_size, "chunk_size")
        if gradient not in self.gradients:
            name = type(self).__name__
            raise ValueError(
                f"Expected gradient of {name} to be one of {', '.join(self.gradients)}; got {gradient!r}."
                f"{did_you_mean(str(gradient), self.gradients)}"
            )
        if gradient in OF_SEVERAL:
            self._check_several(num_particles, repr(gradient))
        super().__init__(num_particles=num_particles, vectorize_particles=True)
        self.gradient, self.chunk_size = gradient, chunk_size
        self._known_plates, self._scales = PerPair[Plates](), PerPair[bool]()

    def _check_several(self, num_particles: int, setting: str) -> None:
        """Refuse K = 1 with a setting whose gradient for the guide would be zero in expectation, or undefined."""
        if num_particles < 2:
            raise ValueError(
                f"Expected num_particles >= 2 for {type(self).__name__}({setting}); got {num_particles}. It compares "
                "the particles of a datum: one alone has no gradient for the guide but noise."
            )

    @abstractmethod
    def bound(self, log_w: Tensor) -> Tensor:
        """Reduce log weights of shape (K, B) to a bound for each datum, shape (B,), in nats."""

    def derivatives(self, log_w: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first and the diagonal second derivatives of the bound by log w_k, each of shape (K, B)."""
        raise NotImplementedError(f"{type(self).__name__} has no doubly reparameterised gradient")

    def surrogate(self, model: Program, guide: Program, args: Args) -> Tensor:
        """Return a tensor of shape (B,) with the bound's value and the chosen estimator's gradient."""
        return ESTIMATORS[self.gradient](self, model, guide, args)

    def value(self, model: Program, guide: Program, args: Args) -> Tensor:
        """Return the bound of each datum, shape (B,), without gradient."""
        return self.bound(self.log_weights(model, guide, args))

    def weight_terms(
        self,
        model: Program,
        guide: Program,
        args: Args,
        tracer: Tracer = trace_pair,
        num_particles: int | None = None,
    ) -> WeightTerms:
        """Return the terms of log w for one minibatch, of ``num_particles``, or of all K if None."""
        plates = self.plates(model, guide, args) if self.num_particles > 1 else None
        tracer = self._minding_scales(model, guide, tracer)
        return weight_terms(model, guide, args, num_particles or self.num_particles, plates=plates, tracer=tracer)

    def chunks(self, num_data: int) -> list[int]:
        """Return how many particles run at once, one number for each chunk."""
        return split_particles(self.num_particles, num_data, self.chunk_size)

    def log_weights(
        self,
        model: Program,
        guide: Program,
        args: Args,
        tracers: Callable[[int], Tracer] = lambda chunk: trace_pair,
        inspect: Callable[[WeightTerms], object] = lambda terms: None,
        quantity: Callable[[WeightTerms], Tensor] = lambda terms: terms.log_w,
    ) -> Tensor:
        """Return log w of one minibatch, shape (K, B), in the memory of a chunk of particles.

        Args:
            model: Pyro program for p(x, z).
            guide: Pyro program for q(z | x).
            args: their arguments, B data, tensors of shape (B, *event).
            tracers: how the pair is run and scored, by the number of the chunk.
            inspect: called with the terms of each chunk, of which it keeps no tensor.
            quantity: what is returned in place of log w, a function of the terms with particles as the first dimension.
        """
        counts = self.chunks(len(args[0]))
        if len(counts) > 1:
            self.plates(model, guide, args)  # runs the programs, which a chunk that runs again must not

        def weigh(chunk: int, *args: Any) -> Tensor:
            terms = self.weight_terms(model, guide, args, tracers(chunk), counts[chunk])
            inspect(terms)
            return quantity(terms)

        return by_chunk(weigh, len(counts), args, (model, guide))

    @short_errors()
    def differentiable_loss(self, model: Program, guide: Program, *args: Any) -> Tensor:
        """Return -bound averaged over data, a scalar with the chosen estimator's gradient.

        Raises:
            ValueError: if the programs cannot have that gradient.
        """
        return -self.surrogate(model, guide, as_args(args, program=model)).mean()

    @short_errors()
    def loss(self, model: Program, guide: Program, *args: Any) -> float:
        """Return -bound averaged over data, without gradient."""
        with torch.no_grad():
            return -self.value(model, guide, as_args(args, program=model)).mean().item()

    def loss_and_grads(self, model: Program, guide: Program, *args: Any) -> Tensor:
        """Return the loss, detached, and add its gradient to every parameter."""
        loss = self.differentiable_loss(model, guide, *args)
        if loss.requires_grad:
            loss.backward()
        return loss.detach()

    def plates(self, model: Program, guide: Program, args: Args) -> Plates:
        """Find out once for each pair how its particles can run."""
        return self._known_plates.get(model, guide, lambda: find_plates(model, guide, args))

    def _minding_scales(self, model: Program, guide: Program, tracer: Tracer) -> Tracer:
        """Return the tracer, which at the first run of a pair warns of scales of its own, and no more after that."""
        return tracer if self._scales.has(model, guide) else partial(self._mind_scales, (model, guide), tracer)

    def _mind_scales(
        self, pair: tuple[Program, Program], tracer: Tracer, model: Program, guide: Program, args: Args
    ) -> tuple[Trace, Trace]:
        noted = Scales()
        traces = tracer(noted(model), noted(guide), args)
        self._scales.get(*pair, noted.warn)
        return traces

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        return trace_pair(model, guide, args)


class PenalisedELBO(Objective):
    """Base class: a function of the terms of log w, site by site, with its pathwise gradient.

    Without ``chunk_size``: the penalty is no mean over particles and data, but a function of all of them at once.

    Args:
        num_particles: K.
    """

    gradients: ClassVar = ("pathwise",)

    def __init__(self, num_particles: int = 1) -> None:
        super().__init__(num_particles)

    @abstractmethod
    def of_terms(self, terms: WeightTerms) -> Tensor:
        """Return the objective of each datum, shape (B,), in nats."""

    def bound(self, log_w: Tensor) -> Tensor:
        """Return the ELBO without the penalty, the mean of log w."""
        return log_w.mean(0)

    def surrogate(self, model: Program, guide: Program, args: Args) -> Tensor:
        """Return the objective of each datum, shape (B,), with its pathwise gradient."""
        terms = self.weight_terms(model, guide, args)
        check_reparameterised(self, terms)
        return self.of_terms(terms)

    def value(self, model: Program, guide: Program, args: Args) -> Tensor:
        """Return the objective of each datum, shape (B,)."""
        return self.of_terms(self.weight_terms(model, guide, args))
