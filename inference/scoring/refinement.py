"""A guide fitted to each datum alone, started where an amortised guide puts it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import torch
from pyro.distributions import TransformedDistribution
from pyro.distributions.transforms import ComposeTransform
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions.transforms import AffineTransform, Transform

from pyro_vae.core.distributions import as_pyro
from pyro_vae.inference.compile.compile import compile_programs, layout
from pyro_vae.inference.compile.precision import as_given
from pyro_vae.inference.compile.record import Function
from pyro_vae.inference.guides.amortized import AmortizedGuide
from pyro_vae.inference.objectives.rescoring import Rescorer, unaltered
from pyro_vae.inference.programs.call import Args, Program
from pyro_vae.inference.programs.plates import Plates
from pyro_vae.inference.programs.sites import is_delta, map_from_reals, support_of
from pyro_vae.inference.programs.weights import weight_terms

LEARNING_RATE = 0.05
NUM_PARTICLES = 8


def refine(
    model: Program,
    guide: Program,
    args: Args,
    steps: int,
    *,
    plates: Plates | None = None,
    compiled: CompiledRefinement | None = None,
) -> Program:
    """Return a guide whose parameters are those of each datum alone, after some gradient steps on its own ELBO.

    For an ``AmortizedGuide`` they are the features h_n, started at the encoder's output, so that the optimum is
    the best member of the family, q*(z) = argmax ELBO(q(z; h_n)). For any other program they are a shift a_n and
    a log scale b_n of each latent site, started at 0:

        z' = T(a_n + exp(b_n) T^-1(z)),   z ~ q(z | x),

    with T the map from the reals to the site's support; a diagonal normal family is then searched whole. Adam,
    its step size falling to 0 as a cosine, 8 particles, sticking-the-landing gradients where the guide has them.

    The programs' own parameters are left as they are. The fit sees x and its own noise only, so that weights
    drawn afterwards are as unbiased as before.

    Args:
        model: Pyro program for p(x, z).
        guide: Pyro program for q(z | x), continuous.
        args: their arguments, B data, tensors of shape (B, *event); the guide that is returned is for these data alone.
        steps: number of gradient steps.
        plates: how the programs' plates lie, and how particles run; see ``find_plates``.
        compiled: the gradient compiled, used for data of its shape; then it is its guide that is returned.

    Raises:
        ValueError: if a latent site is discrete.

    Source: Cremer, Li and Duvenaud (2018), Inference Suboptimality in Variational Autoencoders, section 5.2.
    """
    local = _local_guide(guide, args)
    if not len(local.local):  # without latents there is nothing to fit
        return local
    gradient: Function = partial(_gradient, model, local, plates)
    if compiled is not None and compiled.fits(args):
        local, gradient = compiled.started_as(local), compiled.gradient
    optimizer = torch.optim.Adam(local.local, lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        for parameter, direction in zip(local.local, gradient(*args), strict=True):
            assert direction is not None  # every parameter is one of the guide's density
            parameter.grad = direction.nan_to_num(0.0, 0.0, 0.0)  # a hopeless datum stays where it was
        optimizer.step()
        schedule.step()
    return local


class CompiledRefinement:
    """The gradient by which a guide is fitted to each datum of a chunk, compiled for all chunks of a shape.

    Args:
        model: Pyro program for p(x, z).
        guide: Pyro program for q(z | x), continuous.
        chunk: data of the shape.
        other: other data of it, on which the graph is compared with the programs.
        plates: how the programs' plates lie, and how particles run; see ``find_plates``.

    Attributes:
        guide: the guide that is fitted, to one chunk after another.
        gradient: a function of the data.

    Raises:
        CannotCompileError: where the programs have to run as they are.
    """

    def __init__(self, model: Program, guide: Program, chunk: Args, other: Args, plates: Plates | None) -> None:
        self.guide, self._layout = _local_guide(guide, chunk), layout(chunk)
        self.gradient = compile_programs(model, self.guide, partial(_gradient, model, self.guide, plates), chunk, other)

    def fits(self, args: Args) -> bool:
        """Say whether data have the shape that the gradient was compiled for."""
        return layout(args) == self._layout

    @torch.no_grad()
    def started_as(self, local: LocalGuide) -> LocalGuide:
        """Return the guide with the parameters of another."""
        for parameter, start in zip(self.guide.local, local.local, strict=True):
            parameter.copy_(start)
        return self.guide


def _local_guide(guide: Program, args: Args) -> LocalGuide:
    given = as_given(guide)
    return _LocalFeatures(given, args[0]) if type(given) is AmortizedGuide else _LocalAffine(guide, args)


@torch.enable_grad()
def _gradient(model: Program, local: LocalGuide, plates: Plates | None, *args: Tensor) -> tuple[Tensor, ...]:
    """Return the gradient of minus the ELBO, summed over data, by the parameters of each datum."""
    stick_the_landing = Rescorer(unaltered, freeze=True)
    terms = weight_terms(model, local, args, NUM_PARTICLES, plates=plates, tracer=stick_the_landing)
    return torch.autograd.grad(-terms.log_w.mean(0).sum(), list(local.local))


class _LocalFeatures(nn.Module):
    """An amortised guide with features of their own for each datum in the place of the encoder's output."""

    def __init__(self, guide: AmortizedGuide, x: Tensor) -> None:
        super().__init__()
        self.family = guide.family
        with torch.no_grad():
            self.local = nn.ParameterList([guide.features(x)])

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", as_pyro(self.family(self.local[0])))


