"""Epochs: passes over the data with schedule, history, validation, and the state to resume from."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from tqdm.auto import tqdm

from pyro_vae.inference.programs.call import Args
from pyro_vae.inference.programs.loop import evaluation_mode, send, split_data
from pyro_vae.inference.training.checkpoints import State, load_program_state, program_state
from pyro_vae.inference.training.schedules import Schedule
from pyro_vae.inference.training.step import Stepper
from pyro_vae.inference.training.watch import Watch

Row = dict[str, float]


class Epochs:
    """The epochs: schedule, history, validation, early stopping, and the state to resume from."""

    def __init__(
        self,
        stepper: Stepper,
        scheduler: LRScheduler | None,
        batch_size: int,
        num_data: int,
        patience: int | None,
        device: torch.device,
        precision: str | None = None,
        watch: Watch | None = None,
        steps: int | None = None,
    ) -> None:
        self.watch = watch
        self.stepper, self.scheduler, self.batch_size, self.device = stepper, scheduler, batch_size, device
        self.patience = patience
        self.steps = -(-num_data // batch_size) if steps is None else steps
        objective = stepper.objective
        plain = {
            k: v for k, v in vars(objective).items() if isinstance(v, int | float | str) and k != "max_plate_nesting"
        }
        described = f"{type(objective).__name__}({', '.join(f'{k}={v}' for k, v in sorted(plain.items()))})"
        self.settings = {
            "batch_size": batch_size,
            "num_data": num_data,
            "objective": described,
            "precision": precision,
        }
        self.epoch = 0
        self.history: list[Row] = []
        self.best: State | None = None
        self.best_epoch = 0

    def train_epoch(self, batches: Iterable[Args], schedule: Schedule, bar: tqdm) -> None:
        """Pass over the data once and append a row to the history."""
        started, count, beta = time.perf_counter(), 0, 1.0
        total = torch.zeros((), device=self.device, dtype=torch.float64)
        for step, batch in enumerate(batches, self.epoch * self.steps + 1):
            beta = schedule(step / self.steps)
            total.add_(self.stepper.step(batch, beta), alpha=len(batch[0]))
            count += len(batch[0])
            bar.update()
        loss = total.item() / count
        self._check_finite(loss)
        lr = float(self.stepper.optimizer.param_groups[0]["lr"])
        seconds = time.perf_counter() - started
        row = {"epoch": self.epoch + 1, "loss": loss, "kl_weight": beta, "lr": lr, "seconds": seconds}
        self.history.append(row)

    def _check_finite(self, loss: float) -> None:
        """Refuse to go on from NaN; an infinite loss alone is how TraceTailAdaptive_ELBO says that it has none."""
        finite = torch.stack([p.isfinite().all() for p in self.stepper.parameters]).all()  # one wait for the device
        if math.isnan(loss) or not finite:
            raise FloatingPointError(
                f"Training diverged in epoch {self.epoch + 1}: the loss is {loss} or a parameter is not finite. Lower "
                "the learning rate, clip the gradient (clip_norm=10), or check the scale of the data."
            )

    def close_epoch(self, valid: Args | None, seed: int, last: bool = False) -> None:
        """Validate on the same noise each time, remember the best epoch, and step the scheduler."""
        row = self.history[-1]
        if valid is not None:
            with evaluation_mode(self.stepper.model, self.stepper.guide, self.device, seed):
                batches = (send(batch, self.device) for batch in split_data(valid, self.batch_size))
                losses = [self.stepper.loss(batch) * len(batch[0]) for batch in batches]
            row["valid_bound"] = -sum(losses) / len(valid[0])
            if self.watch is not None and self.watch.is_due(self.epoch + 1, last):
                row["valid_log_px"] = self.watch()
            if self.patience is not None and self._is_best(row):
                self.best = program_state(self.stepper.model, self.stepper.guide, self.stepper.loose)
                self.best_epoch = self.epoch + 1
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(-row.get("valid_bound", -row["loss"]))
        elif self.scheduler is not None:
            self.scheduler.step()
        self.epoch += 1

    def _is_best(self, row: Row) -> bool:
        """Say whether no epoch before was better in what is watched."""
        name = "valid_bound" if self.watch is None else "valid_log_px"
        return name in row and row[name] >= max(r[name] for r in self.history if name in r)

    def out_of_patience(self) -> bool:
        """Say whether the bound has not improved for ``patience`` epochs."""
        return self.patience is not None and self.epoch - self.best_epoch >= self.patience

    def state(self) -> State:
        """Return all that resuming needs."""
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        return {
            "settings": self.settings,
            "epoch": self.epoch,
            "history": self.history,
            "programs": program_state(self.stepper.model, self.stepper.guide, self.stepper.loose),
            "best": self.best,
            "best_epoch": self.best_epoch,
            "optimizer": self.stepper.optimizer.state_dict(),
            "scheduler": self.scheduler and self.scheduler.state_dict(),
            "rng": {"cpu": torch.get_rng_state(), "cuda": cuda},
        }

    def load(self, state: State) -> None:
        """Take up a state, refusing one that was written under other settings."""
        for name, value in self.settings.items():
            before = state["settings"].get(name)
            if before != value:
                raise ValueError(
                    f"Expected {name}={before!r}, as in the checkpoint; got {value!r}. "
                    "Resume with the settings it was written with, or start anew."
                )
        load_program_state(state["programs"], self.stepper.model, self.stepper.guide, self.stepper.loose)
        load_optimizer(self.stepper.optimizer, state["optimizer"])
        if self.scheduler is not None and state["scheduler"] is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.epoch, self.history = state["epoch"], state["history"]
        self.best, self.best_epoch = state["best"], state["best_epoch"]
        torch.set_rng_state(state["rng"]["cpu"])
        if self.device.type == "cuda" and state["rng"]["cuda"] is not None:
            torch.cuda.set_rng_state(state["rng"]["cuda"], self.device)


def load_optimizer(optimizer: Optimizer, state: State) -> None:
    """Load an optimizer's state, but keep the way in which this run takes its steps: a compiled one has another."""
    groups = [dict(group) for group in state["param_groups"]]
    for group, own in zip(groups, optimizer.param_groups, strict=False):  # torch says so where they are not as many
        group.update({k: own[k] for k in ("foreach", "capturable", "fused") if k in own}, lr=float(group["lr"]))
    optimizer.load_state_dict({**state, "param_groups": groups})  # which puts counts where this way to run has them
