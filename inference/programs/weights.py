"""Per-datum log importance weights of any Pyro program: the one quantity that all else is a function of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vae.core.checks import check_positive_int
from pyro_vae.inference.programs.call import Args, Data, Program, as_args
from pyro_vae.inference.programs.joint import numbers_in, particles_of
from pyro_vae.inference.programs.structure import PARTICLES, Site, check_structure, sample_sites
from pyro_vae.inference.programs.vectorize import find_plate_depth, trace_pair

Tracer = Callable[[Program, Program, Args], tuple[Trace, Trace]]
"""How a pair of programs is run and scored: (model, guide, args) -> their scored traces, the model's first."""


def log_weights(model: Program, guide: Program, x: Data, num_particles: int = 1) -> Tensor:
    """Return the unscaled log importance weights, one for each particle and datum.

        log w[k, n] = log p(x_n, z_kn) - log q(z_kn | x_n),   z_kn ~ q(z | x_n)

    The guide is traced, the model replayed against it, and ``log_prob`` summed over event dimensions and over
    every plate except particles and data: never over data. Scales of plates and of ``poutine.scale`` are left
    out, since a scaled weight is none; masks are kept. Gradients flow to every parameter.

    Args:
        model: Pyro program for p(x, z), called as ``model(x)``; its data plate is vectorised and outermost.
        guide: Pyro program for q(z | x), called with the same arguments.
        x: data, shape (B, *event), or a tuple of such tensors.
        num_particles: K.

    Returns:
        log w in nats, shape (K, B).

    Raises:
        ValueError: if a sample site is outside the data plate or crosses it, if model and guide disagree on
            their latent sites, or if K < 1.
    """
    return weight_terms(model, guide, x, num_particles).log_w


def weight_terms(
    model: Program,
    guide: Program,
    x: Data,
    num_particles: int = 1,
    *,
    plate_depth: int | None = None,
    tracer: Tracer = trace_pair,
) -> WeightTerms:
    """Return the terms of ``log_weights``, kept apart by site.

    Args:
        model: Pyro program for p(x, z), called as ``model(x)``.
        guide: Pyro program for q(z | x), called with the same arguments.
        x: data, shape (B, *event), or a tuple of such tensors.
        num_particles: K.
        plate_depth: number of batch dimensions that the programs' own plates use, 0 to run the particles one by one;
            found out by ``find_plate_depth`` where K > 1 and it is None.
        tracer: how the pair is run and scored; the estimators of a gradient run it in ways of their own.
    """
    check_positive_int(num_particles, "num_particles")
    args = as_args(x)
    num_data = len(args[0])
    if num_particles == 1:
        return _terms(tracer(model, guide, args), num_data)
    plate_depth = find_plate_depth(model, guide, args) if plate_depth is None else plate_depth
    if plate_depth == 0:
        return _one_by_one(lambda: _terms(tracer(model, guide, args), num_data), num_particles, tracer)
    with pyro.plate(PARTICLES, num_particles, dim=-1 - plate_depth):
        return _terms(tracer(model, guide, args), num_data)


@dataclass(frozen=True)
class WeightTerms:
    """The terms of log w, site by site, each of shape (K, B), in nats.

    Attributes:
        likelihood: log p(x | z) of each observed site.
        prior: log p(z) of each latent site of the model.
        guide: log q(z | x) of each site of the guide.
        log_q: log q(z | x), the sum over the guide's sites without the weight of ``KLWeight``, shape (K, B).
        guide_sites: the guide's sites: the distributions and values behind the terms.
        model_sites: the model's sites.
        inner_plates: number of batch dimensions inside the data plate.
    """

    likelihood: dict[str, Tensor]
    prior: dict[str, Tensor]
    guide: dict[str, Tensor]
    log_q: Tensor
    guide_sites: dict[str, Site]
    model_sites: dict[str, Site]
    inner_plates: int

    @property
    def kl_weight(self) -> float | Tensor:
        """Return the weight that ``KLWeight`` gave the latent sites, 1 without one."""
        return next((site.get("kl_weight", 1.0) for site in self.guide_sites.values()), 1.0)

    @property
    def log_likelihood(self) -> Tensor:
        """Log p(x | z), the sum over observed sites, shape (K, B)."""
        return sum_terms(self.likelihood)

    @property
    def log_prior(self) -> Tensor:
        """Log p(z), the sum over the model's latent sites, shape (K, B)."""
        return sum_terms(self.prior)

    @property
    def log_p(self) -> Tensor:
        """Log joint density log p(x, z), shape (K, B)."""
        return sum_terms(self.likelihood | self.prior)

    @property
    def kl_divisor(self) -> float | Tensor:
        """Return what a term is divided by to undo ``kl_weight``: the weight, 1 where it is 0; no value is read."""
        weight = self.kl_weight
        return weight + (weight == 0)

    @property
    def log_w(self) -> Tensor:
        """Log importance weights, the sum of the terms, shape (K, B)."""
        return self.log_p - (sum_terms(self.guide) if self.guide else 0)


