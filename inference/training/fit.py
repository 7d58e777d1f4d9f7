"""Training by stochastic variational inference: a short loop over minibatches."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pyro.infer
import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm.auto import tqdm

from pyro_vae.core.checks import check_positive_int
from pyro_vae.inference.compile.precision import at_precision, check_precision, in_precision
from pyro_vae.inference.compile.worthwhile import check_compile
from pyro_vae.inference.objectives.base import Objective
from pyro_vae.inference.programs.call import (
    Args,
    Data,
    Program,
    as_args,
    check_data,
    fork_rng,
    modules_of_both,
    place_programs,
    seed_rng,
    short_errors,
    training_mode,
)
from pyro_vae.inference.programs.loop import progress_bar
from pyro_vae.inference.programs.vectorize import is_tied
from pyro_vae.inference.training.batches import Minibatches, fits_in_memory, transformed
from pyro_vae.inference.training.checkpoints import load_program_state, read_checkpoint, save_checkpoint
from pyro_vae.inference.training.compiled import compile_steps
from pyro_vae.inference.training.epochs import Epochs, Row
from pyro_vae.inference.training.schedules import Schedule, as_schedule
from pyro_vae.inference.training.step import Stepper
from pyro_vae.inference.training.watch import Watch

WATCHED = ("bound", "evidence")
adam = partial(torch.optim.Adam, lr=1e-3)


@dataclass
class FitResult:
    """What training came to.

    Attributes:
        history: one row an epoch: epoch, loss and valid_bound (nats per datum; the loss with the KL weight of
            that epoch, the bound without it), kl_weight, lr, seconds.
        best_epoch: the epoch whose parameters were kept, where ``patience`` was given.
        checkpoint: the checkpoint's path, where one was asked for.
        execution: how the steps ran: "eager", with the reason where it was to be otherwise, or "compiled in 9.3 s".
    """

    history: list[Row] = field(default_factory=list, repr=False)
    best_epoch: int | None = None
    checkpoint: Path | None = None
    execution: str = "eager"


def fit(
    model: Program,
    guide: Program,
    data: Data,
    *,
    objective: pyro.infer.ELBO | None = None,
    epochs: int = 100,
    batch_size: int = 100,
    valid: Data | None = None,
    optimizer: Callable[[Iterable[Tensor]], Optimizer] = adam,
    scheduler: Callable[[Optimizer], LRScheduler] | None = None,
    kl_warmup: int | Schedule = 0,
    clip_norm: float | None = None,
    patience: int | None = None,
    watch: str = "bound",
    transform: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    compile: bool | str = "auto",
    precision: str | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> FitResult:
    """Fit model and guide by stochastic gradient ascent on a bound, in place.

    Args:
        model: Pyro program for p(x, z): a module or a plain function.
        guide: Pyro program for q(z | x), called with the same arguments.
        data: training data, shape (N, *event), or a tuple of tensors with the data first. With ``valid`` they are
            moved to the device; where both would take more than half of a GPU's free memory, they stay where they
            are, and minibatches are copied.
        objective: any ``pyro.infer.ELBO``; ``Trace_ELBO()`` with one particle if absent. Pyro's own objectives
            are sums over data; they are divided by the size of the minibatch, or of the data plate they are
            scaled to, so that the learning rate does not depend on either.
        epochs: number of passes over the data.
        batch_size: data in a minibatch; the last one of an epoch may be smaller.
        valid: validation data; the objective's own bound on them is recorded each epoch, on the same noise and
            without the warm-up's weight.
        optimizer: called with the parameters, e.g. ``functools.partial(torch.optim.Adam, lr=1e-3)``.
        scheduler: called with the optimizer, stepped each epoch; a ``ReduceLROnPlateau`` sees -valid_bound.
        kl_warmup: epochs over which the weight of log p(z) - log q(z|x) rises linearly to 1, step by step; or a
            function of the epochs gone by, such as ``schedules.cyclical(10)``.
        clip_norm: largest norm of the gradient.
        patience: stop after so many epochs without a gain on validation data, and keep the best epoch's parameters.
        watch: what counts as a gain: "bound", valid_bound, or "evidence", an estimate of log p(x) of 100 validation
            data by 200 draws from Laplace's approximation, every ten epochs, recorded as valid_log_px. The encoder
            overfits before the model does, and takes the bound down with it.
        transform: applied to the first tensor of each training minibatch on its device, such as
            ``Splits.transform``, dynamic binarisation.
        seed: seed of everything random in training; the global generator is left as it was.
        device: "auto" (a GPU where there is one), or a torch device.
        compile: True compiles loss and gradient of a minibatch as one graph, which gives the same numbers up to
            rounding in each step (many steps of a bound with several particles amplify it, as they do what two
            machines round differently), and takes the optimizer's fused step; on a GPU all of a step becomes one
            CUDA graph, where loss and optimizer (one with ``capturable``, such as Adam) do not wait for the GPU.
            False runs the programs as they are; "auto" compiles runs of at least 10,000 steps, or as many particles
            in fewer steps, and of more for very large programs. Programs that cannot be compiled, such as those whose
            control flow depends on values, run as they are, and a warning says why; so does a last minibatch of
            another size, and with "auto" an objective that has its particles in chunks.
        precision: None for that of the parameters, but for convolutions, which torch runs in TF32 on a GPU unless
            ``torch.backends.cudnn`` says otherwise; "tf32" lets a GPU round the factors of float32 products to 10 bits,
            by torch's switch, which is put back; "bf16" runs linear and convolutional layers of the programs in
            bfloat16, of 7 bits, and everything else, such as distributions with the networks of flows, log densities,
            bounds and the optimizer, in float32. Float64 stays as it is. For the effect on log p(x) see ``evidence``.
        checkpoint: file written before the first epoch and after each; an interruption keeps it.
        resume: go on from the checkpoint exactly where it stopped.
        progress: show a progress bar, where there is a terminal to show it.

    Returns:
        the history, best epoch and checkpoint's path.

    Raises:
        ValueError: for data that the model cannot have produced, fewer data than a batch, settings that
            contradict each other, an unreadable checkpoint, or an objective that the programs cannot have.
        FloatingPointError: if the loss stops being finite.
        KeyboardInterrupt: on Ctrl-C, saying where the last checkpoint is.
    """
    as_args(data, "data", model)  # which refuses what is no tensor
    check_settings(data, epochs, batch_size, valid, patience, kl_warmup, clip_norm, watch)
    check_compile(compile)
    check_precision(precision)
    _check_objective(objective)
    path = _path_of(checkpoint, resume)
    _check_all_data(model, guide, data, valid, transform, seed)
    objective = objective or pyro.infer.Trace_ELBO()
    device = place_programs(model, guide, as_args(data), device)
    batches, valid_args = _load(data, valid, batch_size, transform, device)

    precise = at_precision(precision, device, model, guide)
    with fork_rng(device, seed), training_mode(model, guide, True), precise, short_errors():
        batches.none_alone = _normalises(model, guide, batch_size)
        examples = batches.examples()
        programs = in_precision(model, precision), in_precision(guide, precision)
        stepper = Stepper(*programs, objective, optimizer, clip_norm, examples[0])
        _check_shared(stepper.shared, batch_size, len(as_args(data)[0]))
        batches.in_order = _is_tied(*programs, batches, examples[0], stepper.loose)
        schedule = scheduler and scheduler(stepper.optimizer)
        watched = valid_args if watch == "evidence" else None
        watching = None if watched is None else Watch(model, guide, watched, patience, seed, device)
        run = Epochs(stepper, schedule, batch_size, len(batches), patience, device, precision, watching, batches.steps)
        seed_rng(device, seed)  # whatever the programs drew while their parameters were found
        training = _Training(run, batches, valid_args, as_schedule(kl_warmup), epochs, seed, path)
        training.start(resume)
        setting = False if compile == "auto" and _is_chunked(objective, batch_size) else compile
        execution = training.train(_Compilation(setting, examples, kl_warmup != 0), progress)
        if run.best is not None:
            load_program_state(run.best, model, guide, stepper.loose)
    return FitResult(run.history, run.best_epoch or None, path, execution)


@dataclass(frozen=True)
class _Compilation:
    """Whether and on what the steps are compiled: the setting, two minibatches, and whether the KL weight changes."""

    setting: bool | str
    examples: tuple[Args, Args]
    warms_up: bool


@dataclass(frozen=True)
class _Training:
    """A run of epochs, the data that it passes over, and the file that keeps its state.

    Attributes:
        run: the epochs, with steps, history and the state to resume from.
        batches: the training data.
        valid: the validation data, if there are any.
        schedule: the weight of the KL term.
        epochs: number of passes over the data in all.
        seed: seed of the validation's noise.
        path: the checkpoint's path; None keeps nothing.
    """

    run: Epochs
    batches: Minibatches
    valid: Args | None
    schedule: Schedule
    epochs: int
    seed: int
    path: Path | None

    def start(self, resume: bool) -> None:
        """Take up the state in the checkpoint, or write the first one."""
        if resume and self.path is not None:
            self.run.load(read_checkpoint(self.path))
        else:
            self.save()

    def save(self) -> None:
        """Write the checkpoint, where one is kept."""
        if self.path is not None:
            save_checkpoint(self.path, self.run.state())

    def train(self, compilation: _Compilation, progress: bool) -> str:
        """Run the epochs that are left, compiled where that pays, and return how the steps ran."""
        run, total = self.run, self.epochs * self.run.steps
        done = run.epoch * run.steps
        with progress_bar(total, progress, unit="step", unit_scale=False, initial=done) as bar:
            try:
                how = (compilation.setting, total, compilation.examples, compilation.warms_up)
                execution = compile_steps(run.stepper, *how, bar.set_description_str)
                while run.epoch < self.epochs and not run.out_of_patience():
                    self._one_epoch(bar)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(_interrupted(run.epoch, self.path)) from None
        return execution

    def _one_epoch(self, bar: tqdm) -> None:
        self.run.train_epoch(self.batches, self.schedule, bar)
        self.run.close_epoch(self.valid, self.seed, last=self.run.epoch + 1 == self.epochs)
        self.save()
        bar.set_description_str(_describe(self.run.history[-1], self.epochs))


def _load(
    data: Data,
    valid: Data | None,
    batch_size: int,
    transform: Callable[[Tensor], Tensor] | None,
    device: torch.device,
) -> tuple[Minibatches, Args | None]:
    """Return training data as minibatches and validation data, both on the device if they fit there together."""
    args, valid_args = as_args(data), None if valid is None else as_args(valid)
    resident = fits_in_memory((*args, *(valid_args or ())), device)
    if valid_args is not None and resident:
        valid_args = tuple(arg.to(device) for arg in valid_args)
    return Minibatches(args, batch_size, device, transform, resident), valid_args


def _normalises(model: Program, guide: Program, batch_size: int) -> bool:
    """Say whether programs have batch normalisation, and refuse minibatches of one datum, which has no spread."""
    parts = (part for module in modules_of_both(model, guide) for part in module.modules())
    found = next((part for part in parts if isinstance(part, _BatchNorm)), None)
    if found is not None and batch_size == 1:
        raise ValueError(
            f"Expected batch_size >= 2 with {type(found).__name__} in the networks, which takes mean and spread of a "
            "minibatch; got 1."
        )
    return found is not None


def _is_tied(model: Program, guide: Program, batches: Minibatches, first: Args, loose: dict[str, Tensor]) -> bool:
    """Say whether programs have numbers of their own for each datum; refuse or warn of minibatches of fewer then."""
    if not is_tied(model, guide, first, batches.device):
        return False
    size, num_data = batches.batch_size, len(batches)
    named = [name for name, parameter in loose.items() if {size, num_data} & set(parameter.shape)]
    if size < num_data:
        message = (
            "Densities of single data depend on how many data there are, on their places, or on each other: what the "
            f"programs have for each datum, parameters {named}, would be of other data in each minibatch: pass "
            f"batch_size={num_data}."
        )
        if named or any(isinstance(module, AutoGuide) for module in modules_of_both(model, guide)):
            raise ValueError(message)
        warnings.warn(message, stacklevel=3)
    return True


def _check_shared(name: str | None, batch_size: int, num_data: int) -> None:
    """Refuse a latent that all data share in minibatches, each of which would count all of its prior."""
    if name is not None and batch_size < num_data:
        raise ValueError(
            f"Latent site {name!r} is shared by all data, and its prior would count in each minibatch of {batch_size} "
            f"as much as in all: the fit would be to {batch_size} data. Pass batch_size={num_data}, or give the data "
            "plate its full size, pyro.plate(name, size, subsample_size=len(x)), by which it scales the likelihood."
        )


def _is_chunked(objective: pyro.infer.ELBO, batch_size: int) -> bool:
    return isinstance(objective, Objective) and len(objective.chunks(batch_size)) > 1


def _describe(row: Row, epochs: int) -> str:
    valid = f" valid bound {row['valid_bound']:.2f}" if "valid_bound" in row else ""
    log_px = f" log p(x) {row['valid_log_px']:.2f}" if "valid_log_px" in row else ""
    return f"epoch {row['epoch']}/{epochs} bound {-row['loss']:.2f}{valid}{log_px}"


def _interrupted(epoch: int, path: Path | None) -> str:
    kept = f"The checkpoint {path} holds {epoch} epochs; resume from it." if path else "There is no checkpoint."
    return f"Interrupted in epoch {epoch + 1}. {kept}"


def _check_objective(objective: pyro.infer.ELBO | None) -> None:
    if not isinstance(objective, pyro.infer.ELBO | None) or type(objective).__name__.startswith("Jit"):
        raise ValueError(
            f"Expected objective to be a pyro.infer.ELBO object such as objectives.IWAE(5); got {objective!r}. "
            "(Pyro's Jit objectives keep the first step's settings and know only parameters in the global store.)"
        )


def _path_of(checkpoint: str | Path | None, resume: bool) -> Path | None:
    if resume and checkpoint is None:
        raise ValueError("Expected checkpoint=PATH with resume=True; got no path to resume from.")
    return None if checkpoint is None else Path(checkpoint)


def _check_all_data(
    model: Program,
    guide: Program,
    data: Data,
    valid: Data | None,
    transform: Callable[[Tensor], Tensor] | None,
    seed: int,
) -> None:
    """Check the training data as the programs will see them, transformed, and the validation data."""
    device = next((arg.device for arg in as_args(data) if isinstance(arg, Tensor)), torch.device("cpu"))
    with fork_rng(device, seed):
        check_data(model, transformed(transform, as_args(data)), "data", guide)
    if valid is not None:
        check_data(model, valid, "valid", guide)


def check_settings(
    data: Data,
    epochs: int,
    batch_size: int,
    valid: Data | None,
    patience: int | None,
    kl_warmup: int | Schedule,
    clip_norm: float | None,
    watch: str = "bound",
) -> None:
    """Refuse settings of ``fit`` that contradict each other or the data, with a ``ValueError``."""
    check_positive_int(epochs, "epochs")
    check_positive_int(batch_size, "batch_size")
    num_data = len(as_args(data)[0])
    if 0 < num_data < batch_size:
        raise ValueError(
            f"Expected at least batch_size={batch_size} data; got {num_data}. Pass batch_size={num_data} or smaller."
        )
    if patience is not None:
        check_positive_int(patience, "patience")
        if valid is None:
            raise ValueError("Expected valid=... with patience; early stopping watches the bound on validation data.")
    if watch not in WATCHED:
        raise ValueError(f'Expected watch to be "bound" or "evidence"; got {watch!r}.')
    if watch == "evidence" and valid is None:
        raise ValueError('Expected valid=... with watch="evidence"; it is log p(x) of validation data.')
    if not callable(kl_warmup) and kl_warmup != 0:
        check_positive_int(kl_warmup, "kl_warmup")
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"Expected clip_norm > 0, or None; got {clip_norm!r}.")
