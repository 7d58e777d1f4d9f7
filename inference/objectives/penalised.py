"""The base of objectives that are an ELBO with another penalty in place of its KL term."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from pyro_vae.inference.objectives.base import Arguments, Objective
from pyro_vae.inference.objectives.gradients import check_reparameterised
from pyro_vae.inference.programs.call import Program
from pyro_vae.inference.programs.weights import WeightTerms


def refuse_auxiliary(terms: WeightTerms) -> None:
    """Refuse sites of the guide that the model has not, whose density the penalty would leave out."""
    extra = set(terms.guide) - set(terms.prior)
    if extra:
        raise ValueError(f"Expected the guide to have the model's latent sites alone; got {sorted(extra)} too.")


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

    def surrogate(self, model: Program, guide: Program, args: Arguments) -> Tensor:
        """Return the objective of each datum, shape (B,), with its pathwise gradient."""
        terms = self.weight_terms(model, guide, args)
        check_reparameterised(terms.guide_sites, self)
        return self.of_terms(terms)

    def value(self, model: Program, guide: Program, args: Arguments) -> Tensor:
        """Return the objective of each datum, shape (B,)."""
        return self.of_terms(self.weight_terms(model, guide, args))
