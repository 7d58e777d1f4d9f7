"""Going on with a run on the command line: the same bits, and nothing but the run that it was."""

from __future__ import annotations

import pandas as pd
import torch
import yaml
from helpers import OWN_PRIOR, metrics_of, train_bits

from pyro_vae.cli import main, scoring, train
from pyro_vae.inference import Evidence
from pyro_vae.runs import Run


def test_resumed_run_equals_the_uninterrupted_one(folder):
    assert train_bits("--out", "whole", "--epochs", "5") == 0
    assert train_bits("--out", "half", "--epochs", "2") == 0
    assert main(["train", "--resume", "half", "--epochs", "5"]) == 0
    pd.testing.assert_frame_equal(metrics_of(folder / "half"), metrics_of(folder / "whole"))
    whole, half = (Evidence.load(folder / name / "evidence.npz") for name in ("whole", "half"))
    assert torch.equal(whole.log_px, half.log_px)
    assert Run("half").config()["epochs"] == 5


def test_interruption_says_how_to_go_on(folder, capsys, monkeypatch):
    def interrupted(*args, checkpoint, **kwargs):
        raise KeyboardInterrupt(f"Interrupted in epoch 3. The checkpoint {checkpoint} holds 2 epochs; resume from it.")

    monkeypatch.setattr(train, "fit", interrupted)
    assert train_bits("--out", "run") == 130
    error = capsys.readouterr().err
    assert "run/checkpoint.pt holds 2 epochs" in error
    assert "Go on with: pyro-vae train --resume run" in error
    monkeypatch.undo()
    monkeypatch.chdir(folder)

    def interrupted_again(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(scoring, "evidence", interrupted_again)
    assert train_bits("--out", "other") == 130
    assert "the model is kept. Go on with: pyro-vae train --resume other" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert main(["train", "--resume", "other"]) == 0


def test_resuming_towards_fewer_epochs_is_refused(folder, capsys):
    assert train_bits("--out", "run", "--epochs", "3") == 0
    before = (folder / "run" / "config.yaml").read_text()
    assert main(["train", "--resume", "run", "--epochs", "2"]) == 2
    assert "run holds 3 epochs already. Give --epochs 3 or more" in capsys.readouterr().err
    assert (folder / "run" / "config.yaml").read_text() == before


def test_a_run_is_not_resumed_with_another_model_or_other_settings(folder, capsys):
    train_bits("--out", "run")
    programs = (["--hidden", "7"], ["--latent-dim", "9"], ["--prior", "Laplace"])
    for change in (*programs, ["--objective", "IWAE"], ["--batch-size", "7"], ["--precision", "bf16"]):
        capsys.readouterr()
        assert main(["train", "--resume", "run", *change, "--epochs", "9"]) == 2
        assert f"Expected {change[0]} as run was trained with, " in capsys.readouterr().err
    assert main(["train", "--resume", "run", "--epochs", "4"]) == 0


def test_resuming_with_a_config_takes_both(folder):
    assert train_bits("--out", "run", "--prior", "Laplace") == 0
    (folder / "over.yaml").write_text("epochs: 3")
    assert main(["train", "--resume", "run", "--config", "over.yaml"]) == 0
    config = Run("run").config()
    assert (config["epochs"], config["prior"].class_path, config["data"]) == (3, "Laplace", str(folder / "bits.npy"))


def test_a_run_is_not_resumed_with_another_class_of_the_same_name(folder, capsys):
    for module in ("cli_test_first", "cli_test_second"):
        (folder / f"{module}.py").write_text(OWN_PRIOR)
    assert train_bits("--prior", "cli_test_first.Wide", "--out", "run") == 0
    assert main(["train", "--resume", "run", "--prior", "cli_test_second.Wide", "--epochs", "3"]) == 2
    assert "Expected --prior as run was trained with, cli_test_first.Wide" in capsys.readouterr().err


def test_an_old_config_that_leaves_the_likelihood_to_the_data_is_resumed(folder):
    assert train_bits("--out", "run") == 0
    config = yaml.safe_load((folder / "run" / "config.yaml").read_text())
    del config["likelihood"], config["objective"], config["format"]
    (folder / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["evaluate", "run", "--method", "IW", "--num-particles", "20"]) == 0
    assert main(["train", "--resume", "run", "--epochs", "3"]) == 0
