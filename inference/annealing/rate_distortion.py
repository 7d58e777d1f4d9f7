"""The rate-distortion curve of a model: how much a code must say for data to be rebuilt so well."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.core.checks import check_positive_int, check_seed
from pyro_vae.inference.annealing.hmc import Point
from pyro_vae.inference.annealing.path import Advance, Annealing, AnnealingPath, schedule
from pyro_vae.inference.annealing.tuning import tune
from pyro_vae.inference.programs.call import Args, Data, Program, check_data
from pyro_vae.inference.programs.loop import data_at_once, evaluation_on_device, progress_bar, split_data
from pyro_vae.inference.programs.plates import Plates
from pyro_vae.inference.programs.standard_errors import standard_error
from pyro_vae.inference.programs.vectorize import find_plates


@dataclass(frozen=True)
class RateDistortionCurve:
    """Rate and distortion of the best code at each inverse temperature, means over data, in nats per datum.

    Attributes:
        beta: inverse temperatures from 0 to 1, shape (T + 1,).
        rate: R(beta), shape (T + 1,); an upper bound in expectation.
        distortion: D(beta), shape (T + 1,).
        rate_stderr: standard error of the rate over data, shape (T + 1,).
        distortion_stderr: standard error of the distortion over data, shape (T + 1,).
    """

    beta: Tensor
    rate: Tensor
    distortion: Tensor
    rate_stderr: Tensor
    distortion_stderr: Tensor

    def __str__(self) -> str:
        """Return its ends in one line."""
        return (
            f"distortion {self.distortion[0]:.2f} at rate 0, {self.distortion[-1]:.2f} +- "
            f"{self.distortion_stderr[-1]:.2f} at rate {self.rate[-1]:.2f} +- {self.rate_stderr[-1]:.2f} nats"
        )


def rate_distortion_curve(
    model: Program,
    x: Data,
    *,
    num_particles: int = 16,
    num_temperatures: int = 1000,
    num_leapfrog: int = 2,
    seed: int = 0,
    device: str | torch.device = "auto",
    chunk_size: int = 10_000,
    progress: bool = True,
) -> RateDistortionCurve:
    """Trace the rate-distortion curve of a model along the path of annealed importance sampling from the prior.

        q_beta(z|x) = p(z) p(x|z)^beta / Z_beta
        D(beta) = -E[log p(x|z)],   R(beta) = KL(q_beta || p(z)) = -beta D(beta) - log Z_beta

    No code with distortion D(beta) has a lower rate, whatever its family: the point of a guide, that of
    ``diagnostics.rate_distortion``, lies above the curve, and by how much is what the guide loses. At beta = 1,
    -(R + D) = log p(x).

    Args:
        model: Pyro program for p(x, z) with continuous latents, all sites in a data plate.
        x: data, shape (N, *event), or a tuple of tensors with the data first.
        num_particles: chains K for each datum.
        num_temperatures: steps of the path T.
        num_leapfrog: leapfrog steps of each transition.
        seed: seed of the chains; the global generator is left as it was.
        device: "auto" (a GPU where there is one), or a torch device.
        chunk_size: largest number of (particle, datum) pairs in memory at once.
        progress: show a progress bar, where there is a terminal to show it.

    Raises:
        ValueError: for a setting out of range, or latents that annealed importance sampling refuses.

    Source: Huang, Makhzani, Cao and Grosse (2020), Evaluating Lossy Compression Rates of Deep Generative Models.
    """
    settings, seed = Annealing(num_temperatures, num_leapfrog), check_seed(seed)
    check_positive_int(num_particles, "num_particles")
    check_positive_int(chunk_size, "chunk_size")
    check_data(model, x)
    with evaluation_on_device(model, model, x, seed, device) as args:
        chunks = split_data(args, data_at_once(len(args[0]), num_particles, chunk_size, together=True))
        plates = find_plates(model, None, chunks[0])
        total = len(args[0]) * num_particles * num_temperatures
        with progress_bar(total, progress, "R(D)", unit="weight") as bar:
            parts = [_along_the_path(model, chunk, num_particles, settings, plates, bar.update) for chunk in chunks]
    rate, distortion = (torch.cat(side, 1) for side in zip(*parts, strict=True))
    errors = [standard_error(values.T) for values in (rate, distortion)]
    return RateDistortionCurve(_betas(settings), rate.mean(1), distortion.mean(1), *errors)


def _betas(settings: Annealing) -> Tensor:
    return torch.tensor(schedule(settings.num_temperatures), dtype=torch.float64)


def _along_the_path(
    model: Program, args: Args, num_particles: int, settings: Annealing, plates: Plates, advance: Advance
) -> tuple[Tensor, Tensor]:
    """Return rate and distortion of each datum along the path, each of shape (T + 1, B)."""
    tuning = tune(model, None, args, settings=settings, plates=plates)
    path = AnnealingPath(model, None, args, num_particles, settings, plates)
    seen: list[tuple[Tensor, Tensor]] = []
    points: list[Point] = []

    def observe(point: Point, log_w: Tensor) -> None:
        points[:] = [point]
        seen.append(_distortion_and_log_z(point, log_w))

    annealed = path.follow(path.start, schedule(settings.num_temperatures), tuning, advance, observe)
    seen.append(
        _distortion_and_log_z(points[0], annealed.log_w)
    )  # the last weights are those of beta = 1, at the same chains
    distortion, log_z = (torch.stack(side).cpu() for side in zip(*seen, strict=True))
    return -_betas(settings)[:, None] * distortion - log_z, distortion


def _distortion_and_log_z(point: Point, log_w: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distortion under the weighted chains and log Z_beta, each of shape (B,)."""
    distortion = -(log_w.softmax(0) * point.terms[1]).sum(0)
    return distortion, log_w.logsumexp(0) - math.log(len(log_w))
