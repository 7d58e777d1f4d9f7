"""Which latent dimensions a guide uses: the number of active units."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Categorical, Independent

from pyro_vae.inference.programs.call import Data, Program, as_args, check_data
from pyro_vae.inference.programs.loop import (
    batches,
    check_two,
    evaluating,
    latent_values,
    listed,
    particle_terms,
    plan_for,
    standard_error,
    unit_labels,
    with_particles,
)
from pyro_vae.inference.programs.structure import Site
from pyro_vae.inference.programs.weights import WeightTerms


@dataclass(frozen=True)
class ActiveUnits:
    """How much the guide's mean of each latent dimension moves with the data.

    Attributes:
        variance: Var_x(E_q[z_j | x]), shape (D,), in units of z_j squared.
        std_error: its standard error over data, shape (D,).
        labels: the D dimensions, "z[0]", "z[1]", ...
        threshold: above it a dimension counts as active.
    """

    variance: Tensor
    std_error: Tensor
    labels: tuple[str, ...]
    threshold: float

    @property
    def active(self) -> Tensor:
        """Which dimensions are active, shape (D,), boolean."""
        return self.variance > self.threshold

    @property
    def count(self) -> int:
        """Number of active units."""
        return int(self.active.sum())

    def __str__(self) -> str:
        """Return the result in one line."""
        idle = [label for label, active in zip(self.labels, self.active.tolist(), strict=True) if not active]
        unused = f"; unused: {listed(idle)}" if idle else ""
        return f"{self.count} of {len(self.labels)} units active (Var E[z|x] > {self.threshold:g}){unused}"


def active_units(
    model: Program,
    guide: Program,
    x: Data,
    *,
    threshold: float = 0.01,
    num_particles: int = 16,
    chunk_size: int = 10_000,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> ActiveUnits:
    """Count the latent dimensions whose mean under the guide depends on the data.

        A_j = Var_x(E_q[z_j | x]),   dimension j is active if A_j > threshold

    The mean given x is the distribution's own where it has one, else that of the draws. Where it is an average over
    particles (for a guide with several sites, or a flow), the variance that averaging adds to A_j, the mean over
    data of s_n^2 / K, is taken off: without that, a small K would make unused dimensions seem to move. A Categorical
    site is one unit, its one-hot vector, whose variances are summed.

    Args:
        model: Pyro program for p(x, z), whose latent sites are those that count.
        guide: Pyro program for q(z | x).
        x: data, shape (N, *event) with N >= 2, or a tuple of tensors.
        threshold: the value of A_j above which a unit is active; 0.01 suits a prior of unit variance.
        num_particles: K >= 2.
        chunk_size: largest number of (particle, datum) pairs in memory at once.
        seed: seed of the draws; the global generator is left as it was.
        device: "auto" (a GPU where there is one), or a torch device.
        progress: show a progress bar, where there is a terminal to show it.

    Raises:
        ValueError: for fewer than 2 data or particles, or programs that ``log_weights`` refuses.

    Source: Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, section 5.
    """
    check_data(model, x)
    check_two(num_particles, "num_particles")
    check_two(len(as_args(x)[0]), "the number of data")
    moments: dict[str, list[Tensor]] = {}
    with evaluating(model, guide, x, seed, device) as args:
        plan = plan_for(model, guide, args)
        for batch in batches(args, num_particles, chunk_size, "active units", progress):
            chunks = [_unit_means(t) for t in particle_terms(model, guide, batch, num_particles, chunk_size, plan)]
            for name in chunks[0]:
                means = torch.cat([chunk[name] for chunk in chunks]).double().cpu()
                moments.setdefault(name, []).append(torch.stack([means.mean(0), means.var(0) / num_particles]))
    units = {name: torch.cat(parts, 1) for name, parts in moments.items()}
    spread = [_spread(*both) for both in units.values()]
    variance, std_error = (torch.cat([part[i] for part in spread]) for i in (0, 1))
    labels = [label for name, both in units.items() for label in unit_labels(name, both.shape[2:-1])]
    return ActiveUnits(variance, std_error, tuple(labels), threshold)


def _spread(mean: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return the variance over data of each unit of a site, and its standard error, each flat.

    Args:
        mean: E[z|x], shape (N, *unit, C), whose C components are summed.
        noise: the Monte Carlo variance of each, likewise.
    """
    square = (mean - mean.mean(0)).square().sum(-1).reshape(len(mean), -1)
    variance = square.sum(0) / (len(mean) - 1) - noise.mean(0).sum(-1).flatten()
    return variance.clamp(min=0), standard_error(square)


def _unit_means(terms: WeightTerms) -> dict[str, Tensor]:
    """Return {site: E[z | x, earlier sites], shape (K, B, *unit, C)}; C = 1 but for a Categorical."""
    return {name: _mean(terms.guide_sites[name], value, terms) for name, value in latent_values(terms).items()}


def _mean(site: Site, value: Tensor, terms: WeightTerms) -> Tensor:
    fn = site["fn"]
    base = fn.base_dist if isinstance(fn, Independent) else fn
    if isinstance(base, Categorical):
        return with_particles(base.probs, value.ndim + 1)
    try:
        mean = fn.mean
    except (NotImplementedError, AttributeError):  # a flow
        mean = value
    return with_particles(mean, value.ndim).expand_as(value)[..., None]
