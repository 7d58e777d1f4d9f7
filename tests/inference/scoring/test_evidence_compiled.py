"""Evidence by compiled weights is the eager one."""

from __future__ import annotations

import pytest
import torch
from programs import PIXELS, branch, make_pair, with_model

from pyro_vae.inference import evidence, methods
from pyro_vae.inference.compile import worthwhile


def test_compiled_evidence_is_the_eager_one():
    programs = make_pair()
    results = [
        evidence(*programs, PIXELS, 50, chunk_size=300, compile=compile, method="iw", progress=False)
        for compile in (False, True)
    ]
    torch.testing.assert_close(results[1].log_px, results[0].log_px, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(results[1].khat, results[0].khat, rtol=1e-3, atol=1e-3, equal_nan=True)


@pytest.mark.parametrize("how", [methods.IW(defensive=0.2), methods.Jackknife()])
def test_other_weights_are_recorded(how, recorded_only):
    programs = make_pair()
    results = [
        evidence(*programs, PIXELS, 50, method=how, compile=compile, progress=False) for compile in (False, True)
    ]
    torch.testing.assert_close(results[1].log_px, results[0].log_px, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", [methods.IW(refine=5), methods.Jackknife(refine=5, defensive=0.2)])
@pytest.mark.parametrize("amortized", [True, False])
def test_guides_that_are_fitted_to_each_datum_are_recorded(how, amortized, recorded_only):
    model, guide = (part.double() for part in make_pair())
    settings = {"method": how, "chunk_size": 25 * 20, "progress": False}
    results = [
        evidence(model, guide if amortized else lambda x: guide(x), PIXELS.double(), 20, compile=compile, **settings)
        for compile in (False, True)
    ]
    assert len(recorded_only) == 2  # the fit and the weights, for two chunks of 25 data, and none for the last of 10
    torch.testing.assert_close(results[1].log_px, results[0].log_px, rtol=1e-8, atol=0)
    plain = evidence(model, guide, PIXELS.double(), 20, method=type(how)(how.defensive), chunk_size=500, progress=False)
    assert not torch.allclose(results[1].log_px, plain.log_px, rtol=1e-8, atol=0)


def test_evidence_says_what_it_cannot_compile(monkeypatch, recorded_only):
    with pytest.warns(UserWarning, match="run one by one|Cannot compile, so the weights are"):
        evidence(*with_model(branch), PIXELS, 10, method=methods.IW(refine=2), compile=True, progress=False)
    monkeypatch.setitem(worthwhile.LEAST, "weights", 600)
    recorded_only.clear()
    evidence(*make_pair(), PIXELS, 9, method="iw", progress=False)
    assert not recorded_only
    evidence(*make_pair(), PIXELS, 10, method="iw", progress=False)
    assert recorded_only
    with pytest.raises(ValueError, match=r'Expected compile to be "auto", True or False; got 1\.5'):
        evidence(*make_pair(), PIXELS, 10, compile=1.5, method="iw", progress=False)