class _LocalAffine(nn.Module):
    """Any guide with a shift and a log scale of its own for each datum and latent site."""

    def __init__(self, guide: Program, args: Args) -> None:
        super().__init__()
        self.guide = guide
        self.names: list[str] = []
        self.local = nn.ParameterList()
        with torch.no_grad(), _Affine(self._start):
            guide(*args)

    def forward(self, *args: Any) -> None:
        with _Affine(self._look_up):
            self.guide(*args)

    def _start(self, name: str, fn: Any, to_support: Transform) -> tuple[Tensor, Tensor]:
        like = to_support.inv(fn().detach())
        self.names.append(name)
        self.local += [torch.zeros_like(like), torch.zeros_like(like)]
        return self._look_up(name, fn, to_support)

    def _look_up(self, name: str, fn: Any, to_support: Transform) -> tuple[Tensor, Tensor]:
        i = 2 * self.names.index(name)
        return self.local[i], self.local[i + 1]


LocalGuide = _LocalFeatures | _LocalAffine


class _Affine(Messenger):
    """Handler that puts an affine map of the unconstrained value around every latent site."""

    def __init__(self, parameters: Callable[[str, Any, Transform], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.parameters = parameters

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or site_is_subsample(msg):
            return
        fn = msg["fn"]
        if is_delta(msg) or msg["infer"].get("is_auxiliary"):
            raise ValueError(
                f"Guide site {msg['name']!r} is a point mass or auxiliary, so that it cannot be fitted to each datum. "
                "Score it as it is, with a larger K."
            )
        if not fn.has_rsample:
            raise ValueError(
                f"Guide site {msg['name']!r} ({type(fn).__name__}) cannot be reparameterised, so it cannot be fitted "
                "to each datum. Score it as it is, with a larger K."
            )
        if not isinstance(fn, Distribution):
            raise ValueError(
                f"Guide site {msg['name']!r} ({type(fn).__name__}) is no distribution of torch's, so that it cannot be "
                "fitted to each datum. Score it as it is, with a larger K."
            )
        msg["fn"] = TransformedDistribution(fn, [self._around(msg["name"], fn)])

    def _around(self, name: str, fn: Any) -> ComposeTransform:
        """Return T o affine o T^-1."""
        to_support = map_from_reals(support_of(fn))
        shift, log_scale = self.parameters(name, fn, to_support)
        event_dim = to_support.domain.event_dim
        return ComposeTransform([to_support.inv, AffineTransform(shift, log_scale.exp(), event_dim), to_support])
