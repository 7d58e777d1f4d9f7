"""Mixtures of multivariate Student-t distributions, one for each datum, as proposals of importance sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

LEAST_SHARE = 0.02
"""Share of the draws that a component keeps when a mixture is adapted, so that no mode found is given up."""
MOST_FROM_PRIOR = 0.9
"""Share that draws of the prior may come to."""
_BY_COMPONENT = ("log_shares", "loc", "factor", "inverse")


@dataclass(frozen=True)
class StudentMixture:
    """The mixture (1 - alpha) sum_c pi_c t_nu(u; m_c, A_c A_c^T) + alpha p(u) of each of B data, all in float64.

    Attributes:
        log_shares: log pi_c, shape (C, B); -inf where a datum has fewer components than others.
        loc: m_c, shape (C, B, D).
        factor: A_c, shape (C, B, D, D).
        inverse: its inverse, of the same shape.
        from_prior: alpha, the share of the prior p(u), shape (B,).
        df: nu, degrees of freedom.
    """

    log_shares: Tensor
    loc: Tensor
    factor: Tensor
    inverse: Tensor
    from_prior: Tensor
    df: float

    @classmethod
    def at_covariance(
        cls, log_shares: Tensor, loc: Tensor, covariance: Tensor, from_prior: Tensor, df: float
    ) -> StudentMixture:
        """Return the mixture whose components have A A^T = this matrix, shape (C, B, D, D), positive definite."""
        factor = torch.linalg.cholesky(covariance)
        identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device).expand_as(factor)
        inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
        return cls(log_shares, loc, factor, inverse, from_prior, df)

    @classmethod
    def join(cls, parts: list[StudentMixture]) -> StudentMixture:
        """Return the mixtures of the data of several, one after another; the larger numbers of components count."""
        most = max(len(part.loc) for part in parts)
        joined: dict[str, Any] = {
            name: torch.cat([part._grown(name, most) for part in parts], 1) for name in _BY_COMPONENT
        }
        return replace(parts[0], **joined, from_prior=torch.cat([part.from_prior for part in parts]))

    def beside(self, other: StudentMixture) -> StudentMixture:
        """Return the mixtures of both, half and half."""
        parts: dict[str, Any] = {n: torch.cat([getattr(self, n), getattr(other, n)]) for n in _BY_COMPONENT}
        return replace(self, **{**parts, "log_shares": parts["log_shares"] - math.log(2)})

    def put(self, chosen: Tensor, other: StudentMixture) -> StudentMixture:
        """Return the mixtures with those of others in the place of the data that are chosen, shape (B,)."""
        most = max(len(self.loc), len(other.loc))
        parts: dict[str, Any] = {}
        for name in _BY_COMPONENT:
            parts[name] = self._grown(name, most).clone()
            parts[name][:, chosen] = other._grown(name, most)
        return replace(self, **parts, from_prior=self.from_prior.masked_scatter(chosen, other.from_prior))

    def _grown(self, name: str, number: int) -> Tensor:
        """Return an attribute with components of share 0, which are those of the first elsewhere, up to a number."""
        value: Tensor = getattr(self, name)
        added = value[:1].expand(number - len(value), *value.shape[1:])
        return torch.cat([value, torch.full_like(added, -math.inf) if name == "log_shares" else added])

    @property
    def dim(self) -> int:
        """D."""
        return self.loc.shape[-1]

    @cached_property
    def log_dets(self) -> list[Tensor]:
        """Return log |A_c^-1| of each component, each of shape (B,); chains ask for the density many times."""
        return [torch.linalg.slogdet(inverse).logabsdet for inverse in self.inverse]

    @property
    def heaviest(self) -> tuple[Tensor, Tensor]:
        """Return m and A of the component of the largest share, shapes (B, D) and (B, D, D)."""
        at = self.log_shares.argmax(0), torch.arange(self.loc.shape[1], device=self.loc.device)
        return self.loc[at], self.factor[at]

    def at(self, index: Tensor) -> StudentMixture:
        """Return the mixtures of some of the data."""
        parts: dict[str, Any] = {name: getattr(self, name)[:, index] for name in _BY_COMPONENT}
        return replace(self, **parts, from_prior=self.from_prior[index])

    def draw(self, num_particles: int) -> Tensor:
        """Draw K particles for each datum from the Student-t distributions alone, shape (K, B, D)."""
        num_data, device = self.loc.shape[1], self.loc.device
        noise = torch.randn(num_particles, num_data, self.dim, dtype=torch.float64, device=device)
        half = self.loc.new_tensor(self.df / 2)
        noise = noise / torch.distributions.Gamma(half, half).sample((num_particles, num_data, 1)).sqrt()
        chosen = self.log_shares.exp().T.multinomial(num_particles, replacement=True).T
        drawn = self._from_component(0, noise)
        for c in range(1, len(self.loc)):
            drawn = torch.where((chosen == c)[..., None], self._from_component(c, noise), drawn)
        return drawn

    def _from_component(self, c: int, noise: Tensor) -> Tensor:
        return self.loc[c] + torch.einsum("bij,kbj->kbi", self.factor[c], noise)

    def log_density(self, u: Tensor, log_prior: Tensor, from_prior: Tensor | None = None) -> Tensor:
        """Return the log density at u, shape (K, B).

        Args:
            u: where, shape (K, B, D).
            log_prior: log p(u), shape (K, B).
            from_prior: alpha, if it is to be another, shape (B,).
        """
        share = self.from_prior if from_prior is None else from_prior
        log_t = self.log_components(u).logsumexp(0)
        return torch.logaddexp((-share).log1p() + log_t, share.log() + log_prior.double())

    def log_components(self, u: Tensor) -> Tensor:
        """Return log pi_c + log t_c at u, shape (C, K, B)."""
        return torch.stack([self._log_component(c, self._distance(c, u)) for c in range(len(self.loc))])

    def _distance(self, c: int, u: Tensor) -> Tensor:
        """Return the squared Mahalanobis distance from a component's location, shape (K, B)."""
        return torch.einsum("bij,kbj->kbi", self.inverse[c], u - self.loc[c]).square().sum(-1)

    def _log_component(self, c: int, distance: Tensor) -> Tensor:
        df, dim = self.df, self.dim
        constant = math.lgamma((df + dim) / 2) - math.lgamma(df / 2) - dim / 2 * math.log(df * math.pi)
        return constant + self.log_shares[c] + self.log_dets[c] - (df + dim) / 2 * (distance / df).log1p()

    def adapted(self, u: Tensor, log_w: Tensor, log_prior: Tensor) -> StudentMixture:
        """Return the mixture moved towards weighted draws: a step of EM, shrunk where few draws carry the weight.

            pi_c = sum_k w_k r_kc,   m_c = sum_k a_kc u_k / sum_k a_kc,   a_kc = w_k r_kc (nu + D) / (nu + d_kc^2)

        with r_kc the probability that draw k is component c's, and the covariance likewise; the prior is a component
        too, whose share grows where it carries weight and never falls below what it was. Weights are truncated at
        the mean times sqrt(K). Where they come down to E draws, the step of the location is shrunk by E / (E + D), the
        variances along the component's own axes by E / (E + 10), and the correlations between these by E / (E + 5 D).

        Args:
            u: draws, shape (K, B, D).
            log_w: their log weights, shape (K, B), -inf for weight 0.
            log_prior: log p(u) of each, shape (K, B).

        Source: Cappe, Douc, Guillin, Marin and Robert (2008), Adaptive Importance Sampling in General Mixture Classes;
        truncation: Ionides (2008), Truncated Importance Sampling.
        """
        log_w = log_w.clamp(max=log_w.logsumexp(0) - math.log(len(log_w)) / 2)
        weight = log_w.softmax(0).nan_to_num(0.0)
        components = (-self.from_prior).log1p() + self.log_components(u)
        prior = self.from_prior.log() + log_prior.double().nan_to_num(-math.inf)
        shares = torch.cat([components, prior[None]]).softmax(0).nan_to_num(0.0) * weight
        from_prior = shares[-1].sum(0).clamp(max=MOST_FROM_PRIOR).maximum(self.from_prior)
        parts = [self._moments(c, u, shares[c]) for c in range(len(self.loc))]
        loc, covariance, share = (torch.stack(values) for values in zip(*parts, strict=True))
        alive = self.log_shares > -math.inf
        share = share.clamp(min=LEAST_SHARE).where(alive, 0.0)
        return StudentMixture.at_covariance((share / share.sum(0)).log(), loc, covariance, from_prior, self.df)

    def _moments(self, c: int, u: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return a component's location, covariance and share, (B, D), (B, D, D), (B,), after a step of EM."""
        total = share.sum(0)
        ess = (total.square() / share.square().sum(0).clamp(min=1e-300)).where(total > 0, 0.0)[:, None]
        y = torch.einsum("bij,kbj->kbi", self.inverse[c], u - self.loc[c])
        pull = share * (self.df + self.dim) / (self.df + y.square().sum(-1)) / total.clamp(min=1e-300)
        shift = torch.einsum("kb,kbi->bi", pull, y) / pull.sum(0).clamp(min=1e-300)[:, None]
        shift = shift * ess / (ess + self.dim)
        away = (y - shift) * pull.sqrt()[..., None]
        scatter = torch.einsum("kbi,kbj->bij", away, away)
        variance = 1 + (scatter.diagonal(dim1=-2, dim2=-1) - 1) * ess / (ess + 10)
        trust = (ess / (ess + 5 * self.dim))[..., None]
        covariance = trust * scatter + (1 - trust) * torch.diag_embed(variance)
        loc = self.loc[c] + torch.einsum("bij,bj->bi", self.factor[c], shift)
        return loc, self.factor[c] @ covariance @ self.factor[c].mT, total
