"""Bounds on log p(x) as functions of log w: importance weighted, Renyi, and from above, chi."""

from __future__ import annotations

import math
import warnings
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyro_vae.core.checks import check_positive_int
from pyro_vae.inference.objectives.base import Objective
from pyro_vae.inference.objectives.gradients import check_reparameterised
from pyro_vae.inference.objectives.pairs import PerPair
from pyro_vae.inference.objectives.rescoring import Rescorer, unaltered
from pyro_vae.inference.programs.call import Args, Program, as_args, short_errors
from pyro_vae.inference.programs.parameters import used_parameters


def log_mean_exp(x: Tensor) -> Tensor:
    """Return log (1/K) sum_k exp x_k over the first dimension."""
    return x.logsumexp(0) - math.log(x.shape[0])


class IWAE(Objective):
    """Importance-weighted bound, L_K = E[log (1/K) sum_k w_k] <= log p(x), rising with K.

    Args:
        num_particles: K.
        gradient: "pathwise"; "dreg", whose signal-to-noise ratio for the guide grows with K where that of the
            pathwise one falls (Rainforth et al., 2018); "score" or "vimco" for guides that cannot be
            reparameterised, such as discrete ones. "stl" is not offered: for K > 1 it is biased.
        chunk_size: largest number of (particle, datum) pairs whose graph is in memory at once, though at least one
            particle of every datum; all if absent. Each chunk runs again in the backward pass with the same random
            numbers, for a third to a half more time, and the programs are not compiled. Batch normalisation in the
            networks takes the moments of one chunk at a time, and updates its running ones with each.

    Source: Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, equation 8; dreg: Tucker,
    Lawson, Gu and Maddison (2019), equation 8; vimco: Mnih and Rezende (2016), equation 9.
    """

    gradients: ClassVar = ("pathwise", "dreg", "score", "vimco")

    def __init__(self, num_particles: int = 50, gradient: str = "pathwise", chunk_size: int | None = None) -> None:
        super().__init__(num_particles, gradient, chunk_size)

    def bound(self, log_w: Tensor) -> Tensor:
        """Return log-mean-exp of log w over particles."""
        return log_mean_exp(log_w)

    def derivatives(self, log_w: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normalised weights w and w (1 - w)."""
        w = log_w.softmax(0)
        return w, w * (1 - w)


class MIWAE(Objective):
    """Multiply importance-weighted bound: the mean of M independent bounds L_K.

    Args:
        num_particles: K, the particles of each bound.
        num_bounds: M.
        gradient: "pathwise", "dreg" or "vimco".
        chunk_size: largest number of (particle, datum) pairs whose graph is in memory at once, all if absent; see
            ``IWAE``.

    Source: Rainforth et al. (2018), Tighter Variational Bounds are Not Necessarily Better, equation 10.
    """

    gradients: ClassVar = ("pathwise", "dreg", "vimco")

    def __init__(
        self, num_particles: int = 8, num_bounds: int = 8, gradient: str = "pathwise", chunk_size: int | None = None
    ) -> None:
        check_positive_int(num_particles, "num_particles")
        check_positive_int(num_bounds, "num_bounds")
        super().__init__(num_particles * num_bounds, gradient, chunk_size)
        self.num_bounds = num_bounds

    def bound(self, log_w: Tensor) -> Tensor:
        """Return the mean over M groups of the log-mean-exp of each."""
        return log_mean_exp(self._groups(log_w)).mean(0)

    def derivatives(self, log_w: Tensor) -> tuple[Tensor, Tensor]:
        """Return w / M and w (1 - w) / M, with w the weights normalised within each of the M bounds."""
        w = self._groups(log_w).softmax(0)
        return (w / self.num_bounds).flatten(0, 1), (w * (1 - w) / self.num_bounds).flatten(0, 1)

    def _groups(self, log_w: Tensor) -> Tensor:
        """Return the log weights as (K, M, B)."""
        return log_w.unflatten(0, (-1, self.num_bounds))


class CIWAE(Objective):
    """Combined bound, alpha ELBO + (1 - alpha) L_K on the same particles.

    Args:
        num_particles: K.
        alpha: weight of the ELBO, in [0, 1].
        gradient: "pathwise", "dreg", "score" or "vimco".
        chunk_size: largest number of (particle, datum) pairs whose graph is in memory at once, all if absent; see
            ``IWAE``.

    Source: Rainforth et al. (2018), equation 11.
    """

    gradients: ClassVar = ("pathwise", "dreg", "score", "vimco")

    def __init__(
        self, num_particles: int = 50, alpha: float = 0.05, gradient: str = "pathwise", chunk_size: int | None = None
    ) -> None:
        if not 0 <= alpha <= 1:
            raise ValueError(f"Expected alpha in [0, 1]; got {alpha!r}.")
        super().__init__(num_particles, gradient, chunk_size)
        self.alpha = alpha

    def bound(self, log_w: Tensor) -> Tensor:
        """Return the convex combination of the mean and the log-mean-exp."""
        return self.alpha * log_w.mean(0) + (1 - self.alpha) * log_mean_exp(log_w)

    def derivatives(self, log_w: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha / K + (1 - alpha) w and (1 - alpha) w (1 - w), with w the normalised weights."""
        w = log_w.softmax(0)
        return self.alpha / len(log_w) + (1 - self.alpha) * w, (1 - self.alpha) * w * (1 - w)


class Renyi(Objective):
    """Variational Renyi bound, 1/(1 - alpha) log (1/K) sum_k w_k^(1 - alpha).

    alpha = 1 is the ELBO, alpha = 0 is IWAE, alpha -> -inf is the maximum weight (VR-max). For alpha < 0 the
    exact quantity is an upper bound, and for K < inf the estimate is biased downwards: it may lie on either side.

    Args:
        num_particles: K.
        alpha: the order, any number; ``-math.inf`` for VR-max.
        gradient: "pathwise", "dreg", "score" or "vimco".
        chunk_size: largest number of (particle, datum) pairs whose graph is in memory at once, all if absent; see
            ``IWAE``.

    Source: Li and Turner (2016), Renyi Divergence Variational Inference, equations 4 and 9.
    """

    gradients: ClassVar = ("pathwise", "dreg", "score", "vimco")

    def __init__(
        self, num_particles: int = 50, alpha: float = 0.5, gradient: str = "pathwise", chunk_size: int | None = None
    ) -> None:
        if not alpha < math.inf:
            raise ValueError(f"Expected alpha < inf, or -inf for VR-max; got {alpha!r}.")
        if alpha == -math.inf and gradient == "dreg":
            raise ValueError('Expected another gradient than "dreg" for VR-max, which has no second derivative.')
        super().__init__(num_particles, gradient, chunk_size)
        self.alpha = alpha

    def bound(self, log_w: Tensor) -> Tensor:
        """Return the log of the power mean of order 1 - alpha."""
        if self.alpha == -math.inf:
            return log_w.max(0).values
        order, mean = 1 - self.alpha, log_w.mean(0)
        if order == 0:
            return mean
        if abs(order) < 0.01:  # near the limit the quotient of logarithms would be rounding noise
            return mean + torch.expm1(order * (log_w - mean)).mean(0).log1p() / order
        return log_mean_exp(order * log_w) / order

    def derivatives(self, log_w: Tensor) -> tuple[Tensor, Tensor]:
        """Return v, the normalised weights to the power 1 - alpha, and (1 - alpha) v (1 - v)."""
        v = ((1 - self.alpha) * log_w).softmax(0)
        return v, (1 - self.alpha) * v * (1 - v)


class CUBO(Objective):
    """Chi upper bound, CUBO_n = (1/n) log E_q[w^n] >= log p(x) for n >= 1: its loss is the bound itself, minimised.

    Only the guide is trained: to lessen an upper bound by the model's parameters would lessen the evidence. Fit
    both by another objective first, and start from that guide with many particles: the K-particle estimate is
    biased downwards, the more the further the guide is from the posterior, and a guide that starts far off is drawn
    further away, where the estimate is lowest. A warning says so once where the model has anything to learn.

    Args:
        num_particles: K.
        order: n, at least 1; 2 gives the chi-square divergence.
        chunk_size: largest number of (particle, datum) pairs whose graph is in memory at once, all if absent; see
            ``IWAE``.

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
        self.order, self._learns = order, PerPair[bool]()

    def bound(self, log_w: Tensor) -> Tensor:
        """Return the log of the power mean of order n."""
        return log_mean_exp(self.order * log_w) / self.order

    def surrogate(self, model: Program, guide: Program, args: Args) -> Tensor:
        """Return the bound of each datum, shape (B,), with a gradient for the guide alone."""

        def tracer(chunk: int) -> Rescorer:
            return Rescorer(unaltered, freeze=False, freeze_model=True)

        self._learns.get(model, guide, lambda: self._warn_of_a_model_that_stays(model, guide, args))
        return self.bound(self.log_weights(model, guide, args, tracer, partial(check_reparameterised, self)))

    def _warn_of_a_model_that_stays(self, model: Program, guide: Program, args: Args) -> bool:
        of_model, of_guide = used_parameters(model, guide, args)
        learnt = bool({id(p) for p in of_model} - {id(p) for p in of_guide})
        if learnt:
            warnings.warn(
                "CUBO fits the guide alone: the model's parameters stay as they are. Fit both with ELBO or IWAE first, "
                "and start from that guide with many particles.",
                stacklevel=2,
            )
        return learnt

    @short_errors()
    def differentiable_loss(self, model: Program, guide: Program, *args: Any) -> Tensor:
        """Return the upper bound averaged over data: this one is minimised."""
        return self.surrogate(model, guide, as_args(args, program=model)).mean()

    def loss(self, model: Program, guide: Program, *args: Any) -> float:
        """Return the upper bound averaged over data, without gradient."""
        return -super().loss(model, guide, *args)
