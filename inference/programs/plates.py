"""Which plate holds the data, where it lies among the batch dimensions, and how tensors of a run are read by datum."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pyro.poutine.indep_messenger import CondIndepStackFrame
from torch import Tensor

from pyro_vae.inference.programs.joint import particles_of
from pyro_vae.inference.programs.sites import Site

SHARED = (
    "Of latents that all data share there is one evidence, evidence(..., joint=True), and fit trains them by "
    "pyro.infer.Trace_ELBO(), its default, with batch_size=N."
)
PARTICLES = "_pyro_vae_particles"


class StructureError(ValueError):
    """A program that has no log weight for each datum, on any data."""


class SeveralPlatesError(ValueError):
    """Plates that are as large as the data are many, so that this number of data does not say which is theirs."""


@dataclass(frozen=True)
class Plates:
    """How the batch dimensions of a pair of programs lie, and how particles run beside them.

    Attributes:
        depth: batch dimensions that the programs' own plates use; 0 where all data are one datum, see ``joint``.
        data: d where batch dimension -d is that of the data.
        particles: "plate", in a plate around the programs; "copies", as further data, K copies of each; or
            "one by one".
    """

    depth: int
    data: int
    particles: str = "plate"

    @property
    def together(self) -> bool:
        """Whether all particles run at once."""
        return self.particles != "one by one"

    @property
    def inner(self) -> int:
        """Batch dimensions besides that of the data."""
        return max(self.depth - 1, 0)

    @property
    def tied(self) -> Plates:
        """How particles run where a program has numbers of its own for each datum, so that there are no copies."""
        return self.single if self.particles == "copies" else self

    @property
    def single(self) -> Plates:
        """How the plates lie in a run of a single particle."""
        return replace(self, particles="one by one")

    def by_datum(self, value: Tensor, event_dim: int, num_data: int) -> Tensor:
        """Return a tensor of a run, shape (*batch, *event), as (K, B, *inner plates, *event).

        Args:
            value: a value with an event, or a log_prob without one, of a site in the data plate.
            event_dim: dimensions of the event.
            num_data: B.
        """
        if not self.depth:  # all data are one datum
            return value[None, None]
        missing = self.depth + 1 - (value.ndim - event_dim)
        value = value.reshape(*[1] * missing, *value.shape) if missing else value
        value = value.movedim(-self.data - event_dim, 1) if self.data < self.depth else value
        return value[0].unflatten(0, (-1, num_data)) if self.particles == "copies" else value

    def as_run(self, value: Tensor, event_dim: int) -> Tensor:
        """Return a tensor (K, B, *inner plates, *event), the inverse of ``by_datum``, as a run has it.

        Without the dimension of particles where there is one of them, and without empty dimensions on the left where
        that of the data is not the leftmost.
        """
        if not self.depth:
            return value[0, 0]
        value = value.flatten(0, 1)[None] if self.particles == "copies" else value
        value = value.movedim(1, -self.data - event_dim) if self.data < self.depth else value
        while len(value) == 1 and value.ndim > self.data + event_dim:
            value = value[0]
        return value

    def weighing(self, weights: Tensor, event_dim: int) -> Tensor:
        """Return weights of particles and data, (K, B), in a shape that multiplies values of a run."""
        if not self.depth:
            return weights[0, 0]
        return self.as_run(weights.reshape(*weights.shape, *[1] * (self.inner + event_dim)), event_dim)


ONE_DATUM = Plates(0, 0, "one by one")
"""Of programs whose data are one datum: sites have one log weight over all their plates."""


def plates_of(site: Site) -> dict[int, CondIndepStackFrame]:
    """Return {dim: plate} of the vectorised plates of a site, that of the particles left out."""
    return {frame.dim: frame for frame in site["cond_indep_stack"] if frame.vectorized and frame.name != PARTICLES}


def size_at(site: Site, dim: int) -> int:
    """Return the size of a site's plate, which its log_prob or batch shape says where the plate was given none."""
    size = plates_of(site)[dim].size
    shape = site["log_prob"].shape if "log_prob" in site else site["fn"].batch_shape
    return size if size >= 0 else shape[dim] if len(shape) >= -dim else 1


def find_data_plate(programs: dict[str, dict[str, Site]], num_data: int, known: int | None = None) -> int:
    """Return the dimension of the plate that every site of each program is in, and that holds the data.

    Args:
        programs: {program: {name: site}}.
        num_data: N.
        known: the dimension, where it was found out before.

    Raises:
        ValueError: if a program has a site outside, if the plate has another size, or if several may be meant.
    """
    common = [_common(sites) for sites in programs.values() if sites]
    dims = set.intersection(*(set(plates) for plates in common)) if common else set()
    if not dims:
        raise StructureError(_without_a_plate(programs, num_data))
    some = next(site for sites in programs.values() for site in sites.values())
    fitting = sorted(dim for dim in dims if size_at(some, dim) == num_data)
    if known in fitting:
        return known
    if not fitting:
        raise ValueError(_of_another_size(some, min(dims), num_data))
    if len(fitting) > 1 and num_data > 1:
        names = [plates_of(some)[dim].name for dim in fitting]
        raise SeveralPlatesError(
            f"Cannot tell which of the plates {names} holds the data: each has {num_data} entries. Score another "
            "number of data."
        )
    return fitting[0]


def plates_at(sites: dict[str, Site], num_data: int) -> Plates:
    """Return how the plates of the sites of one model lie.

    Raises:
        ValueError: as ``find_data_plate`` does.
    """
    if particles_of(sites) is not None:
        return ONE_DATUM
    data = find_data_plate({"model": sites}, num_data)
    return Plates(-min(min(plates_of(site)) for site in sites.values()), -data)


def _common(sites: dict[str, Site]) -> dict[int, str]:
    """Return {dim: name} of the plates that all sites of a program are in."""
    named = [{(dim, frame.name) for dim, frame in plates_of(site).items()} for site in sites.values()]
    return dict(set.intersection(*named))


def _of_another_size(site: Site, dim: int, num_data: int) -> str:
    plate = plates_of(site)[dim]
    message = f"Expected plate {plate.name!r} to hold the {num_data} data; its size is {size_at(site, dim)}."
    if plate.full_size in (None, plate.size):
        return message
    return f"{message} It is subsampled, and log p(x) takes all data: score with subsample_size=None."


def _without_a_plate(programs: dict[str, dict[str, Site]], num_data: int) -> str:
    """Say which site is outside the plate that most sites are in."""
    found = [
        (dim, frame.name, size_at(site, dim))
        for sites in programs.values()
        for site in sites.values()
        for dim, frame in plates_of(site).items()
    ]
    if not found:
        return (
            "Expected the data inside a vectorised plate; model and guide have none. "
            'Put every sample site inside `with pyro.plate("data", x.shape[0]):`. ' + SHARED
        )
    sized = [of for of in found if of[2] == num_data] or found
    dim, plate, _ = max(sized, key=sized.count)
    outside = (
        f"site {name!r} of the {program}"
        for program, sites in programs.items()
        for name, site in sites.items()
        if dim not in plates_of(site) or plates_of(site)[dim].name != plate
    )
    return (
        f"Expected {next(outside)} inside the data plate {plate!r} (dim={dim}): outside it, its log weight is shared "
        f"by all data. Put it inside, with the same dim in model and guide, or make it a parameter. {SHARED}"
    )
