"""pythae: its ``VAE`` and ``IWAE`` on the same networks, and its trainer where the data path is a peer's own."""

import contextlib
import io
import logging
import tempfile

import torch
from pythae.data.datasets import BaseDataset, DatasetOutput
from pythae.models import IWAE, VAE, IWAEConfig, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import Tensor

from peers.task import PIXELS, Networks, Pass, Task, minibatches, timed

logging.getLogger("pythae").setLevel(logging.WARNING)


class Encoder(BaseEncoder):
    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> ModelOutput:
        loc, log_scale = self.network(x).chunk(2, -1)
        return ModelOutput(embedding=loc, log_covariance=2 * log_scale)


class Decoder(BaseDecoder):
    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=torch.sigmoid(self.network(z)))


class Pythae:
    """KL in closed form for the ELBO; the importance-weighted loss has the bound's gradient, but not its value.

    The loss is the mean over the minibatch. It reports sum_k w_k log w_k with the normalised weights for IWAE.
    """

    def __init__(self, task: Task) -> None:
        self.task, self.x, self.learnt = task, task.data(), task.networks()
        common = {"input_dim": (PIXELS,), "latent_dim": task.latent_dim, "reconstruction_loss": "bce"}
        parts = Encoder(self.learnt.encoder), Decoder(self.learnt.decoder)
        if task.num_particles == 1:
            self.model = VAE(VAEConfig(**common), *parts).to(task.device)
        else:
            self.model = IWAE(IWAEConfig(number_samples=task.num_particles, **common), *parts).to(task.device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=task.lr)
        self.epochs = 0
        self.trainer = self._trainer() if task.natural else None

    def _trainer(self) -> BaseTrainer:
        with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
            config = BaseTrainerConfig(
                output_dir=folder,
                per_device_train_batch_size=self.task.batch_size,
                learning_rate=self.task.lr,
                no_cuda=self.task.device != "cuda",
            )
            trainer = BaseTrainer(self.model, BaseDataset(self.x.cpu(), torch.zeros(len(self.x))), None, config)
            trainer.prepare_training()
        return trainer

    def train(self, epochs: int) -> list[Pass]:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            return [timed(self._epoch, self.task.device) for _ in range(epochs)]

    def _epoch(self) -> float:
        if self.trainer is not None:
            self.epochs += 1
            return float(self.trainer.train_step(self.epochs))
        total = torch.zeros((), device=self.task.device)
        for x in minibatches(self.x, self.task, loader=False):
            self.optimizer.zero_grad()
            loss = self.model(DatasetOutput(data=x)).loss
            loss.backward()
            self.optimizer.step()
            total += loss.detach()
        return total.item() / self.task.steps

    def networks(self) -> Networks:
        return self.learnt
