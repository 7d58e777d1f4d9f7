"""Checkpoints: state dicts and random state in one file, replaced as a whole and loaded without unpickling code."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae.core.files import atomic_path
from pyro_vae.inference.programs.call import Program, modules_of

FORMAT = 1
State = dict[str, Any]


def program_state(model: Program, guide: Program, params: dict[str, Tensor]) -> State:
    """Copy what the programs have learnt: their modules' state dicts, and parameters that belong to no module."""
    state: State = {"params": {name: param.detach() for name, param in params.items()}}
    for name, program in (("model", model), ("guide", guide)):
        state[name] = {str(i): module.state_dict() for i, module in enumerate(modules_of(program))}
    return deepcopy(state)


@torch.no_grad()
def load_program_state(state: State, model: Program, guide: Program, params: dict[str, Tensor]) -> None:
    """Copy a state into the programs, in place.

    Raises:
        ValueError: if it is the state of other programs.
    """
    try:
        for name, program in (("model", model), ("guide", guide)):
            for i, module in enumerate(modules_of(program)):
                module.load_state_dict(state[name][str(i)])
        for name, param in params.items():
            param.copy_(state["params"][name])
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"The checkpoint is of another model or guide: {reason} Build them as they were built for training."
        ) from error


def save_checkpoint(path: Path, state: State) -> None:
    """Write a checkpoint under a temporary name and rename it.

    Raises:
        ValueError: if the folder cannot be written.
    """
    with atomic_path(path) as temporary:
        try:
            torch.save({"format": FORMAT, **state}, temporary)
        except RuntimeError as error:  # torch reports a missing or full folder so
            raise OSError(str(error).splitlines()[0]) from error


def read_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> State:
    """Read a checkpoint that ``fit`` wrote.

    Raises:
        ValueError: if the file is missing, truncated or no checkpoint.
    """
    advice = "Train again, or name another checkpoint."
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise ValueError(f"No checkpoint at {path}. {advice}") from error
    except Exception as error:  # a file of any other kind can fail anywhere in the unpickler
        raise ValueError(f"Cannot read the checkpoint {path}: it is truncated, or no checkpoint. {advice}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"{path} is no checkpoint of this version of pyro-vae. {advice}")
    return state


def load_checkpoint(path: str | Path, model: Program, guide: Program) -> State:
    """Load what ``fit`` learnt into the programs: the best epoch if it kept one, else the last.

    Args:
        path: the file given to ``fit(checkpoint=...)``.
        model: module, built as for training. (Plain functions resume through ``fit(resume=True)``.)
        guide: module, built as for training.

    Returns:
        the checkpoint, with "history" and "epoch".

    Raises:
        ValueError: if the file cannot be read, or is of other programs.
    """
    state = read_checkpoint(path)
    load_program_state(state["best"] or state["programs"], model, guide, {})
    return state
