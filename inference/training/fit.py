"""Training by stochastic variational inference: a short loop over minibatches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pyro.infer
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm.auto import tqdm

from pyro_vae.core.checks import check_positive_int
from pyro_vae.inference.compile.precision import at_precision, check_precision, in_precision
from pyro_vae.inference.compile.worthwhile import check_compile
from pyro_vae.inference.objectives import Objective
from pyro_vae.inference.programs.call import (
    Data,
    Program,
    as_args,
    check_data,
    fork_rng,
    place_programs,
    seed_rng,
    training_mode,
)
from pyro_vae.inference.training.batches import Minibatches, fits, transformed
from pyro_vae.inference.training.checkpoints import load_program_state, read_checkpoint, save_checkpoint
from pyro_vae.inference.training.compiled import compile_if_worthwhile
from pyro_vae.inference.training.epochs import Epochs, Row
from pyro_vae.inference.training.schedules import Schedule, as_schedule
from pyro_vae.inference.training.step import Stepper

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
        patience: stop after so many epochs without a better valid_bound, and keep the best epoch's parameters.
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
            by torch's switch, for the while; "bf16" runs linear and convolutional layers of the programs in bfloat16,
            of 7 bits, and everything else, such as distributions with the networks of flows, log densities, bounds
            and the optimizer, in float32. Float64 stays as it is. For the effect on log p(x) see ``evidence``.
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
    check_settings(data, epochs, batch_size, valid, patience, kl_warmup, clip_norm)
    check_compile(compile)
    check_precision(precision)
    if not isinstance(objective, pyro.infer.ELBO | None) or type(objective).__name__.startswith("Jit"):
        raise ValueError(
            f"Expected objective to be a pyro.infer.ELBO object such as objectives.IWAE(5); got {objective!r}. "
            "(Pyro's Jit objectives keep the first step's settings and know only parameters in the global store.)"
        )
    if resume and checkpoint is None:
        raise ValueError("Expected checkpoint=PATH with resume=True; got no path to resume from.")
    with fork_rng(next((a.device for a in as_args(data) if isinstance(a, Tensor)), torch.device("cpu")), seed):
        check_data(model, transformed(transform, as_args(data)), "data", guide)
    if valid is not None:
        check_data(model, valid, "valid", guide)
    objective = objective or pyro.infer.Trace_ELBO()
    device = place_programs(model, guide, as_args(data), device)
    valid_args = None if valid is None else as_args(valid)
    resident = fits((*as_args(data), *(valid_args or ())), device)
    batches = Minibatches(as_args(data), batch_size, device, transform, resident)
    if valid_args is not None and resident:
        valid_args = tuple(arg.to(device) for arg in valid_args)
    path = None if checkpoint is None else Path(checkpoint)
    schedule_kl = as_schedule(kl_warmup)

    with fork_rng(device, seed), training_mode(model, guide, True), at_precision(precision, device, model, guide):
        first, last = batches.examples()
        programs = in_precision(model, precision), in_precision(guide, precision)
        stepper = Stepper(*programs, objective, optimizer, clip_norm, first)
        schedule = scheduler and scheduler(stepper.optimizer)
        run = Epochs(stepper, schedule, batch_size, len(batches), patience, device, precision)
        seed_rng(device, seed)  # whatever the programs drew while their parameters were found
        if resume and path is not None:
            run.load(read_checkpoint(path))
        elif path is not None:
            save_checkpoint(path, run.state())
        with tqdm(
            total=epochs * run.steps, initial=run.epoch * run.steps, unit="step", disable=None if progress else True
        ) as bar:
            try:
                compile = False if compile == "auto" and _is_chunked(objective, batch_size) else compile
                execution = compile_if_worthwhile(
                    stepper,
                    compile,
                    epochs * run.steps,
                    (first, last),
                    kl_warmup != 0,
                    bar.set_description_str,
                )
                while run.epoch < epochs and not run.out_of_patience():
                    run.train_epoch(batches, schedule_kl, bar)
                    run.close_epoch(valid_args, seed)
                    if path is not None:
                        save_checkpoint(path, run.state())
                    bar.set_description_str(_describe(run.history[-1], epochs))
            except KeyboardInterrupt:
                raise KeyboardInterrupt(_interrupted(run.epoch, path)) from None
        if run.best is not None:
            load_program_state(run.best, model, guide, stepper.loose)
    return FitResult(run.history, run.best_epoch or None, path, execution)


def _is_chunked(objective: pyro.infer.ELBO, batch_size: int) -> bool:
    return isinstance(objective, Objective) and len(objective.chunks(batch_size)) > 1


def _describe(row: Row, epochs: int) -> str:
    valid = f" valid bound {row['valid_bound']:.2f}" if "valid_bound" in row else ""
    return f"epoch {row['epoch']}/{epochs} bound {-row['loss']:.2f}{valid}"


def _interrupted(epoch: int, path: Path | None) -> str:
    kept = f"The checkpoint {path} holds {epoch} epochs; resume from it." if path else "There is no checkpoint."
    return f"Interrupted in epoch {epoch + 1}. {kept}"


def check_settings(
    data: Data,
    epochs: int,
    batch_size: int,
    valid: Data | None,
    patience: int | None,
    kl_warmup: int | Schedule,
    clip_norm: float | None,
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
    if not callable(kl_warmup) and kl_warmup != 0:
        check_positive_int(kl_warmup, "kl_warmup")
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(f"Expected clip_norm > 0, or None; got {clip_norm!r}.")
