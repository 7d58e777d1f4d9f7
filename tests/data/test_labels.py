"""Columns as labels, and the one rule of what the first line of a .csv file holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyro_vae.cli import main
from pyro_vae.data.files import read_header
from pyro_vae.data.labels import take_column
from pyro_vae.data.load import load_data

HEADERS = {
    "price,2020": ["price", "2020"],
    "a,b": ["a", "b"],
    "1e5,x": ["1e5", "x"],
    " a , b ": ["a", "b"],
    "1e-3,2e5": None,
    "-1,+2.5": None,
    "nan,inf": None,
    "3,,4": None,
}


@pytest.mark.parametrize("first", HEADERS)
def test_a_first_line_holds_names_unless_every_field_is_a_number(first, tmp_path):
    names = HEADERS[first]
    width = first.count(",") + 1
    rows = [",".join(str(i + j / 8) for j in range(width)) for i in range(30)]
    (tmp_path / "t.csv").write_text("\n".join([first, *rows]) + "\n")
    assert read_header(tmp_path / "t.csv") == names
    if "nan" in first:
        return
    splits = load_data(tmp_path / "t.csv", missing=True)
    assert splits.columns == (None if names is None else tuple(names))
    assert sum(len(split) for split in (splits.train, splits.valid, splits.test)) == 30 + (names is None)


@pytest.mark.parametrize("column", ["price", "2020", "0", "1"])
def test_a_column_is_a_label_by_name_or_position_whatever_its_name_looks_like(column, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.normal(size=100), rng.integers(0, 3, 100), rng.normal(size=100)])
    np.savetxt("t.csv", rows, delimiter=",", header="price,2020,size", comments="")
    whole, index = load_data("t.csv"), {"price": 0, "2020": 1, "0": 0, "1": 1}[column]
    splits = take_column(whole, column)
    assert torch.equal(splits.train, whole.train[:, [i for i in range(3) if i != index]])
    assert splits.columns == tuple(name for i, name in enumerate(("price", "2020", "size")) if i != index)
    train = [
        "train",
        "--data",
        "t.csv",
        "--epochs",
        "1",
        "--hidden",
        "4",
        "--num-particles",
        "5",
        "--method",
        "IW",
        "--batch-size",
        "40",
    ]
    assert main([*train, "--model", "ConditionalVAE", "--model.label", column]) == 0
    assert "test log p(x|y) = " in capsys.readouterr().out


def test_a_file_without_a_header_has_columns_by_position_alone(tmp_path):
    (tmp_path / "t.csv").write_text("1e-3,2e5\n" + "\n".join(f"{i},{i % 2}" for i in range(30)) + "\n")
    splits = load_data(tmp_path / "t.csv")
    assert take_column(splits, "1").train.shape[1] == 1
    with pytest.raises(ValueError, match=r"Expected a column of t.csv; got '1e-3'. It has 0 to 1."):
        take_column(splits, "1e-3")
