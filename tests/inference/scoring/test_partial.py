"""An evaluation that was killed goes on where it stopped, to the same result."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import make_pair
from truth import LinearGaussian

from pyro_vae.inference import evidence, methods
from pyro_vae.inference.scoring.partial import PartialResults


def _settings(tmp_path=None):
    return dict(
        method="iw", num_particles=40, chunk_size=120, seed=3, checkpoint=tmp_path, progress=False, device="cpu"
    )


class _Killed(BaseException):
    pass


def _killed_after(program, count):
    """Return a program that raises at its call number ``count``."""
    calls = []

    def killed(x):
        calls.append(x)
        if len(calls) == count:
            raise _Killed
        return program(x)

    return killed, calls


@pytest.mark.parametrize("method", ["iw", "jackknife", methods.IW(defensive=0.2)])
def test_goes_on_to_the_same_result(tmp_path, method):
    truth = LinearGaussian.random(2, 3)
    x = truth.sample(20)
    whole, calls = _killed_after(truth.guide(1.3), 10**6)
    expected = evidence(truth.model, whole, x, **(_settings() | {"method": method}))
    killed, _ = _killed_after(truth.guide(1.3), len(calls) - 4)
    with pytest.raises(_Killed):
        evidence(truth.model, killed, x, **(_settings(tmp_path) | {"method": method}))
    (partial,) = tmp_path.iterdir()
    assert partial.name.startswith("evidence-")
    again, rest = _killed_after(truth.guide(1.3), 10**6)
    ev = evidence(truth.model, again, x, **(_settings(tmp_path) | {"method": method}))
    assert len(calls) - 10 < len(rest) < len(calls)
    assert list(tmp_path.iterdir()) == []
    for name in ("log_px", "std_error", "ess", "khat", "elbo"):
        assert torch.equal(getattr(ev, name), getattr(expected, name))
    assert ev.curve == expected.curve


def test_other_settings_data_or_parameters_start_anew(tmp_path):
    model, guide = make_pair()
    x = torch.bernoulli(torch.full((20, 6), 0.5))
    names = set()

    def leave_partial(x=x, **changed):
        whole, calls = _killed_after(guide, 10**6)
        evidence(model, whole, x, **(_settings() | changed))
        killed, _ = _killed_after(guide, len(calls) - 2)
        with pytest.raises(_Killed):
            evidence(model, killed, x, **(_settings(tmp_path) | changed))
        names.update(path.name for path in tmp_path.iterdir())

    leave_partial()
    leave_partial(num_particles=41)
    leave_partial(seed=4)
    leave_partial(chunk_size=121)
    leave_partial(method="jackknife")
    leave_partial(x=1 - x)
    with torch.no_grad():
        next(model.parameters()).add_(0.1)
    leave_partial()
    assert len(names) == 7


@pytest.mark.parametrize("size", [0, 50])
def test_a_torn_file_is_done_anew(tmp_path, size):
    truth = LinearGaussian.random(2, 3)
    x = truth.sample(20)
    whole, calls = _killed_after(truth.guide(1.3), 10**6)
    evidence(truth.model, whole, x, **_settings())
    killed, _ = _killed_after(truth.guide(1.3), len(calls) - 2)
    with pytest.raises(_Killed):
        evidence(truth.model, killed, x, **_settings(tmp_path))
    (partial,) = tmp_path.iterdir()
    partial.write_bytes(partial.read_bytes()[:size])
    ev = evidence(truth.model, truth.guide(1.3), x, **_settings(tmp_path))
    assert torch.equal(ev.log_px, evidence(truth.model, truth.guide(1.3), x, **_settings()).log_px)


def test_nothing_is_written_unasked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    partial = PartialResults(None, "key")
    partial.write()
    partial.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["model", "guide"])
def test_a_constant_in_a_program_is_part_of_what_is_resumed(tmp_path, where):
    """Code and closures have no parameters to tell them apart: what they do with the first data does."""
    x = torch.randn(20)

    def programs(scale):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, scale if where == "model" else 1.0), obs=x)

        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x / 2, scale if where == "guide" else 1.0))

        return model, guide

    model, guide = programs(1.0)
    killed, _ = _killed_after(guide, 14)
    with pytest.raises(_Killed):
        evidence(model, killed, x, **_settings(tmp_path))
    resumed, anew = evidence(*programs(3.0), x, **_settings(tmp_path)), evidence(*programs(3.0), x, **_settings())
    assert torch.equal(resumed.log_px, anew.log_px)
