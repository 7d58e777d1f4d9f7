"""Free bits: a KL term that is not pushed below a floor."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_vae.inference.objectives.penalised import PenalisedELBO, refuse_auxiliary
from pyro_vae.inference.programs.kl import in_one_order, kl_by_dimension
from pyro_vae.inference.programs.weights import WeightTerms


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
        likelihood = torch.stack(list(terms.likelihood.values())).sum(0).mean(0)
        refuse_auxiliary(terms)
        groups = torch.cat([self._groups(name, terms) for name in terms.prior])
        return likelihood - terms.kl_weight * groups.clamp(min=self.floor).sum()

    def _groups(self, name: str, terms: WeightTerms) -> Tensor:
        """Return the KL of each group of a site, the mean over particles and data, shape (number of groups,)."""
        if self.per == "dimension":
            site, prior = terms.guide_sites[name], terms.model_sites[name]
            kl = kl_by_dimension(site, prior, closed=in_one_order(terms))
            particles_and_data = kl.shape[: len(site["fn"].batch_shape) - terms.inner_plates]
            return kl.reshape(particles_and_data.numel(), -1).mean(0)
        return ((terms.guide[name] - terms.prior[name]) / terms.kl_divisor).mean()[None]
