import random
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import arrays_of, numbered, refuses

from pyro_vae.data.load import load_data
from pyro_vae.data.splits import SPLIT_NAMES


def sorted_rows(x):
    return np.array(sorted(map(tuple, np.asarray(x).reshape(len(x), -1))))


def assert_bernoulli(draws, grey):
    """Each grey level's draws have its mean, within 5 standard errors: 1e-5 of the seeds fail with 17 levels."""
    assert set(draws.unique().tolist()) <= {0.0, 1.0}
    for level in grey.unique().tolist():
        at = draws[grey == level]
        assert abs(at.mean().item() - level) <= 5 * (level * (1 - level) / len(at)) ** 0.5


def test_digits_have_counts_labels_and_a_protocol():
    splits = load_data("digits")
    assert [tuple(x.shape) for x in arrays_of(splits)] == [(1197, 64), (300, 64), (300, 64)]
    assert [len(splits.labels[split]) for split in SPLIT_NAMES] == [1197, 300, 300]
    x = torch.cat(arrays_of(splits))
    assert x.dtype == torch.float32
    assert set(x.unique().tolist()) == set(map(float, range(17)))
    assert (splits.image_shape, splits.max_count, splits.transform) == ((1, 8, 8), 16, None)
    assert (splits.name, splits.event_shape) == ("digits", torch.Size([64]))
    assert splits.protocol == "digits, counts 0 to 16, random split 1,197 / 300 / 300 (seed 0)"
    assert splits.protocol in repr(splits)


def test_digits_splits_hold_each_datum_once_with_its_label():
    from sklearn.datasets import load_digits

    splits, bunch = load_data("digits", seed=3), load_digits()
    labels = torch.cat([splits.labels[split] for split in SPLIT_NAMES])
    got = torch.cat([torch.cat(arrays_of(splits)), labels[:, None]], 1)
    want = np.column_stack([bunch.data, bunch.target])
    np.testing.assert_array_equal(sorted_rows(got), sorted_rows(want))


@pytest.mark.parametrize("binarize", [None, "static", "dynamic", "threshold"])
def test_seed_decides_and_global_generators_are_untouched(binarize):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    first, again, other = (load_data("digits", binarize=binarize, seed=seed) for seed in (1, np.int64(1), 2))
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert all(map(torch.equal, arrays_of(first), arrays_of(again)))
    assert not any(map(torch.equal, arrays_of(first), arrays_of(other)))
    assert first.protocol == again.protocol != other.protocol


def test_static_draws_follow_the_grey_levels():
    splits, grey = load_data("digits", binarize="static"), load_data("digits")
    assert_bernoulli(torch.cat(arrays_of(splits)), torch.cat(arrays_of(grey)) / 16)
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
    assert all(torch.equal(x, (g >= 8).float()) for x, g in zip(arrays_of(splits), arrays_of(grey), strict=True))
    edge = np.float32([[0.5, 0.49999997, 1.0, 0.0]] * 3)
    assert load_data(edge, binarize="threshold").test.tolist() == [[1, 0, 1, 0]]
    assert "thresholded at 0.5" in splits.protocol


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
    np.testing.assert_array_equal(sorted_rows(torch.cat(arrays_of(splits))), x)
    assert not np.array_equal(torch.cat(arrays_of(splits)), x)
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
    assert all(np.array_equal(getattr(splits, split), source[split]) for split in SPLIT_NAMES)
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
    assert [len(x) for x in arrays_of(splits)] == [3, 1, 1]
    assert (splits.event_shape, splits.image_shape) == ((int(np.prod(event)),), image)


@pytest.mark.parametrize("dtype", ["bool", ">i2", "uint16", "float16", "float64"])
def test_numbers_become_float32_copies(dtype):
    x = numbered(4, 2).astype(dtype)
    splits = load_data(dict.fromkeys(SPLIT_NAMES, x))
    assert splits.test.dtype == torch.float32
    np.testing.assert_array_equal(splits.test, x)
    same = torch.ones(4, 2)
    splits = load_data(dict.fromkeys(SPLIT_NAMES, same))
    same.zero_()
    assert splits.train.min() == 1


def test_tensors_may_need_gradients_or_be_bfloat16():
    assert not load_data(torch.ones(3, 2, requires_grad=True)).train.requires_grad
    assert load_data(torch.ones(3, 2, dtype=torch.bfloat16)).train.dtype == torch.float32


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("MNSIT", {}, r"Expected a data set \(digits, mnist, .*got 'MNSIT', which is neither.* Did you mean mnist\?"),
        ("none.npy", {}, "Expected a file at none.npy; there is none"),
        (Path("digits"), {}, "got 'digits', which is neither"),
        ("x" * 5000 + ".npy", {}, "there is none"),
        (
            "digits",
            {"binarize": "dynamc"},
            r"None or one of static, dynamic, threshold; got 'dynamc'. Did .* dynamic",
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


def test_whole_numbers_that_float32_cannot_hold_stay_in_float64():
    counts = np.random.default_rng(0).integers(2**24, 2**24 + 100, size=(60, 2))
    splits = load_data(counts)
    assert splits.train.dtype == splits.test.dtype == torch.float64
    every = np.sort(torch.cat([splits.train, splits.valid, splits.test]).flatten().numpy())
    np.testing.assert_array_equal(every, np.sort(counts, None))
    assert load_data(counts % 2**24).train.dtype == torch.float32
    assert load_data(np.random.default_rng(0).normal(size=(60, 2))).train.dtype == torch.float32  # rounded, not counts
    mixed = load_data({"train": counts, "test": np.ones((20, 2))})
    assert mixed.test.dtype == torch.float64
