"""Which latent dimensions a guide uses: active units, KL by dimension, posterior collapse."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Categorical, Independent

from pyro_vae.inference.programs.call import Data, Program, as_args, check_data
from pyro_vae.inference.programs.latents import (
    in_one_order,
    kl_by_dimension,
    latent_values,
    listed,
    refuse_masked,
    refuse_point_mass,
    unit_labels,
)
from pyro_vae.inference.programs.loop import evaluation_on_device, terms_by_batch
from pyro_vae.inference.programs.sites import Site, event_dim
from pyro_vae.inference.programs.standard_errors import check_two, mean_and_variance, monte_carlo_error, standard_error
from pyro_vae.inference.programs.weights import WeightTerms

COLLAPSED = 0.01
"""Nats below which a latent dimension counts as unused.

By Pinsker's inequality q(z_j | x) and p(z_j) then differ by at most sqrt(0.01 / 2) = 0.07 in total variation.
"""


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
        ValueError: for fewer than 2 data or particles, masked latents, or programs that ``log_weights`` refuses.

    Source: Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, section 5.
    """
    check_data(model, x)
    check_two(num_particles, "num_particles")
    check_two(len(as_args(x)[0]), "the number of data")
    moments: dict[str, list[Tensor]] = {}
    with evaluation_on_device(model, guide, x, seed, device) as args:
        for _, chunks in terms_by_batch(model, guide, args, num_particles, chunk_size, "active units", progress):
            units = [_unit_means(terms) for terms in chunks]
            for name in units[0]:
                mean, variance = mean_and_variance(torch.cat([unit[name] for unit in units]))
                moments.setdefault(name, []).append(torch.stack([mean, variance / num_particles]))
    sites = {name: torch.cat(parts, 1) for name, parts in moments.items()}
    spread = [_spread(*both) for both in sites.values()]
    variance, std_error = (torch.cat([part[i] for part in spread]) for i in (0, 1))
    labels = [label for name, both in sites.items() for label in unit_labels(name, both.shape[2:-1])]
    return ActiveUnits(variance, std_error, tuple(labels), threshold)


