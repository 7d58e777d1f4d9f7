"""The command line, called as the console script calls it, on data small enough for seconds."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import OWN_PRIOR, QUICK, metrics_of, train_bits

from pyro_vae.cli import main, train
from pyro_vae.core.registry import Spec
from pyro_vae.inference import Evidence
from pyro_vae.runs import Run

RESULT = re.compile(
    r"test log p\(x\) >?= -\d+\.\d\d \+- \d+\.\d\d nats  \(K=(\d+), N=(\d+), flagged: (\d+ of \d+|unknown.*)\)( .*)?"
)


def test_train_writes_a_run_and_ends_with_the_result(folder, capsys):
    assert train_bits() == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert RESULT.fullmatch(last).groups()[:2] == ("30", "10")
    run = folder / "runs" / "bits-001"
    files = {"config.yaml", "data.json", "checkpoint.pt", "metrics.csv", "evidence.npz", "result.json", "report.html"}
    assert {p.name for p in run.iterdir()} == files
    result = json.loads((run / "result.json").read_text())
    ev = Evidence.load(run / "evidence.npz")
    assert result["log_px"] == ev.mean
    assert result["stderr"] == ev.stderr
    assert result["likelihood"] == "Bernoulli()"
    assert {"data", "scored", "estimator", "versions", "training"} <= result.keys()
    assert last.partition("  next: ")[0].removeprefix("test ") in (run / "report.html").read_text().replace("&gt;", ">")
    assert len(metrics_of(run)) == 2


def test_main_job_needs_no_argument_but_time(folder, capsys):
    """The embedded default, cut short: the digits are counts, so their likelihood is binomial."""
    assert main(["train", "--epochs", "1", "--num-particles", "100", "--audit", "2"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"test log p\(x\) >?= -\d+\.\d\d \+- \d\.\d\d nats  \(auto, N=300, flagged: \d+ of 300\)", printed[-1]
    )
    assert any(re.match(r"audit: annealing from the prior finds .* nats on 2 data drawn at random", p) for p in printed)
    result = json.loads((folder / "runs" / "digits-001" / "result.json").read_text())
    assert result["likelihood"] == "Binomial(total_count=16)"


def test_second_run_gets_its_own_directory_and_never_overwrites_unasked(folder, capsys):
    assert train_bits() == train_bits() == 0
    assert {p.name for p in (folder / "runs").iterdir()} == {"bits-001", "bits-002"}
    before = (folder / "runs" / "bits-001" / "result.json").read_text()
    assert train_bits("--out", "runs/bits-001", "--seed", "5") == 2
    assert "runs/bits-001 holds a run already. Continue it with" in capsys.readouterr().err
    assert (folder / "runs" / "bits-001" / "result.json").read_text() == before
    assert train_bits("--out", "runs/bits-001", "--seed", "5", "--overwrite") == 0
    assert (folder / "runs" / "bits-001" / "result.json").read_text() != before


def test_config_of_a_run_repeats_it(folder):
    assert train_bits("--out", "first", "--objective", "IWAE", "--objective.num_particles", "3") == 0
    assert main(["train", "--config", "first/config.yaml", "--out", "second"]) == 0
    pd.testing.assert_frame_equal(metrics_of(folder / "first"), metrics_of(folder / "second"))
    assert (folder / "first" / "config.yaml").read_text() == (folder / "second" / "config.yaml").read_text()


@pytest.mark.parametrize("patience", [[], ["--patience", "3"]])
def test_evaluate_scores_the_model_that_train_scored(folder, patience):
    # A learning rate so high that the last epoch is not the best one.
    assert train_bits("--out", "run", "--epochs", "30", "--optimizer.lr", "0.3", *patience) == 0
    trained = Evidence.load("run/evidence.npz")
    assert main(["evaluate", "run", "--method", "IW", "--num-particles", "30"]) == 0
    assert torch.equal(Evidence.load("run/test-K30-seed0/evidence.npz").log_px, trained.log_px)


def test_evaluate_scores_again(folder, capsys):
    assert train_bits("--out", "run") == 0
    capsys.readouterr()
    assert main(["evaluate", "run", "--method", "IW", "--num-particles", "40", "--split", "valid", "--seed", "3"]) == 0
    assert re.search(r"^valid log p\(x\) >?= .*\(K=40, N=10,", capsys.readouterr().out, re.MULTILINE)
    before = json.loads((folder / "run" / "result.json").read_text())
    assert before["scored"] == "test split, N = 10"  # a later evaluation is never written over the run's own result
    result = json.loads((folder / "run" / "valid-K40-seed3" / "result.json").read_text())
    assert result["scored"] == "valid split, N = 10"
    assert result["estimator"] == "importance weighting, K = 40, seed 3"


def test_data_that_have_changed_are_refused(folder, capsys):
    assert train_bits("--out", "run") == 0
    bits = np.load("bits.npy")
    np.save("bits.npy", bits[:-1])
    capsys.readouterr()
    for command in (["evaluate", "run"], ["train", "--resume", "run", "--epochs", "3"]):
        assert main(command) == 2
        assert "The data of run have changed since it was trained" in capsys.readouterr().err
    (folder / "elsewhere").mkdir()
    np.save("elsewhere/bits.npy", bits)
    (folder / "bits.npy").unlink()
    assert main(["evaluate", "run", "--method", "IW", "--num-particles", "30", "--data-root", "elsewhere"]) == 0


@pytest.mark.parametrize("mean", [[], ["--mean"]])
def test_sample_draws_numbers_and_a_picture(folder, mean):
    assert train_bits("--out", "run") == 0
    assert main(["sample", "run", "--num-samples", "9", *mean]) == 0
    x = np.load("run/samples.npy")
    assert x.shape == (9, 6)
    assert (set(np.unique(x)) <= {0.0, 1.0}) == (not mean)
    assert (folder / "run" / "samples.png").read_bytes().startswith(b"\x89PNG")
    assert main(["sample", "run", "--num-samples", "9", *mean, "--out", "again"]) == 0
    np.testing.assert_array_equal(np.load("again.npy"), x)


def test_parts_of_ones_own_are_found_in_the_working_directory(folder, capsys):
    (folder / "cli_test_priors.py").write_text(OWN_PRIOR)
    assert train_bits("--prior", "cli_test_priors.Wide", "--prior.scale", "3.5", "--out", "run") == 0
    config = Run("run").config()
    assert config["prior"] == Spec("cli_test_priors.Wide", {"scale": 3.5})
    assert main(["evaluate", "run", "--method", "IW", "--num-particles", "25"]) == 0
    assert main(["train", "--resume", "run", "--epochs", "3"]) == 0
    assert json.loads((folder / "run" / "result.json").read_text())["prior"] == "Wide(scale=3.5)"
    replaced = ["--prior", "StandardNormal", "--objective", "IWAE", "--objective.num_particles", "2"]
    assert main(["train", "--config", "run/config.yaml", "--out", "other", *replaced]) == 0
    assert Run("other").config()["prior"] == Spec("StandardNormal")


def test_parts_are_listed_and_described(capsys):
    assert main(["parts"]) == 0
    out = capsys.readouterr().out
    for name in ("StandardNormal", "Bernoulli", "Binomial", "Normal", "DiagonalNormal", "ELBO", "IWAE", "Trace_ELBO"):
        assert re.search(rf"^  {name} +\S", out, re.MULTILINE), name
    assert main(["parts", "IWAE"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("IWAE(num_particles=50, gradient='pathwise', chunk_size=None): --objective IWAE")
    assert "Source: Burda" in out


@pytest.mark.parametrize("command", [[], ["train"], ["evaluate"], ["sample"], ["parts"]])
def test_help_is_there(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    assert "usage: pyro-vae" in capsys.readouterr().out


def test_no_command_shows_the_help(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 0
    assert "evaluate" in capsys.readouterr().out


MISTAKES = {
    "unknown prior": (["--prior", "StandrdNormal"], "Unknown prior 'StandrdNormal'. Did you mean StandardNormal?"),
    "unknown objective": (["--objective", "iwea"], "Unknown objective 'iwea'. Did you mean IWAE?"),
    "no such module": (["--guide", "nowhere.Guide"], "Cannot import guide 'nowhere.Guide'"),
    "no class": (["--prior", "math.pi"], "Expected prior 'math.pi' to be a class; got float"),
    "unknown argument": (
        ["--objective", "IWAE", "--objective.k", "3"],
        "IWAE has no option --objective.k. It has --objective.num_particles",
    ),
    "unknown option": (["--epocs", "3"], "Unknown option --epocs. Did you mean --epochs?"),
    "unknown binarisation": (["--binarize", "statc"], "Did you mean static?"),
    "unknown activation": (["--activation", "tan"], "Expected activation to be one of tanh, relu"),
    "counts": (["--data", "counts.npy"], "counts.npy holds counts. Choose their likelihood"),
    "wrong type": (["--epochs", "many"], "epochs"),
    "bad data": (["--data", "digit"], "digits"),
    "no file": (["--data", "absent.npy"], "absent.npy"),
    "binarised twice": (["--likelihood", "Binomial"], "total_count"),
    "zero particles": (["--num-particles", "0"], "Expected num_particles to be an integer >= 1; got 0"),
    "zero epochs": (["--epochs", "0"], "Expected epochs to be an integer >= 1; got 0"),
    "few data": (["--batch-size", "81"], "Expected at least batch_size=81 data; got 80"),
    "no folder": (["--out", "bits.npy/run"], "Choose a writable folder"),
    "support": (["--data", "real.npy", "--likelihood", "Bernoulli"], "in {0, 1} for Bernoulli; got"),
    "NaN": (["--data", "nan.npy"], "NaN"),
    "no config": (["--config", "absent.yaml"], "Cannot read the config absent.yaml"),
    "nothing to resume": (["--resume", "absent"], "absent"),
    "device": (["--device", "nowhere"], "Cannot use device 'nowhere'"),
    "latent dimension": (["--latent-dim", "0"], "Expected dim to be an integer >= 1; got 0"),
    "hidden": (["--hidden", "0"], "Expected hidden widths"),
    "learning rate": (["--optimizer.lr", "-1"], "learning rate"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_get_one_line_and_leave_nothing_behind(name, folder, capsys):
    np.save("real.npy", np.random.default_rng(0).normal(size=(100, 3)))
    np.save("counts.npy", np.random.default_rng(0).poisson(3.0, size=(100, 3)))
    np.save("nan.npy", np.full((100, 3), np.nan))
    before = {p.name for p in folder.rglob("*")}
    options, message = MISTAKES[name]
    assert main(["train", "--data", "bits.npy", *QUICK, *options]) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if "step/s" not in line]
    assert len(lines) == 1, error
    assert lines[0].startswith("pyro-vae: error: ")
    assert message in lines[0]
    assert {p.name for p in folder.rglob("*")} == before


@pytest.mark.parametrize("command", ["evaluate", "sample"])
def test_directories_that_hold_no_whole_run(command, folder, capsys):
    assert main([command, "absent"]) == 2
    assert "absent holds no run" in capsys.readouterr().err
    assert train_bits("--out", "run") == 0
    checkpoint = folder / "run" / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    capsys.readouterr()
    assert main([command, "run"]) == 2
    assert re.search(r"^pyro-vae: error: Cannot read the checkpoint run/checkpoint\.pt", capsys.readouterr().err)
    checkpoint.unlink()
    assert main([command, "run"]) == 2
    assert "No checkpoint at run/checkpoint.pt" in capsys.readouterr().err


def test_grey_levels_are_never_fed_to_a_bernoulli_unasked(folder, capsys):
    np.save("grey.npy", np.random.default_rng(0).random((100, 4, 4)))
    options = [*QUICK, "--data", "grey.npy"]
    assert main(["train", *options]) == 2
    assert "has grey levels. Choose how to binarise them, --binarize dynamic" in capsys.readouterr().err
    assert main(["train", *options, "--binarize", "dynamic", "--out", "run"]) == 0
    assert "dynamic" in json.loads((folder / "run" / "result.json").read_text())["data"]
    assert main(["train", *options, "--likelihood", "Normal", "--likelihood.scale", "0.3", "--out", "other"]) == 0


def test_python_path_is_put_back(folder):
    import sys

    before = list(sys.path)
    main(["parts"])
    assert sys.path == before


ONE_EPOCH = ["--data", "bits.npy", "--latent-dim", "2", "--hidden", "8", "--epochs", "1", "--batch-size", "20"]
ONE_EPOCH += ["--method", "IW", "--num-particles", "8"]


def test_a_run_is_compiled_where_it_is_asked_to_be(folder, capsys, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda graph, **options: graph)
    assert main(["train", *ONE_EPOCH, "--compile", "true", "--out", "run"]) == 0
    assert "training compiled in " in capsys.readouterr().out
    assert Run("run").config()["compile"] is True
    assert main(["train", *ONE_EPOCH, "--compile", "maybe"]) == 2
    assert main(["evaluate", "run", "--method", "IW", "--num-particles", "9", "--compile", "true"]) == 0


def test_precision_is_an_option_of_training_and_evaluation(folder, capsys):
    assert main(["train", *ONE_EPOCH, "--precision", "bf16", "--out", "run"]) == 0
    rounded = json.loads((folder / "run" / "result.json").read_text())["log_px"]
    assert main(["train", *ONE_EPOCH, "--out", "full"]) == 0
    full = json.loads((folder / "full" / "result.json").read_text())["log_px"]
    assert rounded != full
    assert rounded == pytest.approx(full, abs=0.1)
    assert main(["evaluate", "run", "--method", "IW", "--num-particles", "8", "--precision", "bf16"]) == 0
    capsys.readouterr()
    assert main(["train", *ONE_EPOCH, "--precision", "fp8"]) == 2
    assert "precision" in capsys.readouterr().err


def test_the_trial_of_a_pair_runs_on_the_device_of_its_programs(folder, capsys, monkeypatch):
    def seen(model, guide, args):
        raise ValueError(f"tried on {args[0].device}, programs on {next(model.parameters()).device}")

    monkeypatch.setattr(train, "check_proposal", seen)
    assert train_bits("--device", "meta") == 2
    assert "tried on meta, programs on meta" in capsys.readouterr().err


def test_a_mistake_leaves_the_run_that_was_to_be_replaced(folder, capsys):
    assert train_bits("--out", "run") == 0
    before = {path: path.read_bytes() for path in (folder / "run").iterdir()}
    wrong = ["--objective", "IWAE", "--objective.gradient", "foo"]
    assert train_bits("--out", "run", "--overwrite", *wrong) == 2
    assert "Expected gradient of IWAE to be one of" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (folder / "run").iterdir()} == before
    assert train_bits("--out", "other", *wrong) == 2
    assert not (folder / "other").exists()


def test_a_file_in_the_working_directory_does_not_stand_for_a_library(folder):
    (folder / "random.py").write_text("raise RuntimeError('not the one')")
    (folder / "calendar.py").write_text("raise RuntimeError('not the one')")
    code = "import sys; sys.path.pop(0); from pyro_vae.cli import main; sys.exit(main(['parts', 'IWAE']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
