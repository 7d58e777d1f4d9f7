"""Estimation of log p(x) with its uncertainty, in bounded memory."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_vae.core.checks import check_positive_int, check_seed, did_you_mean
from pyro_vae.inference.compile.precision import at_precision, check_precision, in_precision
from pyro_vae.inference.compile.record import CannotCompileError
from pyro_vae.inference.compile.worthwhile import check_compile, is_worthwhile
from pyro_vae.inference.programs.call import (
    Args,
    Data,
    Program,
    as_args,
    check_data,
    hash_of_data,
    hash_of_values,
    place_programs,
    seed_rng,
    short_errors,
    unvalidated,
)
from pyro_vae.inference.programs.joint import as_one_datum
from pyro_vae.inference.programs.loop import (
    evaluation_mode,
    progress_bar,
    send,
    split_data,
    split_particles,
)
from pyro_vae.inference.programs.observed import what_is_scored
from pyro_vae.inference.programs.proposals import check_observations
from pyro_vae.inference.programs.standard_errors import standard_error
from pyro_vae.inference.programs.vectorize import Prior, find_plates, first_run, is_tied
from pyro_vae.inference.scoring import methods
from pyro_vae.inference.scoring.base import Estimator, Programs
from pyro_vae.inference.scoring.estimates import Evidence, Source
from pyro_vae.inference.scoring.partial import PartialResults, hash_of_programs, hash_of_text
from pyro_vae.inference.scoring.tail import WeightSummary

JOINT_AUTO = methods.Auto(chains=500, longest=1024)
"""The default where all data are one datum, for which there is time."""


@torch.no_grad()
def evidence(
    model: Program,
    guide: Program | None,
    x: Data,
    num_particles: int | None = None,
    *,
    method: str | Estimator = "auto",
    joint: bool = False,
    chunk_size: int = 10_000,
    seed: int = 0,
    device: str | torch.device = "auto",
    compile: bool | str = "auto",
    precision: str | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> Evidence:
    """Estimate log p(x_n) for every datum, by default by the cheapest estimator that holds for it.

        log p(x_n) ~ log (1/K) sum_k p(x_n, z_kn) / q(z_kn | x_n),   z_kn ~ q(z_kn | x_n)

    with q the guide where that is good enough, a Student-t at the posterior's modes where it is not, or annealed
    chains; see ``methods.Auto``. With method="iw" it is the guide for all data. Without a guide it is the prior, and
    method="iw" the plain Monte Carlo estimate, log (1/K) sum_k p(x_n | z_k).

    With ``joint=True`` it is one number, log p(x_1, ..., x_N), the marginal likelihood of a model whose latents all
    data may share: regressions, hierarchical models, Gaussian processes. Then ``log_px`` and all else have shape (1,),
    and every error is Monte Carlo's. The log joint density is the sum over all sites and plates, unscaled, in float64,
    whatever the programs are written in: sums over data are large, and rounding errors would pass for evidence.
    Particles run at once by ``torch.vmap`` where that gives what each gives alone, and one by one elsewhere. Proposals
    are as before, Pyro's AutoGuides with a density among them, trained by ``fit`` with ``batch_size=N``. The default
    has 500 chains and paths of up to 1,024 temperatures then, and tries chains from the prior too.

    Weights are streamed: at most ``chunk_size`` (particle, datum) pairs exist at once, with "auto" at least 200 chains
    of one datum, so that memory is
    chunk_size times what the programs need for one pair, plus 3 sqrt(K) + log2(K) + 7 numbers for each datum of a
    chunk and 6 + log2(K) for each datum in all. Modules are in evaluation mode while it runs.

    Each chunk of data has random numbers of its own, derived from ``seed`` and its place, so that an evaluation
    that goes on from ``checkpoint`` gives what it would have given undisturbed.

    Args:
        model: Pyro program for p(x, z) with all sites in a data plate.
        guide: Pyro program for q(z | x), or None for the prior.
        x: data, shape (N, *event), or a tuple of tensors with the data first. They stay where they are; each chunk
            is copied to the device when its turn comes.
        num_particles: K; 5,000 if absent, and 16 chains for annealed importance sampling. Data that "auto" anneals have
            200 chains.
        method: "auto", "iw", "jackknife", "laplace" or "ais", or one of ``methods`` with its settings, such as
            ``methods.IW(defensive=0.1)``.
        joint: estimate log p(x_1, ..., x_N), the data being one datum.
        chunk_size: largest number of (particle, datum) pairs in memory at once; of joint ones, particles.
        seed: seed of the draws; the global generator is left as it was.
        device: "auto" (a GPU where there is one), or a torch device.
        compile: True compiles the weights of a chunk as one graph, and the gradients by which guides are refined and
            annealed chains move, which gives the same numbers up to rounding (long chains may part ways by that);
            False runs the programs as they are; "auto" compiles from ten million weights on, or temperatures of
            chains. What cannot be compiled runs as it is, and with True a warning says why.
        precision: None, "tf32" or "bf16", as in ``fit``; log weights stay float32. What "bf16" does to log
            p(x) was measured on digits: 0.002 nats on the mean, 0.05 on single data. "tf32" acts on a GPU alone.
        checkpoint: folder in which partial results are kept while it runs, every few seconds and when it is
            interrupted; the same call goes on from them. The file is gone when all is done.
        progress: show a progress bar, where there is a terminal to show it.

    Returns:
        the estimates with standard errors, ESS, k-hat and the bound's curve over K.

    Raises:
        ValueError: for data that the model cannot have produced, K < 1, programs that ``log_weights`` refuses, a
            point-mass guide, or log weights that are NaN or +inf; of joint ones for subsampled plates, of which the
            rest of the data would be missing, and improper priors, which have no evidence.

    Source: Burda, Grosse and Salakhutdinov (2016), section 3; standard error: the delta method.
    """
    how, seed = JOINT_AUTO if joint and method == "auto" else as_method(method), check_seed(seed)
    guide = Prior(model) if guide is None else guide
    num_particles = how.default_particles if num_particles is None else num_particles
    check_positive_int(num_particles, "num_particles")
    check_positive_int(chunk_size, "chunk_size")
    check_compile(compile)
    check_precision(precision)
    check_data(model, x, guide=guide, joint=joint)
    device = place_programs(model, guide, as_args(x), device)
    source, args = Source(model, guide, as_args(x), device), as_args(x)
    if joint:
        model, guide, args = as_one_datum(model, guide, args)
        guide = Prior(model) if isinstance(source.guide, Prior) else guide
    run = _Evaluation(how, args, device, num_particles, chunk_size, seed)
    data, precise = hash_of_data(run.args), {"data": hash_of_values(run.args), "precision": precision or ""}

    with evaluation_mode(model, guide, device, seed), at_precision(precision, device, model, guide), short_errors():
        run = run.fitting(model, guide)
        first, last = run.examples()
        rounding = in_precision(model, precision)
        proposal = Prior(rounding) if isinstance(guide, Prior) else in_precision(guide, precision)
        programs = _prepare(how, rounding, proposal, first, num_particles)
        programs = replace(programs, chunk_size=chunk_size)
        facts: dict[str, Any] = {**precise, "scored": what_is_scored(model, first)}
        facts |= {"notes": tuple(how.notes(programs, first)), "joint": len(source.args[0]) if joint else 0}
        of_programs = hash_of_programs(programs.model, programs.guide, first)
        settings = (how, num_particles, chunk_size, seed, device.type, data, of_programs)
        partial = PartialResults(checkpoint, hash_of_text(repr(settings)))
        # By what there is in all, not what is left: a call that goes on rounds as it would have undisturbed.
        programs = compile_method(how, programs, compile, run.num_rounds, (first, last), run.count)
        with _errors_for_users(source.model):
            run.score(programs, partial, progress)
    partial.remove()
    return run.result(partial.done, {**facts, "source": source})


@dataclass(frozen=True)
class _Evaluation:
    """What is scored, how, and in chunks of what size.

    Attributes:
        how: the estimator.
        args: their arguments, N data, on any device.
        device: where the programs are.
        num_particles: K.
        chunk_size: largest number of (particle, datum) pairs in memory at once.
        seed: seed of the draws.
        whole: all data run at once, whatever ``chunk_size`` is.
    """

    how: Estimator
    args: Args
    device: torch.device
    num_particles: int
    chunk_size: int
    seed: int
    whole: bool = False

    @property
    def size(self) -> int:
        """Data in a chunk."""
        num_data = len(self.args[0])
        return num_data if self.whole else self.how.data_at_once(num_data, self.num_particles, self.chunk_size)

    def fitting(self, model: Program, guide: Program) -> _Evaluation:
        """Let programs that have not run see all data, and take all at once where programs are tied to their number."""
        first_run(model, guide, self.args, self.device)
        split = self.size < len(self.args[0])
        return replace(self, whole=split and is_tied(model, guide, self.args, self.device, self.chunk_size))

    @property
    def count(self) -> int:
        """Particles in a chunk of a chunk of data."""
        return split_particles(self.num_particles, self.size, self.chunk_size)[0]

    @property
    def num_rounds(self) -> int:
        """Rounds of work in all, for the progress bar and the choice to compile."""
        return len(self.args[0]) * self.num_particles * self.how.steps_per_particle

    def examples(self) -> tuple[Args, Args]:
        """Return the first and the last data as chunks of full size, on the device."""
        ends = (slice(self.size), slice(-self.size, None))
        first, last = (send(tuple(arg[end] for arg in self.args), self.device) for end in ends)
        return first, last

    def score(self, programs: Programs, partial: PartialResults, progress: bool) -> None:
        """Weigh the chunks of data that are not done yet, and keep their summaries; on disk where it is interrupted."""
        chunks = list(enumerate(split_data(self.args, self.size)))[len(partial.done) :]
        with progress_bar(self.num_rounds, progress, "log p(x)", unit="weight") as bar:
            try:
                for index, batch in chunks:
                    seed_rng(self.device, _seed_of_chunk(self.seed, index))
                    batch = send(batch, self.device)
                    partial.add(self.how.summarize(programs, batch, self.num_particles, bar.update))
            except BaseException:
                partial.write()
                raise

    def result(self, parts: list[WeightSummary], facts: dict[str, Any]) -> Evidence:
        """Join the chunks of data; refuse NaN and inf rather than average over it."""
        joined = WeightSummary.join(parts)
        log_px = joined.log_px
        bad = log_px.isnan() | (log_px == math.inf)  # -inf is an answer: x has probability 0 at every particle
        if bad.any():
            datum = int(bad.nonzero()[0])
            raise ValueError(
                f"The log weights of datum {datum} are NaN or inf: the programs' parameters or densities are not "
                "finite."
            )
        curve = {k: (b.mean().item(), standard_error(b).item()) for k, b in joined.bounds.items()}
        named = {n: v for n, v in vars(joined).items() if n != "bounds"}
        return Evidence(
            **named,
            curve=curve,
            num_particles=self.num_particles,
            seed=self.seed,
            method=str(self.how),
            **facts,
            debiased=self.how.debiased,
            estimators=self.how.estimators,
        )


def as_method(method: str | Estimator) -> Estimator:
    """Return the estimator that a name or an estimator means.

    Raises:
        ValueError: for an unknown name.
    """
    if isinstance(method, Estimator):
        return method
    if not isinstance(method, str) or method not in methods.BY_NAME:
        known = ", ".join(f'"{name}"' for name in methods.BY_NAME)
        raise ValueError(
            f"Expected method to be one of {known}, or a Method; got {method!r}."
            f"{did_you_mean(str(method), methods.BY_NAME)}"
        )
    return methods.BY_NAME[method]()


@contextmanager
def _errors_for_users(model: Program) -> Iterator[None]:
    """Cut Pyro's tables from errors, and leave out checks of what a model that has its own has checked already."""
    with short_errors(), unvalidated() if hasattr(model, "check_data") else nullcontext():
        yield


