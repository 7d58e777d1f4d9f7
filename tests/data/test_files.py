import re
import struct

import numpy as np
import pytest
import torch
from helpers import DATA_ROOT, arrays_of, needs_data, numbered, refuses

from pyro_vae.data import files as datafiles
from pyro_vae.data import load as data
from pyro_vae.data.load import load_data
from pyro_vae.data.splits import SPLIT_NAMES

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(self):
        print("noise")
        raise RuntimeError("no\nnetwork")

    monkeypatch.setattr("torchvision.datasets.MNIST.download", refuse)


def write_idx(folder, n_train=8, n_test=4):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, n in (("train", n_train), ("t10k", n_test)):
        images, labels = rng.integers(0, 256, (n, 5, 4), dtype=np.uint8), np.arange(n, dtype=np.uint8)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, *images.shape) + images.tobytes())
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, n) + labels.tobytes())
        yield images


@pytest.mark.parametrize("name", data._IDX_KINDS)
@pytest.mark.parametrize("from_cache", [True, False])
def test_idx_sets_are_grey_levels_in_file_order(name, from_cache, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "_IDX_VALID", 3)
    root = cache if from_cache else tmp_path / "root"
    train, test = write_idx(root / data._IDX_KINDS[name] / "raw")
    splits = load_data(name, root=None if from_cache else root)
    for got, want in zip(arrays_of(splits), (train[:5], train[5:], test), strict=True):
        np.testing.assert_array_equal(got, want.reshape(-1, 20).astype(np.float32) / 255)
    assert [splits.labels[split].tolist() for split in SPLIT_NAMES] == [[0, 1, 2, 3, 4], [5, 6, 7], [0, 1, 2, 3]]
    assert splits.image_shape == (1, 5, 4)
    assert splits.protocol == f"{name}, grey levels in [0, 1], first 5 / last 3 of train / test of 4"


def test_idx_files_absent_or_damaged(tmp_path, capfd):
    words = "Expected readable files train-images-idx3-ubyte, .*; got no such files, and no download.*no network"
    refuses(words + ".*Put the four files there, or pass root=", "mnist", root=tmp_path)
    _ = list(write_idx(tmp_path / "MNIST" / "raw"))
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-7])
    refuses(r"MNIST.raw; got \w+Error.*Put the four files there", "mnist", root=tmp_path)
    assert capfd.readouterr() == ("", "")


def test_idx_train_file_too_short_for_its_split(tmp_path):
    _ = list(write_idx(tmp_path / "KMNIST" / "raw"))
    refuses("more than 10,000 images in the train file of kmnist; got 8", "kmnist", root=tmp_path)


@needs_data
@pytest.mark.parametrize("binarize", [None, "static"])
def test_real_mnist(binarize):
    splits = load_data("mnist", root=DATA_ROOT, binarize=binarize)
    assert [tuple(x.shape) for x in arrays_of(splits)] == [(50_000, 784), (10_000, 784), (10_000, 784)]
    # 0.1307, the mean that the literature gives for the train file; 0.001 also covers the draws, by 20 deviations
    assert torch.cat([splits.train, splits.valid]).mean().item() == pytest.approx(0.1307, abs=1e-3)
    assert [splits.labels[split][:3].tolist() for split in SPLIT_NAMES] == [[5, 0, 4], [3, 8, 6], [7, 2, 1]]


def truncated_npz(path):
    np.savez_compressed(path, x=np.random.default_rng(0).normal(size=(50, 3)))
    path.write_bytes(path.read_bytes()[:700])


def truncated_npy(path):
    np.save(path, numbered(9, 3))
    path.write_bytes(path.read_bytes()[:-5])


def text(words):
    return lambda path: path.write_text(words)


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("x.txt", text("1"), "Expected a .npy, .npz or .csv file; got .*x.txt. Save"),
        ("x.npy", text(""), "x.npy to be a readable .npy file of numbers; got EOFError"),
        ("x.npy", text("garbage"), "to be a readable .npy file"),
        ("x.npy", truncated_npy, "to be a readable .npy file"),
        ("x.npy", lambda path: np.save(path, np.array([{}])), "got ValueError: Object arrays cannot be loaded"),
        ("x.npz", truncated_npz, "to be a readable .npz file"),
        ("x.npz", np.savez, "got no arrays"),
        ("x.csv", text(""), "to be a readable .csv file of numbers; got EmptyDataError"),
        ("x.csv", text("a,b\n"), "to be a readable .csv file"),
        ("x.csv", text("a,b\n1,x\n2,y\n"), "Expected numbers in .*x.csv; got other values in column 'b'"),
        ("x.csv", text("1,2\n3,y\n"), "got other values in column 1"),
        ("x.csv", text("1,2\n3,4\n5,\n"), r"got nan at index \(2, 1\)"),
        ("x.csv", text("NA,2\n3,4\n5,6\n"), r"got nan at index \(0, 0\)"),
        ("x.csv", text("a,b\n1,2,3\n"), "a header of 2 names over 3 columns"),
        ("x.csv", text("1,2\n1,2,3\n"), "to be a readable .csv file"),
        (
            "x.csv",
            text(",a\n0,2\n1,4\n"),
            "a column without one, probably row numbers. Write the file with index=False",
        ),
        ("x.csv", text("0,1\n2,2\n4,4\n6,6\n"), "got 0, 1, ..., which is either. Write .* header=False, index=False"),
        ("x.csv", text(",0,1\n0,2,2\n1,4,4\n2,6,6\n"), "got 0, 1, ..., which is either"),
    ],
)
def test_refused_files(name, write, words, tmp_path):
    write(tmp_path / name)
    refuses(words, tmp_path / name)


def test_long_errors_are_cut_to_one_line():
    assert re.fullmatch(r"OSError: a b( a b)+ ?a?", datafiles.one_line(OSError("a\n b\n" * 200)))
    assert datafiles.one_line(AssertionError()) == "AssertionError"
