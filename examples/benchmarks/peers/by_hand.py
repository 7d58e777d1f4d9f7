"""The loss and the loop written by hand in PyTorch: eager, with torch.compile, and as CUDA graphs of a whole step.

All take PyTorch's fused Adam, which saves a small network a seventh of an eager step on a CPU.
"""

import math
import shutil
from collections.abc import Callable

import torch
from torch import Tensor, nn

from peers.task import Networks, Pass, Task, Unavailable, minibatches, timed


def log_weights(networks: Networks, x: Tensor, num_particles: int) -> Tensor:
    """Return log p(x, z) - log q(z|x), z = mu + sigma eps, shape (K, B); the terms log 2 pi cancel."""
    loc, log_scale = networks.encoder(x).chunk(2, -1)
    noise = torch.randn(num_particles, *loc.shape, device=x.device)
    z = loc + log_scale.exp() * noise
    logits = networks.decoder(z.flatten(0, 1)).unflatten(0, z.shape[:2])
    log_p_x = -nn.functional.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
    return log_p_x + (0.5 * noise.square() + log_scale - 0.5 * z.square()).sum(-1)


def loss(networks: Networks, x: Tensor, num_particles: int) -> Tensor:
    """Return the negative ELBO (K = 1) or importance-weighted bound, the mean over data."""
    log_w = log_weights(networks, x, num_particles)
    bound = log_w[0] if num_particles == 1 else log_w.logsumexp(0) - math.log(num_particles)
    return -bound.mean()


class Eager:
    """Eager PyTorch, the minibatches gathered by index."""

    def __init__(self, task: Task) -> None:
        self.task, self.x, self.learnt = task, task.data(), task.networks()
        self.optimizer = self.make_optimizer()
        self.loss = self.make_loss()

    def make_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.learnt.parameters(), lr=self.task.lr, fused=True)

    def make_loss(self) -> Callable[[Tensor], Tensor]:
        return lambda x: loss(self.learnt, x, self.task.num_particles)

    def train(self, epochs: int) -> list[Pass]:
        return [timed(self._epoch, self.task.device) for _ in range(epochs)]

    def _epoch(self) -> float:
        total = torch.zeros((), device=self.task.device)
        for x in minibatches(self.x, self.task, loader=False):
            self.optimizer.zero_grad()
            value = self.loss(x)
            value.backward()
            self.optimizer.step()
            total += value.detach()
        return total.item() / self.task.steps

    def networks(self) -> Networks:
        return self.learnt


class Compiled(Eager):
    """Loss and gradient through torch.compile; a compiled optimizer and autotuned kernels were no faster on a CPU."""

    def make_loss(self) -> Callable[[Tensor], Tensor]:
        torch.compiler.reset()  # or the limit of recompilations is met by the tasks before
        return compile_by_hand(super().make_loss(), self.task.device)


def compile_by_hand(function: Callable, device: str) -> Callable:
    """Compile a function for inputs of few shapes.

    On a CPU random numbers are left to PyTorch: those of the compiler take longer, a quarter of an evaluation.
    """
    if device == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
        raise Unavailable("torch.compile on a CPU needs a C++ compiler")
    options = {"fallback_random": device == "cpu"}
    return torch.compile(function, fullgraph=True, dynamic=False, options=options)


class Graph(Eager):
    """Gather, loss, gradient and Adam recorded once as a CUDA graph and replayed for each step."""

    def make_optimizer(self) -> torch.optim.Optimizer:
        if self.task.device != "cuda":
            raise Unavailable("CUDA graphs need --device cuda")
        return torch.optim.Adam(self.learnt.parameters(), lr=self.task.lr, capturable=True, fused=True)

    def make_loss(self) -> Callable[[Tensor], Tensor]:
        eager = super().make_loss()
        self.index = torch.zeros(self.task.batch_size, dtype=torch.long, device=self.task.device)
        self.total = torch.zeros((), device=self.task.device)
        before = [p.detach().clone() for p in self.learnt.parameters()]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # warm up, as recording asks for
            for _ in range(3):
                self._step(eager)
        torch.cuda.current_stream().wait_stream(stream)
        self.optimizer.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self._step(eager)
        self.learnt.load(before)
        self._forget()
        return eager

    def _step(self, eager: Callable[[Tensor], Tensor]) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        value = eager(self.x.index_select(0, self.index))
        value.backward()
        self.optimizer.step()
        self.total += value.detach()

    @torch.no_grad()
    def _forget(self) -> None:
        """Set the moments of Adam to zero, in place, where the graph has them."""
        for state in self.optimizer.state.values():
            for moment in state.values():
                moment.zero_()

    def _epoch(self) -> float:
        self.total.zero_()
        for index in torch.randperm(len(self.x)).to(self.task.device).split(self.task.batch_size):
            self.index.copy_(index)
            self.graph.replay()
        return self.total.item() / self.task.steps


class CompiledGraph(Graph, Compiled):
    """The same with loss and gradient through torch.compile: by hand, the most that is known to be had."""
