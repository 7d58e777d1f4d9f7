"""Many runs of what runs one particle: at once by ``torch.vmap`` where that is right, one after another elsewhere."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Beta, Dirichlet, Independent
from torch.overrides import TorchFunctionMode

from pyro_vae.inference.programs.call import fork_rng, unvalidated
from pyro_vae.inference.programs.sites import is_delta

Values = dict[str, Tensor]
"""Values of latent sites, or results, by name."""
TRIALS = 4
"""Particles on which running them at once is tried."""
MOST_NUMBERS = 4_000_000
"""Numbers of log densities that particles have at once, at most."""


class Particles:
    """How many particles run: at once, or one by one, found out on the first of them and remembered by a name.

    ``torch.vmap`` runs a program once for all particles, with tensors that hide that dimension: a program that counts
    dimensions from the left, or multiplies matrices, does not see it. Where it cannot (Python that depends on values,
    a sampler that torch has no rule for), or gives other numbers than a run alone, particles run one by one.
    """

    def __init__(self) -> None:
        self._together: dict[Hashable, bool] = {}

    def evaluate(self, name: Hashable, function: Callable[[Tensor], Values], u: Tensor) -> Values:
        """Return {result: its values for all particles, (K, ...)} of a function of the latents of one, u (K, ...)."""
        if name not in self._together:
            self._together[name] = _is_right(function, u[:TRIALS].detach())
        if self._together[name]:
            return _at_once(function)(u)
        with failures_as_nan():
            return _stacked([function(part) for part in u])

    @torch.no_grad()
    def draw(
        self,
        name: Hashable,
        function: Callable[[], tuple[Values, Values]],
        number: int,
        device: torch.device,
        size: int = 1,
    ) -> Values:
        """Return {result: values of all runs, (K, ...)} of a function that draws latents.

        Args:
            name: of the function.
            function: returns the values that it drew at latent sites, and results.
            number: K.
            device: whose generator it draws from.
            size: numbers of log densities in one run.
        """
        if name not in self._together:
            self._together[name] = _draws_are_right(function, device)
        if not self._together[name]:
            with failures_as_nan():
                return _stacked([function()[1] for _ in range(number)])
        most = max(1, MOST_NUMBERS // max(1, size))
        counts = [min(most, number - start) for start in range(0, number, most)]
        parts = [_at_once(lambda _: function()[1])(torch.zeros(count)) for count in counts]
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def _at_once(function: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    """Return the function of all particles, by ``torch.vmap``, each with noise of its own."""

    def run(u: Tensor) -> Any:
        with failures_as_nan(), _NoiseOfItsOwn(), _ByGammas(), unvalidated(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"There is a performance drop", category=UserWarning)
            return torch.vmap(function, randomness="different")(u)

    return run


def _stacked(runs: list[Values]) -> Values:
    return {name: torch.stack([run[name] for run in runs]) for name in runs[0]}


@torch.no_grad()
def _is_right(function: Callable[[Tensor], Values], u: Tensor) -> bool:
    """Say whether a function of the latents has the same values for a few particles at once as for each alone."""
    try:
        with fork_rng(u.device):
            together = _at_once(function)(u)
    except Exception:  # whatever a program raises that cannot run so; one by one it says what is wrong, if anything
        return False
    with fork_rng(u.device), failures_as_nan():
        return _same(together, _stacked([function(part) for part in u]))


def _draws_are_right(function: Callable[[], tuple[Values, Values]], device: torch.device) -> bool:
    """Say whether runs at once draw as runs alone do, and have their values at the same draws.

    A sampler that is not torch's, such as numpy's, would give all particles one draw.
    """
    with fork_rng(device):
        alone = _stacked([function()[0] for _ in range(TRIALS)])
        try:
            drawn, results = _at_once(lambda _: function())(torch.zeros(TRIALS))
            again = [_given(function, {name: value[k] for name, value in drawn.items()}) for k in range(TRIALS)]
        except Exception:  # as above, and flows that cannot score what they have not just drawn
            return False
    constant = [name for name, value in drawn.items() if _all_equal(value) and not _all_equal(alone[name])]
    return not constant and _same(results, _stacked(again))


def _given(function: Callable[[], tuple[Values, Values]], drawn: Values) -> Values:
    with _Given(drawn), failures_as_nan():
        return function()[1]


def _same(one: Values, other: Values) -> bool:
    return all(torch.allclose(value, other[name], rtol=1e-3, atol=1e-3, equal_nan=True) for name, value in one.items())


def _all_equal(value: Tensor) -> bool:
    return bool((value == value[:1]).all())


class _Given(Messenger):
    """Handler that gives latent sites values, but for point masses, which say no by a rounding error."""

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        drawn = not (msg["is_observed"] or site_is_subsample(msg) or is_delta(msg))
        if drawn and msg["name"] in self.values:
            msg["value"], msg["done"] = self.values[msg["name"]], True


@contextmanager
def failures_as_nan() -> Iterator[None]:
    """Let the Cholesky factor of a matrix that has none be NaN: of many particles one may leave the support."""
    with _CholeskyOrNaN():
        yield


class _CholeskyOrNaN(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        run = cholesky_or_nan if func is torch.linalg.cholesky else func
        return run(*args, **(kwargs or {}))


def cholesky_or_nan(matrix: Tensor, **options: Any) -> Tensor:
    """Return the Cholesky factor, NaN where there is none."""
    factor, failure = torch.linalg.cholesky_ex(matrix, **options)
    return torch.where(failure[..., None, None] == 0, factor, math.nan)


class _ByGammas(Messenger):
    """Handler that draws Dirichlet and Beta values from gammas, since torch's own sampler does not run so."""

    def _pyro_sample(self, msg: Any) -> None:
        if not (msg["done"] or msg["is_observed"] or site_is_subsample(msg)):
            value = _from_gammas(msg["fn"])
            if value is not None:
                msg["value"], msg["done"] = value, True


def _from_gammas(fn: Any) -> Tensor | None:
    """Return a draw of a Dirichlet or Beta distribution, None of others.

    A gamma of shape a is one of shape a + 1 times U^(1/a), whose log is finite where the gamma itself is 0.
    """
    if isinstance(fn, Independent):
        return _from_gammas(fn.base_dist)
    if isinstance(fn, Beta):
        weights = _from_gammas(fn._dirichlet)
        return None if weights is None else weights[..., 0]
    if not isinstance(fn, Dirichlet):
        return None
    shape = fn.concentration
    return (torch._standard_gamma(shape + 1).log() + torch.rand_like(shape).log() / shape).softmax(-1)


class _NoiseOfItsOwn(TorchFunctionMode):
    """Draws into new tensors where distributions draw into the memory of one that all particles would share."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        instead = _DRAWN_ANEW.get(func)
        return func(*args, **(kwargs or {})) if instead is None else instead(*args, **(kwargs or {}))


def _normal(like: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    return mean + std * torch.randn_like(like)


def _uniform(like: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand_like(like)


def _cauchy(like: Tensor, median: float = 0.0, sigma: float = 1.0) -> Tensor:
    return median + sigma * (math.pi * (torch.rand_like(like) - 0.5)).tan()


def _exponential(like: Tensor, rate: float = 1.0) -> Tensor:
    return -torch.log1p(-torch.rand_like(like)) / rate


_DRAWN_ANEW: dict[Any, Callable[..., Tensor]] = {
    Tensor.normal_: _normal,
    Tensor.uniform_: _uniform,
    Tensor.cauchy_: _cauchy,
    Tensor.exponential_: _exponential,
}
