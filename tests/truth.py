"""Problems with exact answers, each a pair of Pyro programs; every test of an estimate starts here."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.inference import guides
from pyro_vae.inference.guides import HierarchicalGuide, LadderGuide
from pyro_vae.models import HierarchicalVAE, likelihoods, mlp


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

    def log_px(self, x: Tensor) -> Tensor:
        return self.marginal.log_prob(x)

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


class Diagonal(LinearGaussian):
    """Columns of W at right angles, so that the posterior factorises; the last dimension is not used at all."""

    def __init__(self) -> None:
        weight = torch.zeros(4, 3, dtype=torch.float64)
        weight[0, 0], weight[1, 1] = 2.0, 0.8
        super().__init__(weight, torch.arange(4, dtype=torch.float64), 0.7)

    def diagonal_guide(self, x: Tensor) -> None:
        q = self.posterior(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(q.loc, q.variance.sqrt()).to_event(1))


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


class Logistic:
    """z ~ N(0, 1), x_i | z ~ Bernoulli(sigmoid(2 z + b_i)), i = 1, ..., 5: no closed form, one dimension."""

    bias = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], dtype=torch.float64)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
            pyro.sample("x", dist.Bernoulli(logits=2 * z[..., None] + self.bias).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.mean(1) * 2 - 1, 0.8))

    def log_px(self, x: Tensor) -> Tensor:
        z = torch.linspace(-10, 10, 2001, dtype=torch.float64)
        values, index = torch.unique(x, dim=0, return_inverse=True)
        likelihood = dist.Bernoulli(logits=2 * z[:, None, None] + self.bias).log_prob(values).sum(-1)
        return ((likelihood + dist.Normal(0.0, 1.0).log_prob(z)[:, None]).logsumexp(0) + math.log(0.01))[index]


class TwoModes:
    """z ~ N(0, 1), x | z ~ N(z^2, 0.3^2): two modes near +-sqrt(x), of which the guide knows one."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
            pyro.sample("x", dist.Normal(z.square(), 0.3), obs=x)

    def guide(self, x: Tensor, scale: float = 0.15) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.clamp(min=0.2).sqrt(), scale))

    def log_px(self, x: Tensor) -> Tensor:
        z = torch.linspace(-6, 6, 1201, dtype=torch.float64)
        joint = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z.square(), 0.3).log_prob(x[:, None])
        return joint.logsumexp(1) + math.log(0.01)


class TwoSites:
    """A linear-Gaussian model in which z is drawn as two sites, the second given the first."""

    def __init__(self) -> None:
        self.whole = LinearGaussian.random(3, 4)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))
            b = pyro.sample("b", dist.Normal(a.sum(-1), 1.0))  # b - sum(a) is the third standard normal
            z = torch.cat([a, (b - a.sum(-1))[..., None]], -1)
            loc = z @ self.whole.weight.T + self.whole.bias
            pyro.sample("x", dist.Normal(loc, self.whole.scale).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        mean = self.whole.posterior(x).mean
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(mean[:, :2], 0.5).to_event(1))
            pyro.sample("b", dist.Normal(a.sum(-1) + mean[:, 2], 0.5))

    def log_px(self, x: Tensor) -> Tensor:
        return self.whole.marginal.log_prob(x)


class LinearHierarchy:
    """z_2 ~ N(0, 1), z_1 | z_2 ~ N(a z_2 + c, s^2), x | z_1 ~ N(w z_1 + b, sigma^2 I): model, guides and evidence."""

    a, c, s = 0.8, -0.3, 0.6
    weight, bias = torch.tensor([1.0, -0.5, 2.0]).double(), torch.tensor([0.2, 0.0, -1.0]).double()
    scale = 0.9
    mean = weight * c + bias
    covariance = (a**2 + s**2) * torch.outer(weight, weight) + scale**2 * torch.eye(3, dtype=torch.float64)
    kinds = ("bottom-up", "ladder")

    def log_px(self, x: Tensor) -> Tensor:
        return dist.MultivariateNormal(self.mean, self.covariance).log_prob(x)

    def model(self) -> HierarchicalVAE:
        model = HierarchicalVAE((1, 1), likelihoods.Normal(3, self.scale), mlp(())).double()
        _affine(model.decoder.layers[0], self.weight[:, None], self.bias)
        _affine(model.transitions[0].network.layers[0], [[self.a], [0.0]], [self.c, math.log(self.s)])
        return model

    def guide(self, kind: str, model: HierarchicalVAE) -> nn.Module:
        """Return the exact posterior as a guide of this kind."""
        return self.bottom_up() if kind == "bottom-up" else self.ladder(model)

    def message(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return slope and intercept of the mean of the likelihood as a normal density of z_1, and its scale."""
        precision = self.weight @ self.weight / self.scale**2
        slope = self.weight / self.scale**2 / precision
        return slope, -slope @ self.bias, precision**-0.5

    def bottom_up(self) -> HierarchicalGuide:
        """z_1 | x joins the message with z_1 ~ N(c, a^2 + s^2); z_2 | z_1 is that of one observation."""
        guide = HierarchicalGuide(3, (guides.DiagonalNormal(1), guides.DiagonalNormal(1)), (mlp(()), mlp(()))).double()
        slope, intercept, scale = self.message()
        prior_precision, precision = 1 / (self.a**2 + self.s**2), scale**-2
        variance = 1 / (precision + prior_precision)
        weight = torch.stack([variance * precision * slope, torch.zeros_like(slope)])
        loc = variance * (precision * intercept + prior_precision * self.c)
        _affine(guide.layers[0].encoder.layers[0], weight, [loc, variance.sqrt().log()])
        top = 1 / (1 + self.a**2 / self.s**2)
        gain = top * self.a / self.s**2
        _affine(guide.layers[1].encoder.layers[0], [[gain], [0.0]], [-gain * self.c, 0.5 * math.log(top)])
        return guide

    def ladder(self, model: HierarchicalVAE) -> LadderGuide:
        """The message of layer 1 is the likelihood's, that of the top is the posterior z_2 | x itself."""
        guide = LadderGuide(3, model, (mlp(()), mlp(())), widths=(1, 1)).double()
        slope, intercept, scale = self.message()
        _affine(guide.encoders[0].layers[0], slope[None], [intercept])
        _affine(guide.heads[0], [[1.0], [0.0]], [0.0, scale.log()])
        _affine(guide.encoders[1].layers[0], [[1.0]], [0.0])
        noise = scale**2 + self.s**2  # m_1 | z_2 ~ N(a z_2 + c, noise)
        top = 1 / (1 + self.a**2 / noise)
        _affine(guide.heads[1], [[top * self.a / noise], [0.0]], [-top * self.a / noise * self.c, 0.5 * top.log()])
        return guide


def _affine(linear: nn.Linear, weight: object, bias: object) -> None:
    with torch.no_grad():
        linear.weight.copy_(torch.as_tensor(weight))
        linear.bias.copy_(torch.as_tensor(bias))
