import os
import random
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_vae import data, datafiles
from pyro_vae.data import PARTS, load_data

DATA_ROOT = os.environ.get("PYRO_VAE_DATA_ROOT")
needs_data = pytest.mark.skipif(not DATA_ROOT, reason="set PYRO_VAE_DATA_ROOT to a folder with the real data sets")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    folder = tmp_path / "cache"
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *args, **kwargs: str(folder))
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(self):
        print("noise")
        raise RuntimeError("no\nnetwork")

    monkeypatch.setattr("torchvision.datasets.MNIST.download", refuse)


def parts(splits):
    return [getattr(splits, part) for part in PARTS]


def numbered(n, *event):
    """Array whose every entry differs."""
    return np.arange(1, 1 + n * int(np.prod(event)), dtype=np.float32).reshape(n, *event)


def sorted_rows(x):
    return np.array(sorted(map(tuple, np.asarray(x).reshape(len(x), -1))))


def assert_bernoulli(draws, grey):
    """Each grey level's draws have its mean, within 5 standard errors: 1e-5 of the seeds fail with 17 levels."""
    assert set(draws.unique().tolist()) <= {0.0, 1.0}
    for level in grey.unique().tolist():
        at = draws[grey == level]
        assert abs(at.mean().item() - level) <= 5 * (level * (1 - level) / len(at)) ** 0.5


def refuses(words, source, **options):
    with pytest.raises(ValueError, match=words) as caught:
        load_data(source, **options)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------ digits


def test_digits_have_counts_labels_and_a_protocol():
    splits = load_data("digits")
    assert [tuple(x.shape) for x in parts(splits)] == [(1197, 64), (300, 64), (300, 64)]
    assert [len(splits.labels[part]) for part in PARTS] == [1197, 300, 300]
    x = torch.cat(parts(splits))
    assert x.dtype == torch.float32
    assert set(x.unique().tolist()) == set(map(float, range(17)))
    assert (splits.image_shape, splits.max_count, splits.transform) == ((1, 8, 8), 16, None)
    assert (splits.name, splits.event_shape) == ("digits", torch.Size([64]))
    assert splits.protocol == "digits, counts 0 to 16, random split 1,197 / 300 / 300 (seed 0)"
    assert splits.protocol in repr(splits)


def test_digits_splits_hold_each_datum_once_with_its_label():
    from sklearn.datasets import load_digits

    splits, bunch = load_data("digits", seed=3), load_digits()
    labels = torch.cat([splits.labels[part] for part in PARTS])
    got = torch.cat([torch.cat(parts(splits)), labels[:, None]], 1)
    want = np.column_stack([bunch.data, bunch.target])
    np.testing.assert_array_equal(sorted_rows(got), sorted_rows(want))


@pytest.mark.parametrize("binarize", [None, "static", "dynamic", "threshold"])
def test_seed_decides_and_global_generators_are_untouched(binarize):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    first, again, other = (load_data("digits", binarize=binarize, seed=seed) for seed in (1, np.int64(1), 2))
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert all(map(torch.equal, parts(first), parts(again)))
    assert not any(map(torch.equal, parts(first), parts(other)))
    assert first.protocol == again.protocol != other.protocol


# ------------------------------------------------------------------------------------------------ binary


def test_static_draws_follow_the_grey_levels():
    splits, grey = load_data("digits", binarize="static"), load_data("digits")
    assert_bernoulli(torch.cat(parts(splits)), torch.cat(parts(grey)) / 16)
    assert (splits.max_count, splits.transform) == (None, None)
    assert "static binarisation (all drawn once, seed 0)" in splits.protocol


def test_dynamic_redraws_train_and_fixes_the_rest():
    splits, grey = load_data("digits", binarize="dynamic"), load_data("digits")
    static = load_data("digits", binarize="static")
    assert torch.equal(splits.train, grey.train / 16)
    assert torch.equal(splits.valid, static.valid)
    assert torch.equal(splits.test, static.test)
    assert splits.max_count is None
    assert "dynamic binarisation (train redrawn at every use, valid and test drawn once, seed 0)" in splits.protocol
    batch = splits.train[:50]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = torch.stack([splits.transform(batch) for _ in range(100)])
    assert not torch.equal(draws[0], draws[1])
    assert_bernoulli(draws, batch.expand_as(draws))


def test_threshold_is_at_least_a_half():
    splits, grey = load_data("digits", binarize="threshold"), load_data("digits")
    assert all(torch.equal(x, (g >= 8).float()) for x, g in zip(parts(splits), parts(grey), strict=True))
    edge = np.float32([[0.5, 0.49999997, 1.0, 0.0]] * 3)
    assert load_data(edge, binarize="threshold").test.tolist() == [[1, 0, 1, 0]]
    assert "thresholded at 0.5" in splits.protocol


# ------------------------------------------------------------------------------------------------ IDX


