"""Per-datum log importance weights of any Pyro program: the one quantity that all else is a function of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vae.core.checks import check_positive_int
from pyro_vae.inference.programs.call import Args, Data, Program, as_args, short_errors
from pyro_vae.inference.programs.joint import numbers_in, particles_of
from pyro_vae.inference.programs.plates import Plates, SeveralPlatesError
from pyro_vae.inference.programs.sites import SUMMED, Site, sample_sites
from pyro_vae.inference.programs.structure import check_structure
from pyro_vae.inference.programs.trial import check_store
from pyro_vae.inference.programs.vectorize import find_plates, particles_beside, trace_pair

Tracer = Callable[[Program, Program, Args], tuple[Trace, Trace]]
"""How a pair of programs is run and scored: (model, guide, args) -> their scored traces, the model's first."""


def log_weights(model: Program, guide: Program, x: Data, num_particles: int = 1) -> Tensor:
    """Return the unscaled log importance weights, one for each particle and datum.

        log w[k, n] = log p(x_n, z_kn) - log q(z_kn | x_n),   z_kn ~ q(z | x_n)

    The guide is traced, the model replayed against it, and ``log_prob`` summed over event dimensions and over
    every plate except particles and data: never over data. Scales of plates and of ``poutine.scale`` are left
    out, since a scaled weight is none; masks are kept. Gradients flow to every parameter.

    Args:
        model: Pyro program for p(x, z), called as ``model(x)``; all of its sites are in one vectorised plate, that of
            the data.
        guide: Pyro program for q(z | x), called with the same arguments.
        x: data, shape (B, *event), or a tuple of such tensors.
        num_particles: K.

    Returns:
        log w in nats, shape (K, B).

    Raises:
        ValueError: if a sample site is outside the data plate or crosses it, if model and guide disagree on
            their latent sites, or if K < 1.
    """
    check_store(model, guide)
    return weight_terms(model, guide, x, num_particles).log_w


@short_errors()
def weight_terms(
    model: Program,
    guide: Program,
    x: Data,
    num_particles: int = 1,
    *,
    plates: Plates | None = None,
    tracer: Tracer = trace_pair,
) -> WeightTerms:
    """Return the terms of ``log_weights``, kept apart by site.

    Args:
        model: Pyro program for p(x, z), called as ``model(x)``.
        guide: Pyro program for q(z | x), called with the same arguments.
        x: data, shape (B, *event), or a tuple of such tensors.
        num_particles: K.
        plates: how the programs' plates lie, and how particles run beside them; found out by ``find_plates`` where it
            is None and K > 1, or one run does not say it.
        tracer: how the pair is run and scored; the estimators of a gradient run it in ways of their own.
    """
    check_positive_int(num_particles, "num_particles")
    args = as_args(x, program=model)
    if num_particles == 1:
        return _of_one_particle(model, guide, args, plates, tracer)
    plates = find_plates(model, guide, args) if plates is None else plates
    if not plates.together:
        return _one_by_one(lambda: _terms(tracer(model, guide, args), args, args, plates), num_particles, tracer)
    with particles_beside(plates, num_particles, args) as many:
        return _terms(tracer(model, guide, many), args, many, plates)


def _of_one_particle(model: Program, guide: Program, args: Args, plates: Plates | None, tracer: Tracer) -> WeightTerms:
    traces = tracer(model, guide, args)
    plates = None if plates is None else plates.single
    try:
        return _terms(traces, args, args, plates)
    except SeveralPlatesError:
        return _terms(traces, args, args, find_plates(model, guide, args).single)


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
        plates: how the batch dimensions of the sites lie.
    """

    likelihood: dict[str, Tensor]
    prior: dict[str, Tensor]
    guide: dict[str, Tensor]
    log_q: Tensor
    guide_sites: dict[str, Site]
    model_sites: dict[str, Site]
    plates: Plates

    def by_datum(self, value: Tensor, event_dim: int = 0) -> Tensor:
        """Return a value or log_prob of a site, as the programs ran, as (K, B, *inner plates, *event)."""
        return self.plates.by_datum(value, event_dim, self.log_w.shape[1])

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


def refuse_summed(terms: WeightTerms) -> None:
    """Refuse latents that are summed out, where data are to be drawn: of p(x | z, c) at a c that goes with x and z."""
    summed = [name for name, site in terms.model_sites.items() if site.get(SUMMED)]
    if summed:
        raise ValueError(
            f"Sites {summed} depend on discrete latents that are summed out, which have no draws. Sample these latents "
            "in the guide."
        )


def _terms(traces: tuple[Trace, Trace], args: Args, run: Args, known: Plates | None) -> WeightTerms:
    """Return the terms of a pair of (model, guide) traces of a run, which may be of copies of the data ``args``."""
    plates, num_data = check_structure(*traces, len(run[0]), known), len(args[0])

    def per_datum(sites: dict[str, Site]) -> dict[str, Tensor]:
        return {name: _per_datum(site, plates, num_data) for name, site in sites.items()}

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
        plates=plates,
    )


def _masked_as(site: Site, in_model: Site | None) -> Site:
    """Return a guide's site with the mask that the model's has: a latent that it leaves out is none, and has no weight.

    So it is with ``obs_mask``, whose latent ``NAME_unobserved`` the model masks where there is an observation.
    """
    if in_model is None or in_model["is_observed"] or in_model["mask"] is None:
        return site
    return {**site, "mask": in_model["mask"]}


def _per_datum(site: Site, plates: Plates, num_data: int) -> Tensor:
    """Sum a site's unscaled log_prob over all plates but that of the data: (K, B)."""
    log_prob = scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])
    if not plates.depth:  # all data are one datum
        return log_prob.sum(dtype=torch.float64).to(log_prob.dtype).reshape(1, 1)
    by_datum = plates.by_datum(log_prob, 0, num_data)
    return by_datum.reshape(*by_datum.shape[:2], -1).sum(-1)


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
