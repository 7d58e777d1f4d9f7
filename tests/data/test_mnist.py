import os

import numpy as np
import pytest
import torch
from helpers import DATA_ROOT, arrays_of, needs_data, refuses

from pyro_vae.data import mnist as _amat
from pyro_vae.data.load import load_data
from pyro_vae.data.splits import SPLIT_NAMES

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def amat(tmp_path, monkeypatch):
    """A folder with a small binarized_mnist."""
    monkeypatch.setattr(_amat, "ROWS", {"train": 5, "valid": 3, "test": 2})
    folder = tmp_path / "root" / "binarized_mnist"
    folder.mkdir(parents=True)
    for seed, (split, rows) in enumerate(_amat.ROWS.items()):
        x = np.random.default_rng(seed).integers(0, 2, (rows, 784))
        np.savetxt(folder / f"binarized_mnist_{split}.amat", x, fmt="%d", newline="\n")
    return folder


def assert_amat(splits, folder):
    for split in SPLIT_NAMES:
        np.testing.assert_array_equal(getattr(splits, split), np.loadtxt(folder / f"binarized_mnist_{split}.amat"))


def test_amat_equals_loadtxt_from_text_and_from_cache(amat, cache, monkeypatch):
    splits = load_data("binarized_mnist", root=amat.parent)
    assert_amat(splits, amat)
    assert splits.protocol == "binarized_mnist, static binarisation of Larochelle and Murray (2011), 5 / 3 / 2"
    assert (splits.image_shape, splits.train.dtype, len(list(cache.iterdir()))) == ((1, 28, 28), torch.float32, 3)
    monkeypatch.delattr(_amat, "_parse")
    assert_amat(load_data("binarized_mnist", root=amat), amat)


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"not an array"),
        lambda file: file.write_bytes(file.read_bytes()[:-9]),
        lambda file: file.write_bytes(file.read_bytes()[:200] + b"\xaa" + file.read_bytes()[201:]),
        lambda file: np.save(file, np.zeros((2, 3))),
        lambda file: np.save(file, np.float64(1)),
        lambda file: (file.unlink(), file.mkdir()),
    ],
)
def test_damaged_cache_is_parsed_again(damage, amat, cache):
    load_data("binarized_mnist", root=amat)
    for file in list(cache.iterdir()):
        damage(file)
    assert_amat(load_data("binarized_mnist", root=amat), amat)


def test_unwritable_cache_is_no_error(amat, cache):
    cache.write_text("a file where the folder should be")
    assert_amat(load_data("binarized_mnist", root=amat), amat)


def test_changed_text_is_not_served_from_the_cache(amat):
    load_data("binarized_mnist", root=amat)
    file = amat / "binarized_mnist_test.amat"
    np.savetxt(file, np.ones((2, 784)), fmt="%d", newline="\n")
    os.utime(file, ns=(1, 1))
    assert load_data("binarized_mnist", root=amat).test.min() == 1


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda raw: raw[:-1], "_test.amat to hold 2 lines of 784 digits .* 3,136 bytes; got 3,135 bytes"),
        (lambda raw: raw[:1568], "got 1,568 bytes"),
        (lambda raw: raw + raw, "got 6,272 bytes"),
        (lambda raw: b"", "got 0 bytes"),
        (lambda raw: b"2" + raw[1:], "a digit 0 or 1 and a space in .*_test.amat; got '2 ' in line 1, column 1"),
        (lambda raw: raw[:1569] + b"," + raw[1570:], "got '[01],' in line 2, column 1"),
        (lambda raw: raw[:-1] + b" ", "a digit 0 or 1 and a newline in .*; got '[01] ' in line 2, column 784"),
        (lambda raw: raw[:3] + b"\n" + raw[4:], r"got '[01]\\n' in line 1, column 2"),
    ],
)
def test_damaged_amat(damage, words, amat):
    file = amat / "binarized_mnist_test.amat"
    file.write_bytes(damage(file.read_bytes()))
    refuses(words, "binarized_mnist", root=amat.parent)


def test_absent_amat(amat):
    (amat / "binarized_mnist_valid.amat").unlink()
    words = (
        "Larochelle and Murray 2011, static binarisation.*; got no binarized_mnist_valid.amat. They are not downloaded"
    )
    refuses(words, "binarized_mnist", root=amat.parent)
    refuses("got no binarized_mnist_train.amat, .*put them there, or pass root=", "binarized_mnist")


@needs_data
def test_real_binarized_mnist():
    for _ in range(2):
        splits = load_data("binarized_mnist", root=DATA_ROOT)
        assert splits.protocol.endswith("50,000 / 10,000 / 10,000")
        means = [x.mean().item() for x in arrays_of(splits)]
        assert means == pytest.approx([0.13056, 0.13113, 0.13251], abs=1e-5)
