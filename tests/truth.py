"""Problems with exact answers, each a pair of Pyro programs; every test of an estimate starts here."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn


@dataclass
class LinearGaussian:
    """z ~ N(0, I_D), x | z ~ N(W z + b, sigma^2 I_P), whose posterior and evidence are normal."""

    weight: Tensor
    bias: Tensor
    scale: float

    @classmethod
    def random(cls, latent_dim: int, data_dim: int, seed: int = 0, scale: float = 0.7) -> LinearGaussian:
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(data_dim, latent_dim, generator=generator, dtype=torch.float64)
        bias = torch.randn(data_dim, generator=generator, dtype=torch.float64)
        return cls(weight, bias, scale)

    @property
    def marginal(self) -> dist.MultivariateNormal:
        noise = self.scale**2 * torch.eye(len(self.bias), dtype=torch.float64)
        return dist.MultivariateNormal(self.bias, self.weight @ self.weight.T + noise)

    def posterior(self, x: Tensor) -> dist.MultivariateNormal:
        identity = torch.eye(self.weight.shape[1], dtype=torch.float64)
        precision = identity + self.weight.T @ self.weight / self.scale**2
        loc = torch.linalg.solve(precision, self.weight.T @ (x - self.bias).T / self.scale**2).T
        return dist.MultivariateNormal(loc, precision_matrix=precision)

    def sample(self, num_data: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(num_data, len(self.bias), generator=generator, dtype=torch.float64)
        return self.bias + noise @ torch.linalg.cholesky(self.marginal.covariance_matrix).T

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(self.weight[0]), 1.0).to_event(1))
            loc = z @ self.weight.T + self.bias
            pyro.sample("x", dist.Normal(loc, self.scale).to_event(1), obs=x)

    def exact_guide(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", self.posterior(x))

    def guide(self, widen: float = 1.0, shift: float = 0.0):
        """Return the posterior's guide with its scale multiplied and its mean shifted, both in sd units."""

        def program(x: Tensor) -> None:
            q = self.posterior(x)
            tril = q.scale_tril
            loc = q.loc + shift * tril.diagonal(dim1=-2, dim2=-1)
            with pyro.plate("data", x.shape[0]):
                pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=widen * tril))

        return program

    def elbo(self, x: Tensor, widen: float = 1.0, shift: float = 0.0) -> Tensor:
        """Return log p(x) - KL(q || posterior) of ``guide(widen, shift)``, shape (N,)."""
        q = self.posterior(x)
        loc = q.loc + shift * q.scale_tril.diagonal(dim1=-2, dim2=-1)
        guide = dist.MultivariateNormal(loc, scale_tril=widen * q.scale_tril)
        return self.marginal.log_prob(x) - torch.distributions.kl_divergence(guide, q)


class BernoulliMixture(nn.Module):
    """z ~ Categorical(pi), x | z ~ prod Bernoulli(theta_z): summed by brute force."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.logits = torch.randn(3, generator=generator, dtype=torch.float64)
        self.theta = torch.randn(3, 4, generator=generator, dtype=torch.float64)

    def log_px(self, x: Tensor) -> Tensor:
        joint = dist.Bernoulli(logits=self.theta).log_prob(x[:, None]).sum(-1) + self.logits.log_softmax(0)
        return joint.logsumexp(1)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Categorical(logits=self.logits))
            pyro.sample("x", dist.Bernoulli(logits=self.theta[z]).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Categorical(logits=torch.zeros(3, dtype=torch.float64)))


@dataclass
class GammaPoisson:
    """Rate ~ Gamma(a, b), counts | rate ~ Poisson(rate) in a plate of their own: a negative-binomial evidence."""

    shape: float = 2.0
    rate: float = 0.5

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-2):
            z = pyro.sample("z", dist.Gamma(torch.tensor(self.shape, dtype=torch.float64), self.rate))
            with pyro.plate("counts", x.shape[1], dim=-1):
                pyro.sample("x", dist.Poisson(z), obs=x)

    def exact_guide(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-2):
            pyro.sample("z", dist.Gamma(self.shape + x.sum(1, keepdim=True), self.rate + x.shape[1]))

    def log_px(self, x: Tensor) -> Tensor:
        total, count = x.sum(1), x.shape[1]
        a, b = torch.tensor(self.shape, dtype=torch.float64), self.rate
        normaliser = a * math.log(b) - a.lgamma() + (a + total).lgamma() - (a + total) * math.log(b + count)
        return normaliser - (x + 1).lgamma().sum(1)
