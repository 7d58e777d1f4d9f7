"""An estimate of log p(x) of validation data now and then in training, which the bound is a poor stand-in for."""

from __future__ import annotations

from typing import Any

import torch

from pyro_vae.inference.programs.call import Args, Program, rows
from pyro_vae.inference.scoring.base import Estimator
from pyro_vae.inference.scoring.evidence import evidence
from pyro_vae.inference.scoring.importance import IW
from pyro_vae.inference.scoring.laplace import Laplace

NUM_DATA = 100
"""Validation data, drawn at random once, whose log p(x) is estimated."""
NUM_PARTICLES = 200
EVERY = 10
"""Epochs from one estimate to the next, or as many as ``patience`` where that is less."""


class Watch:
    """log p(x) of some validation data by draws from Laplace's approximation, or from the guide where it has none.

    An encoder that overfits lowers the validation bound while the model still gets better: the bound is log p(x) minus
    the inference gap, and it is the gap that grows. Proposals at the posteriors' modes do not rest on the encoder.

    Args:
        model: Pyro program for p(x, z).
        guide: Pyro program for q(z | x).
        valid: validation data.
        patience: that of the training.
        seed: of the choice of data and of the draws, the same ones each time.
        device: where.
    """

    def __init__(
        self, model: Program, guide: Program, valid: Args, patience: int | None, seed: int, device: torch.device
    ) -> None:
        self.programs, self.seed, self.device = (model, guide), seed, device
        self.every = min(EVERY, patience or EVERY)
        generator = torch.Generator().manual_seed(seed % 2**63)
        index = torch.randperm(len(valid[0]), generator=generator)[:NUM_DATA]
        self.args = rows(valid, index)
        self.how: Estimator = Laplace(starts=2, steps=15)

    def is_due(self, epoch: int, last: bool) -> bool:
        """Say whether there is to be an estimate after an epoch."""
        return last or epoch % self.every == 0

    def __call__(self) -> float:
        """Return the mean estimate, nats per datum."""
        settings: dict[str, Any] = {
            "seed": self.seed,
            "device": self.device,
            "compile": False,
            "progress": False,
        }
        try:
            return evidence(*self.programs, self.args, NUM_PARTICLES, method=self.how, **settings).mean
        except ValueError:
            if isinstance(self.how, IW):
                raise
            self.how = IW()  # discrete latents, too many of them, or no second derivative
            return self()