def sum_terms(terms: dict[str, Tensor]) -> Tensor:
    """Return the sum over sites, at least one, of terms of one shape."""
    return torch.stack(list(terms.values())).sum(0)


def refuse_auxiliary(terms: WeightTerms) -> None:
    """Refuse sites of the guide that the model has not: a sum over the model's sites would leave their density out."""
    extra = set(terms.guide) - set(terms.prior)
    if extra:
        raise ValueError(f"Expected the guide to have the model's latent sites alone; got {sorted(extra)} too.")


def _terms(traces: tuple[Trace, Trace], num_data: int) -> WeightTerms:
    """Return the terms of a pair of (model, guide) traces, checked to be one for each datum."""
    depth = check_structure(*traces, num_data)

    def per_datum(sites: dict[str, Site]) -> dict[str, Tensor]:
        return {name: _per_datum(site, depth, num_data) for name, site in sites.items()}

    def weighted(sums: dict[str, Tensor], sites: dict[str, Site]) -> dict[str, Tensor]:
        return {name: term * sites[name].get("kl_weight", 1.0) for name, term in sums.items()}

    sites, guide_sites = (sample_sites(trace) for trace in traces)
    guide_sites = {name: _masked_as(site, sites.get(name)) for name, site in guide_sites.items()}
    observed = {name: site for name, site in sites.items() if site["is_observed"]}
    latent = {name: site for name, site in sites.items() if not site["is_observed"]}
    of_model, guide = per_datum(sites), per_datum(guide_sites)
    nothing = next(iter((of_model | guide).values())).new_zeros(())  # where there is no latent site
    return WeightTerms(
        likelihood=weighted({name: of_model[name] for name in observed}, sites),
        prior=weighted({name: of_model[name] for name in latent}, sites),
        guide=weighted(guide, guide_sites),
        log_q=sum(guide.values(), nothing),
        guide_sites=guide_sites,
        model_sites=sites,
        inner_plates=max(depth - 1, 0),
    )


def _masked_as(site: Site, in_model: Site | None) -> Site:
    """Return a guide's site with the mask that the model's has: a latent that it leaves out is none, and has no weight.

    So it is with ``obs_mask``, whose latent ``NAME_unobserved`` the model masks where there is an observation.
    """
    if in_model is None or in_model["is_observed"] or in_model["mask"] is None or site["mask"] is not None:
        return site
    return {**site, "mask": in_model["mask"]}


def _per_datum(site: Site, depth: int, num_data: int) -> Tensor:
    """Sum a site's unscaled log_prob over all plates inside the data plate: (K, B)."""
    log_prob = scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])
    if depth == 0:  # all data are one datum
        return log_prob.sum(dtype=torch.float64).to(log_prob.dtype).reshape(1, 1)
    particles = log_prob.shape[0] if log_prob.ndim > depth else 1
    return log_prob.reshape(particles, num_data, -1).sum(-1)


def _one_by_one(run: Callable[[], WeightTerms], num_particles: int, tracer: Tracer) -> WeightTerms:
    """Return the terms of particles each of which is a run; where all data are one datum, of runs at once if can be."""
    first = run()
    particles = particles_of(first.model_sites)
    if particles is None:
        return _stack([first, *(run() for _ in range(num_particles - 1))])

    def drawn() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        terms = run()
        values = {name: site["value"] for name, site in terms.guide_sites.items()}
        results = {f"{part} {n}": v for part in _PARTS for n, v in getattr(terms, part).items()}
        return values, results | {"log_q": terms.log_q}

    name = getattr(tracer, "__qualname__", repr(tracer)), *first.guide
    found = particles.draw(name, drawn, num_particles, first.log_q.device, numbers_in(first.model_sites))
    parts: dict[str, Any] = {part: {n: found[f"{part} {n}"][:, 0] for n in getattr(first, part)} for part in _PARTS}
    return replace(first, **parts, log_q=found["log_q"].reshape(num_particles, -1))


_PARTS = ("likelihood", "prior", "guide")


def _stack(singles: list[WeightTerms]) -> WeightTerms:
    """Join particles that were run one by one."""

    def join(name: str) -> dict[str, Tensor]:
        return {
            site: torch.cat([getattr(single, name)[site] for single in singles]) for site in getattr(singles[0], name)
        }

    last, log_q = singles[-1], torch.cat([single.log_q for single in singles])
    return replace(last, likelihood=join("likelihood"), prior=join("prior"), guide=join("guide"), log_q=log_q)


class KLWeight(Messenger):
    """Handler that weights log p(z) - log q(z|x) by beta at every latent site of a model or guide.

    Pyro's own objectives see it as the site's scale; ``log_weights`` ignores scales and reads it by name.

    Args:
        beta: the weight, 1 for the plain bound.
    """

    def __init__(self, beta: float | Tensor = 1.0) -> None:
        super().__init__()
        self.beta = beta

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not site_is_subsample(msg):
            msg["scale"] = msg["scale"] * self.beta
            msg["kl_weight"] = msg.get("kl_weight", 1.0) * self.beta