def write_idx(folder, n_train=8, n_test=4):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, n in (("train", n_train), ("t10k", n_test)):
        images, labels = rng.integers(0, 256, (n, 5, 4), dtype=np.uint8), np.arange(n, dtype=np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, *images.shape) + images.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, n) + labels.tobytes())
        yield images


@pytest.mark.parametrize("name", data._IDX_KINDS)
@pytest.mark.parametrize("from_cache", [True, False])
def test_idx_sets_are_grey_levels_in_file_order(name, from_cache, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "_IDX_VALID", 3)
    root = cache if from_cache else tmp_path / "root"
    train, test = write_idx(root / data._IDX_KINDS[name] / "raw")
    splits = load_data(name, root=None if from_cache else root)
    for got, want in zip(parts(splits), (train[:5], train[5:], test), strict=True):
        np.testing.assert_array_equal(got, want.reshape(-1, 20).astype(np.float32) / 255)
    assert [splits.labels[part].tolist() for part in PARTS] == [[0, 1, 2, 3, 4], [5, 6, 7], [0, 1, 2, 3]]
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


# ------------------------------------------------------------------------------------------------ .amat


@pytest.fixture
def amat(tmp_path, monkeypatch):
    """A folder with a small binarized_mnist."""
    monkeypatch.setattr(data, "_AMAT_ROWS", {"train": 5, "valid": 3, "test": 2})
    folder = tmp_path / "root" / "binarized_mnist"
    folder.mkdir(parents=True)
    for seed, (part, rows) in enumerate(data._AMAT_ROWS.items()):
        x = np.random.default_rng(seed).integers(0, 2, (rows, 784))
        np.savetxt(folder / f"binarized_mnist_{part}.amat", x, fmt="%d", newline="\n")
    return folder


def assert_amat(splits, folder):
    for part in PARTS:
        np.testing.assert_array_equal(getattr(splits, part), np.loadtxt(folder / f"binarized_mnist_{part}.amat"))


def test_amat_equals_loadtxt_from_text_and_from_cache(amat, cache, monkeypatch):
    splits = load_data("binarized_mnist", root=amat.parent)
    assert_amat(splits, amat)
    assert splits.protocol == "binarized_mnist, static binarisation of Larochelle and Murray (2011), 5 / 3 / 2"
    assert (splits.image_shape, splits.train.dtype, len(list(cache.iterdir()))) == ((1, 28, 28), torch.float32, 3)
    monkeypatch.delattr(datafiles, "_parse_amat")
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


# ------------------------------------------------------------------------------------------------ arrays


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("x.npy", np.save),
        ("x.npz", lambda path, x: np.savez(path, any_name=x)),
        ("x.csv", lambda path, x: np.savetxt(path, x, delimiter=",", header="a,b c,1", comments="")),
        ("x.CSV", lambda path, x: np.savetxt(path, x, delimiter=",", fmt="%g")),
        (None, None),
    ],
)
@pytest.mark.parametrize("as_text", [True, False])
def test_one_array_is_split_80_10_10(name, write, as_text, tmp_path):
    x = numbered(25, 3)
    source = torch.from_numpy(x) if as_text else x
    if name is not None:
        source = tmp_path / name
        write(source, x)
        source = str(source) if as_text else source
    splits = load_data(source, seed=4)
    np.testing.assert_array_equal(sorted_rows(torch.cat(parts(splits))), x)
    assert not np.array_equal(torch.cat(parts(splits)), x)
    assert not torch.equal(splits.train, load_data(source, seed=5).train)
    name = name or "array"
    assert splits.protocol == f"{name}, values as given, random split 21 / 2 / 2 (seed 4)"
    assert (splits.name, splits.labels, splits.image_shape) == (name, None, None)


@pytest.mark.parametrize("as_file", [True, False])
def test_given_splits_are_kept(as_file, tmp_path):
    source = {"test": numbered(2, 3), "train": numbered(4, 3), "valid": numbered(1, 3)}
    if as_file:
        np.savez(tmp_path / "x.npz", **source)
    splits = load_data(tmp_path / "x.npz" if as_file else source)
    assert all(np.array_equal(getattr(splits, part), source[part]) for part in PARTS)
    assert splits.protocol.endswith(", values as given, 4 / 1 / 2, split as given")


def test_valid_is_held_out_of_train_where_it_is_not_given():
    splits = load_data({"train": numbered(20, 3), "test": numbered(4, 3)})
    np.testing.assert_array_equal(sorted_rows(torch.cat([splits.train, splits.valid])), numbered(20, 3))
    np.testing.assert_array_equal(splits.test, numbered(4, 3))
    assert splits.protocol == "array, values as given, 18 / 2 / 4, valid held out of train at random (seed 0)"


@pytest.mark.parametrize(
    ("event", "image"), [((), None), ((5,), None), ((4, 5), (1, 4, 5)), ((3, 4, 5), (3, 4, 5)), ((1, 2, 3, 4), None)]
)
def test_events_are_flattened(event, image):
    splits = load_data(numbered(5, *event))
    assert [len(x) for x in parts(splits)] == [3, 1, 1]
    assert (splits.event_shape, splits.image_shape) == ((int(np.prod(event)),), image)


