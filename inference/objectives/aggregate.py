"""Objectives of the aggregated posterior q(z) = E_x[q(z|x)]: its decomposition, and its distance to the prior."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from pyro_vae.core.checks import check_positive_int
from pyro_vae.inference.objectives.base import PenalisedELBO
from pyro_vae.inference.programs.call import Program
from pyro_vae.inference.programs.latents import marginals, refuse_masked
from pyro_vae.inference.programs.sites import Site
from pyro_vae.inference.programs.weights import WeightTerms, refuse_auxiliary


def _only_latent(terms: WeightTerms) -> str:
    if len(terms.prior) != 1:
        raise ValueError(f"Expected one latent site; got {list(terms.prior)}. Use another objective.")
    refuse_auxiliary(terms)
    refuse_masked(terms, "the aggregated posterior is of data that have it", read=False)
    (name,) = terms.prior
    if terms.plates.inner or len(terms.guide_sites[name]["fn"].event_shape) != 1:
        raise ValueError(f"Expected latent site {name!r} of event shape (D,) in the data plate alone. Flatten it.")
    return name


@dataclass(frozen=True)
class KLParts:
    """What E_x[KL(q(z|x) || p(z))] is made of, each of shape (B,), in nats; their sum is log q(z|x) - log p(z).

    Attributes:
        mutual_information: log q(z|x) - log q(z).
        total_correlation: log q(z) - sum_j log q(z_j).
        dimension_wise: sum_j log q(z_j) - log p(z).
    """

    mutual_information: Tensor
    total_correlation: Tensor
    dimension_wise: Tensor


class BetaTCVAE(PenalisedELBO):
    """ELBO with the total correlation weighted by beta, E_q[log p(x|z)] - alpha MI - beta TC - gamma DW.

    log q(z) and log q(z_j) are estimated by minibatch-weighted sampling, which is biased for a small minibatch.
    A lower bound on log p(x) in expectation for alpha = beta = gamma = 1 only.

    Args:
        num_data: N, the size of the training set.
        beta: weight of the total correlation.
        alpha: weight of the index-code mutual information.
        gamma: weight of the dimension-wise KL.

    Raises:
        ValueError: for more than one latent site, or a guide that does not factorise.

    Source: Chen, Li, Grosse and Duvenaud (2018), Isolating Sources of Disentanglement in VAEs, equations 2 and 3.
    """

    def __init__(self, num_data: int, beta: float = 6.0, alpha: float = 1.0, gamma: float = 1.0) -> None:
        super().__init__(1)
        check_positive_int(num_data, "num_data")
        self.num_data, self.alpha, self.beta, self.gamma = num_data, alpha, beta, gamma

    def decomposition(self, model: Program, guide: Program, *args: Tensor) -> KLParts:
        """Return the three parts of the KL term at one draw for each datum of the minibatch."""
        return self._parts(self.weight_terms(model, guide, args))

    def of_terms(self, terms: WeightTerms) -> Tensor:
        """Return the weighted bound of each datum, shape (B,)."""
        parts = self._parts(terms)
        penalty = (
            self.alpha * parts.mutual_information
            + self.beta * parts.total_correlation
            + self.gamma * parts.dimension_wise
        )
        return terms.log_likelihood[0] - terms.kl_weight * penalty

    def _parts(self, terms: WeightTerms) -> KLParts:
        name = _only_latent(terms)
        site: Site = terms.guide_sites[name]
        q, z = marginals(site, "the guide"), site["value"]
        pairs = q.log_prob(z[:, None])  # (B draws, B data, D)
        scale = math.log(len(z) * self.num_data)
        log_q_joint = pairs.sum(-1).logsumexp(1) - scale
        log_q_product = (pairs.logsumexp(1) - scale).sum(-1)
        log_p = terms.model_sites[name]["unscaled_log_prob"]
        return KLParts(terms.log_q[0] - log_q_joint, log_q_joint - log_q_product, log_q_product - log_p)


class InfoVAE(PenalisedELBO):
    """ELBO with the aggregated posterior drawn to the prior by maximum mean discrepancy.

    E_q[log p(x|z)] - (1 - alpha) KL(q(z|x) || p(z)) - (alpha + scale - 1) MMD(q(z), p(z))

    MMD has the kernel exp(-|z - z'|^2 / (2 D)) and is estimated without bias from the minibatch's draws and as many
    from the prior. alpha = 1 leaves the MMD alone, the MMD-VAE. No bound on log p(x), except alpha = 0, scale >= 1.

    Args:
        alpha: how much of the KL term is taken away.
        scale: weight of the divergence of the aggregated posterior, lambda in the paper.

    Raises:
        ValueError: for more than one latent site, or a minibatch of one datum.

    Source: Zhao, Song and Ermon (2019), InfoVAE, equation 6 and section 3.2.
    """

    def __init__(self, alpha: float = 0.0, scale: float = 10.0) -> None:
        super().__init__(1)
        self.alpha, self.scale = alpha, scale

    def of_terms(self, terms: WeightTerms) -> Tensor:
        """Return the objective of each datum with the minibatch's MMD, shape (B,)."""
        name = _only_latent(terms)
        z, prior = terms.guide_sites[name]["value"], terms.model_sites[name]["fn"]
        likelihood = terms.log_likelihood[0]
        kl = terms.guide[name][0] - terms.prior[name][0]
        draws = prior.rsample() if prior.has_rsample else prior.sample()
        return likelihood - (1 - self.alpha) * kl - terms.kl_weight * (self.alpha + self.scale - 1) * mmd(z, draws)


def mmd(x: Tensor, y: Tensor) -> Tensor:
    """Return the unbiased estimate of MMD^2 with the kernel exp(-|x - y|^2 / (2 D)), a scalar, of either sign.

    Args:
        x: draws of the one law, shape (M, D).
        y: draws of the other, shape (M, D).

    Raises:
        ValueError: for fewer than two draws.

    Source: Gretton et al. (2012), A Kernel Two-Sample Test, equation 3.
    """
    count = len(x)
    x, y = x.reshape(count, -1), y.reshape(len(y), -1)
    if count < 2:
        raise ValueError(f"Expected at least 2 data in a minibatch for the MMD; got {count}.")

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (-(a[:, None] - b).square().sum(-1) / (2 * x.shape[-1])).exp()

    def within(a: Tensor) -> Tensor:
        return (kernel(a, a).sum() - count) / (count * (count - 1))

    return within(x) + within(y) - 2 * kernel(x, y).mean()
