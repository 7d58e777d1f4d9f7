"""Columns of different types: scored, masked, drawn and checked one by one."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from parts import contract
from torch import nn

from pyro_vae.models import VAE, likelihoods, mlp, priors
from pyro_vae.models.likelihoods import Mixed


def _parts():
    return {
        "age": likelihoods.Normal(1, scale="datum"),
        "smoker": likelihoods.Bernoulli(1),
        "city": likelihoods.Categorical(1, num_classes=3),
        "visits": likelihoods.NegativeBinomial(1),
        "income": likelihoods.LogNormal(1),
        "share": likelihoods.Beta(1),
    }


@pytest.mark.parametrize("leading", [(), (5,), (2, 5)])
def test_shapes_and_expansion(leading):
    part = Mixed(_parts())
    contract.check_shapes(part, leading, (6,))
    p = contract.call(part, leading)
    x = p.expand((3, *leading)).sample()
    assert p.entry_log_prob(x).shape == (3, *leading, 6)
    assert p.mean.shape == (*leading, 6)
    assert p.support.check(x).all()


def test_entries_are_scored_by_their_own_likelihoods():
    part = Mixed(_parts()).double()
    h = torch.randn(4, part.num_features, dtype=torch.float64)
    p = part(h)
    x = p.sample()
    blocks = h.split([2, 1, 3, 1, 1, 1], -1)
    by_hand = [own(block).log_prob(x[:, [j]]) for j, (own, block) in enumerate(zip(part.columns, blocks, strict=True))]
    torch.testing.assert_close(p.entry_log_prob(x), torch.stack(by_hand, 1))
    torch.testing.assert_close(p.log_prob(x), sum(by_hand))


def test_mean_of_each_column_and_the_most_probable_level():
    part = Mixed(_parts()).double()
    p = part(torch.randn(5, part.num_features, dtype=torch.float64))
    x = p.sample((20_000,))
    numbers = [0, 1, 3, 4, 5]
    # 25 means of 20,000 draws, within 5 standard errors each
    assert ((x.mean(0) - p.mean).abs() < 5 * x.std(0) / 20_000**0.5)[:, numbers].all()
    assert torch.equal(p.mean[:, 2], x[:, :, 2].mode(0).values)


@pytest.mark.parametrize("filler", [float("nan"), -7.0, 0.0])
def test_what_is_missing_has_no_influence(filler):
    part = Mixed(_parts()).double()
    h = torch.randn(8, part.num_features, dtype=torch.float64, requires_grad=True)
    p = part(h)
    x = p.sample()
    observed = torch.rand(8, 6) < 0.6
    expected = (p.entry_log_prob(x) * observed).sum(-1)
    (wanted,) = torch.autograd.grad(expected.sum(), h, retain_graph=True)
    masked = p.masked(observed)
    log_prob = masked.log_prob(torch.where(observed, x, filler))
    torch.testing.assert_close(log_prob, expected)
    torch.testing.assert_close(torch.autograd.grad(log_prob.sum(), h)[0], wanted)
    again = masked.expand((3, 8)).log_prob(torch.where(observed, x, filler))
    torch.testing.assert_close(again, expected.expand(3, 8))
    assert masked.sample().isfinite().all()


def test_gradients_and_state_dict(device):
    contract.check_gradients(Mixed(_parts()))
    contract.check_round_trip(lambda: Mixed(_parts()), device)


def test_support_is_checked_by_column_name():
    model = VAE(priors.StandardNormal(2), Mixed(_parts()), mlp((3,)))
    x = model.sample(3)
    model.check_data(x)
    for column, value, message in [
        (1, 2.0, r"in \{0, 1\} for Bernoulli column 'smoker'; got 2 at index \(2, 1\)"),
        (3, 0.5, r"in \{0, 1, 2, \.\.\.\} for NegativeBinomial column 'visits'; got 0\.5 at index \(2, 3\)\. Counts"),
        (4, 0.0, r"in \(0, inf\) for LogNormal column 'income'; got 0 at index \(2, 4\)\. Zeros have no density"),
        (5, 1.0, r"in \(0, 1\) for Beta column 'share'; got 1 at index \(2, 5\)"),
    ]:
        bad = x.clone()
        bad[2, column] = value
        with pytest.raises(ValueError, match=message):
            model.check_data(bad)


def test_likelihoods_of_ones_own_are_columns():
    class Waiting(nn.Module):
        num_features = 1

        def forward(self, h):
            return torch.distributions.Independent(torch.distributions.Exponential(h.exp()), 1)

    part = Mixed({"wait": Waiting(), "type.of": likelihoods.Normal(1)})
    x = part(torch.zeros(2)).sample((4,))
    masked = part(torch.zeros(2)).masked(torch.tensor([False, True]))
    torch.testing.assert_close(masked.log_prob(x), torch.distributions.Normal(0.0, 1.0).log_prob(x[:, 1]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Mixed({}), "Expected columns as a dict of likelihoods by name"),
        (lambda: Mixed({"a": likelihoods.Normal(2)}), r"shape \(1,\) for column 'a'; got \(2,\): Normal\(1, \.\.\.\)"),
        (lambda: Mixed(_parts())(torch.zeros(9)).log_prob(torch.zeros(5)), "Expected x with 6 columns; got 5"),
    ],
)
def test_bad_settings_get_one_clear_line(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_without_a_column_the_others_are_as_they_were():
    frame = pd.DataFrame({"a": [0.5, 2.5, 3.0], "b": ["u", "v", "u"], "c": [1.0, 7.0, 30.0]})
    mixed = likelihoods.Mixed.from_dataframe(frame, {"c": likelihoods.LogNormal})
    rest, x = mixed.without("b"), mixed.encode(frame)
    h = torch.randn(3, mixed.num_features)
    kept = [i for i in range(mixed.num_features) if i not in range(mixed.widths[0], sum(mixed.widths[:2]))]
    expected = mixed(h).entry_log_prob(x)[:, [0, 2]]
    torch.testing.assert_close(rest(h[:, kept]).entry_log_prob(x[:, [0, 2]]), expected)
    pd.testing.assert_frame_equal(rest.decode(rest.encode(frame)), frame[["a", "c"]], check_dtype=False)
    with pytest.raises(ValueError, match=r"Expected one of several columns to leave out; got 'd'"):
        mixed.without("d")
