"""An upper bound on log p(x), to train the guide alone."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

from torch import Tensor

from pyro_vae.inference.objectives.base import Arguments, Objective
from pyro_vae.inference.objectives.bounds import log_mean_exp
from pyro_vae.inference.objectives.gradients import checking, valued
from pyro_vae.inference.objectives.rescoring import Rescorer, unaltered
from pyro_vae.inference.programs.call import Program, modules_of


class CUBO(Objective):
    """Chi upper bound, CUBO_n = (1/n) log E_q[w^n] >= log p(x) for n >= 1: its loss is the bound itself, minimised.

    Only the guide is trained: to lessen an upper bound by the model's parameters would lessen the evidence. Fit
    both by another objective first, and start from that guide with many particles: the K-particle estimate is
    biased downwards, the more the further the guide is from the posterior, and a guide that starts far off is drawn
    further away, where the estimate is lowest. A warning says so once where the model has anything to learn.

    Args:
        num_particles: K.
        order: n, at least 1; 2 gives the chi-square divergence.
        chunk_size: as in ``IWAE``.

    Raises:
        ValueError: if ``order`` < 1.

    Source: Dieng, Tran, Ranganath, Paisley and Blei (2017), Variational Inference via chi Upper Bound
    Minimization, equations 3 and 5.
    """

    gradients: ClassVar = ("pathwise",)

    def __init__(self, num_particles: int = 50, order: float = 2.0, chunk_size: int | None = None) -> None:
        super().__init__(num_particles, chunk_size=chunk_size)
        if not order >= 1:
            raise ValueError(f"Expected order >= 1; got {order!r}.")
        self.order, self._warned = order, False

    def bound(self, log_w: Tensor) -> Tensor:
        """Return the log of the power mean of order n."""
        return log_mean_exp(self.order * log_w) / self.order

    def surrogate(self, model: Program, guide: Program, args: Arguments) -> Tensor:
        """Return the bound of each datum, shape (B,), with a gradient for the guide alone."""

        def tracer(chunk: int) -> Rescorer:
            return Rescorer(unaltered, freeze=False, freeze_model=True)

        self._warn_of_a_model_that_stays(model)
        bound = self.bound(self.log_weights(model, guide, args, tracer, checking(self)))
        return valued(bound.detach(), bound)

    def _warn_of_a_model_that_stays(self, model: Program) -> None:
        learnt = any(p.requires_grad for module in modules_of(model) for p in module.parameters())
        if learnt and not self._warned:
            self._warned = True
            warnings.warn(
                "CUBO fits the guide alone: the model's parameters stay as they are. Fit both with ELBO or IWAE first, "
                "and start from that guide with many particles.",
                stacklevel=2,
            )

    def differentiable_loss(self, model: Program, guide: Program, *args: Any) -> Tensor:
        """Return the upper bound averaged over data: this one is minimised."""
        return self.surrogate(model, guide, args).mean()

    def loss(self, model: Program, guide: Program, *args: Any) -> float:
        """Return the upper bound averaged over data, without gradient."""
        return -super().loss(model, guide, *args)