def _spread(mean: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return the variance over data of each unit of a site, and its standard error, each flat.

    Args:
        mean: E[z|x], shape (N, *unit, C), whose C components are summed.
        noise: the Monte Carlo variance of each, the same shape.
    """
    square = (mean - mean.mean(0)).square().sum(-1).reshape(len(mean), -1)
    variance = square.sum(0) / (len(mean) - 1) - noise.mean(0).sum(-1).flatten()
    return variance.clamp(min=0), standard_error(square)


def _unit_means(terms: WeightTerms) -> dict[str, Tensor]:
    """Return {site: E[z | x, earlier sites], shape (K, B, *unit, C)}; C = 1 but for a Categorical."""
    refuse_masked(terms, "its mean moves with the data that have it, and with no others")
    return {name: _mean(terms.guide_sites[name], value, terms) for name, value in latent_values(terms).items()}


def _mean(site: Site, value: Tensor, terms: WeightTerms) -> Tensor:
    fn = site["fn"]
    base = fn.base_dist if isinstance(fn, Independent) else fn
    if isinstance(base, Categorical):
        return terms.by_datum(base.probs, fn.event_dim + 1)
    try:
        mean = terms.by_datum(fn.mean, fn.event_dim)
    except (NotImplementedError, AttributeError):  # a flow
        mean = value
    return mean.expand_as(value)[..., None]


@dataclass(frozen=True)
class LatentKL:
    """E_x[KL(q(z_j | x) || p(z_j))] of each latent dimension, in nats per datum.

    Attributes:
        kl: the mean over data, shape (G,).
        std_error: its standard error over data and Monte Carlo, shape (G,).
        mc_error: the Monte Carlo part alone, shape (G,); 0 where the KL has a closed form.
        labels: the G groups: "z[0]", ... for a site whose guide and prior factorise over dimensions, "z" for a
            site that is one group, "z1, z2" for sites that are one together.
        whole: labels of the groups that could not be taken dimension by dimension.
    """

    kl: Tensor
    std_error: Tensor
    mc_error: Tensor
    labels: tuple[str, ...]
    whole: tuple[str, ...]

    @property
    def total(self) -> float:
        """The rate E_x[KL(q(z|x) || p(z))], the sum over groups."""
        return self.kl.sum().item()

    @property
    def collapsed(self) -> tuple[str, ...]:
        """Labels of the groups whose KL is below 0.01 nats with two standard errors to spare.

        Since a KL is never negative, less than a share c of the data then have more than 0.01 / c nats there.
        """
        below = (self.kl + 2 * self.std_error < COLLAPSED).tolist()
        return tuple(label for label, small in zip(self.labels, below, strict=True) if small)

    @property
    def warning(self) -> str:
        """What to know about posterior collapse, "" if there is none."""
        if not self.collapsed:
            return ""
        return (
            f"Posterior collapse: q(z|x) is the prior in {len(self.collapsed)} of {len(self.labels)} latent "
            f"dimensions ({listed(list(self.collapsed))})."
        )

    def __str__(self) -> str:
        """Return the result in one line."""
        named = f" ({listed(list(self.collapsed))})" if self.collapsed else ""
        whole = f"; not by dimension: {listed(list(self.whole))}" if self.whole else ""
        return f"KL = {self.total:.2f} nats, {len(self.collapsed)} of {len(self.labels)} collapsed{named}{whole}"


def kl_per_dimension(
    model: Program,
    guide: Program,
    x: Data,
    *,
    num_particles: int = 16,
    chunk_size: int = 10_000,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> LatentKL:
    """Return the KL term of each latent dimension.

        KL_j = E_x[KL(q(z_j | x) || p(z_j))] = E_x E_q[log q(z_j | x) - log p(z_j)]

    In closed form where torch has one for the marginals, else the mean over particles. A site whose guide or prior
    does not factorise over dimensions, or is masked, has one KL for all of them; so have all sites together where
    the guide has auxiliary sites, as Pyro's AutoGuides. Where a site depends on earlier ones, its KL is the mean
    over draws of those.

    Args:
        model: Pyro program for p(x, z) with all sites in a data plate.
        guide: Pyro program for q(z | x).
        x: data, shape (N, *event), or a tuple of tensors.
        num_particles: K >= 2.
        chunk_size: largest number of (particle, datum) pairs in memory at once.
        seed: seed of the draws; the global generator is left as it was.
        device: "auto" (a GPU where there is one), or a torch device.
        progress: show a progress bar, where there is a terminal to show it.

    Raises:
        ValueError: for K < 2, programs without latents, or programs that ``log_weights`` refuses.

    Source: Kingma and Welling (2014), appendix B, for normal guides and priors.
    """
    check_data(model, x)
    check_two(num_particles, "num_particles")
    parts: list[tuple[Tensor, Tensor]] = []
    labels: dict[str, bool] = {}
    with evaluation_on_device(model, guide, x, seed, device) as args:
        for _, chunks in terms_by_batch(model, guide, args, num_particles, chunk_size, "KL", progress):
            groups = [kl_groups(terms) for terms in chunks]
            labels = groups[0][1]
            parts.append(mean_and_variance(torch.cat([values for values, _ in groups])))
    mean, variance = (torch.cat(both) for both in zip(*parts, strict=True))
    mc_error = monte_carlo_error(variance, num_particles)
    whole = tuple(label for label, is_whole in labels.items() if is_whole)
    return LatentKL(mean.mean(0), standard_error(mean), mc_error, tuple(labels), whole)


def kl_groups(terms: WeightTerms) -> tuple[Tensor, dict[str, bool]]:
    """Return log q - log p of each group, or its closed mean, shape (K, B, G), and {label: whether a whole site}."""
    refuse_point_mass(terms)
    values = latent_values(terms)
    if set(terms.guide) != set(terms.prior):
        total = terms.log_q - terms.log_prior
        return total[..., None], {", ".join(terms.prior): True}
    parts: list[Tensor] = []
    labels: dict[str, bool] = {}
    for name, value in values.items():
        site, prior = terms.guide_sites[name], terms.model_sites[name]
        try:
            kl = kl_by_dimension(site, prior, closed=in_one_order(terms))
        except ValueError:  # guide or prior does not factorise, or is masked
            parts.append((terms.guide[name] - terms.prior[name])[..., None])
            labels[name] = True
        else:
            kl = terms.by_datum(kl, event_dim(site))
            parts.append(kl.expand(value.shape).reshape(*value.shape[:2], -1))
            labels |= dict.fromkeys(unit_labels(name, value.shape[2:]), False)
    return torch.cat(parts, -1), labels
