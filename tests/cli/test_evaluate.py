"""The commands that judge a trained run: evaluate by another method, and compare."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
from helpers import train_bits
from matplotlib.image import imread

from pyro_vae.cli import main, scoring
from pyro_vae.inference import Evidence, methods


def test_method_and_its_settings_are_options(folder, capsys):
    assert train_bits("--out", "run") == 0
    assert main(["evaluate", "run", "--method", "jackknife", "--num-particles", "40"]) == 0
    assert main(["evaluate", "run", "--method", "IW", "--method.defensive", "0.2", "--num-particles", "40"]) == 0
    jackknife = json.loads((folder / "run" / "test-jackknife-K40-seed0" / "result.json").read_text())
    assert jackknife["estimator"] == "jackknife, K = 40, seed 0"
    assert jackknife["bias"] in (0, None)
    defensive = Evidence.load(folder / "run" / "test-iw-defensive0.2-K40-seed0" / "evidence.npz")
    assert defensive.method == "importance weighting (defensive 0.2)"
    assert defensive.method in (folder / "run" / "test-iw-defensive0.2-K40-seed0" / "report.html").read_text()


def test_number_of_particles_is_the_method_s_own_unless_given(folder, monkeypatch, capsys):
    assert train_bits("--out", "run") == 0
    monkeypatch.setattr(methods.Jackknife, "default_particles", 27)
    assert main(["evaluate", "run", "--method", "jackknife"]) == 0
    assert "(K=27, N=10" in capsys.readouterr().out


def test_mistakes_get_one_line(folder, capsys):
    assert train_bits("--out", "run") == 0
    for command, message in (
        (["evaluate", "run", "--method", "jacknife"], "Unknown method 'jacknife'. Did you mean Jackknife?"),
        (["evaluate", "run", "--method", "IW", "--method.defensive", "2"], "Expected 0 <= defensive < 1"),
        (["compare", "run", "run"], "got one of them twice"),
        (["compare", "run"], "Expected at least two models to compare; got 1"),
        (["compare", "run", "nowhere"], "Cannot read nowhere/evidence.npz"),
    ):
        assert main(command) == 2
        assert message in capsys.readouterr().err


def test_an_interrupted_evaluation_goes_on(folder, capsys, monkeypatch):
    assert train_bits("--out", "run") == 0
    seen = []

    def interrupted(*args, checkpoint, **settings):
        seen.append(checkpoint)
        raise KeyboardInterrupt

    monkeypatch.setattr(scoring, "evidence", interrupted)
    assert main(["evaluate", "run", "--method", "IW", "--num-particles", "9"]) == 130
    assert "goes on from what run/test-K9-seed0 holds" in capsys.readouterr().err
    assert str(seen[0]) == "run/test-K9-seed0"


def test_compare_ranks_runs_and_draws_them(folder, capsys):
    assert train_bits("--out", "short") == 0
    assert train_bits("--out", "long", "--epochs", "30", "--optimizer.lr", "0.01") == 0
    capsys.readouterr()
    assert main(["compare", "short", "long", "--out", "both"]) == 0
    printed = capsys.readouterr().out
    assert "importance weighting, K = 30, N = 10; nats per datum" in printed
    table = pd.read_csv(folder / "both.csv", index_col=0)
    means = {name: Evidence.load(f"{name}/evidence.npz").mean for name in ("short", "long")}
    assert list(table.index) == sorted(means, key=lambda name: -means[name])
    assert table["diff"].iloc[1] == pytest.approx(max(means.values()) - min(means.values()))
    assert imread(folder / "both.png").std() > 0.01


def test_compare_refuses_other_data_and_protocols(folder, capsys):
    assert train_bits("--out", "one") == 0
    assert train_bits("--out", "two", "--num-particles", "31") == 0
    assert train_bits("--out", "three", "--data-seed", "1") == 0
    for other, message in (("two", "same num_particles"), ("three", "same data")):
        assert main(["compare", "one", other]) == 2
        assert message in capsys.readouterr().err


def test_report_adds_the_diagnostics(folder, capsys):
    assert train_bits("--out", "run") == 0
    before = (folder / "run" / "report.html").read_text()
    result = capsys.readouterr().out.splitlines()[-1]
    assert main(["report", "run"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == result  # log p(x) is as it was
    page = (folder / "run" / "report.html").read_text()
    for title in ("Latent dimensions", "ELBO surgery", "Coverage", "Inference gap", "Does the model fit? Entries"):
        assert any(title in line for line in printed)
        assert title in page
        assert title not in before
    assert not any("Not available" in line for line in printed)
    (folder / "run" / "result.json").unlink()
    assert main(["report", "run"]) == 2
    assert "run holds no result" in capsys.readouterr().err


def test_compare_says_what_makes_it_doubtful(folder, capsys):
    np.save("counts.npy", np.random.default_rng(0).poisson(3.0, size=(100, 3)).astype(np.float32))
    for name in ("Poisson", "Multinomial"):
        assert train_bits("--data", "counts.npy", "--likelihood", name, "--out", name) == 0
    capsys.readouterr()
    assert main(["compare", "Poisson", "Multinomial"]) == 0
    printed = capsys.readouterr().out
    assert "A multinomial is the probability of x given its total" in printed
    assert re.search(r"^Poisson +Poisson\(\)", printed, re.MULTILINE)  # what differs, in a table of its own
    assert train_bits("--data", "counts.npy", "--likelihood", "Normal", "--out", "Normal") == 0
    assert main(["compare", "Poisson", "Normal"]) == 2
    assert "by mass" in capsys.readouterr().err


def test_pairs_that_cannot_be_scored_are_refused_before_anything_is_written(folder, capsys):
    for options, message in (
        (["--guide", "PointMass"], "Guide site 'z' is a point mass"),
        (["--prior", "Categorical"], "is discrete (OneHotCategorical) in the model"),
    ):
        assert train_bits("--out", "run", *options) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "Trace Shapes" not in error
        assert not (folder / "run").exists()
