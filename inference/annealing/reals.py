"""Latent sites on the real line: the handlers that move a program's latents there, and refuse those that cannot."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import ImproperUniform, MaskedDistribution
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.transforms import Transform

from pyro_vae.inference.programs.structure import is_delta


class At(Messenger):
    """Handler that gives every latent site the value z = T(u) and collects log |dz/du|.

    T is the map from the reals to the site's support as the program has it there, so that a support may depend on
    other sites. Where T(u) leaves the support in floating point, by overflow or NaN, z = T(0) and NaN are given.

    Args:
        vectors: {site: u}.
    """

    def __init__(self, vectors: dict[str, Tensor]) -> None:
        super().__init__()
        self.vectors = vectors
        self.log_jacobians: list[Tensor] = []

    def _pyro_sample(self, msg: Any) -> None:
        if not _is_latent(msg):
            return
        support = msg["fn"].support
        value, log_jacobian = _constrain(biject_to(support), support, self.vectors[msg["name"]])
        msg["value"], msg["done"] = value, True
        self.log_jacobians.append(scale_and_mask(log_jacobian, mask=msg["mask"]))


def _constrain(transform: Transform, support: Any, u: Tensor) -> tuple[Tensor, Tensor]:
    """Return T(u) and log |dT/du|: T(0) and NaN where T(u) has left the support by overflow or NaN."""
    value = transform(u)
    inside = support.check(value)
    log_jacobian = transform.log_abs_det_jacobian(u, value).where(inside, torch.nan)
    inside = inside.reshape(*inside.shape, *[1] * (value.ndim - inside.ndim))
    return value.where(inside, transform(torch.zeros_like(u))), log_jacobian


class Continuous(Messenger):
    """Handler that refuses, by name and before it is drawn, a latent site that cannot be moved along the reals.

    Raises:
        ValueError: for discrete, improper and point-mass sites, supports without a map from the reals, and the
            auxiliary sites of a guide.
    """

    def _pyro_sample(self, msg: Any) -> None:
        if _is_latent(msg):
            _check_site(msg)


def _check_site(site: Any) -> None:
    name, fn = site["name"], site["fn"]
    kind = type(fn).__name__
    if site["infer"].get("is_auxiliary"):
        raise ValueError(
            f"Guide site {name!r} is auxiliary, as in Pyro's AutoGuides, and the annealing path cannot start there. "
            'Start from the prior: start="prior".'
        )
    if is_delta(site):
        raise ValueError(
            f"Latent site {name!r} is a point mass, which has no density to anneal. Make it a pyro.deterministic "
            "site if the model has it; use a guide that has a spread if the guide does."
        )
    if isinstance(fn, ImproperUniform | MaskedDistribution):
        raise ValueError(
            f"Latent site {name!r} is improper ({kind}): it has no p(z) to draw from, and the model no p(x). Use a "
            "proper prior."
        )
    if fn.has_enumerate_support or getattr(fn.support, "is_discrete", False):
        raise ValueError(
            f"Latent site {name!r} is discrete ({kind}); Hamiltonian Monte Carlo moves continuous latents only. "
            'Score it with method="iw", or sum the site out of the model, as a mixture.'
        )
    try:
        biject_to(fn.support)
    except NotImplementedError as error:
        raise ValueError(
            f"Latent site {name!r} ({kind}) has a support without a map from the reals: {fn.support}. Score it with "
            'method="iw".'
        ) from error


def _is_latent(msg: Any) -> bool:
    return not (msg["is_observed"] or site_is_subsample(msg))
