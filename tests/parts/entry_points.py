"""Every public function that runs users' programs, called as ``ENTRY_POINTS[name](model, guide, x)``, quickly."""

from __future__ import annotations

import inspect
from functools import partial

import pyro
import torch
from pyro import infer

from pyro_vae import inference
from pyro_vae.inference import diagnostics, objectives

QUIET = {"progress": False, "device": "cpu"}
_anneal = {"num_particles": 4, "num_temperatures": 5, **QUIET}
_fit = partial(inference.fit, epochs=1, batch_size=4, **QUIET)


def _statistic(x):
    return torch.as_tensor(0.0)


def _in_svi(model, guide, x):
    args = x if type(x) is tuple else (x,)
    infer.SVI(model, guide, pyro.optim.SGD({"lr": 0.01}), objectives.IWAE(2)).step(*args)


def _objective(objective, model, guide, x):
    args = x if type(x) is tuple else (x,)
    objective.loss(model, guide, *args)


def _every(**functions):
    return functions


FUNCTIONS = _every(
    fit=_fit,
    evidence=lambda m, g, x: inference.evidence(m, g, x, 20, method="iw", **QUIET),
    log_weights=inference.log_weights,
    weight_terms=lambda m, g, x: inference.weight_terms(m, g, x, 3),
    gradient_snr=lambda m, g, x: inference.gradient_snr(m, g, x, objectives.IWAE(2), num_repeats=2),
    sandwich=lambda m, g, x: inference.sandwich(m, g, 4, x=x, **_anneal),
    rate_distortion_curve=lambda m, g, x: inference.rate_distortion_curve(m, x, **_anneal),
    certify=lambda m, g, x: inference.certify(m, g, 4, 20, method="iw", x=x, num_temperatures=5, num_chains=4, **QUIET),
    gaps=lambda m, g, x: inference.gaps(m, g, x, 20, steps=2, **QUIET),
    impute=lambda m, g, x: inference.impute(m, g, x, 2, num_particles=10, **QUIET),
    sbc=lambda m, g, x: diagnostics.sbc(m, g, 8, num_draws=9, x=x, **QUIET),
    expected_coverage=lambda m, g, x: diagnostics.expected_coverage(m, g, 8, num_draws=9, x=x, **QUIET),
    pit=lambda m, g, x: diagnostics.pit(m, x, num_draws=9, **QUIET),
    predictive_check=lambda m, g, x: diagnostics.predictive_check(
        m, g, x, {"none": _statistic}, num_draws=2, num_particles=10, **QUIET
    ),
    active_units=lambda m, g, x: diagnostics.active_units(m, g, x, **QUIET),
    kl_per_dimension=lambda m, g, x: diagnostics.kl_per_dimension(m, g, x, **QUIET),
    elbo_surgery=lambda m, g, x: diagnostics.elbo_surgery(m, g, x, **QUIET),
    rate_distortion=lambda m, g, x: diagnostics.rate_distortion(m, g, x, **QUIET),
)
OTHERS = _every(
    by_auto=lambda m, g, x: inference.evidence(m, g, x, 20, **QUIET),
    by_ais=lambda m, g, x: inference.evidence(m, g, x, 4, method=inference.methods.AIS(num_temperatures=5), **QUIET),
    fit_of_stock=partial(_fit, objective=infer.TraceMeanField_ELBO()),
    fit_with_valid=lambda m, g, x: _fit(m, g, x, valid=x),
    fit_compiled=partial(_fit, compile=True),
    loss=partial(_objective, objectives.IWAE(2)),
    loss_of_one=partial(_objective, objectives.ELBO()),
    svi=_in_svi,
)
ENTRY_POINTS = FUNCTIONS | OTHERS


def public():
    """Names of the public functions that take a model."""
    rooms = [vars(room).items() for room in (inference, diagnostics)]
    functions = {name: part for room in rooms for name, part in room if inspect.isfunction(part)}
    return {name for name, function in functions.items() if "model" in inspect.signature(function).parameters}
