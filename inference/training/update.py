"""The optimizer's update in a compiled step: as one kernel, and without what an optimizer looks up anew each time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.adam import adam
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

SETTINGS = ("amsgrad", "maximize", "eps", "weight_decay", "lr", "decoupled_weight_decay")


def fuse(optimizer: Optimizer) -> None:
    """Take the optimizer's step as one kernel, the same arithmetic, where it offers that and the user chose nothing.

    Not where it counts its steps on the host for parameters on a GPU, as Adagrad does: the kernel looks for the count
    on the GPU. A count that can be moved there, as Adam's, is.
    """
    for group in optimizer.param_groups:
        chosen = any(group.get(name) for name in ("foreach", "differentiable", "capturable"))
        if group.get("fused", True) is None and not chosen:
            counts = [(p, optimizer.state.get(p, {}).get("step", p)) for p in group["params"]]
            together = "capturable" in group or all(step.device == p.device for p, step in counts)
            if together and all(p.is_floating_point() for p in group["params"]):
                group["fused"] = True


def foreign(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> list[int]:
    """Return which gradients are not as ``backward`` leaves them: each in its own memory, laid out as its parameter is.

    Clipping changes them in place, and a fused step reads both in the order of memory. Which they are is the same in
    every run of a compiled graph.
    """
    taken = {p.data_ptr() for p in parameters}
    result = []
    for i, (gradient, parameter) in enumerate(zip(gradients, parameters, strict=True)):
        if gradient is not None:
            if gradient.data_ptr() in taken or gradient.stride() != parameter.stride():
                result.append(i)
            taken.add(gradient.data_ptr())
    return result


class Update:
    """An optimizer's step, for gradients of the same parameters each time.

    Adam and AdamW, once fused, are taken in torch's functional form: they look up, group and announce their tensors
    in every step, which for a small network takes as long as the arithmetic.

    Args:
        optimizer: whose step; its state may be replaced in place only.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._groups: list[tuple[dict[str, Any], list[list[Tensor]]]] | None = None

    @torch.no_grad()
    def __call__(self) -> None:
        """Take the step for the gradients that the parameters have."""
        if self._groups is None:
            self._optimizer.step()  # which sets up the state
            if all(_is_plain_adam(self._optimizer, group) for group in self._optimizer.param_groups):
                self._groups = [(group, self._tensors(group)) for group in self._optimizer.param_groups]
            return
        for group, (params, means, squares, steps) in self._groups:
            gradients: list[Any] = [p.grad for p in params]
            (beta1, beta2), settings = group["betas"], {name: group[name] for name in SETTINGS}
            adam(params, gradients, means, squares, [], steps, fused=True, beta1=beta1, beta2=beta2, **settings)

    def _tensors(self, group: dict[str, Any]) -> list[list[Tensor]]:
        params = [p for p in group["params"] if p.grad is not None]
        state = [self._optimizer.state[p] for p in params]
        return [params, *([s[name] for s in state] for name in ("exp_avg", "exp_avg_sq", "step"))]


def _is_plain_adam(optimizer: Optimizer, group: dict[str, Any]) -> bool:
    """Say whether a group is updated on the CPU by the fused rule of Adam or AdamW, and nothing is hooked on it."""
    hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    hooks = hooks or _global_optimizer_pre_hooks or _global_optimizer_post_hooks
    known = type(optimizer) in (Adam, AdamW) and "decoupled_weight_decay" in group
    unusual = any(group.get(name) for name in ("amsgrad", "differentiable", "capturable"))
    return known and not hooks and not unusual and bool(group["fused"]) and not any(p.is_cuda for p in group["params"])