@pytest.mark.parametrize("dtype", ["bool", ">i2", "uint16", "float16", "float64"])
def test_numbers_become_float32_copies(dtype):
    x = numbered(4, 2).astype(dtype)
    splits = load_data(dict.fromkeys(PARTS, x))
    assert splits.test.dtype == torch.float32
    np.testing.assert_array_equal(splits.test, x)
    same = torch.ones(4, 2)
    splits = load_data(dict.fromkeys(PARTS, same))
    same.zero_()
    assert splits.train.min() == 1


def test_tensors_may_need_gradients_or_be_bfloat16():
    assert not load_data(torch.ones(3, 2, requires_grad=True)).train.requires_grad
    assert load_data(torch.ones(3, 2, dtype=torch.bfloat16)).train.dtype == torch.float32


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("MNSIT", {}, r"Expected a data set \(digits, mnist, .*got 'MNSIT', which is neither.* Did you mean 'mnist'\?"),
        ("none.npy", {}, "got 'none.npy', which is neither"),
        (Path("digits"), {}, "got 'digits', which is neither"),
        ("x" * 5000 + ".npy", {}, "which is neither"),
        (
            "digits",
            {"binarize": "dynamc"},
            r"None or one of static, dynamic, threshold; got 'dynamc'. Did .* 'dynamic'",
        ),
        ("digits", {"seed": -1}, r"Expected seed to be an integer in \[0, 2\*\*63\); got -1"),
        ("digits", {"seed": True}, "got True"),
        ("digits", {"seed": 0.5}, "got 0.5"),
        ("binarized_mnist", {"binarize": "static"}, "binary already; got 'static'. Leave it out, or load mnist"),
        ([[1.0]], {}, r"Expected source to be a name, .*; got list. Convert it: numpy.asarray\(source\)"),
        ({"train": [1.0]}, {}, r"Expected source\['train'\] to be a name, .*; got list"),
        (np.array([["a"]] * 3), {}, "Expected source of real numbers; got dtype <U1"),
        (np.ones((3, 1), complex), {}, "got dtype complex128"),
        (torch.eye(3).to_sparse(), {}, r"Expected source to be dense; .*Convert it: source.to_dense\(\)"),
        (np.ones((0, 2)), {}, r"at least one datum; got shape \(0, 2\)"),
        (np.ones((5, 0)), {}, r"values in each datum; got shape \(5, 0\)"),
        (np.array(1.0), {}, r"at least one datum; got shape \(\)"),
        (np.ones((2, 2)), {}, "Expected at least 3 data in source to split; got 2"),
        (
            {"train": np.ones((1, 2)), "test": np.ones((1, 2))},
            {},
            r"at least 2 data in source\['train'\] to split; got 1",
        ),
        (np.array([[0.0, np.nan]] * 3), {}, r"without NaN or infinities; got nan at index \(0, 1\)"),
        (np.array([[1e300]] * 3), {}, "got inf at index"),
        (np.ma.masked_equal(numbered(3, 2).astype(int), 4), {}, r"got nan at index \(1, 1\)"),
        ({}, {}, "Expected source to hold one array, .*; got no arrays"),
        ({"train": np.ones((3, 1)), "x": np.ones((3, 1))}, {}, "or train and test; got train, x. Rename"),
        (
            {"train": np.ones((3, 2)), "test": np.ones((3, 1))},
            {},
            r"one event shape in all splits of source; got \(2,\), \(2,\), \(1,\) in train, valid, test",
        ),
        (
            np.full((3, 2), 255),
            {"binarize": "static"},
            r"grey levels in \[0, 1\] .*; got values from 255 to 255 in train",
        ),
        (-np.ones((3, 2)), {"binarize": "threshold"}, "Rescale all splits alike first: x / 255"),
    ],
)
def test_refusals(source, options, words):
    refuses(words, source, **options)


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


# ------------------------------------------------------------------------------------------------ real data


@needs_data
@pytest.mark.parametrize("binarize", [None, "static"])
def test_real_mnist(binarize):
    splits = load_data("mnist", root=DATA_ROOT, binarize=binarize)
    assert [tuple(x.shape) for x in parts(splits)] == [(50_000, 784), (10_000, 784), (10_000, 784)]
    # 0.1307, the mean that the literature gives for the train file; 0.001 also covers the draws, by 20 deviations
    assert torch.cat([splits.train, splits.valid]).mean().item() == pytest.approx(0.1307, abs=1e-3)
    assert [splits.labels[part][:3].tolist() for part in PARTS] == [[5, 0, 4], [3, 8, 6], [7, 2, 1]]


@needs_data
def test_real_binarized_mnist():
    for _ in range(2):
        splits = load_data("binarized_mnist", root=DATA_ROOT)
        assert splits.protocol.endswith("50,000 / 10,000 / 10,000")
        means = [x.mean().item() for x in parts(splits)]
        assert means == pytest.approx([0.13056, 0.13113, 0.13251], abs=1e-5)
