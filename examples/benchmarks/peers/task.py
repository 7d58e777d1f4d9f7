"""What every contestant is given: networks, data, a bound, a batch size and Adam; and how its passes are timed."""

import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

PIXELS, IMAGE = 784, (1, 28, 28)


class Unavailable(Exception):
    """A contestant cannot take part; the message says why."""


@dataclass(frozen=True)
class Pass:
    """One pass over the data: how long it took, and its mean loss in nats per datum, one step after another."""

    seconds: float
    loss: float


@dataclass(frozen=True)
class Networks:
    """Encoder, x -> (mu, log sigma), and decoder, z -> logits, with no code of this library."""

    encoder: nn.Module
    decoder: nn.Module

    def copy(self) -> "Networks":
        return deepcopy(self)

    def parameters(self) -> list[nn.Parameter]:
        """Return all parameters, the encoder's first, each network's from input to output."""
        return [*self.encoder.parameters(), *self.decoder.parameters()]

    @torch.no_grad()
    def load(self, values: Iterator[Tensor] | list[Tensor]) -> "Networks":
        """Copy values into the parameters, in their order."""
        for parameter, value in zip(self.parameters(), values, strict=True):
            assert parameter.shape == value.shape, (parameter.shape, value.shape)
            parameter.copy_(value)
        return self


class Contestant(Protocol):
    """Made from a task; raises ``Unavailable`` where it cannot do it."""

    def train(self, epochs: int) -> list[Pass]:
        """Go on training for so many passes over the data."""

    def networks(self) -> Networks:
        """Return what has been trained."""


@dataclass(frozen=True)
class Task:
    """A training job; two tasks that compare equal are the same job.

    Attributes:
        network: "mlp", 784-width-width-2D and back with tanh, or "conv", two strided convolutions and back with relu.
        num_particles: K; 1 is the ELBO, more the importance-weighted bound.
        batch_size: B.
        steps: minibatches in a pass; the data are B times as many.
        width: of the hidden layers of "mlp".
        latent_dim: D.
        natural: data reach a peer as its own examples have them (DataLoader, its own trainer), rather than by index.
        lr: of Adam.
        device: "cpu" or "cuda".
    """

    network: str = "mlp"
    num_particles: int = 1
    batch_size: int = 100
    steps: int = 50
    width: int = 200
    latent_dim: int = 50
    natural: bool = False
    lr: float = 1e-3
    device: str = "cpu"
    seed: int = field(default=0, repr=False)

    def data(self) -> Tensor:
        """Return binary data of shape (N, 784), 20% of the pixels on; what they show costs nothing."""
        generator = torch.Generator().manual_seed(self.seed)
        bits = torch.rand(self.batch_size * self.steps, PIXELS, generator=generator) < 0.2
        return bits.float().to(self.device)

    def networks(self) -> Networks:
        """Return the networks that all contestants start with."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            make = {"mlp": self._perceptrons, "conv": self._convolutions}[self.network]
            encoder, decoder = make()
        return Networks(encoder.to(self.device), decoder.to(self.device))

    def _perceptrons(self) -> tuple[nn.Module, nn.Module]:
        def perceptron(fan_in: int, fan_out: int) -> nn.Module:
            hidden = [nn.Linear(fan_in, self.width), nn.Tanh(), nn.Linear(self.width, self.width), nn.Tanh()]
            return nn.Sequential(*hidden, nn.Linear(self.width, fan_out))

        return perceptron(PIXELS, 2 * self.latent_dim), perceptron(self.latent_dim, PIXELS)

    def _convolutions(self) -> tuple[nn.Module, nn.Module]:
        small = (64, 7, 7)
        down = [nn.Conv2d(1, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(), nn.Flatten()]
        up = [nn.ConvTranspose2d(64, 32, 3, 2, 1, 1), nn.ReLU(), nn.ConvTranspose2d(32, 1, 3, 2, 1, 1), nn.Flatten()]
        head = nn.Linear(64 * 7 * 7, 2 * self.latent_dim)
        encoder = nn.Sequential(nn.Unflatten(1, IMAGE), *down, head)
        decoder = nn.Sequential(nn.Linear(self.latent_dim, 64 * 7 * 7), nn.Unflatten(1, small), nn.ReLU(), *up)
        return encoder, decoder


def minibatches(x: Tensor, task: Task, loader: bool) -> Iterator[Tensor]:
    """Yield the data once in a new order, out of a ``DataLoader`` or by index where they are."""
    if loader:
        for (batch,) in DataLoader(TensorDataset(x.cpu()), task.batch_size, shuffle=True):
            yield batch.to(task.device)
    else:
        for index in torch.randperm(len(x)).to(x.device).split(task.batch_size):
            yield x.index_select(0, index)  # rows copied whole, in half the time of x[index]


def timed(epoch: Callable[[], float], device: str) -> Pass:
    """Run a pass that returns its loss as a number, so that all of its work is done by then."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    loss = epoch()
    return Pass(time.perf_counter() - started, loss)
