"""Mistakes in programs and data, at every public function that runs programs: one line that says what to do."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from parts.entry_points import ENTRY_POINTS, FUNCTIONS, public
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import DataLoader, Dataset, TensorDataset

from pyro_vae.inference import AmortizedGuide, fit, guides
from pyro_vae.models import VAE, ConditionalVAE, SemiSupervisedVAE, likelihoods, mlp, priors

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
SEEN = torch.ones(8, 6)


def test_every_public_function_that_takes_a_model_is_in_the_table():
    """``audit`` takes an estimate of data that ``evidence`` has seen."""
    assert set(FUNCTIONS) == public() - {"audit"}


def pair(width=6, rows=2, latent=(2,), weight=None, obs=None):
    """z ~ N(0, I_2), x | z ~ N(W z, I), with shapes that fit, or that one of the arguments makes not fit.

    Args:
        width: number of columns of W.
        rows: number of rows of W.
        latent: shape of the prior's mean in the model.
        weight: of the guide's mean; that of 6 columns if absent.
        obs: function of x and seen that is observed.
    """
    weight = torch.ones(6, 2) if weight is None else weight

    def model(x, seen=None):
        loc = pyro.param("loc", lambda: torch.zeros(()))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(*latent), 1.0).to_event(1))
            mean = z @ torch.ones(rows, width) + loc
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    def guide(x, seen=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.1 * x @ weight, 1.0).to_event(1))

    return model, guide


NOT_FITTING = {
    "a decoder of another width": (pair(width=4), "x"),
    "a matrix that does not fit": (pair(rows=3), "z"),
    "a prior of another number of data": (pair(latent=(5, 2)), "z"),
    "an encoder that does not fit": (pair(weight=torch.ones(5, 2)), ""),
}
OF_MODEL_ALONE = {"rate_distortion_curve", "pit", "sandwich"}


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_programs_that_fit_run(name):
    if name not in ("by_auto", "certify"):
        ENTRY_POINTS[name](*pair(), X)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fault", NOT_FITTING)
@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_shapes_that_do_not_fit_are_said_in_one_line_with_the_site(name, fault):
    programs, site = NOT_FITTING[fault]
    if fault == "an encoder that does not fit" and name in OF_MODEL_ALONE:
        return
    with pytest.raises((ValueError, RuntimeError)) as caught:
        ENTRY_POINTS[name](*programs, X)
    message = str(caught.value)
    assert not re.search("Trace Shapes|Param Sites|Sample Sites|\n", message), message
    assert f"'{site}'" in message or f"site {site} " in message or not site, message
    assert re.search(r"\. [A-Z].*\.$", message), message  # what to do


class Items(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, i):
        return X[i], 0


NO_TENSORS = {
    "array": (X.numpy(), r"got ndarray\. Convert it: torch\.as_tensor\(@, dtype=torch\.float32\)"),
    "whole numbers": (np.arange(8), r"got ndarray\. Convert it: torch\.as_tensor\(@\)"),
    "list": (X.tolist(), r"got list\. Convert it: torch\.as_tensor\(@, dtype=torch\.float32\)"),
    "table": (pd.DataFrame(X.numpy()), r"got DataFrame\. Convert it: torch\.as_tensor\(@\.to_numpy\(\), dtype="),
    "tensors": (
        [X, X],
        r"got list\. Pass a tuple, tuple\(@\), for several arguments, or one tensor, torch\.stack\(@\)",
    ),
    "mapping": ({"x": X}, r"got dict\. Pass a tuple of its tensors, in the order of the program's arguments"),
    "loader": (
        DataLoader(TensorDataset(X)),
        r"got DataLoader\. Pass the tensors of its dataset, such as @\.dataset\.tensors",
    ),
    "tensor dataset": (TensorDataset(X), r"got TensorDataset\. Pass its tensors: @\.tensors"),
    "dataset": (Items(), r"got Items\. Pass its data as tensors, such as torch\.stack\(\[item\[0\] for item in @\]\)"),
    "sequence": (pack_padded_sequence(X[..., None], torch.full((8,), 6), batch_first=True), "pad_packed_sequence"),
    "int": (8, r"got int\. It is no data: .* functools\.partial\(program, @=8\)"),
    "bool": (True, r"got bool\. It is no data: .* functools\.partial\(program, @=True\)"),
    "word": ("train", r"got str\. It is no data: .* functools\.partial\(program, @='train'\)"),
    "none": (None, r"got NoneType\. It is no data: .* functools\.partial\(program, @=None\)"),
    "sparse": (X.to_sparse(), r"to be dense; got torch\.sparse_coo\. Convert it: @\.to_dense\(\)"),
    "number": (
        torch.tensor(3.0),
        r"with the data first; got a tensor without dimensions\. .* functools\.partial\(program, @=\.\.\.\)",
    ),
}
CALLED = {"fit": "data", "fit_of_stock": "data", "fit_with_valid": "data", "fit_compiled": "data"}
UNNAMED = {"sandwich", "certify", "sbc", "expected_coverage"}
"""Which take the shape of their data alone from x, and know of no program yet."""


@pytest.mark.parametrize("kind", NO_TENSORS)
@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_what_is_no_tensor_is_refused_with_what_to_pass(name, kind):
    value, message = NO_TENSORS[kind]
    alone = CALLED.get(name, "x")
    second = alone + r"\[1\]" if name in UNNAMED else "seen"
    for data, called in ((value, alone), ((X, value), second)):
        if data is None and name in UNNAMED:
            continue  # no example data, which are asked for
        keyword = message.replace("program, @", "program, name") if called == r"x\[1\]" else message
        with pytest.raises(ValueError, match=f"{called}.*{keyword.replace('@', called)}") as caught:
            ENTRY_POINTS[name](*pair(), data)
        assert "\n" not in str(caught.value)


CHECKED = [name for name in ENTRY_POINTS if name not in {"log_weights", "weight_terms", "loss", "loss_of_one", "svi"}]


@pytest.mark.parametrize("name", [name for name in CHECKED if name not in UNNAMED])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan_in_a_further_argument_is_said_to_be_there_and_not_missing_data(name, value):
    seen = SEEN.index_fill(0, torch.tensor(3), value)
    with pytest.raises(ValueError, match=r"Expected seen \((x|data)\[1\]\) without NaN or infinities") as caught:
        ENTRY_POINTS[name](*pair(), (X, seen))
    assert "missing" not in str(caught.value)
    assert "index (3, 0)" in str(caught.value)


@pytest.mark.parametrize("name", [name for name in CHECKED if name not in UNNAMED])
def test_nan_in_data_of_a_program_of_ones_own_has_a_way_out_that_it_takes(name):
    x = X.index_fill(0, torch.tensor(3), torch.nan)
    with pytest.raises(ValueError, match=r"Remove those data, or fill them and pass a mask") as caught:
        ENTRY_POINTS[name](*pair(), x)
    assert "VAE" not in str(caught.value)


NAN = torch.full((8,), torch.nan)
VAES = {
    "conditional": (
        lambda: ConditionalVAE(priors.StandardNormal(2), likelihoods.Normal(6), mlp((4,)), num_covariates=1),
        (X, NAN[:, None]),
        r"Expected y in finite numbers; got nan at index \(0, 0\)",
    ),
    "classes": (
        lambda: ConditionalVAE(priors.StandardNormal(2), likelihoods.Normal(6), mlp((4,)), num_classes=3),
        (X, NAN),
        r"Expected y of class indices, an integer dtype; got torch\.float32 with NaN\. Remove those data",
    ),
    "semi-supervised": (
        lambda: SemiSupervisedVAE(priors.StandardNormal(2), likelihoods.Normal(6), mlp((4,)), num_classes=3),
        (X, NAN),
        r"got torch\.float32 with NaN\. Give unknown labels as -1: y\.nan_to_num\(nan=-1\)\.long\(\)",
    ),
    "missing": (
        lambda: VAE(priors.StandardNormal(2), likelihoods.Normal(6), mlp((4,))),
        NAN[:, None].expand(8, 6),
        r"Expected data without NaN.*or let NaN be missing: load_data.* and VAE\(\.\.\., missing=True\)",
    ),
    "infinite where NaN is missing": (
        lambda: VAE(priors.StandardNormal(2), likelihoods.Normal(6), mlp((4,)), missing=True),
        torch.full((8, 6), torch.inf),
        r"Expected data without NaN or infinities; got inf at index \(0, 0\) .* Remove those data\.",
    ),
}


def test_arguments_are_called_as_the_model_calls_its_data():
    """``VAE`` takes no second argument of data, whatever its forward has."""
    for build, called in ((VAES["missing"][0], r"data\[1\]"), (VAES["classes"][0], r"y \(data\[1\]\)")):
        with pytest.raises(ValueError, match=f"Expected {called} to be a torch.Tensor; got bool"):
            fit(build(), AmortizedGuide(6, guides.DiagonalNormal(2), mlp((4,))), (X, True), progress=False)


@pytest.mark.parametrize("name", VAES)
def test_nan_in_labels_covariates_and_data_of_the_models_shipped(name):
    build, data, message = VAES[name]
    with pytest.raises(ValueError, match=message) as caught:
        fit(build(), AmortizedGuide(6, guides.DiagonalNormal(2), mlp((4,))), data, batch_size=8, progress=False)
    assert ("missing" in str(caught.value)) == (name == "missing")
