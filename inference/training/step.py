"""One gradient step of stochastic variational inference, for any objective and any Pyro programs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyro.infer
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.optim import Optimizer

from pyro_vae.inference.objectives.base import Objective
from pyro_vae.inference.programs.call import Args, Program, modules_of_both
from pyro_vae.inference.programs.plates import plates_of, size_at
from pyro_vae.inference.programs.proposals import check_latents
from pyro_vae.inference.programs.sites import Site, sample_sites
from pyro_vae.inference.programs.trial import check_store, trial
from pyro_vae.inference.programs.weights import KLWeight

if TYPE_CHECKING:
    from pyro_vae.inference.training.compiled import CompiledStep


class Stepper:
    """One gradient step by one optimizer, with the loss of any objective in nats per datum."""

    def __init__(
        self,
        model: Program,
        guide: Program,
        objective: pyro.infer.ELBO,
        optimizer: Callable[[Iterable[Tensor]], Optimizer],
        clip_norm: float | None,
        first: Args,
    ) -> None:
        self.model, self.guide, self.objective, self.clip_norm = model, guide, objective, clip_norm
        check_store(model, guide)
        modules = modules_of_both(model, guide)
        owned = {id(p): p for module in modules for p in module.parameters() if p.requires_grad}
        sites, self.full_size, self.shared = _find_parameters(model, guide, first, owned)
        self.loose = {name: p for name, p in sites.items() if id(p) not in owned}
        self.parameters = [*owned.values(), *{id(p): p for p in self.loose.values()}.values()]
        if not self.parameters:
            raise ValueError("Found no parameters to train. Announce them with pyro.param or pyro.module.")
        self.optimizer = optimizer(self.parameters)
        _check_optimizer(self.optimizer)
        _count_plates(objective, model, guide, first)
        self.kl = KLWeight()
        self.compiled: CompiledStep | None = None
        self.compiled_loss: Callable[[Args], Tensor | None] | None = None

    def step(self, batch: Args, beta: float = 1.0) -> Tensor | float:
        """Take one step with this weight of the KL term and return the loss before it, in nats per datum."""
        self.kl.beta = beta
        if self.compiled is not None and self.compiled.fits(batch) and self._still_holds(self.compiled, batch, beta):
            return self.compiled(batch, beta)
        self.optimizer.zero_grad()
        with self.kl:
            loss = self._loss_and_grads(batch)
        self.update()
        if self.compiled is not None:
            self.optimizer.zero_grad()  # its next step sets the gradients of its own parameters alone
        return loss

    def update(self, take_step: Callable[[], object] | None = None) -> None:
        """Clip the gradient and let the optimizer take its step, by other means where they are given."""
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        (take_step or self.optimizer.step)()

    def gradient(self, batch: Args, beta: float | Tensor = 1.0) -> tuple[Tensor | None, ...]:
        """Return the loss and its gradient by each parameter, None where it has none, and leave ``.grad`` alone."""
        self.kl.beta = beta
        size = self._size(batch)
        with self.kl:
            if hasattr(self.objective, "differentiable_loss"):
                loss = self.objective.differentiable_loss(self.model, self.guide, *batch) / size
                return loss.detach(), *torch.autograd.grad(loss, self.parameters, allow_unused=True)
            with _gradients_aside(self.parameters):
                loss = _of_model(self.objective.loss_and_grads(self.model, self.guide, *batch)) / size
                return torch.as_tensor(loss), *(None if p.grad is None else p.grad / size for p in self.parameters)

    def _still_holds(self, compiled: CompiledStep, batch: Args, beta: float) -> bool:
        if not compiled.holds(batch, beta):
            self.compiled = self.compiled_loss = None
            warnings.warn(
                "The programs no longer do what was compiled: they keep something from call to call that is no tensor. "
                "They run as they are from here on. Keep it in a buffer, or fit with compile=False.",
                stacklevel=2,
            )
        return self.compiled is not None

    def loss(self, batch: Args) -> float:
        """Return the loss in nats per datum."""
        loss = None if self.compiled_loss is None else self.compiled_loss(batch)
        return float(self.raw_loss(batch) if loss is None else loss)

    @torch.no_grad()
    def raw_loss(self, batch: Args) -> Tensor | float:
        """Return the loss in nats per datum by the programs as they are, never compiled."""
        try:
            loss = self.objective.loss(self.model, self.guide, *batch)
        except NotImplementedError as error:
            name = type(self.objective).__name__
            raise ValueError(f"{name} has a gradient but no value to validate with. Fit without valid=...") from error
        return _of_model(loss) / self._size(batch)

    def _loss_and_grads(self, batch: Args) -> Tensor | float:
        size = self._size(batch)
        with poutine.trace(param_only=True) as capture:
            if hasattr(self.objective, "differentiable_loss"):
                loss = self.objective.differentiable_loss(self.model, self.guide, *batch) / size
                if not loss.requires_grad:
                    raise ValueError("The loss depends on no parameter: announce them with pyro.module or pyro.param.")
                loss.backward()
                self._adopt(capture.trace)
                return loss.detach()
            loss = self.objective.loss_and_grads(self.model, self.guide, *batch)
        self._adopt(capture.trace)
        for param in self.parameters:
            if param.grad is not None:
                param.grad /= size
        return _of_model(loss) / size

    def _size(self, batch: Args) -> int:
        """Return what the loss is a sum over: 1 for ours, which is a mean already."""
        return 1 if isinstance(self.objective, Objective) else self.full_size or len(batch[0])

    def _adopt(self, trace: Any) -> None:
        """Hand parameters that turned up after the first minibatch to the optimizer."""
        known = {id(p) for p in self.parameters}
        new = {name: p for name, p in param_sites(trace).items() if id(p) not in known}
        if new:
            self.loose.update(new)
            self.parameters += new.values()
            self.optimizer.add_param_group({"params": list(new.values())})


@contextmanager
def _gradients_aside(parameters: list[Tensor]) -> Iterator[None]:
    """Start from no gradients, and put back afterwards what there was."""
    before = [p.grad for p in parameters]
    for p in parameters:
        p.grad = None
    try:
        yield
    finally:
        for p, grad in zip(parameters, before, strict=True):
            p.grad = grad


def _find_parameters(
    model: Program, guide: Program, batch: Args, owned: Mapping[int, Tensor]
) -> tuple[dict[str, Tensor], int | None, str | None]:
    """Run both programs once; return their param sites, a subsampled data plate's full size, and a shared latent.

    The first run is on a whole minibatch, since parameters may be made by what it sees.
    """
    with torch.no_grad(), poutine.trace(param_only=True) as capture:
        guide_trace = poutine.trace(guide).get_trace(*batch)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*batch)
    _check_names(capture.trace, owned)
    check_latents(model_trace, guide_trace)
    sites, count = _sites_of_few(model, guide, batch)
    frames = [frame for site in sites.values() for frame in plates_of(site).values()]
    full_size = next((f.full_size for f in frames if f.full_size not in (None, f.size, count)), None)
    shared = _shared_latent(sites, count) if full_size is None else None
    return param_sites(capture.trace), full_size, shared


@torch.no_grad()
def _sites_of_few(model: Program, guide: Program, batch: Args) -> tuple[dict[str, Site], int]:
    """Return the model's sites on half of the data, or all where it runs on all alone, and how many these are.

    On fewer data than a minibatch the full size of a plate stands out.
    """
    for count in (max(1, len(batch[0]) // 2), len(batch[0])):
        few = tuple(arg[:count] for arg in batch)
        try:
            with trial(model, guide, few[0].device):
                trace = poutine.trace(poutine.replay(model, trace=poutine.trace(guide).get_trace(*few))).get_trace(*few)
        except Exception:  # on fewer data than programs were made for
            continue
        return sample_sites(poutine.util.prune_subsample_sites(trace)), count
    return {}, len(batch[0])


def _shared_latent(sites: dict[str, Site], num_data: int) -> str | None:
    """Return the name of a latent outside every plate of the data, None where there is none or sites are scaled."""
    if any(isinstance(site["scale"], Tensor) or site["scale"] != 1 for site in sites.values()):
        return None
    latents = {name: site for name, site in sites.items() if not site["is_observed"]}
    sizes = {name: [size_at(site, dim) for dim in plates_of(site)] for name, site in latents.items()}
    return next((name for name, found in sizes.items() if num_data not in found), None)


def _check_names(trace: Any, owned: Mapping[int, Tensor]) -> None:
    """Refuse a module whose name in Pyro's store belongs to another: the other's parameters would be trained."""
    for name, site in trace.nodes.items():
        given = next((arg for arg in site["args"] if isinstance(arg, nn.Parameter)), None)
        if given is not None and given is not site["value"].unconstrained() and id(given) not in owned:
            raise ValueError(
                f"Parameter {name!r} in Pyro's store is another module's. Call pyro.clear_param_store() before "
                "building a model anew, or give pyro.module another name."
            )


def _check_optimizer(optimizer: Any) -> None:
    if not isinstance(optimizer, Optimizer) or isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError(
            "Expected optimizer to make a first-order torch.optim.Optimizer from parameters, such as "
            f"functools.partial(torch.optim.Adam, lr=1e-3); got {type(optimizer).__name__}."
        )


def _count_plates(objective: pyro.infer.ELBO, model: Program, guide: Program, batch: Args) -> None:
    """Let Pyro's objective count the plates now, since it would draw random numbers for that at the first step."""
    enumerates = isinstance(objective, pyro.infer.TraceEnum_ELBO | pyro.infer.TraceTMC_ELBO)
    guesses = objective.vectorize_particles or enumerates
    if guesses and not isinstance(objective, Objective) and objective.max_plate_nesting == float("inf"):
        objective._guess_max_plate_nesting(model, guide, batch, {})


def param_sites(trace: Any) -> dict[str, Tensor]:
    """Return {name: unconstrained tensor} of the param sites in a trace."""
    sites = trace.nodes.items()
    return {name: site["value"].unconstrained() for name, site in sites if site["type"] == "param"}


def _of_model(loss: Any) -> Any:
    """Return the loss, or of several, as ReweightedWakeSleep has, the model's."""
    return loss[0] if isinstance(loss, tuple) else loss
