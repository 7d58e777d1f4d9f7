"""A whole data set as one datum: programs whose latents all data share have one log weight, log p(x_1, ..., x_N, z)."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from pyro.distributions import ImproperUniform, MaskedDistribution, Unit
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyro_vae.inference.programs.call import Args, Program
from pyro_vae.inference.programs.particles import Particles
from pyro_vae.inference.programs.sites import SUMMED, Site

MARK = "_pyro_vae_joint"
"""In ``infer`` of a site whose log_prob, over all of its plates, is a term of one log weight."""


class Joint:
    """A program that takes a whole data set as its one datum, and marks its sites so.

    It is called with tensors of shape (1, *shape) and calls the program with those of ``shape``.

    Args:
        program: the user's model or guide.
        particles: how many of its particles run; that of the model is the guide's too.
        in_double: run what is written in float32 in float64.
    """

    def __init__(self, program: Program, particles: Particles, in_double: bool) -> None:
        self.program, self.particles, self.in_double = program, particles, in_double

    def __call__(self, *args: Tensor) -> Any:
        """Run the program on the data set."""
        with _Mark(self.particles), _InDouble() if self.in_double else nullcontext():
            return self.program(*(arg[0] for arg in args))


class _InDouble(TorchFunctionMode):
    """Runs every operation on float32 tensors on float64 copies of them, but for what changes a tensor in place."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        in_place = name == "__setitem__" or (name.endswith("_") and not name.endswith("__")) or name.startswith("__i")
        if in_place or name in _KEPT or "out" in (kwargs or {}):
            return func(*args, **(kwargs or {}))
        return func(*map(_doubled, args), **{key: _doubled(value) for key, value in (kwargs or {}).items()})


_KEPT = {"__get__", "__set__", "dim", "size"}
"""What reads or sets attributes of the tensor itself."""


def _doubled(value: Any) -> Any:
    if type(value) in (list, tuple):  # and not torch.Size
        return type(value)(_doubled(v) for v in value)
    return value.double() if isinstance(value, Tensor) and value.dtype == torch.float32 else value


class _Mark(Messenger):
    def __init__(self, particles: Particles) -> None:
        super().__init__()
        self.particles = particles

    def _pyro_sample(self, msg: Any) -> None:
        msg["infer"][MARK] = self.particles
        if not msg["is_observed"]:
            _refuse_improper(msg["name"], msg["fn"])


def as_one_datum(model: Program, guide: Program, args: Args) -> tuple[Joint, Joint, Args]:
    """Return programs and data of which the data set is the only datum, in float64.

    A sum over all data is a large number, and densities such as a beta distribution's of large concentrations cancel:
    in float32 a search for modes finds their rounding errors, hundreds of nats, where the prior lets it go far.
    """
    in_double = any(arg.dtype == torch.float32 for arg in args)
    whole = tuple(arg[None].double() if arg.dtype == torch.float32 else arg[None] for arg in args)
    particles = Particles()
    return Joint(model, particles, in_double), Joint(guide, particles, in_double), whole


def particles_of(sites: dict[str, Site]) -> Particles | None:
    """Return how the particles of a joint program run, None of one that has a weight for each datum."""
    return next((site["infer"][MARK] for site in sites.values() if MARK in site["infer"]), None)


def numbers_in(sites: dict[str, Site]) -> int:
    """Return how many numbers there are at the sites of one particle, about, with the matrices of distributions."""
    return sum(max(t.numel() for t in (site["log_prob"], *_tensors_of(site["fn"]))) for site in sites.values())


def _tensors_of(fn: Any) -> list[Tensor]:
    own = [value for value in vars(fn).values() if isinstance(value, Tensor)]
    return own + (_tensors_of(fn.base_dist) if hasattr(fn, "base_dist") else [])


def check_joint(model_sites: dict[str, Site], guide_sites: dict[str, Site]) -> None:
    """Refuse sites of which the log joint density would lack a part, or count one twice.

    Raises:
        ValueError: for a subsampled plate, an improper latent, or a value of another shape than its density.
    """
    auxiliary = any(site["infer"].get("is_auxiliary") for site in guide_sites.values())
    for program, sites in (("guide", guide_sites), ("model", model_sites)):
        for name, site in sites.items():
            where = f"site {name!r} of the {program}"
            _check_plates(site, where)
            _check_shape(site, where)
            if program == "model" and not site["is_observed"]:
                _check_masks(site, name, auxiliary)


def _check_plates(site: Site, where: str) -> None:
    for plate in site["cond_indep_stack"]:
        if plate.full_size not in (None, plate.size):
            raise ValueError(
                f"Expected {where} to score all of plate {plate.name!r}; it is subsampled, {plate.size} of "
                f"{plate.full_size}, and the rest would be missing from log p(x_1, ..., x_N). Take subsample and "
                "subsample_size off the plate."
            )


def _refuse_improper(name: str, fn: Any) -> None:
    """Refuse a distribution without a density that integrates to 1, before it is asked for a draw."""
    while not isinstance(fn, ImproperUniform | MaskedDistribution) and hasattr(fn, "base_dist"):
        fn = fn.base_dist
    if isinstance(fn, ImproperUniform | MaskedDistribution):
        raise _improper(name, type(fn).__name__)


def _improper(name: str, kind: str) -> ValueError:
    return ValueError(
        f"Latent site {name!r} is improper ({kind}): p(x_1, ..., x_N) is known up to a constant at best, and there is "
        "no evidence. Use a proper prior."
    )


def _check_masks(site: Site, name: str, auxiliary: bool) -> None:
    """Refuse a latent whose density is masked; a part of it may be where the guide masks that too."""
    mask = site["mask"]
    if isinstance(mask, Tensor):
        mask = bool(mask.all() if auxiliary else mask.any())
    if mask is False:
        raise _improper(name, "its density is masked")


def _check_shape(site: Site, where: str) -> None:
    """Refuse a value that broadcasts against its distribution: numbers would count more than once."""
    fn = site["fn"]
    if isinstance(fn, Unit) or site.get(SUMMED):  # a factor observes nothing; checked where it was summed
        return
    event, value = len(fn.event_shape), tuple(site["value"].shape)
    own, scored = value[: len(value) - event], tuple(site["log_prob"].shape)
    if own != scored or (not site["is_observed"] and own != tuple(fn.batch_shape)):
        raise ValueError(
            f"Expected the value at {where} of the shape of its distribution, {tuple(fn.shape())}; got {value}. It "
            "would broadcast, and numbers count more than once or be left out: give both one shape."
        )
