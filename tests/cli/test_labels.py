"""Labels and covariates on the command line: models given them, and models that predict them."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import built, completed, train

from pyro_vae.cli import main
from pyro_vae.data.labels import labels_of, take_column
from pyro_vae.inference import Evidence, evidence
from pyro_vae.report import diagnosis
from pyro_vae.runs import Run
from pyro_vae.runs.kinds import ConditionalKind, SemiSupervisedKind


@pytest.fixture
def table(folder):
    """A table of which a column has the classes 1, 3 and 4, and another is a real covariate."""
    rng = np.random.default_rng(2)
    kind, age = rng.choice([1, 3, 4], 100), rng.normal(40, 10, 100)
    rows = np.column_stack([rng.normal(size=100) + kind, kind, age, rng.normal(size=100)])
    np.savetxt("table.csv", rows, delimiter=",", header="u,kind,age,v", comments="")
    return rows


def test_column_is_taken_out_of_the_table_row_by_row(table):
    _, whole = completed("--data", "table.csv")
    _, splits = completed("--data", "table.csv", "--model", "ConditionalVAE", "--model.label", "kind")
    for part in ("train", "valid", "test"):
        rows = getattr(whole, part)
        assert torch.equal(getattr(splits, part), rows[:, [0, 2, 3]])
        assert torch.equal(splits.labels[part], rows[:, 1].long())
    found = labels_of(splits)
    assert (found.model_arguments, found.width) == ({"num_classes": 3}, 3)
    assert torch.equal(found.values[found.y["train"]], splits.labels["train"])
    assert found.encode([4, 1]).tolist() == [2, 0]
    assert torch.equal(take_column(whole, "1").train, splits.train)  # by position


def test_covariate_is_standardised(table):
    _, splits = completed("--data", "table.csv", "--model", "ConditionalVAE", "--model.label", "age")
    found, age = labels_of(splits), splits.labels["train"]
    assert (found.model_arguments, found.width) == ({"num_covariates": 1}, 1)
    torch.testing.assert_close(found.y["train"], ((age - age.mean()) / age.std())[:, None])
    torch.testing.assert_close(found.encode(splits.labels["test"].tolist()), found.y["test"])


def test_evidence_of_a_conditional_model_is_of_x_given_y(table, capsys, monkeypatch):
    label = ["--model", "ConditionalVAE", "--model.label", "kind"]
    assert train("--data", "table.csv", *label, "--out", "run") == 0
    assert re.fullmatch(r"test log p\(x\|y\) >?= .* nats .*", capsys.readouterr().out.splitlines()[-1])
    _, splits, model, guide, _ = Run("run").load()
    y = torch.searchsorted(torch.tensor([1, 3, 4]), splits.labels["test"])
    direct = evidence(model, guide, (splits.test, y), 30, seed=0, method="iw", progress=False, device="cpu")
    scored = Evidence.load("run/evidence.npz").log_px
    torch.testing.assert_close(direct.log_px, scored)
    assert main(["evaluate", "run", "--method", "IW", "--num-particles", "30"]) == 0
    assert torch.equal(Evidence.load("run/test-K30-seed0/evidence.npz").log_px, scored)
    kept = ("ELBO surgery", "Does the model fit? Statistics")
    monkeypatch.setattr(diagnosis, "_CHECKS", {title: diagnosis._CHECKS[title] for title in kept})
    capsys.readouterr()
    assert main(["report", "run"]) == 0
    printed = capsys.readouterr().out
    assert "Not available" not in printed
    assert "ELBO surgery" in (Run("run").report).read_text()


def test_runs_are_compared_where_they_estimate_the_same(table, capsys):
    label = ["--model.label", "kind"]
    kinds = {"a": ["ConditionalVAE", *label], "b": ["SemiSupervisedVAE", *label, "--model.num_labels", "20"]}
    for out, model in kinds.items():
        assert train("--data", "table.csv", "--epochs", "1", "--model", *model, "--out", out) == 0
    assert main(["compare", "a", "b"]) == 2  # log p(x|y) and log p(x)
    assert "Expected the same data of all that are compared" in capsys.readouterr().err


def test_labels_choose_what_is_drawn(table):
    assert train("--data", "table.csv", "--model", "ConditionalVAE", "--model.label", "kind", "--out", "run") == 0
    _, _, model, _, _ = Run("run").load()
    assert main(["sample", "run", "--label", "4", "1", "--num-samples", "5", "--seed", "3", "--mean"]) == 0
    torch.manual_seed(3)
    z = model.prior().sample((5,))
    means = model.decode(z, torch.tensor([2, 0, 2, 0, 2])).mean
    np.testing.assert_allclose(pd.read_csv("run/samples.csv"), means.detach().numpy(), rtol=1e-5)


def test_convolutions_see_a_label_as_channels(folder):
    """The digits come flat: an encoder of pictures gets the one-hot label as ten constant channels beside them."""
    model, guide = built("--model", "ConditionalVAE", "--encoder", "conv", "--decoder", "deconv")
    assert guide.encoder.network.image_shape == (11, 8, 8)
    x, y = torch.rand(3, 64), torch.eye(10)[:3]
    inside = torch.cat([x.reshape(3, 1, 8, 8), y[:, :, None, None].expand(-1, -1, 8, 8)], 1)
    torch.testing.assert_close(guide.encoder(torch.cat([x, y], 1)), guide.encoder.network(inside))
    assert model.sample(torch.tensor([0, 5])).shape == (2, 64)


def test_semi_supervised_training_knows_so_many_labels(folder):
    _, splits = completed()
    x, kept = SemiSupervisedKind(num_labels=30, label_seed=1).training_data(splits)
    known = kept >= 0
    assert x is splits.train
    assert known.sum() == 30
    assert torch.equal(kept[known], splits.labels["train"][known])
    assert (kept[~known] == -1).all()
    assert not torch.equal(kept, SemiSupervisedKind(num_labels=30, label_seed=2).training_data(splits)[1])


def test_semi_supervised_run_scores_data_without_labels(table, capsys):
    options = ["--model", "SemiSupervisedVAE", "--model.num_labels", "20", "--model.label", "kind"]
    assert train("--data", "table.csv", *options, "--out", "run") == 0
    out = capsys.readouterr().out
    config, splits, model, guide, _ = Run("run").load()
    assert config.training.objective.init_args["gradient"] == "enumerate"
    direct = evidence(model, guide, splits.test, 30, seed=0, method="iw", progress=False, device="cpu")
    torch.testing.assert_close(direct.log_px, Evidence.load("run/evidence.npz").log_px)
    right = (torch.tensor([1, 3, 4])[guide.classify(splits.test)] == splits.labels["test"]).double().mean()
    assert f"class q(y|x) is right: {right:.1%} of 10" in out
    assert guide.alpha == pytest.approx(0.1 * 80 / 20)
    assert main(["sample", "run", "--num-samples", "4"]) == 0
    assert main(["sample", "run", "--num-samples", "4", "--label", "3"]) == 0
    assert pd.read_csv("run/samples.csv").shape == (4, 3)


def test_labels_that_there_are_not_are_refused():
    _, splits = completed()
    with pytest.raises(ValueError, match=r"Expected a label among 0, 1, .*, 9; got 12\."):
        ConditionalKind().encode_labels(splits, [3, 12])


def test_prior_given_the_label(folder):
    model, _ = built("--model", "ConditionalVAE", "--model.prior_given_label", "true")
    assert model.latent(torch.tensor([0, 1])).batch_shape == (2,)
    config, _ = completed("--model", "ConditionalVAE")
    assert config.parts.model.init_args == {"label": None, "prior_given_label": False}


def test_a_mixed_table_is_conditioned_on_one_of_its_columns(folder, capsys):
    draws = np.random.default_rng(0)
    group = draws.integers(0, 3, 100)
    frame = pd.DataFrame({"group": group, "dose": draws.normal(5.0 * group), "visits": draws.poisson(2.0, 100)})
    frame["town"] = np.where(draws.random(100) < 0.5, "north", "south")
    frame.loc[3, "dose"] = np.nan
    frame.to_csv("table.csv", index=False)
    settings = ("--data", "table.csv", "--model", "ConditionalVAE")
    assert train(*settings, "--model.label", "group", "--out", "run") == 0
    assert main(["sample", "run", "--label", "2", "--num-samples", "7"]) == 0
    drawn = pd.read_csv("run/samples.csv")
    assert list(drawn.columns) == ["dose", "visits", "town"]
    assert set(drawn["town"]) <= {"north", "south"}
    assert main(["impute", "run"]) == 2
    assert "Expected a run of a model of x alone to impute" in capsys.readouterr().err
    assert train(*settings, "--model.label", "dose", "--out", "other") == 2
    assert "Expected no missing entries in the label column 'dose'" in capsys.readouterr().err
