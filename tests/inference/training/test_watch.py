"""Early stopping by an estimate of log p(x) of validation data."""

from __future__ import annotations

import pytest
import torch
from programs import make_pair
from truth import BernoulliMixture, LinearGaussian

from pyro_vae.inference import fit
from pyro_vae.inference.scoring.importance import IW
from pyro_vae.inference.scoring.laplace import Laplace
from pyro_vae.inference.training.watch import Watch

PIXELS = (torch.rand(60, 6, generator=torch.Generator().manual_seed(0)) < 0.5).float()
CPU = torch.device("cpu")


def test_the_estimate_does_not_rest_on_the_guide():
    truth = LinearGaussian.random(3, 5)
    x = truth.sample(80)
    watch = Watch(truth.model, truth.guide(0.2, 3.0), (x,), None, 0, CPU)
    assert watch() == pytest.approx(truth.log_px(x).mean().item(), abs=0.05)
    assert watch() == watch()  # the same draws each time
    assert isinstance(watch.how, Laplace)


def test_discrete_latents_are_watched_by_draws_of_the_guide():
    truth = BernoulliMixture()
    x = torch.ones(4, truth.theta.shape[1], dtype=torch.float64)
    watch = Watch(truth, truth.guide, (x,), None, 0, CPU)
    assert watch() == pytest.approx(truth.log_px(x).mean().item(), abs=0.2)
    assert isinstance(watch.how, IW)


def test_it_is_recorded_every_few_epochs_and_the_best_of_them_is_kept():
    model, guide = make_pair()
    settings = {"epochs": 7, "batch_size": 20, "valid": PIXELS[:30], "progress": False, "device": "cpu"}
    result = fit(model, guide, PIXELS, patience=3, watch="evidence", **settings)
    seen = {row["epoch"]: row["valid_log_px"] for row in result.history if "valid_log_px" in row}
    assert set(seen) <= {3, 6, 7}
    assert result.best_epoch == max(seen, key=seen.get)
    assert all("valid_bound" in row for row in result.history)


def test_training_itself_is_not_changed_by_watching():
    runs = []
    for watch in ("bound", "evidence"):
        model, guide = make_pair()
        result = fit(model, guide, PIXELS, epochs=3, batch_size=20, valid=PIXELS, watch=watch, progress=False)
        runs.append([row["loss"] for row in result.history])
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ("watch", "message"), [("elbo", "Expected watch to be"), ("evidence", r"Expected valid=\.\.\.")]
)
def test_mistakes_are_refused(watch, message):
    with pytest.raises(ValueError, match=message):
        fit(*make_pair(), PIXELS, epochs=1, batch_size=20, watch=watch, progress=False)
