"""A program's latents as one vector of real numbers for each particle and datum."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import ImproperUniform, Independent, MaskedDistribution
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions.transforms import Transform

from pyro_vae.core.checks import check_positive_int
from pyro_vae.inference.programs.again import RandomState, Replay
from pyro_vae.inference.programs.call import Args, Program, rows, unvalidated
from pyro_vae.inference.programs.joint import numbers_in, particles_of
from pyro_vae.inference.programs.latents import Given, refusing_unscorable
from pyro_vae.inference.programs.particles import Particles
from pyro_vae.inference.programs.plates import Plates
from pyro_vae.inference.programs.sites import (
    distribution_mask,
    distribution_name,
    event_dim,
    is_delta,
    map_from_reals,
    sample_sites,
    support_of,
)
from pyro_vae.inference.programs.summed import is_to_be_summed, run_model
from pyro_vae.inference.programs.trial import trial
from pyro_vae.inference.programs.vectorize import Prior, find_plates, latents_of, scored, trace_pair
from pyro_vae.inference.programs.weights import Tracer, WeightTerms, weight_terms


class SetUnconstrained(Messenger):
    """Handler that gives every latent site the value z = T(u) and collects log |dz/du|.

    T is the map from the reals to the site's support as the program has it there, so that a support may depend on
    other sites. Where T(u) leaves the support in floating point, by overflow or NaN, z = T(0) and NaN are given.

    Args:
        vectors: {site: u}.
    """

    def __init__(self, vectors: dict[str, Tensor]) -> None:
        super().__init__()
        self.vectors = vectors
        self.log_jacobians: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if not _is_latent(msg) or (is_to_be_summed(msg) and msg["name"] not in self.vectors):
            return
        support = support_of(msg["fn"])
        transform, u = map_from_reals(support), self.vectors[msg["name"]]
        value, log_jacobian = _constrain(transform, support, u)
        if log_jacobian.ndim > u.ndim - transform.domain.event_dim:
            raise ValueError(
                f"The support of latent site {msg['name']!r} depends on a discrete latent that is summed out, so that "
                'there is no one map to it from the reals. Score it with method="iw".'
            )
        msg["value"], msg["done"] = value, True
        self.log_jacobians[msg["name"]] = scale_and_mask(log_jacobian, mask=msg["mask"])


def _constrain(transform: Transform, support: Any, u: Tensor) -> tuple[Tensor, Tensor]:
    """Return T(u) and log |dT/du|: T(0) and NaN where T(u) has left the support by overflow or NaN."""
    value = transform(u)
    inside = support.check(value)
    log_jacobian = transform.log_abs_det_jacobian(u, value).where(inside, torch.nan)
    inside = inside.reshape((*inside.shape, *[1] * (value.ndim - inside.ndim)))
    return value.where(inside, transform(torch.zeros_like(u))), log_jacobian


class RequireContinuous(Messenger):
    """Handler that refuses, by name and before it is drawn, a latent site that cannot be moved along the reals.

    Raises:
        ValueError: for discrete, improper and point-mass sites, supports without a map from the reals, and the
            auxiliary sites of a guide.
    """

    def _pyro_sample(self, msg: Any) -> None:
        if _is_latent(msg) and not is_to_be_summed(msg):
            _check_site(msg)


def _check_site(site: Any) -> None:
    name, fn = site["name"], site["fn"]
    kind = distribution_name(fn)
    if site["infer"].get("is_auxiliary"):
        raise ValueError(
            f"Guide site {name!r} is auxiliary, as in Pyro's AutoGuides, and the annealing path cannot start there. "
            'Start from the prior: start="prior".'
        )
    if is_delta(site):
        raise ValueError(
            f"Latent site {name!r} is a point mass, which has no density. Make it a pyro.deterministic "
            "site if the model has it; use a guide that has a spread if the guide does."
        )
    if isinstance(fn, ImproperUniform) or _has_no_density(site):
        raise ValueError(
            f"Latent site {name!r} is improper ({kind}): it has no p(z) to draw from, and the model no p(x). Use a "
            "proper prior."
        )
    support = _known_support(site)
    if fn.has_enumerate_support or getattr(support, "is_discrete", False):
        raise ValueError(
            f"Latent site {name!r} is discrete ({kind}): only continuous ones are annealed or approximated at a mode. "
            'Score it with method="iw", or sum the site out of the model, as a mixture.'
        )
    try:
        map_from_reals(support)
    except NotImplementedError as error:
        raise ValueError(
            f"Latent site {name!r} ({kind}) has a support without a map from the reals: {support}. Score it with "
            'method="iw".'
        ) from error


def _known_support(site: Any) -> Any:
    try:
        return support_of(site["fn"])
    except NotImplementedError as error:
        raise ValueError(
            f"Latent site {site['name']!r} ({type(site['fn']).__name__}) declares no support, so that there is no map "
            'to it from the reals. Give its distribution one, or score it with method="iw".'
        ) from error


class _Unmasked(Messenger):
    """Handler that scores latents which the model masks, as beyond the end of a shorter sequence, by their prior.

    It integrates to 1, so that p(x) is what it was, while p(x, u) without it would have no integral over them.
    """

    def _pyro_sample(self, msg: Any) -> None:
        if _is_latent(msg) and not _has_no_density(msg):
            msg["mask"], msg["fn"] = None, _unmasked(msg["fn"])


def _has_no_density(site: Any) -> bool:
    """Say whether a latent is masked out whole, by ``False``: so a flat prior is written."""
    return site["mask"] is False or distribution_mask(site["fn"]) is False


def _unmasked(fn: Any) -> Any:
    """Return a distribution without the mask that it holds, at any depth."""
    if isinstance(fn, MaskedDistribution):
        return _unmasked(fn.base_dist).expand(fn.batch_shape)
    if isinstance(fn, Independent):
        base = _unmasked(fn.base_dist)
        return fn if base is fn.base_dist else base.to_event(fn.reinterpreted_batch_ndims)
    return fn


def _is_latent(msg: Any) -> bool:
    return not (msg["is_observed"] or site_is_subsample(msg))


@dataclass(frozen=True)
class LogDensities:
    """Log densities of the unconstrained latents, in nats, each of shape (K, B).

    Attributes:
        prior: log p(z) + log |dz/du|.
        likelihood: log p(x|z).
        guide: log q(z|x) + log |dz/du|; equal to ``prior`` where there is no guide.
    """

    prior: Tensor
    likelihood: Tensor
    guide: Tensor

    @property
    def joint(self) -> Tensor:
        """Log p(x, z) + log |dz/du|."""
        return self.prior + self.likelihood


class Unconstrained:
    """A pair of programs as functions of u, one vector of D real numbers for each particle and datum.

        z = T(u),   T = map_from_reals(support of z under the model),   D = all latent numbers of one datum

    Latent sites are laid side by side in the order of the model, those in inner plates flattened. Making one
    draws K particles and so finds out the layout.

    Args:
        model: Pyro program for p(x, z).
        guide: Pyro program for q(z | x), or None to draw z from the prior and never run a guide; masked latents then
            have their prior's density too.
        args: their arguments, B data, tensors of shape (B, *event).
        num_particles: K.
        plates: how the programs' plates lie, and how particles run; found out if None, see ``find_plates``.
        draws_only: ask nothing of the guide but draws, so that it may have auxiliary sites, as Pyro's AutoGuides.

    Attributes:
        start: u of K draws from the guide, or from the prior without one, shape (K, B, D); 0 where ``lost``.
        lost: draws of the guide to which the prior gives no density, shape (K, B).

    Raises:
        ValueError: if a latent site is discrete, a point mass or improper, has a support without a map from the
            reals, or depends on auxiliary sites of the guide, and for programs that ``log_weights`` refuses.
    """

    def __init__(
        self,
        model: Program,
        guide: Program | None,
        args: Args,
        num_particles: int,
        *,
        plates: Plates | None = None,
        draws_only: bool = False,
    ) -> None:
        check_positive_int(num_particles, "num_particles")
        self.prior_only = guide is None or isinstance(guide, Prior)
        self.model: Program = _Unmasked()(model) if self.prior_only else model
        self.args = args
        self.guide: Program = Prior(self.model) if guide is None or self.prior_only else guide
        self.particles, self._size = self._check_continuous(draws_only)
        self.plates = find_plates(self.model, self.guide, args) if plates is None else plates
        self.num_particles = num_particles if self.particles is None else 1
        recorder = _Recorder()
        with torch.no_grad(), unvalidated():
            self._terms(recorder)
        first = self._vectors(recorder.model_traces[0])
        if not first:
            raise ValueError('Expected a model with latent sites; there is none. Score it with method="iw".')
        self.shapes = {name: value.shape[2:] for name, value in first.items()}
        start = torch.cat([self._flat(self._vectors(trace)) for trace in recorder.model_traces])
        if self.particles is not None and num_particles > 1:
            self.num_particles, start = num_particles, self._drawn(self.particles, num_particles)
        self.lost = ~start.isfinite().all(-1)
        self.start = start.where(~self.lost[..., None], 0.0)
        self._guide_trace: Trace | None = recorder.guide_trace

    @property
    def how(self) -> Plates:
        """How the programs' plates lie in a run."""
        return self.plates if self.num_particles > 1 else self.plates.single

    @property
    def one_by_one(self) -> bool:
        """Whether particles run one by one, or there is a single one."""
        return not self.how.together

    @property
    def dim(self) -> int:
        """D, the number of real numbers of one particle and datum."""
        return self.start.shape[-1]

    def __call__(self, u: Tensor) -> LogDensities:
        """Return the log densities at u, shape (K, B, D); NaN where T(u) is outside the support in floating point.

        Whatever u is, no error is raised; gradients flow to it.
        """
        if self.particles is not None and len(u) > 1:
            return LogDensities(**self.particles.evaluate(("at", self.prior_only), self._at_one, u))
        replay = _Replay(self, u)
        with unvalidated():
            terms = self._terms(replay)
        log_jacobian = torch.cat(replay.log_jacobians)
        prior = terms.log_prior + log_jacobian
        return LogDensities(
            prior=prior,
            likelihood=terms.log_likelihood,
            guide=prior if self.prior_only else terms.log_q + log_jacobian,
        )

    def _at_one(self, u: Tensor) -> dict[str, Tensor]:
        """Return the log densities of one particle of all data, u of shape (1, D); each of shape (1,)."""
        one = copy(self)
        one.num_particles = 1
        log = one(u[None])
        return {name: getattr(log, name)[0] for name in ("prior", "likelihood", "guide")}

    def _drawn(self, particles: Particles, number: int) -> Tensor:
        """Return u of K draws where all data are one datum, shape (K, 1, D)."""

        def draw() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
            guide_trace = poutine.trace(self.guide).get_trace(*self.args)
            model_trace = run_model(Replay(guide_trace)(self.model), self.args, guide_trace.nodes)
            sites = sample_sites(poutine.util.prune_subsample_sites(guide_trace))
            drawn = {name: site["value"] for name, site in sites.items()}
            return drawn, {"u": self._flat(self._vectors(model_trace))[0]}

        with unvalidated():
            return particles.draw(("start", self.prior_only), draw, number, self.args[0].device, self._size)["u"]

    def with_data(self, args: Args, num_particles: int | None = None) -> Unconstrained:
        """Return the same programs as functions of u at other data of the same event shapes, or other numbers of them.

        What is drawn already, ``start`` and ``lost``, stays that of the data and particles that it was made with.

        Args:
            args: B data.
            num_particles: K of the u to come; as before if None.
        """
        other = copy(self)
        other.args, other._guide_trace = args, None
        other.num_particles = self.num_particles if num_particles is None else num_particles
        return other

    def at(self, index: Tensor) -> Unconstrained:
        """Return the same programs as functions of u at some of the data."""
        if len(index) == len(self.args[0]):
            return self
        return self.with_data(rows(self.args, index))

    @torch.no_grad()
    def inverse(self, latents: dict[str, Tensor]) -> Tensor:
        """Return u of given latents {site: z, shape (B, ...)}, as ``simulate`` returns them; shape (B, D)."""
        at = Given({name: latents[name][None] for name in self.shapes}, self.plates.single)
        trace = run_model(at(self.model), self.args, self.shapes)
        return self._flat(self._vectors(trace, self.plates.single))[0]

    def split(self, u: Tensor) -> dict[str, Tensor]:
        """Return {site: its part of u}, for u of shape (K, B, D), as the programs run."""
        parts = zip(self.shapes.items(), u.split([shape.numel() for shape in self.shapes.values()], -1), strict=True)
        return {
            name: self.how.as_run(part.reshape(*u.shape[:2], *shape), len(shape) - self.how.inner)
            for (name, shape), part in parts
        }

    def guide_trace(self, model_trace: Trace, args: Args) -> Trace:
        """Return a scored trace of the guide, run at these arguments, at the latents of a trace of the model.

        Where the guide has one site and was run at these data, it is scored without another run: its distribution can
        depend on no other site.
        """
        latents = {name: site for name, site in sample_sites(model_trace).items() if not site["is_observed"]}
        if self.prior_only:
            return latents_of(model_trace)
        drawn = self._guide_trace
        with refusing_unscorable('Start from the prior: start="prior".'):
            if drawn is None or len(sample_sites(drawn)) > 1:
                return scored(poutine.trace(poutine.replay(self.guide, trace=model_trace)).get_trace(*args))
            return scored(_with_values(drawn, {name: latents[name]["value"] for name in sample_sites(drawn)}))

    def _terms(self, tracer: Tracer) -> WeightTerms:
        return weight_terms(self.model, self.guide, self.args, self.num_particles, plates=self.plates, tracer=tracer)

    def _vectors(self, trace: Trace, how: Plates | None = None) -> dict[str, Tensor]:
        """Return {site: T^-1(z), shape (K, B, *inner plates, *event)} of a trace of the model."""
        how = self.how if how is None else how
        vectors = {}
        for name, site in sample_sites(trace).items():
            if not site["is_observed"]:
                u = map_from_reals(support_of(site["fn"])).inv(site["value"])
                batch = site["value"].ndim - event_dim(site)
                vectors[name] = how.by_datum(u, u.ndim - batch, len(self.args[0]))
        return vectors

    def _flat(self, vectors: dict[str, Tensor]) -> Tensor:
        """Lay {site: u} side by side: (K, B, D)."""
        return torch.cat([value.reshape(*value.shape[:2], -1) for value in vectors.values()], -1)

    @torch.no_grad()
    def _check_continuous(self, draws_only: bool) -> tuple[Particles | None, int]:
        """Run the programs once under a handler that refuses a site before it is drawn; refuse random programs.

        Args:
            draws_only: let the guide's auxiliary sites pass, and what is made of them.

        Returns:
            how their particles run where all data are one datum, else None; and how many numbers one has.
        """
        device = self.args[0].device
        with trial(self.model, self.guide, device):
            drawn = sample_sites(poutine.trace(self.guide).get_trace(*self.args)) if draws_only else {}
            auxiliary = any(site["infer"].get("is_auxiliary") for site in drawn.values())
            guide = Prior(self.model) if auxiliary else self.guide
            with RequireContinuous():
                model_trace, _ = trace_pair(self.model, guide, self.args)
            sites = sample_sites(model_trace)
            for site in sites.values():
                if _is_latent(site):
                    _check_site(site)
            before = RandomState(device)
            run_model(Replay(model_trace)(self.model), self.args, model_trace.nodes)
            if not isinstance(guide, Prior):
                poutine.replay(guide, trace=model_trace)(*self.args)
            if not before.holds():
                raise ValueError(
                    "Model or guide draws random numbers beside its sites, as with dropout, so that its density at "
                    'given latents is another each time. Score it with method="iw".'
                )
        return particles_of(sites), numbers_in(sites)


