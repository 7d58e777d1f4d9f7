"""The optimizer's update by a faster way of the same arithmetic: one kernel, or a part of a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

SETTINGS = ("amsgrad", "maximize", "eps", "weight_decay", "lr")
"""What Adam's kernel is told of a group besides betas, each time, since schedules change it."""


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


def gradients_to_copy(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> list[int]:
    """Return which gradients a compiled graph returns unlike ``backward``: shared, or laid out unlike their parameter.

    An optimizer wants each in its own memory, since clipping changes it in place, and in the layout of its parameter,
    since a fused step reads both in the order of memory. Which they are is the same in every run of the graph.

    Returns:
        their places among the gradients; the others can be used as they are.
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

    Adam and AdamW, once fused, are taken by torch's kernel alone, bit for bit the same: the optimizer looks up, groups
    and announces its tensors in every step and counts for each of them, which for a small network takes longer than
    the arithmetic.

    Args:
        optimizer: whose step; its state may be replaced in place only.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._kernels: list[_AdamKernel] | None = None

    @torch.no_grad()
    def __call__(self) -> None:
        """Take the step for the gradients that the parameters have."""
        if self._kernels is not None:
            for kernel in self._kernels:
                kernel()
            return
        self._optimizer.step()  # which sets up the state
        if all(_is_plain_adam(self._optimizer, group) for group in self._optimizer.param_groups):
            self._kernels = list(self._by_dtype())

    def _by_dtype(self) -> Iterator[_AdamKernel]:
        """Yield what the kernel takes at once: parameters of one group and one dtype."""
        for group in self._optimizer.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            for dtype in {p.dtype for p in params}:
                yield _AdamKernel(self._optimizer, group, [p for p in params if p.dtype is dtype])


class _AdamKernel:
    """Torch's kernel of Adam, or of AdamW, for some parameters of a group; their counts become parts of one tensor."""

    def __init__(self, optimizer: Optimizer, group: dict[str, Any], params: list[Tensor]) -> None:
        self._group, self._params = group, params
        states = [optimizer.state[p] for p in params]
        self._counts = torch.stack([state["step"] for state in states])
        for state, count in zip(states, self._counts, strict=True):
            state["step"] = count
        self._moments = [[state[name] for state in states] for name in ("exp_avg", "exp_avg_sq")]
        self._steps = [state["step"] for state in states]
        self._kernel: Callable[..., object] = (
            torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
        )

    def __call__(self) -> None:
        self._counts += 1
        gradients: list[Any] = [p.grad for p in self._params]
        (beta1, beta2), settings = self._group["betas"], {name: self._group[name] for name in SETTINGS}
        self._kernel(self._params, gradients, *self._moments, [], self._steps, beta1=beta1, beta2=beta2, **settings)


def _is_plain_adam(optimizer: Optimizer, group: dict[str, Any]) -> bool:
    """Say whether a group is updated on the CPU by the fused rule of Adam or AdamW, and nothing is hooked on it."""
    hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    hooks = hooks or _global_optimizer_pre_hooks or _global_optimizer_post_hooks
    if hooks or type(optimizer) not in (Adam, AdamW) or "decoupled_weight_decay" not in group or not group["fused"]:
        return False
    unusual = any(group.get(name) for name in ("amsgrad", "differentiable", "capturable"))
    return (
        not unusual
        and not any(isinstance(b, Tensor) for b in group["betas"])
        and not any(p.is_cuda for p in group["params"])
    )


def make_capturable(optimizer: Optimizer) -> bool:
    """Keep the optimizer's step count and learning rate on the GPU, so that a capture sees them change.

    Returns:
        whether the optimizer can: one without the option ``capturable``, such as SGD, must hold no state on the
        host and have a learning rate that is never changed, which is not known, so it is not captured.
    """
    if not all("capturable" in group for group in optimizer.param_groups):
        return False
    for group in optimizer.param_groups:
        device = group["params"][0].device
        group["capturable"] = True
        group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=device)
        for param in group["params"]:
            state = optimizer.state.get(param, {})
            if "step" in state:
                state["step"] = torch.as_tensor(state["step"], dtype=torch.float32, device=device)
    return True


def host_settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return the optimizer's numbers that a capture takes for constants, such as the momentum that OneCycleLR moves.

    Of tensors, such as the learning rate, a capture sees what they become, though not that there is another one.
    """
    return [
        {name: id(value) if isinstance(value, Tensor) else value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]
