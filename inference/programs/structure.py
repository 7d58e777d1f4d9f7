"""What a pair of traces must satisfy for its log weights to be those of single data; refused by name if not."""

from __future__ import annotations

from typing import Any

from pyro.distributions import Unit
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints
from torch.distributions.transforms import IndependentTransform

from pyro_vae.inference.programs.joint import check_joint, particles_of

PARTICLES = "_pyro_vae_particles"
TRAINING_TERM = "_pyro_vae_training_term"
"""In ``infer`` of a guide's factor: meant as a further term of what is maximised in training."""
SHARED = (
    "Of latents that all data share there is one evidence, evidence(..., joint=True), and fit trains them by "
    "pyro.infer.Trace_ELBO(), its default, with batch_size=N."
)
Site = dict[str, Any]


class StructureError(ValueError):
    """A program that has no log weight for each datum, on any data."""


def sample_sites(trace: Trace) -> dict[str, Site]:
    """Return the sites that are scored: those of ``pyro.deterministic`` are not."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site["infer"].get("_deterministic")
    }


def check_structure(model_trace: Trace, guide_trace: Trace, num_data: int) -> int:
    """Check a pair of traces; return d where the data plate is batch dimension -d, 0 where all data are one datum.

    Raises:
        ValueError: if a site is outside the data plate or has no log_prob of its own for each datum, if a plate
            inside the data plate is subsampled, or if the programs disagree on their latent sites.
    """
    sites = {"guide": sample_sites(guide_trace), "model": sample_sites(model_trace)}
    _check_same_latents(sites["model"], sites["guide"])
    if particles_of(sites["model"]) is not None:
        check_joint(sites["model"], sites["guide"])
        return 0
    dim, plate = _outermost_plate(sites)
    for program, named in sites.items():
        for name, site in named.items():
            where = f"site {name!r} of the {program}"
            _check_plates(site, where, dim, plate, num_data)
            _check_value(site, where)
            _check_shape(site, where)
    return -dim


def _plates(site: Site) -> dict[int, Any]:
    return {frame.dim: frame for frame in site["cond_indep_stack"] if frame.vectorized and frame.name != PARTICLES}


def _outermost_plate(sites: dict[str, dict[str, Site]]) -> tuple[int, str]:
    plates = [plate for named in sites.values() for site in named.values() for plate in _plates(site).values()]
    if not plates:
        raise StructureError(
            "Expected the data inside a vectorised plate; model and guide have none. "
            'Put every sample site inside `with pyro.plate("data", x.shape[0]):`. ' + SHARED
        )
    outermost = min(plates, key=lambda plate: plate.dim)
    return outermost.dim, outermost.name


def _check_plates(site: Site, where: str, dim: int, plate: str, num_data: int) -> None:
    plates = _plates(site)
    if dim not in plates or plates[dim].name != plate:
        raise StructureError(
            f"Expected {where} inside the data plate {plate!r}, the outermost one (dim={dim}): outside it, its log "
            "weight is shared by all data. Put it inside, make it a parameter, or give the data plate the leftmost "
            "dim, dim=-2 around an inner plate of dim=-1. " + SHARED
        )
    inner = [p for d, p in plates.items() if d != dim]
    if plates[dim].size != num_data:
        swapped = next((p for p in inner if p.size == num_data), None)
        if swapped is not None:
            raise StructureError(
                f"Expected the data plate outermost; {where} has plate {swapped.name!r} of the {num_data} data inside "
                f"plate {plate!r}. Give the data plate the leftmost dim."
            )
        raise ValueError(
            f"Expected plate {plate!r} at {where} to hold the {num_data} data; its size is {plates[dim].size}."
        )
    for p in inner:
        if p.full_size not in (None, p.size):
            raise StructureError(
                f"Expected {where} to score all of plate {p.name!r}; it is subsampled, {p.size} of {p.full_size}, and "
                "the rest would be missing from log p(x). Only the data plate may be subsampled."
            )


def _check_value(site: Site, where: str) -> None:
    """Refuse an observed value that has another shape than its site: it broadcasts, and data are scored on others."""
    if not site["is_observed"] or isinstance(site["fn"], Unit):  # pyro.factor observes nothing
        return
    event, value = tuple(site["fn"].event_shape), tuple(site["value"].shape)
    own, batch = value[len(value) - len(event) :], value[: len(value) - len(event)]
    plates = {d: plate.size for d, plate in _plates(site).items()}
    found = {d: batch[d] if len(batch) >= -d else None for d in plates}
    if own == event and found == plates:
        return
    expected = tuple(plates.get(d, 1) for d in range(min(plates), 0)) + event
    raise StructureError(
        f"Expected the value observed at {where} of shape {expected}, that of its plates and its event; got {value}. "
        "It would broadcast, and each datum be scored on others too: give obs this shape, as obs=x[:, None] does for "
        "an event of one number, or declare the event with .to_event(n)."
    )


def _check_shape(site: Site, where: str) -> None:
    frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
    sizes = {frame.dim: frame.size for frame in frames}
    expected = tuple(sizes.get(d, 1) for d in range(min(sizes), 0))
    actual = tuple(site["log_prob"].shape)
    if (1,) * (len(expected) - len(actual)) + actual != expected:
        raise StructureError(
            f"Expected log_prob of shape {expected}, that of its plates, at {where}; got {actual}. Dimensions that "
            "belong to one datum are its event: declare them with .to_event(n), and give obs the same shape."
        )


def _check_same_latents(model_sites: dict[str, Site], guide_sites: dict[str, Site]) -> None:
    """Refuse latent sites on which the programs disagree: their weights would be wrong in silence."""
    for name, site in model_sites.items():
        if site["is_observed"]:
            continue
        if name not in guide_sites:
            raise StructureError(
                f"Latent site {name!r} of the model is not in the guide. If it is data, pass obs=x; if not, sample it "
                "in the guide under the same name, or sum it out with pyro.infer.TraceEnum_ELBO if it is discrete."
            )
        shapes = [tuple(s["fn"].event_shape) for s in (site, guide_sites[name])]
        if shapes[0] != shapes[1]:
            raise StructureError(
                f"Expected one event shape at latent site {name!r}; model {shapes[0]}, guide {shapes[1]}."
            )
        check_measure(name, site, guide_sites[name])
        if guide_sites[name]["mask"] is not None and site["mask"] is None:
            raise StructureError(
                f"Latent site {name!r} is masked in the guide and not in the model: its log q(z | x) would be missing. "
                "Mask it in both, or in the model alone."
            )
    for name, site in guide_sites.items():
        if site["is_observed"] and not site["infer"].get(TRAINING_TERM):
            raise StructureError(
                f"Site {name!r} of the guide is scored, as pyro.factor and obs= are, and would count as log q(z | x). "
                f"Take it out of the guide where it is weighed: pyro.poutine.block(guide, hide=[{name!r}])."
            )
    latents = {name: site for name, site in guide_sites.items() if not site["is_observed"]}
    auxiliary = {name for name, site in latents.items() if site["infer"].get("is_auxiliary")}
    if auxiliary:
        _check_auxiliary(model_sites, guide_sites, auxiliary)
    for name, site in latents.items():
        latent = name in model_sites and not model_sites[name]["is_observed"]
        if not latent and name not in auxiliary:
            raise StructureError(
                f"Site {name!r} of the guide is no latent site of the model. Use the same name in both."
            )
        if auxiliary and name not in auxiliary and not is_delta(site):
            raise StructureError(
                f"Expected latent site {name!r} of the guide to be a function of its auxiliary sites, a Delta; it is "
                "random given them, and q(z | x) is then an integral that is not known."
            )


def _check_auxiliary(model_sites: dict[str, Site], guide_sites: dict[str, Site], auxiliary: set[str]) -> None:
    """Refuse auxiliary sites of more or fewer numbers than the latents made of them: no density carries over."""
    latents = [site for site in model_sites.values() if not site["is_observed"]]
    drawn, made = (_numbers(sites) for sites in ([guide_sites[name] for name in auxiliary], latents))
    if drawn is not None and made is not None and drawn != made:
        raise StructureError(
            f"The guide's auxiliary sites {sorted(auxiliary)} have {drawn} numbers in all and the latents made of "
            f"them {made}: a change of variables keeps the dimension, and without it E[w] is not p(x). Sum the "
            "rest out, or sample the latents themselves."
        )


def _numbers(sites: list[Site]) -> int | None:
    """Return in how many dimensions sites have a density, over all plates; None where it is not known."""
    dimensions = [_dimensions(site) for site in sites]
    known = [d for d in dimensions if d is not None]
    if len(known) < len(dimensions):
        return None
    return sum(d * site["log_prob"].numel() for d, site in zip(known, sites, strict=True))


def check_measure(name: str, site: Site, guide_site: Site) -> None:
    """Refuse a latent site where p(z) and q(z|x) are densities by different measures: p / q is then no weight.

    Raises:
        ValueError: if one is discrete and the other continuous, or they have densities in different dimensions.
    """
    p, q = (_dimensions(s) for s in (site, guide_site))
    if p is None or q is None or p == q or is_delta(guide_site):
        return
    raise StructureError(
        f"Latent site {name!r} is {_measure(p, site)} in the model and {_measure(q, guide_site)} in the guide: "
        "their ratio is no importance weight. Choose a guide with the prior's support, or a prior with the guide's."
    )


def _measure(dimensions: int, site: Site) -> str:
    what = f"a density in {dimensions} dimension{'s' * (dimensions > 1)}" if dimensions else "discrete"
    return f"{what} ({distribution_name(site['fn'])})"


def map_from_reals(support: Any) -> Transform:
    """Return the map from the reals to a support, ``biject_to`` of it, and of a mixture that of its components.

    Raises:
        NotImplementedError: if there is none, as for components whose supports have bounds of their own.
    """
    if isinstance(support, constraints.independent):
        return IndependentTransform(map_from_reals(support.base_constraint), support.reinterpreted_batch_ndims)
    if type(support).__name__ != "MixtureSameFamilyConstraint":
        return biject_to(support)
    base = support.base_constraint
    while isinstance(base, constraints.independent):
        base = base.base_constraint
    if any(isinstance(bound, Tensor) for bound in vars(base).values()):
        raise NotImplementedError("components of a mixture with bounds of their own")
    return map_from_reals(support.base_constraint)


def _dimensions(site: Site) -> int | None:
    """Return in how many dimensions a site has a density, 0 if it is discrete, None where it is not known."""
    fn = site["fn"]
    try:
        if fn.support.is_discrete:
            return 0
        return map_from_reals(fn.support).inverse_shape(fn.shape()).numel() // fn.batch_shape.numel()
    except (AttributeError, NotImplementedError, ValueError):
        return None


def distribution_name(fn: Any) -> str:
    """Return the name of a distribution's class, without the wrapping that makes dimensions an event."""
    while type(fn).__name__ in ("Independent", "MaskedDistribution", "ExpandedDistribution"):
        fn = fn.base_dist
    return type(fn).__name__


def is_delta(site: Site) -> bool:
    """Say whether a site is a point mass."""
    fn = site["fn"]
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return type(fn).__name__ == "Delta"
