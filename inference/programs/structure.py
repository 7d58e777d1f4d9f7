"""What a pair of traces must satisfy for its log weights to be those of single data; refused by name if not."""

from __future__ import annotations

import torch
from pyro.distributions import Unit
from pyro.poutine.trace_struct import Trace

from pyro_vae.inference.programs.joint import check_joint, particles_of
from pyro_vae.inference.programs.plates import ONE_DATUM, Plates, StructureError, find_data_plate, plates_of, size_at
from pyro_vae.inference.programs.sites import (
    SUMMED,
    Site,
    distribution_mask,
    distribution_name,
    is_delta,
    map_from_reals,
    sample_sites,
    shows_all,
    support_of,
)

TRAINING_TERM = "_pyro_vae_training_term"
"""In ``infer`` of a guide's factor: meant as a further term of what is maximised in training."""


def check_structure(model_trace: Trace, guide_trace: Trace, num_data: int, known: Plates | None = None) -> Plates:
    """Check a pair of traces, and return how their plates lie.

    Args:
        model_trace: the model's, scored.
        guide_trace: the guide's, scored.
        num_data: N.
        known: how the plates lie, where it was found out before.

    Raises:
        ValueError: if a site is outside the data plate or has no log_prob of its own for each datum, if a plate
            inside the data plate is subsampled, or if the programs disagree on their latent sites.
    """
    sites = {"guide": sample_sites(guide_trace), "model": sample_sites(model_trace)}
    _check_same_latents(sites["model"], sites["guide"])
    if particles_of(sites["model"]) is not None:
        check_joint(sites["model"], sites["guide"])
        return ONE_DATUM
    data = find_data_plate(sites, num_data, None if known is None else -known.data)
    depth = 0
    for program, named in sites.items():
        for name, site in named.items():
            where = f"site {name!r} of the {program}"
            _check_subsampled(site, where, data)
            check_value(site, where)
            _check_shape(site, where)
            depth = max(depth, -min(plates_of(site)))
    return Plates(depth, -data, "plate" if known is None else known.particles)


def _check_subsampled(site: Site, where: str, data: int) -> None:
    for dim, plate in plates_of(site).items():
        if dim != data and plate.full_size not in (None, plate.size):
            raise StructureError(
                f"Expected {where} to score all of plate {plate.name!r}; it is subsampled, {plate.size} of "
                f"{plate.full_size}, and the rest would be missing from log p(x). Only the data plate may be "
                "subsampled."
            )


def check_value(site: Site, where: str) -> None:
    """Refuse an observed value that has another shape than its site: it broadcasts, and data are scored on others."""
    if not site["is_observed"] or isinstance(site["fn"], Unit) or site.get(SUMMED):  # a factor observes nothing
        return
    event, value = tuple(site["fn"].event_shape), tuple(site["value"].shape)
    own, batch = value[len(value) - len(event) :], value[: len(value) - len(event)]
    plates = {d: size_at(site, d) for d in plates_of(site)}
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
    actual = tuple(site["log_prob"].shape)
    sizes = {f.dim: f.size if f.size >= 0 else size_at(site, f.dim) for f in frames}
    expected = tuple(sizes.get(d, 1) for d in range(min(sizes), 0))
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
                "in the guide under the same name, or, if it is discrete, mark it as one to sum out, as by "
                "pyro.infer.config_enumerate(model)."
            )
        shapes = [tuple(s["fn"].event_shape) for s in (site, guide_sites[name])]
        if shapes[0] != shapes[1]:
            raise StructureError(
                f"Expected one event shape at latent site {name!r}; model {shapes[0]}, guide {shapes[1]}."
            )
        check_measure(name, site, guide_sites[name])
        _check_plates(name, site, guide_sites[name])
        _check_mask_of_distribution(name, site, guide_sites[name])
        if not shows_all(guide_sites[name]["mask"]) and shows_all(site["mask"]):
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


def _check_plates(name: str, site: Site, guide_site: Site) -> None:
    """Refuse a latent in other plates in the guide than in the model: its value would broadcast, and count often."""
    model, guide = (tuple(s["log_prob"].shape) for s in (site, guide_site))
    sized = [{dim: size_at(s, dim) for dim in plates_of(s)} for s in (site, guide_site)]
    if sized[0] != sized[1] and not site.get(SUMMED):
        raise StructureError(
            f"Expected latent site {name!r} in the same plates in model and guide; its log_prob has shape {model} in "
            f"the model and {guide} in the guide. Put it into plates of the same dims and sizes in both."
        )


def _check_mask_of_distribution(name: str, site: Site, guide_site: Site) -> None:
    """Refuse a latent that ``.mask`` of its distribution hides in one program alone: log p or log q would be missing.

    A mask of ``poutine.mask`` in the model alone is carried over to the guide; one within a distribution is not.
    """
    for who, here, other, there in (("model", site, "guide", guide_site), ("guide", guide_site, "model", site)):
        if distribution_mask(here["fn"]) is None or distribution_mask(there["fn"]) is not None:
            continue
        if not shows_all(there["mask"]):
            continue
        raise StructureError(
            f"Latent site {name!r} is masked by .mask(...) of its distribution in the {who} and not in the {other}. "
            "Mask it in both, or use pyro.poutine.mask."
        )


def _check_auxiliary(model_sites: dict[str, Site], guide_sites: dict[str, Site], auxiliary: set[str]) -> None:
    """Refuse auxiliary sites of more or fewer numbers than the latents made of them: no density carries over."""
    latents = [site for site in model_sites.values() if not site["is_observed"]]
    drawn, made = (_numbers(sites) for sites in ([guide_sites[name] for name in auxiliary], latents))
    if drawn is not None and made is not None and drawn != made:
        raise StructureError(
            f"The guide's auxiliary sites {sorted(auxiliary)} have {drawn} numbers in all and the latents made of "
            f"them {made}: a change of variables keeps the dimension, and without it E[w] is not p(x). Sum the "
            "rest out, or sample the latents themselves; a part that is a point mass, as of AutoDelta, has no density."
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


def _dimensions(site: Site) -> int | None:
    """Return in how many dimensions a site has a density, 0 if it is discrete, None where it is not known."""
    fn = site["fn"]
    try:
        support = support_of(fn)
        if support.is_discrete:
            return 0
        shape = torch.Size((*fn.batch_shape, *fn.event_shape))
        return map_from_reals(support).inverse_shape(shape).numel() // fn.batch_shape.numel()
    except (AttributeError, NotImplementedError, ValueError):
        return None
