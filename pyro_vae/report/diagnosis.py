"""What the diagnostics say of a trained model and guide, in lines and as sections of the report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor, nn

from pyro_vae.inference import diagnostics, gaps
from pyro_vae.inference.programs.call import Data, as_args
from pyro_vae.report.figures import (
    coverage_curve,
    ecdf_differences,
    kl_bars,
    rank_histograms,
    replicated_statistics,
)
from pyro_vae.report.page import Drawing, Section, Text

NUM_SIMULATED = 1000
"""Data simulated from the model to judge the guide."""
NUM_SURGERY = 1000
"""Data whose posteriors make up the aggregated one: the cost grows with the square of their number."""
NUM_GAPS = 100
"""Data whose inference gap is decomposed."""
Settings = dict[str, Any]
Statistic = Callable[[Tensor], Tensor]
STATISTICS: dict[str, Statistic] = {
    "mean": lambda x: x.nanmean(),
    "standard deviation": lambda x: x[~x.isnan()].std(),
    "smallest datum sum": lambda x: x.flatten(1).nansum(1).min(),
    "largest datum sum": lambda x: x.flatten(1).nansum(1).max(),
}


@dataclass(frozen=True)
class Finding:
    """One diagnostic's result.

    Attributes:
        title: its heading.
        line: what it found, in one line.
        about: what it is, and how to read its figure.
        figure: its picture, if there is one.
    """

    title: str
    line: str
    about: str
    figure: Figure | None = None

    def as_section(self) -> Section:
        """Return the finding as a section of the report."""
        about = Text(self.about) if self.figure is None else Drawing(self.figure, self.title, self.about)
        return Section(self.title, [Text(self.line), about])


def diagnose(
    model: nn.Module, guide: nn.Module, x: Data, seed: int = 0, device: str = "auto", progress: bool = True
) -> list[Finding]:
    """Run the diagnostics of latents, guide and model; one that does not apply to the programs says why.

    Args:
        model: p(x, z).
        guide: q(z|x).
        x: data, shape (N, *event), or the tuple of tensors that the programs are called with.
        seed: seed of all draws.
        device: "auto" (a GPU where there is one), or a torch device.
        progress: show progress bars.
    """
    findings, settings = [], {"seed": seed, "device": device, "progress": progress}
    for title, check in _CHECKS.items():
        try:
            findings.append(check(title, model, guide, x, settings))
        except (ValueError, RuntimeError) as error:
            findings.append(Finding(title, f"Not available: {error}", ""))
    return findings


def _first(x: Data, num_data: int) -> Data:
    return tuple(arg[:num_data] for arg in x) if isinstance(x, tuple) else x[:num_data]


def _of_data(statistics: dict[str, Statistic]) -> dict[str, Callable[[Data], Tensor]]:
    """Return statistics of the data x, whatever else the programs are called with."""

    def of_data(statistic: Statistic) -> Callable[[Data], Tensor]:
        return lambda x: statistic(as_args(x)[0])

    return {name: of_data(statistic) for name, statistic in statistics.items()}


def _latents(title: str, model: nn.Module, guide: nn.Module, x: Data, settings: Settings) -> Finding:
    kl = diagnostics.kl_per_dimension(model, guide, x, **settings)
    rate = diagnostics.rate_distortion(model, guide, x, **settings)
    line = " ".join([f"{kl}; {rate}.", kl.warning]).strip()
    about = (
        "E[KL(q(z_j|x) || p(z_j))] of each latent dimension with two standard errors: what the code says about x "
        "there. The rate is their sum, the distortion -E[log p(x|z)], and the ELBO is -(rate + distortion)."
    )
    return Finding(title, line, about, kl_bars(kl))


def _surgery(title: str, model: nn.Module, guide: nn.Module, x: Data, settings: Settings) -> Finding:
    carved = diagnostics.elbo_surgery(model, guide, _first(x, NUM_SURGERY), **settings)
    about = (
        "The KL term split in two (Hoffman and Johnson, 2016): how much of it tells the data apart, and how far the "
        "aggregated posterior is from the prior. A large marginal KL says that draws from the prior are unlike the "
        "codes of data: a richer prior helps."
    )
    return Finding(title, f"{carved}", about)


def _sbc(title: str, model: nn.Module, guide: nn.Module, x: Data, settings: Settings) -> Finding:
    ranks = diagnostics.sbc(model, guide, NUM_SIMULATED, x=x, **settings)
    about = (
        "Simulation-based calibration: ranks of the true z among draws of q(z|x), on data simulated from the model, "
        "uniform if the guide is the posterior. High at both ends: too narrow; in the middle: too wide; on one side: "
        "shifted. All dimensions together raise a false alarm with probability 0.05."
    )
    return Finding(title, f"{ranks}", about, rank_histograms(ranks))


def _coverage(title: str, model: nn.Module, guide: nn.Module, x: Data, settings: Settings) -> Finding:
    coverage = diagnostics.expected_coverage(model, guide, NUM_SIMULATED, x=x, **settings)
    about = "How often the guide's credible regions hold the truth, on data simulated from the model."
    return Finding(title, f"{coverage}", about, coverage_curve(coverage))


def _gaps(title: str, model: nn.Module, guide: nn.Module, x: Data, settings: Settings) -> Finding:
    parts = gaps(model, guide, _first(x, NUM_GAPS), 1000, **settings)
    about = (
        "Why the ELBO is below log p(x) (Cremer et al., 2018): a guide family that is too small (approximation), or an "
        "encoder that does not reach its best member (amortization). The first asks for a richer family, the second "
        "for a larger encoder, or for log p(x) with a guide fitted to each datum."
    )
    return Finding(title, f"{parts}", about)


def _pit(title: str, model: nn.Module, guide: nn.Module, x: Data, settings: Settings) -> Finding:
    transform = diagnostics.pit(model, x, **settings)
    about = (
        "Probability integral transform of each entry of x under p(x), minus the diagonal: inside the band if the "
        "model has that entry's law right. Those of the smallest p-values are shown."
    )
    return Finding(title, f"{transform}", about, ecdf_differences(transform.test))


def _predictive(title: str, model: nn.Module, guide: nn.Module, x: Data, settings: Settings) -> Finding:
    check = diagnostics.predictive_check(model, guide, x, statistics=_of_data(STATISTICS), kind="prior", **settings)
    about = "Statistics of data sets of the same size drawn from p(x), with a line at that of the data."
    return Finding(title, f"{check}", about, replicated_statistics(check))


_CHECKS = {
    "Latent dimensions": _latents,
    "ELBO surgery": _surgery,
    "Is the guide the posterior? Ranks": _sbc,
    "Is the guide the posterior? Coverage": _coverage,
    "Inference gap": _gaps,
    "Does the model fit? Entries": _pit,
    "Does the model fit? Statistics": _predictive,
}