def _prepare(how: Estimator, model: Program, guide: Program, first: Args, num_particles: int) -> Programs:
    """Find out on the first chunk how the programs run, and whether they can be scored in this way."""
    with short_errors():
        check_observations(model, guide, first)
        how.check(model, guide, first)
        many = num_particles > 1 or how.particles_of_its_own > 1
        return Programs(model, guide, find_plates(model, guide, first) if many else None)


def compile_method(
    how: Estimator, programs: Programs, setting: bool | str, num_rounds: int, chunks: tuple[Args, Args], count: int
) -> Programs:
    """Return the programs with what the method compiles, always if the setting is True, if "auto" where that pays.

    Args:
        how: the method.
        programs: model and guide.
        setting: True, False or "auto".
        num_rounds: how many weights there will be, times the temperatures of each where they are annealed.
        chunks: the first data and the last as chunks of full size.
        count: particles in a chunk; chunks of another size run as they are.
    """
    if not is_worthwhile(num_rounds, "weights", setting):
        return programs
    try:
        if programs.plates is not None and not programs.plates.together:
            raise CannotCompileError("particles run one by one, and their graph takes longer than they do")
        return replace(programs, compiled=how.compile(programs, *chunks, count))
    except CannotCompileError as reason:
        if setting is True:
            warnings.warn(f"Cannot compile, so the weights are computed eagerly: {reason}.", stacklevel=3)
        return programs


def _seed_of_chunk(seed: int, index: int) -> int:
    """Return a seed for each chunk, unrelated to those of other chunks and other seeds."""
    return int(np.random.SeedSequence([seed % 2**64, index]).generate_state(1, np.uint64)[0] >> 1)
