"""Step sizes and scales of annealed chains, found in a pilot run."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine

from pyro_vae.inference import evidence, methods


def sequences(x, seen):
    """A random walk of four steps seen with noise 0.1, of which each sequence has so many as ``seen`` says."""
    with pyro.plate("data", len(x)):
        before = torch.zeros_like(x[:, 0])
        for t in range(4):
            with poutine.mask(mask=seen[:, t]):
                before = pyro.sample(f"z{t}", dist.Normal(before, 1.0))
                pyro.sample(f"x{t}", dist.Normal(before, 0.1), obs=x[:, t])


def test_latents_masked_in_some_data_do_not_spoil_the_steps_of_others():
    """Acceptance was 0.00 to 0.32 together, and log p(x) -98 for -12."""
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lengths = [4, 2, 1]
    seen = torch.arange(4) < torch.tensor(lengths)[:, None]
    ev = evidence(sequences, None, (x, seen), 32, method=methods.AIS(400), progress=False)
    exact = []
    for length, row in zip(lengths, x, strict=True):
        steps = torch.arange(1, length + 1, dtype=torch.float64)
        covariance = torch.minimum(steps[:, None], steps) + 0.01 * torch.eye(length)
        law = dist.MultivariateNormal(torch.zeros(length, dtype=torch.float64), covariance)
        exact.append(law.log_prob(row[:length]))
    assert (ev.acceptance - 0.65).abs().max() < 0.15
    assert ((ev.log_px - torch.stack(exact)).abs() < 4 * ev.std_error).all()
    assert ev.std_error.max() < 0.7
    auto = evidence(sequences, None, (x, seen), 2000, progress=False)
    assert ((auto.log_px - torch.stack(exact)).abs() < 4 * auto.std_error).all()
    assert auto.std_error.max() < 0.05
