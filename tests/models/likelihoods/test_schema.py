"""Tables as DataFrames: the likelihoods that they call for, and encoding there and back."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_vae.inference import AmortizedGuide, evidence, fit, guides
from pyro_vae.models import VAE, likelihoods, mlp, priors
from pyro_vae.models.likelihoods import LogNormal, Mixed


def _frame(n=300, seed=0):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "age": rng.normal(50, 10, n),
            "sex": rng.choice(["f", "m"], n),
            "city": pd.Categorical(rng.choice(["Bonn", "Kiel"], n), categories=["Bonn", "Kiel", "Jena"]),
            "visits": rng.poisson(3, n),
            "income": rng.lognormal(10, 0.5, n),
            "ok": rng.random(n) < 0.3,
            "dose": rng.choice([5.0, 10.0], n),
        }
    )
    frame.loc[3, "age"], frame.loc[[4, 5], "sex"], frame.loc[6, "city"], frame.loc[7, "dose"] = (
        np.nan,
        None,
        None,
        np.nan,
    )
    return frame


def test_dtypes_and_values_choose_the_likelihood():
    part = Mixed.from_dataframe(_frame(), schema={"income": LogNormal})
    kinds = [type(own).__name__ for own in part.columns]
    assert kinds == ["Normal", "Bernoulli", "Categorical", "NegativeBinomial", "LogNormal", "Bernoulli", "Bernoulli"]
    assert part.columns[2].num_classes == 3
    assert part.table.columns[1].levels == ("f", "m")
    assert part.table.columns[6].levels == (5.0, 10.0)
    without = Mixed.from_dataframe(_frame())
    assert type(without.columns[4]).__name__ == "Normal"


@pytest.mark.parametrize(
    ("values", "kind", "codes"),
    [
        ([3, 0, 7], "NegativeBinomial", [3, 0, 7]),
        ([3.0, 0.0, np.nan, 2.0], "NegativeBinomial", [3, 0, np.nan, 2]),
        ([3, -1, 7], "Normal", [3, -1, 7]),
        ([0.5, 1.0, 2.0], "Normal", [0.5, 1, 2]),
        ([0, 1, 1], "Bernoulli", [0, 1, 1]),
        (["b", "a", "c"], "Categorical", [1, 0, 2]),
        ([True, None, False], "Bernoulli", [1, np.nan, 0]),
        (pd.array([4, None, 2, 9], dtype="Int64"), "NegativeBinomial", [4, np.nan, 2, 9]),
        (pd.Categorical([2, 1, 2], categories=[2, 1]), "Bernoulli", [0, 1, 0]),
    ],
)
def test_one_column_at_a_time(values, kind, codes):
    frame = pd.DataFrame({"a": values})
    part = Mixed.from_dataframe(frame)
    assert type(part.columns[0]).__name__ == kind
    np.testing.assert_array_equal(part.encode(frame)[:, 0].numpy(), np.array(codes, dtype=float))


def test_encode_and_decode_are_inverse():
    frame = _frame()
    part = Mixed.from_dataframe(frame)
    x = part.encode(frame)
    assert x.dtype == torch.float32
    assert x.isnan().sum(0).tolist() == [1, 2, 1, 0, 0, 0, 1]
    back = part.decode(x)
    pd.testing.assert_frame_equal(back, frame, rtol=1e-6)
    torch.testing.assert_close(part.encode(back), x, equal_nan=True)
    torch.testing.assert_close(part.encode(frame.iloc[::-1, ::-1].assign(more=1)), x.flip(0), equal_nan=True)


def test_means_decode_to_levels_and_numbers():
    part = Mixed.from_dataframe(_frame())
    mean = part.decode(part(torch.zeros(2, part.num_features)).mean)
    assert mean["visits"][0] == pytest.approx(3, abs=0.5)
    assert mean["ok"].tolist() == [False, False]
    assert part.decode(torch.tensor([[50.0, 0.2, 1, 3, 9e4, 0.7, 1]]))["ok"].tolist() == [True]
    assert mean["city"][0] in ("Bonn", "Kiel")


def test_a_table_starts_at_its_marginals_whatever_the_units():
    """At h = 0 each column has the mean of the data; the density is that of x itself, in its own units."""
    frame = _frame(2000).dropna()
    part = Mixed.from_dataframe(
        frame, schema={"income": LogNormal, "age": likelihoods.StudentT(1, scale="datum", df=30)}
    )
    x = part.encode(frame)
    p = part(torch.zeros(part.num_features))
    torch.testing.assert_close(p.mean[[0, 1, 3, 5, 6]], x.mean(0)[[0, 1, 3, 5, 6]], rtol=1e-3, atol=1e-3)
    age, income = p.columns[0].base_dist, p.columns[4].base_dist.base_dist
    torch.testing.assert_close(age.scale[0], x[:, 0].std(correction=0))
    torch.testing.assert_close(income.scale[0], x[:, 4].log().std(correction=0))
    one_up = part(torch.ones(part.num_features)).columns[0].mean
    torch.testing.assert_close(one_up, p.mean[:1] + x[:, 0].std(correction=0))
    in_thousands = Mixed.from_dataframe(frame.assign(income=frame.income / 1000), schema={"income": LogNormal})
    q = in_thousands(torch.zeros(in_thousands.num_features))
    scaled = x.clone()
    scaled[:, 4] /= 1000
    change = q.entry_log_prob(scaled)[:, 4] - p.entry_log_prob(x)[:, 4]
    torch.testing.assert_close(change, torch.full_like(change, np.log(1000)), rtol=1e-4, atol=1e-4)


def test_a_model_of_a_table_trains_and_is_scored():
    frame = _frame(200).dropna()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        part = Mixed.from_dataframe(frame)
        x = part.encode(frame)
        model = VAE(priors.StandardNormal(2), part, mlp((8,)))
        guide = AmortizedGuide(7, guides.DiagonalNormal(2), mlp((8,)), loc=x.mean(0), scale=x.std(0))
    before = evidence(model, guide, x, 20, method="iw", progress=False, device="cpu")
    fit(model, guide, x, epochs=10, batch_size=50, progress=False, device="cpu")
    after = evidence(model, guide, x, 20, method="iw", progress=False, device="cpu")
    assert after.mean > before.mean


class Positional(likelihoods.Normal):
    """A likelihood that wants its shape as a tuple, as everywhere else."""

    def __init__(self, event_shape):
        super().__init__(tuple(event_shape))


def test_parts_of_ones_own_get_the_shape_of_a_column():
    mixed = Mixed.from_dataframe(pd.DataFrame({"a": [0.5, 1.5, 2.5]}), schema={"a": Positional})
    assert isinstance(mixed.columns[0], Positional)


def test_numbers_come_back_as_they_were_written():
    frame = pd.DataFrame({"a": [32.1, 0.0007, 12345.6], "b": [1.5, None, 99.99]})
    mixed = Mixed.from_dataframe(frame)
    pd.testing.assert_frame_equal(mixed.decode(mixed.encode(frame)), frame, check_exact=True)


def _one(values, **schema):
    return lambda: Mixed.from_dataframe(pd.DataFrame({"a": values}), schema=schema or None)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Mixed.from_dataframe(np.zeros((3, 2))), "Expected a pandas DataFrame; got ndarray"),
        (_one([3, 3]), "at least two different values in column 'a'; got 1. Leave it out, {'a': None}"),
        (_one([None, None]), "at least two different values in column 'a'; got 0"),
        (_one(pd.to_datetime(["2020-01-01", "2021-01-01"])), "bool in column 'a'; got dtype datetime64"),
        (_one([1, 2, 3], b=LogNormal), "the schema to name columns of the table; got 'b'"),
        (_one([0.0, 2.0, 3.0], a=LogNormal), r"in \(0, inf\) for LogNormal column 'a'; got 0 at index \(0, 0\)"),
        (
            _one([0, 2, 3], a=likelihoods.Binomial),
            "Cannot build Binomial for column 'a': .* Give its arguments in the schema",
        ),
        (lambda: Mixed.from_dataframe(pd.DataFrame([[1, 2]], columns=["a", "a"])), "of different names; got 'a' twice"),
        (
            lambda: Mixed({"a": likelihoods.Normal(1)}).decode(torch.zeros(6)),
            r"Expected x of shape \(N, 1\); got \(6,\)",
        ),
        (
            lambda: Mixed({"Age": likelihoods.Normal(1)}).encode(_frame()),
            "Expected a column 'Age' in the table. Did you mean age",
        ),  # the table"),
        (lambda: Mixed({"sex": likelihoods.Bernoulli(1)}).encode(_frame()), "Expected numbers in column 'sex'; got"),
        (
            lambda: Mixed.from_dataframe(_frame()).encode(_frame().assign(sex="x")),
            r"Expected the levels \['f', 'm'\] in column 'sex'; got 'x' at row 0",
        ),
    ],
)
def test_bad_settings_get_one_clear_line(build, message):
    with pytest.raises(ValueError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_counts_that_vary_less_than_poisson_train_in_float32():
    """Maximum likelihood sends their dispersion to 0, where 1 / alpha overflows."""
    model = VAE(priors.StandardNormal(2), Mixed({"a": likelihoods.NegativeBinomial(1)}), mlp((3,)))
    with torch.no_grad():
        model.likelihood.columns[0].dispersion.log_value.fill_(-80.0)
    log_p = model.decode(torch.zeros(4, 2)).log_prob(torch.tensor([[0.0], [1.0], [2.0], [3.0]]))
    log_p.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    rate = model.decode(torch.zeros(4, 2)).mean.detach()
    torch.testing.assert_close(log_p, torch.distributions.Poisson(rate).log_prob(torch.arange(4.0)[:, None])[:, 0])


def test_what_was_chosen_can_be_read():
    part = Mixed.from_dataframe(_frame(), schema={"income": LogNormal, "ok": None})
    lines = part.describe().splitlines()
    assert lines[1:5] == [
        "sex     Bernoulli (f, m)",
        "city    Categorical (3 levels: Bonn, Kiel, Jena)",
        "visits  NegativeBinomial",
        "income  LogNormal",
    ]
    assert "ok" not in part.table.names
    with pytest.raises(ValueError, match="Expected observed entries in column 'age' to start at; got none"):
        part.start_at(torch.full((2, 6), torch.nan))