class _Recorder:
    """Tracer for ``weight_terms`` that keeps the traces of every run."""

    def __init__(self) -> None:
        self.model_traces: list[Trace] = []

    def __call__(self, model: Program, guide: Program, args: Args) -> tuple[Trace, Trace]:
        model_trace, self.guide_trace = trace_pair(model, guide, args)
        self.model_traces.append(model_trace)
        return model_trace, self.guide_trace


class _Replay:
    """Tracer for ``weight_terms`` that runs the model at given unconstrained latents."""

    def __init__(self, space: Unconstrained, u: Tensor) -> None:
        self.space = space
        self.rest = iter(u.split(1) if space.one_by_one else [u])
        self.log_jacobians: list[Tensor] = []

    def __call__(self, model: Program, guide: Program, args: Args) -> tuple[Trace, Trace]:
        u = next(self.rest)
        at = SetUnconstrained(self.space.split(u))
        model_trace = run_model(at(model), args, self.space.shapes)
        terms = [self.space.how.by_datum(term, 0, u.shape[1]) for term in at.log_jacobians.values()]
        self.log_jacobians.append(torch.stack([term.reshape(*u.shape[:2], -1).sum(-1) for term in terms]).sum(0))
        return model_trace, self.space.guide_trace(model_trace, args)


def _with_values(trace: Trace, values: dict[str, Tensor]) -> Trace:
    """Return a copy of a trace with other values at some sites, not scored yet."""
    copy = trace.copy()
    for name, value in values.items():
        node = {key: entry for key, entry in copy.nodes[name].items() if "log_prob" not in key}
        copy.nodes[name] = {**node, "value": value}
    return copy
