"""Batch normalisation in users' networks: any N and batch size, particles together, evaluation by running means."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae.inference import evidence, fit, log_weights, objectives
from pyro_vae.inference.programs.vectorize import find_plates

X = (torch.rand(61, 6, generator=torch.Generator().manual_seed(0)) < 0.4).float()
quiet = dict(progress=False, device="cpu")


class _Normalised(nn.Module):
    """z ~ N(0, I), x | z ~ Bernoulli(decoder(z)), with batch normalisation in decoder and encoder."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.decoder = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6))
            self.encoder = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x):
        loc, log_scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


@pytest.mark.parametrize("objective", [None, objectives.IWAE(3), objectives.IWAE(3, "dreg")])
@pytest.mark.parametrize(("batch_size", "sizes"), [(20, [20, 20, 21]), (30, [30, 31]), (60, [61]), (61, [61])])
def test_a_last_minibatch_of_one_is_joined_to_the_one_before(objective, batch_size, sizes):
    programs, seen = _Normalised(), []
    settings = dict(objective=objective, batch_size=batch_size, epochs=2, compile=False, **quiet)
    result = fit(programs.model, programs.guide, X, transform=lambda x: seen.append(len(x)) or x, **settings)
    assert seen[-2 * len(sizes) :] == 2 * sizes
    assert result.history[1]["loss"] < 6
    with pytest.raises(ValueError, match=r"Expected batch_size >= 2 with BatchNorm1d in the networks.*got 1"):
        fit(programs.model, programs.guide, X, **(settings | {"batch_size": 1}))


def test_particles_run_together_and_data_alone():
    """In evaluation mode a datum's weights do not depend on the others, nor on how many particles there are."""
    programs = _Normalised()
    fit(programs.model, programs.guide, X, batch_size=20, epochs=2, **quiet)
    assert find_plates(programs.model, programs.guide, (X,)).particles == "copies"
    whole = evidence(programs.model, programs.guide, X, 200, method="iw", **quiet)
    alone = evidence(programs.model, programs.guide, X[:1], 20_000, method="iw", **quiet)
    assert abs(whole.log_px[0] - alone.log_px[0]) < 5 * (whole.std_error[0] ** 2 + alone.std_error[0] ** 2).sqrt()
    for method in ("auto", "ais"):
        ev = evidence(programs.model, programs.guide, X[:5], None if method == "auto" else 30, method=method, **quiet)
        assert ((ev.log_px - whole.log_px[:5]).abs() < 5 * (whole.std_error[:5] ** 2 + ev.std_error**2).sqrt()).all()
    programs.eval()
    torch.manual_seed(0)
    many = log_weights(programs.model, programs.guide, X, 3)
    torch.manual_seed(0)
    noise = torch.randn(3, 61, 2)
    loc, log_scale = programs.encoder(X).chunk(2, -1)
    z = loc + log_scale.exp() * noise
    by_hand = dist.Normal(0.0, 1.0).log_prob(z).sum(-1) - dist.Normal(loc, log_scale.exp()).log_prob(z).sum(-1)
    logits = programs.decoder(z.flatten(0, 1)).unflatten(0, (3, 61))
    by_hand = by_hand + dist.Bernoulli(logits=logits).log_prob(X).sum(-1)
    torch.testing.assert_close(many, by_hand, atol=1e-4, rtol=1e-5)


def test_particles_that_run_one_by_one_are_not_compiled():
    def model(x):
        with pyro.plate("data", 61):
            z = pyro.sample("z", dist.Normal(torch.zeros(61, 2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z.view(61, -1)[:, :1].expand(61, 6)).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", lambda: torch.zeros(2))
        with pyro.plate("data", 61):
            pyro.sample("z", dist.Normal(loc.expand(61, 2), 1.0).to_event(1))

    pyro.clear_param_store()
    for objective in (objectives.IWAE(50), pyro.infer.Trace_ELBO(num_particles=50)):
        with pytest.warns(UserWarning, match=r"50 particles run one by one|run one by one, more slowly"):
            result = fit(model, guide, X, objective=objective, batch_size=61, epochs=2, compile=True, **quiet)
        assert result.execution.startswith("eager: its 50 particles run one by one")
    with pytest.warns(UserWarning, match=r"particles run one by one|run one by one, more slowly"):
        evidence(model, guide, X, 30, method="iw", compile=True, **quiet)
