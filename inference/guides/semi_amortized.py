"""A guide that goes on from the encoder's output by gradient steps on each datum's own ELBO."""

from __future__ import annotations

from functools import partial

import pyro
import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.core.checks import check_positive_int
from pyro_vae.core.distributions import as_pyro
from pyro_vae.core.modules import expose_parameters
from pyro_vae.inference.guides.amortized import AmortizedGuide
from pyro_vae.inference.programs.again import Replay
from pyro_vae.inference.programs.call import Args, Program, fork_rng
from pyro_vae.inference.programs.summed import run_model
from pyro_vae.inference.programs.vectorize import scored
from pyro_vae.inference.programs.weights import weight_terms

MAX_NORM = 5.0
"""Longest gradient that a step takes as it is, in nats per unit of h."""
STREAM = 1_570_926_153
"""Added to the seed, so that the steps' noise differs from draws made elsewhere under the same seed.

It is less than 2^32, since the CPU's generator sees the lower 32 bits of a seed alone."""


class SemiAmortized(nn.Module):
    """Guide whose features start at the encoder's output and take S gradient steps on each datum's ELBO.

        h_0 = encoder(x),   h_(s+1) = h_s + exp(a_s) * clip(grad_h ELBO(x; h_s)),   z ~ q(z; h_S)

    The ELBO's gradient is a Monte Carlo mean without the guide's score (sticking the landing), so that its noise
    vanishes at the exact posterior. Gradients longer than 5 are shortened. The step sizes exp(a_s), one for each
    step and feature, are learnt with the encoder, whichever way its gradient is taken.

    The noise of the steps has a generator of its own, with the same seed at every call: q(z|x) is one law for a
    batch however often it is run, so that draws can be scored again, and the K particles of a datum are
    independent given it. Which noise a datum gets depends on its place in the batch, not on K. The bound of the
    steps is the plain ELBO, whatever the objective or the warm-up around it. Gradients are built for the steps even
    under ``torch.no_grad``.

    Args:
        model: Pyro program for p(x, z) with one latent site "z". It is not a part of this module: its parameters
            are trained, saved and moved as the model's.
        guide: amortised guide, whose parameters are trained along.
        num_steps: S.
        learning_rate: exp(a_s) at the start.
        num_particles: draws for each gradient, apart from the objective's K.
        differentiate: differentiate through the steps, by second derivatives of the model and family, down to the
            model's parameters; if not, each step's gradient counts as a constant and the encoder receives that of
            h_S. With gradients that hold the guide still ("stl", "dreg") leave it off: they do not know of the
            model inside.
        seed: seed of the steps' noise.

    Raises:
        ValueError: if a setting is out of its range.

    Source: Kim et al. (2018), Semi-Amortized Variational Autoencoders, section 3; Marino, Yue and Mandt (2018),
    Iterative Amortized Inference.
    """

    def __init__(
        self,
        model: Program,
        guide: AmortizedGuide,
        *,
        num_steps: int = 5,
        learning_rate: float = 0.01,
        num_particles: int = 4,
        differentiate: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(guide, AmortizedGuide):
            raise ValueError(f"Expected guide to be an AmortizedGuide; got {type(guide).__name__}.")
        check_positive_int(num_steps, "num_steps")
        check_positive_int(num_particles, "num_particles")
        if not learning_rate > 0:
            raise ValueError(f"Expected learning_rate > 0; got {learning_rate!r}.")
        self._model = (model,)  # in a tuple, which hides its parameters
        self.guide, self.num_particles, self.differentiate, self.seed = guide, num_particles, differentiate, seed
        sizes = torch.full((num_steps, guide.family.num_features), learning_rate)
        self.log_step_size = nn.Parameter(sizes.log())

    def forward(self, x: Tensor) -> Tensor:
        """Run the guide on x of shape (N, *in_shape); returns z, shape (N, D)."""
        expose_parameters(self)
        q = self.posterior(x)
        with pyro.plate("data", x.shape[0]):
            return pyro.sample("z", as_pyro(q))

    def posterior(self, x: Tensor) -> Distribution:
        """Return q(z|x) after the steps, batch shape (N,), for x of shape (N, *in_shape)."""
        return self.guide.family(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """Return h_S, shape (N, num_features), for x of shape (N, *in_shape)."""
        h = self.guide.features(x)
        many = x.repeat(self.num_particles, *[1] * (x.ndim - 1))
        with poutine.block(), fork_rng(x.device, STREAM + self.seed):
            for step_size in self.log_step_size.exp():
                h = h + step_size * _clipped(self._gradient(h, many))
        return h

    @torch.enable_grad()
    def _gradient(self, h: Tensor, many: Tensor) -> Tensor:
        """Return the gradient of each datum's ELBO by its features, shape (N, num_features)."""
        through = self.differentiate and h.requires_grad
        h = h if through else h.detach().requires_grad_()
        moving = h.view_as(h)
        programs = [partial(_draw, self.guide.family, self._repeated(part)) for part in (moving, h)]
        terms = weight_terms(self._model[0], programs[0], (many,), tracer=partial(_trace, held=programs[1]))
        bound = terms.log_w.sum() / self.num_particles
        return torch.autograd.grad(bound, moving, create_graph=through)[0]

    def _repeated(self, h: Tensor) -> Tensor:
        return h.repeat(self.num_particles, 1)


def _draw(family: nn.Module, h: Tensor, x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        pyro.sample("z", as_pyro(family(h)))


def _trace(model: Program, guide: Program, args: Args, held: Program) -> tuple[Trace, Trace]:
    """Draw from the guide, and score the draw under its copy with the features held still."""
    drawn = poutine.trace(guide).get_trace(*args)
    if not drawn.nodes["z"]["fn"].has_rsample:
        raise ValueError(
            "The guide's family cannot be reparameterised, so its features have no gradient to step along."
        )
    drawn.nodes["z"]["value"] = drawn.nodes["z"]["value"].clone()  # flows know their own draws: this is none
    held_trace = poutine.trace(poutine.replay(held, trace=drawn)).get_trace(*args)
    return run_model(Replay(drawn)(model), args, drawn.nodes), scored(held_trace)


def _clipped(gradient: Tensor) -> Tensor:
    squared_norm = gradient.square().sum(-1, keepdim=True)
    return gradient * (MAX_NORM / squared_norm.clamp(min=MAX_NORM**2).sqrt())
