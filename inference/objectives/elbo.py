"""The evidence lower bound: with a weight on its KL term, in closed form where there is one, or with free bits."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any, ClassVar

import pyro.infer
import torch
from pyro.infer import config_enumerate
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.inference.objectives.base import Objective, PenalisedELBO
from pyro_vae.inference.objectives.gradients import check_reparameterised
from pyro_vae.inference.programs.call import Args, Program
from pyro_vae.inference.programs.enumeration import Enumerable, check_enumeration
from pyro_vae.inference.programs.latents import closed_kl, in_one_order, kl_by_dimension
from pyro_vae.inference.programs.sites import SUMMED, Site, event_dim
from pyro_vae.inference.programs.structure import check_structure
from pyro_vae.inference.programs.vectorize import trace_pair
from pyro_vae.inference.programs.weights import KLWeight, Tracer, WeightTerms, refuse_auxiliary


class _Unscaled(Messenger):
    """Takes back the scale of plates and of ``poutine.scale``; a ``KLWeight`` around it still applies."""

    def _pyro_sample(self, msg: Any) -> None:
        msg["scale"] = 1.0


class ELBO(Objective):
    """Evidence lower bound, E_q[log p(x|z)] - beta KL(q(z|x) || p(z)) <= log p(x) for beta >= 1.

    Args:
        num_particles: K, of whose bounds the mean is taken.
        beta: weight of the KL term; for beta < 1 it is no bound on log p(x).
        kl: "mc" estimates the KL term with the particles; "analytic" takes each latent site's closed form where
            torch has one registered, and says once where it has none. Where guide and model draw their latent
            sites in different orders, a site's prior depends on what the guide draws after it, and no closed
            form holds.
        gradient: "pathwise"; "stl" (or "dreg", here the same), without the guide's score, whose variance is zero
            at the exact posterior; "score" for guides that cannot be reparameterised, with a leave-one-out
            baseline for K > 1 ("vimco" is the same here); "enumerate" sums discrete latents out of the
            expectation exactly, through ``pyro.infer.TraceEnum_ELBO``: each site over its values, an event of
            independent entries over all combinations of theirs, at most 2^16. Continuous sites beside them stay
            Monte Carlo.
        chunk_size: largest number of (particle, datum) pairs whose graph is in memory at once, all if absent; see
            ``IWAE``.

    Raises:
        ValueError: for beta < 0, an analytic KL with a gradient other than pathwise, or, enumerated, a discrete guide
            site without a finite list of values, or whose values explain what lies outside its plate.

    Source: Kingma and Welling (2014), equation 3; beta: Higgins et al. (2017), equation 4; stl: Roeder, Wu and
    Duvenaud (2017), equation 8.
    """

    gradients: ClassVar = ("pathwise", "stl", "dreg", "score", "vimco", "enumerate")

    def __init__(
        self,
        num_particles: int = 1,
        beta: float = 1.0,
        kl: str = "mc",
        gradient: str = "pathwise",
        chunk_size: int | None = None,
    ) -> None:
        super().__init__(num_particles, gradient, chunk_size)
        if isinstance(beta, str) or not beta >= 0:
            raise ValueError(f"Expected beta >= 0; got {beta!r}.")
        if kl not in ("mc", "analytic"):
            raise ValueError(f'Expected kl="mc" or "analytic"; got {kl!r}.')
        if gradient == "enumerate" and num_particles != 1:
            raise ValueError(f'Expected num_particles=1 with gradient="enumerate"; got {num_particles}.')
        if kl == "analytic" and gradient != "pathwise":
            raise ValueError(f'Expected gradient="pathwise" with kl="analytic"; got {gradient!r}.')
        self.beta, self.kl = beta, kl
        self._told: set[str] = set()

    def bound(self, log_w: Tensor) -> Tensor:
        """Return the mean of log w over particles."""
        return log_w.mean(0)

    def derivatives(self, log_w: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1/K and 0."""
        return torch.full_like(log_w, 1 / len(log_w)), torch.zeros_like(log_w)

    def weight_terms(
        self,
        model: Program,
        guide: Program,
        args: Args,
        tracer: Tracer = trace_pair,
        num_particles: int | None = None,
    ) -> WeightTerms:
        """Return the terms of log w with log p(z) - log q(z|x) weighted by beta."""
        with KLWeight(self.beta):
            return super().weight_terms(model, guide, args, tracer, num_particles)

    def surrogate(self, model: Program, guide: Program, args: Args) -> Tensor:
        """Return a tensor of shape (B,) with the bound's value and the chosen estimator's gradient."""
        if self.kl == "analytic":
            return self.log_weights(
                model, guide, args, inspect=partial(check_reparameterised, self), quantity=self._analytic
            ).mean(0)
        if self.gradient == "enumerate":
            return self._enumerated(model, guide, args)
        return super().surrogate(model, guide, args)

    def value(self, model: Program, guide: Program, args: Args) -> Tensor:
        """Return the bound of each datum, shape (B,), without gradient; enumerated, the mean for each."""
        if self.kl == "analytic":
            return self.log_weights(model, guide, args, quantity=self._analytic).mean(0)
        if self.gradient == "enumerate":
            return self._enumerated(model, guide, args, differentiable=False)
        return super().value(model, guide, args)

    def _analytic(self, terms: WeightTerms) -> Tensor:
        """Return the bound of each particle, (K, B), with every KL term in closed form that has one."""
        bound = terms.log_likelihood
        for name in terms.guide:
            bound = bound - terms.kl_weight * self._divergence(name, terms)
        return bound

    def _divergence(self, name: str, terms: WeightTerms) -> Tensor:
        """Return KL(q || p) of one latent site, (K, B): closed where it can be, else log q - log p."""
        site, prior = terms.guide_sites[name], terms.model_sites.get(name)
        at_once = len(terms.guide[name]) == 1 or terms.plates.together
        unmasked = prior is not None and prior["mask"] is None and site["mask"] is None and not prior.get(SUMMED)
        if prior is not None and unmasked and at_once and in_one_order(terms):
            try:
                divergence = terms.by_datum(closed_kl(site["fn"], prior["fn"]))
                return divergence.reshape(*terms.guide[name].shape, -1).sum(-1)
            except NotImplementedError:
                pass
        self._tell(name, site)
        log_q = terms.guide[name] / terms.kl_divisor
        log_p = terms.prior.get(name, torch.zeros_like(log_q))
        return log_q - log_p / terms.kl_divisor

    def _tell(self, name: str, site: Site) -> None:
        if name not in self._told:
            self._told.add(name)
            kind = type(site["fn"]).__name__
            warnings.warn(f"No closed KL for site {name!r} ({kind}): its KL term is a Monte Carlo mean.", stacklevel=2)

    def _enumerated(self, model: Program, guide: Program, args: Args, differentiable: bool = True) -> Tensor:
        """Return the exact bound of the minibatch as the mean over data, repeated for each of them, shape (B,)."""
        traces = self._minding_scales(model, guide, trace_pair)(model, guide, args)
        plates = check_structure(*traces, len(args[0]))
        check_enumeration(*traces)
        exact = pyro.infer.TraceEnum_ELBO(max_plate_nesting=plates.depth)
        with KLWeight(self.beta), _Unscaled():
            of_loss = exact.differentiable_loss if differentiable else exact.loss
            loss = of_loss(model, config_enumerate(Enumerable()(guide)), *args)
        bound = torch.as_tensor(-loss / len(args[0]), dtype=None if differentiable else torch.float64)
        return bound.to(args[0].device).expand(len(args[0]))


