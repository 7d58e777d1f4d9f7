"""The contract of every prior: one line in a table gives a prior every check."""

from __future__ import annotations

import contract
import pytest
from scipy import stats

from pyro_vae.models import priors

DIM = 3
PRIORS = {"StandardNormal": lambda: priors.StandardNormal(DIM)}


def test_every_prior_is_in_the_table():
    assert contract.shipped(priors, priors.Prior) == {name.split(",")[0] for name in PRIORS}


@pytest.mark.parametrize("name", PRIORS)
def test_shapes(name):
    contract.check_shapes(PRIORS[name](), (), (DIM,))


@pytest.mark.parametrize("name", PRIORS)
def test_density_integrates_to_one(name):
    contract.check_integrates_to_one(PRIORS[name]().double()())


@pytest.mark.parametrize("name", PRIORS)
def test_gradient_reaches_every_parameter(name):
    contract.check_gradients(PRIORS[name]())


@pytest.mark.parametrize("name", PRIORS)
def test_state_dict_round_trip_and_device(name, device):
    contract.check_round_trip(PRIORS[name], device)


def test_standard_normal_draws_are_standard_normal():
    # Kolmogorov-Smirnov at 1e-4 in all.
    x = priors.StandardNormal(DIM).double()().sample((4000,))
    for i in range(DIM):
        assert stats.kstest(x[:, i].numpy(), stats.norm.cdf).pvalue > 1e-4 / DIM


def test_bad_settings_get_one_clear_line():
    with pytest.raises(ValueError, match="Expected dim to be an integer >= 1; got 0"):
        priors.StandardNormal(0)
