"""Evidence as ArviZ's data: posterior, prior, predictions, likelihood and statistics of the weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pyro_vae.inference.programs.call import fork_rng, training_mode
from pyro_vae.inference.programs.simulate import example_data, simulate
from pyro_vae.inference.scoring.estimates import Evidence
from pyro_vae.inference.scoring.posterior import Source, posterior_draws
from pyro_vae.inference.training.batches import send

PER_DATUM = ("log_px", "std_error", "ess", "khat", "elbo")
Groups = dict[str, Any]


def to_arviz(evidence: Evidence, num_draws: int = 100, seed: int = 0) -> Any:
    """Return an ArviZ ``InferenceData`` (0.x) or ``DataTree`` (1.x); see ``Evidence.to_arviz``.

    Raises:
        ValueError: if the evidence has no ``source``.
    """
    source = evidence.source
    if source is None:
        raise ValueError(
            "This evidence holds no programs to draw from, as one that was loaded from a file. Run evidence(model, "
            "guide, x, ...) anew and call to_arviz() on what it returns."
        )
    source = replace(source, args=send(source.args, source.device))
    with torch.no_grad(), training_mode(source.model, source.guide, False), fork_rng(source.device, seed):
        groups = _groups(source, num_draws)
    groups["constant_data"] = _dataset({name: getattr(evidence, name) for name in PER_DATUM}, ("data",))
    facts = {"inference_library": "pyro-vae", "method": evidence.method, "num_particles": evidence.num_particles}
    return _assemble(groups, facts)


def _groups(source: Source, num_draws: int) -> Groups:
    drawn = posterior_draws(source.model, source.guide, source.args, num_draws)
    sampled = ("chain", "draw", "data")
    groups = {
        "posterior": _dataset(_one_chain(drawn.latents), sampled),
        "posterior_predictive": _dataset(_one_chain(drawn.predictive), sampled),
        "log_likelihood": _dataset(_one_chain(drawn.log_likelihood), sampled),
        "sample_stats": _dataset(_one_chain({"log_w": drawn.log_w}), sampled),
    }
    try:
        simulated = simulate(source.model, example_data(source.model, num_draws, source.args))
    except ValueError:  # sites that observe something computed from the arguments: nobody can say what it is of
        return groups
    return groups | {
        "prior": _dataset(_one_chain(simulated.latents), sampled[:2]),
        "prior_predictive": _dataset(_one_chain(_observed(simulated.args, simulated.places)), sampled[:2]),
        "observed_data": _dataset(_observed(source.args, simulated.places), ("data",)),
    }


def _observed(args: tuple[Tensor, ...], places: Mapping[str, int]) -> dict[str, Tensor]:
    return {name: args[i] for name, i in places.items()}


def _one_chain(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value[None] for name, value in values.items()}


def _dataset(values: Mapping[str, Tensor], leading: tuple[str, ...]) -> Any:
    """Return an xarray ``Dataset`` whose variables share their leading dimensions; the others are NAME_dim_i."""
    import xarray as xr

    variables = {}
    for name, value in values.items():
        own = tuple(f"{name}_dim_{i}" for i in range(value.ndim - len(leading)))
        variables[name] = (leading + own, value.detach().cpu().numpy())
    sizes = {d: size for dims, value in variables.values() for d, size in zip(dims, value.shape, strict=True)}
    return xr.Dataset(variables, coords={d: range(size) for d, size in sizes.items()})


def _assemble(groups: Groups, facts: dict[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*ArviZ is undergoing", category=FutureWarning)
        import arviz as az
    if "InferenceData" in vars(az):  # ArviZ 1.x answers hasattr with a warning
        return az.InferenceData(attrs=facts, **groups)
    import xarray as xr

    tree = xr.DataTree.from_dict(groups)
    tree.attrs.update(facts)
    return tree