class FreeBits(PenalisedELBO):
    """ELBO whose KL term has a floor, E_q[log p(x|z)] - sum_j max(floor, KL_j), KL_j the mean over the minibatch.

    Against posterior collapse: a group below its floor is not pressed further to the prior. As KL_j is replaced by
    something no smaller, it stays a lower bound on log p(x). Since the floor applies to minibatch means, the value
    of one datum has meaning only as part of the mean.

    Args:
        floor: nats of each group that are free.
        per: "dimension", each latent dimension a group, which wants a guide and a prior that factorise; or
            "site", each latent site.
        num_particles: K.

    Raises:
        ValueError: for a negative floor, another ``per``, or where guide or prior do not factorise.

    Source: Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling (2016), appendix C.8, equation 15.
    """

    def __init__(self, floor: float = 0.1, per: str = "dimension", num_particles: int = 1) -> None:
        super().__init__(num_particles)
        if not floor >= 0:
            raise ValueError(f"Expected floor >= 0; got {floor!r}.")
        if per not in ("dimension", "site"):
            raise ValueError(f'Expected per to be "dimension" or "site"; got {per!r}.')
        self.floor, self.per = floor, per

    def of_terms(self, terms: WeightTerms) -> Tensor:
        """Return the bound of each datum with the floored KL of the minibatch, shape (B,)."""
        likelihood = terms.log_likelihood.mean(0)
        refuse_auxiliary(terms)
        groups = torch.cat([self._groups(name, terms) for name in terms.prior])
        return likelihood - terms.kl_weight * groups.clamp(min=self.floor).sum()

    def _groups(self, name: str, terms: WeightTerms) -> Tensor:
        """Return the KL of each group of a site, the mean over particles and data, shape (number of groups,)."""
        if self.per == "dimension":
            site, prior = terms.guide_sites[name], terms.model_sites[name]
            kl = kl_by_dimension(site, prior, closed=in_one_order(terms))
            return terms.by_datum(kl, event_dim(site)).flatten(0, 1).unsqueeze(-1).flatten(1).mean(0)
        return ((terms.guide[name] - terms.prior[name]) / terms.kl_divisor).mean()[None]
