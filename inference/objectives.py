"""Objectives: bounds on log p(x) as reductions of the per-datum log weights, each a ``pyro.infer.ELBO``."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any
from weakref import WeakKeyDictionary

import pyro.infer
import torch
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyro_vae._checks import check_positive_int
from pyro_vae.inference.programs import Program
from pyro_vae.inference.structure import Site
from pyro_vae.inference.vectorize import plan_particles, trace_pair
from pyro_vae.inference.weights import KLWeight, WeightTerms, weight_terms


class Objective(pyro.infer.ELBO):
    """Base class: ``loss`` = -bound, the mean over data, in nats per datum.

    The mean, where Pyro's own objectives take the sum, so that the learning rate does not depend on B. Works
    in ``pyro.infer.SVI``, in ``fit``, and in torch style: ``objective(model, guide)(x).backward()``.

    Args:
        num_particles: K.
    """

    def __init__(self, num_particles: int = 1) -> None:
        check_positive_int(num_particles, "num_particles")
        super().__init__(num_particles=num_particles, vectorize_particles=True)
        self._plans: WeakKeyDictionary[Program, WeakKeyDictionary[Program, int]] = WeakKeyDictionary()

    @abstractmethod
    def bound(self, log_w: Tensor) -> Tensor:
        """Reduce log weights of shape (K, B) to a bound for each datum, shape (B,), in nats."""

    def weight_terms(self, model: Program, guide: Program, args: tuple[Any, ...]) -> WeightTerms:
        """Return the terms of log w for one minibatch."""
        plan = self._plan(model, guide, args) if self.num_particles > 1 else None
        return weight_terms(model, guide, args, self.num_particles, plan=plan)

    def differentiable_loss(self, model: Program, guide: Program, *args: Any) -> Tensor:
        """Return -bound averaged over data, a scalar with a pathwise gradient.

        Raises:
            ValueError: if a guide site has no reparameterised sampler.
        """
        terms = self.weight_terms(model, guide, args)
        _check_reparameterised(terms.guide_sites)
        return -self.bound(terms.log_w).mean()

    def loss(self, model: Program, guide: Program, *args: Any) -> float:
        """Return -bound averaged over data, without gradient."""
        with torch.no_grad():
            return -self.bound(self.weight_terms(model, guide, args).log_w).mean().item()

    def loss_and_grads(self, model: Program, guide: Program, *args: Any) -> Tensor:
        """Return the loss, detached, and add its gradient to every parameter."""
        loss = self.differentiable_loss(model, guide, *args)
        if loss.requires_grad:
            loss.backward()
        return loss.detach()

    def _plan(self, model: Program, guide: Program, args: tuple[Any, ...]) -> int:
        """Find out once for each pair how its particles can run."""
        try:
            known = self._plans.setdefault(model, WeakKeyDictionary())
            if guide not in known:
                known[guide] = plan_particles(model, guide, args)
            return known[guide]
        except TypeError:  # a callable that cannot be hashed or weakly referenced is looked at each time
            return plan_particles(model, guide, args)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was found out about programs, which has no meaning in another process."""
        return {name: value for name, value in self.__dict__.items() if name != "_plans"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take up the settings; programs are looked at anew."""
        self.__dict__.update(state, _plans=WeakKeyDictionary())

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        return trace_pair(model, guide, args)


def _check_reparameterised(guide_sites: dict[str, Site]) -> None:
    for name, site in guide_sites.items():
        if not site["is_observed"] and not site["fn"].has_rsample:
            raise ValueError(
                f"Guide site {name!r} ({type(site['fn']).__name__}) cannot be reparameterised, so it has no pathwise "
                "gradient. Use pyro.infer.TraceGraph_ELBO (score function) or TraceEnum_ELBO (exact enumeration)."
            )


class ELBO(Objective):
    """Evidence lower bound, E_q[log p(x|z)] - beta KL(q(z|x) || p(z)) <= log p(x) for beta >= 1.

    Estimated by the mean of K samples, with its pathwise gradient.

    Args:
        num_particles: K.
        beta: weight of the KL term; for beta < 1 it is no bound on log p(x).

    Source: Kingma and Welling (2014), equation 3; beta: Higgins et al. (2017), equation 4.
    """

    def __init__(self, num_particles: int = 1, beta: float = 1.0) -> None:
        super().__init__(num_particles)
        if not beta >= 0:
            raise ValueError(f"Expected beta >= 0; got {beta!r}.")
        self.beta = beta

    def bound(self, log_w: Tensor) -> Tensor:
        """Return the mean of log w over particles."""
        return log_w.mean(0)

    def weight_terms(self, model: Program, guide: Program, args: tuple[Any, ...]) -> WeightTerms:
        """Return the terms of log w with log p(z) - log q(z|x) weighted by beta."""
        with KLWeight(self.beta):
            return super().weight_terms(model, guide, args)


class IWAE(Objective):
    """Importance-weighted bound, L_K = E[log (1/K) sum_k w_k] <= log p(x), rising with K.

    Args:
        num_particles: K.

    Source: Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, equation 8.
    """

    def __init__(self, num_particles: int = 50) -> None:
        super().__init__(num_particles)

    def bound(self, log_w: Tensor) -> Tensor:
        """Return log-mean-exp of log w over particles."""
        return log_w.logsumexp(0) - math.log(log_w.shape[0])
