"""Tables of mixed columns, missing entries and 8-bit images on the command line."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import QUICK

from pyro_vae.cli import main
from pyro_vae.data.load import load_data
from pyro_vae.runs import Run
from pyro_vae.runs.config import Config
from pyro_vae.runs.setup import set_up


def _frame(n=100, share=0.15):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "id": [f"p{i}" for i in range(n)],
            "age": rng.normal(50, 10, n).round(1),
            "sex": rng.choice(["f", "m"], n),
            "visits": rng.poisson(3, n),
            "city": rng.choice(["Bonn", "Jena", "Kiel"], n),
        }
    )
    holes = rng.random((n, 4)) < share
    frame[frame.columns[1:]] = frame[frame.columns[1:]].mask(holes)
    return frame


@pytest.fixture
def table(folder):
    _frame().to_csv("table.csv", index=False)
    _frame(share=0).drop(columns="id").to_csv("complete.csv", index=False)
    return folder


def _train(*extra, data="table.csv"):
    return main(["train", "--data", data, *QUICK, "--out", "run", *extra])


def test_a_table_is_trained_sampled_imputed_and_judged(table, capsys):
    assert _train("--schema", "{id: null, visits: Poisson}") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[1:5] == [
        "  age     Normal",
        "  sex     Bernoulli (f, m)",
        "  visits  Poisson",
        "  city    Categorical (3 levels: Bonn, Jena, Kiel)",
    ]
    assert "of entries missing: left out of the likelihood" in out[5]
    config = Run("run").config()
    assert config["missing"] is True
    assert config["schema"] == {
        "id": None,
        "age": "Normal",
        "sex": {"likelihood": "Bernoulli", "levels": ["f", "m"]},
        "visits": "Poisson",
        "city": {"likelihood": "Categorical", "levels": ["Bonn", "Jena", "Kiel"]},
    }
    assert "visits Poisson" in json.loads((table / "run" / "result.json").read_text())["likelihood"]
    assert main(["train", "--resume", "run", "--epochs", "3"]) == 0
    assert main(["sample", "run", "--num-samples", "9"]) == 0
    drawn = pd.read_csv("run/samples.csv")
    assert list(drawn) == ["age", "sex", "visits", "city"]
    assert set(drawn["sex"]) <= {"f", "m"}
    assert drawn["visits"].dtype.kind == "i"
    assert main(["impute", "run", "--num-draws", "2", "--num-particles", "20"]) == 0
    frame, filled = pd.read_csv("table.csv"), pd.read_csv("run/imputed.csv")
    assert list(filled) == ["draw", *frame]
    assert filled["draw"].tolist() == [1] * 100 + [2] * 100
    assert not filled.isna().any().any()
    for _, one in filled.groupby("draw"):
        kept = one.drop(columns="draw").reset_index(drop=True).where(frame.notna())
        pd.testing.assert_frame_equal(kept, frame, check_dtype=False)
    assert filled["visits"].dtype.kind == "i"


def test_new_files_are_coded_as_the_run_was(table, capsys):
    assert _train("--schema", "{id: null}") == 0
    few = _frame().iloc[:5].assign(city=["Kiel", None, "Kiel", "Kiel", "Kiel"])
    few.to_csv("new.csv", index=False)
    assert main(["impute", "run", "--data", "new.csv", "--out", "out.csv", "--num-draws", "1"]) == 0
    assert (pd.read_csv("out.csv")["city"][[0, 2, 3, 4]] == "Kiel").all()
    few.drop(columns="age").to_csv("less.csv", index=False)
    assert main(["impute", "run", "--data", "less.csv"]) == 2
    assert "Expected a column 'age' in the table. Add it, empty where" in capsys.readouterr().err
    assert main(["impute", "run", "--data", "new.csv", "--out", "bare"]) == 0
    assert (table / "bare.csv").exists()
    few.assign(city="Rome").to_csv("new.csv", index=False)
    capsys.readouterr()
    assert main(["impute", "run", "--data", "new.csv", "--out", "bad.csv"]) == 2
    assert (
        "Expected the levels ['Bonn', 'Jena', 'Kiel'] in column 'city'; got 'Rome' at row 0" in capsys.readouterr().err
    )
    assert not (table / "bad.csv").exists()


def test_a_schema_file_with_arguments_and_levels(table):
    (table / "schema.yaml").write_text(
        "id: null\nage: {likelihood: StudentT, df: 5}\ncity: {levels: [Jena, Bonn, Kiel, Ulm]}\n"
    )
    assert _train("--schema", "schema.yaml") == 0
    _, splits, model, _, _ = Run("run").load()
    assert splits.table.table.columns[3].levels == ("Jena", "Bonn", "Kiel", "Ulm")
    assert model.likelihood.columns[0].df.fixed == 5
    assert Run("run").config()["schema"]["age"] == {"likelihood": "StudentT", "df": 5}


def test_complete_tables_need_no_option(table, capsys):
    assert _train(data="complete.csv") == 0
    assert "Categorical (3 levels" in capsys.readouterr().out
    assert Run("run").config()["missing"] is False
    assert main(["impute", "run"]) == 2
    assert "was trained without missing entries. Train with --missing true" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["npy", "csv"])
def test_numbers_with_missing_entries(folder, suffix, capsys):
    x = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    holed = np.where(np.random.default_rng(1).random(x.shape) < 0.2, np.nan, x)
    np.save("x.npy", holed)
    pd.DataFrame(holed).to_csv("x.csv", index=False, header=False)
    if suffix == "npy":
        assert _train(data="x.npy") == 2
        assert "or let NaN be missing: --missing true" in capsys.readouterr().err
    assert _train("--prior", "VampPrior", *(["--missing", "true"] * (suffix == "npy")), data=f"x.{suffix}") == 0
    assert main(["impute", "run", "--num-draws", "2", "--out", f"out.{suffix}"]) == 0
    read = np.load("out.npy") if suffix == "npy" else pd.read_csv("out.csv", header=None).to_numpy()[:, 1:]
    filled = read.reshape(2, 100, 3)
    assert np.isfinite(filled).all()
    seen = ~np.isnan(holed)
    np.testing.assert_allclose(filled[:, seen], np.broadcast_to(holed[seen], (2, seen.sum())), rtol=1e-6)


MISTAKES = {
    "identifier": ([], "Expected levels that recur in column 'id'; got 100 different ones in 100 rows"),
    "no such column": (["--schema", "{id: null, agee: Normal}"], "got 'agee'. Did you mean age?"),
    "no such part": (["--schema", "{id: null, age: Normall}"], "Unknown likelihood 'Normall'. Did you mean Normal?"),
    "support": (["--schema", "{id: null, age: Poisson}"], "for Poisson column 'age'"),
    "levels": (["--schema", "{id: null, city: {levels: [Bonn]}}"], "Expected the levels ['Bonn'] in column 'city'"),
    "no list": (["--schema", "{id: null, city: {levels: Bonn}}"], "Expected levels in the schema as a list"),
    "no key": (["--schema", "{id: null, city: {level: [Bonn]}}"], "Expected a likelihood or levels in each entry"),
    "argument": (["--schema", "{id: null, visits: {likelihood: Poisson, mu: 3}}"], "Column 'visits' of the schema"),
    "no likelihood": (["--schema", "{id: 3}"], "Expected a likelihood for column 'id'; got 3"),
    "a list": (["--schema", "[id]"], "schema"),
    "no schema": (["--schema", "absent.yaml"], "Cannot read the schema absent.yaml: FileNotFoundError"),
    "no table": (["--schema", "ragged.csv"], "Expected likelihoods by column name in the schema ragged.csv"),
    "other likelihood": (["--schema", "{}", "--likelihood", "Normal"], "Expected --likelihood Mixed, or none"),
    "numbers only": (["--likelihood", "Normal"], "other values in column 'id'. Drop or encode it, or give each"),
    "not a table": (["--data", "bits.npy", "--likelihood", "Mixed"], "Expected a .csv table for --likelihood Mixed"),
    "refused": (["--schema", "{id: null}", "--missing", "false"], "without NaN or infinities"),
    "typing error": (
        ["--data", "typo.csv"],
        "Expected numbers in column 'age', as nearly all of it are; got '?' at row 2",
    ),
    "typing error, named": (
        ["--data", "typo.csv", "--schema", "{age: Normal}"],
        "Expected numbers in column 'age' for Normal; got '?' at row 2. Correct it",
    ),
    "strings as numbers": (["--schema", "{id: null, city: Poisson}"], "Expected numbers in column 'city' for Poisson"),
    "twice": (["--data", "twice.csv", "--schema", "{}"], "columns of different names in twice.csv; got 'a' twice"),
    "ragged": (
        ["--data", "ragged.csv", "--schema", "{}"],
        "Expected 2 columns in ragged.csv, as its header has; got 3",
    ),
    "no header": (
        ["--data", "bare.csv", "--schema", "{}"],
        "Expected names of the columns in the first line of bare.csv",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_get_one_line(name, table, capsys):
    typo = _frame().drop(columns="id").astype({"age": object})
    typo.loc[2, "age"] = "?"
    typo.to_csv("typo.csv", index=False)
    for file, text in (("twice", "a,a\n1,2\n"), ("ragged", "a,b\n1,x,3\n"), ("bare", "1,2\n3,4\n")):
        (table / f"{file}.csv").write_text(text)
    options, message = MISTAKES[name]
    assert _train(*options) == 2
    error = capsys.readouterr().err.replace(f"{table}/", "")
    assert message in error
    assert error.count("\n") == 1
    assert not (table / "run").exists()


IMPOSSIBLE = [
    (["--num-draws", "0"], "Expected num_draws to be an integer >= 1"),
    (["--data", "absent.csv"], "Expected a file at absent.csv; there is none"),
    (["--data", "complete.csv"], "Expected missing entries in complete.csv to impute; there are none"),
    (["--out", "out.npy"], "Expected --out to be a .csv file"),
    (["--out", "table.csv"], "Expected --out to be another file than the data"),
    (["--out", "nowhere/out.csv"], "Choose a writable folder"),
    (["--data", "digits"], "Expected a .csv or .npy file to impute"),
]


def test_what_cannot_be_imputed(table, capsys):
    assert _train("--schema", "{id: null}", "--epochs", "1", "--num-particles", "2") == 0
    before = (table / "table.csv").read_text()
    for options, message in IMPOSSIBLE:
        assert main(["impute", "run", "--num-particles", "5", *options]) == 2
        assert message in capsys.readouterr().err
    assert (table / "table.csv").read_text() == before


def test_images_of_bytes_are_numbered_for_likelihoods_of_levels(folder, capsys):
    numbers = np.random.default_rng(0).integers(0, 256, (60, 3, 3))
    np.save("bytes.npy", numbers)
    np.save("grey.npy", (numbers / 255).astype(np.float32))
    last = []
    for data in ("bytes.npy", "grey.npy"):
        assert _train("--likelihood", "DiscretizedLogistic", "--overwrite", "--epochs", "1", data=data) == 0
        last.append(capsys.readouterr().out.splitlines()[-2:])
    assert last[0] == last[1]
    assert main(["train", "--data", "bytes.npy", *QUICK]) == 2
    assert "Choose their likelihood: --likelihood DiscretizedLogistic for 8-bit images" in capsys.readouterr().err
    result = json.loads((folder / "run" / "result.json").read_text())
    assert "level numbers 0 to 255 of 8-bit grey levels" in result["data"]
    assert float(result["bits per dimension"].split()[0]) == pytest.approx(-result["log_px"] / 9 / np.log(2), abs=1e-4)
    assert last[0][0].startswith("bits per dimension: ")
    coarse = {"class_path": "Categorical", "init_args": {"num_classes": 32}}
    assert (
        "level numbers 0 to 31" in set_up(Config.from_dict({"data": "grey.npy", "likelihood": coarse})).splits.protocol
    )


def test_levels_in_python():
    numbers = np.arange(256, dtype=np.float32).reshape(16, 4, 4)
    for levels in (256, 32, 2):
        splits = load_data(numbers / 255, levels=levels)
        x = torch.cat([splits.train, splits.valid, splits.test]).flatten().sort().values
        assert torch.equal(x, torch.arange(256.0) * levels // 256)
    for source, levels, message in [
        (numbers / 255 + 0.001, 256, r"Expected grey levels (in \[0, 1\]|b / 255)"),
        (numbers, 256, r"Expected grey levels in \[0, 1\] to number; got values from 0 to 2"),
        (numbers / 300, 256, "Expected grey levels b / 255 of 8-bit images"),
        (numbers / 255, 1, "Expected levels from 2 to 256"),
        (numbers / 255, 2.5, "Expected levels to be an integer"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_data(source, levels=levels)
    with pytest.raises(ValueError, match="Expected binarize without levels and missing"):
        load_data(numbers / 255, levels=2, binarize="static")


def test_data_frames_in_python():
    frame = _frame().drop(columns="id")
    splits = load_data(frame, missing=True)
    assert splits.table.describe().splitlines()[1] == "sex     Bernoulli (f, m)"
    assert splits.train.shape == (80, 4)
    start = splits.table(torch.zeros(splits.table.num_features)).mean
    torch.testing.assert_close(start[0], splits.train[:, 0].nanmean())  # of the training rows
    with pytest.raises(ValueError, match=r"NaN.*load_data\(\.\.\., missing=True\)"):
        load_data(frame)
    with pytest.raises(ValueError, match=r"Expected a \.csv file or a DataFrame for a schema"):
        load_data(np.zeros((9, 2)), schema={})


def test_a_column_of_large_counts_is_scored_in_double_precision(folder, capsys):
    """log p(x) was -5.58 for -18.87 when the counts were rounded to float32."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=120)
    population = np.exp(16.5 + 0.4 * z + 0.2 * rng.normal(size=120)).round().astype(int)
    pd.DataFrame({"population": population, "area": (z + rng.normal(size=120)).round(3)}).to_csv("pop.csv", index=False)
    assert main(["train", "--data", "pop.csv", *QUICK, "--latent-dim", "1", "--out", "run"]) == 0
    assert "which float32 cannot hold: data and model are float64" in capsys.readouterr().out
    model = Run("run").load().model
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert torch.get_default_dtype() == torch.float32
