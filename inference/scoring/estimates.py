"""Estimates of log p(x): what is known of each datum, and of the mean over data."""

from __future__ import annotations

import json
import math
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from pyro_vae.core.files import atomic_path
from pyro_vae.inference.programs.call import Args, Program
from pyro_vae.inference.programs.joint import as_one_datum
from pyro_vae.inference.programs.loop import evaluation_mode, send
from pyro_vae.inference.programs.places import Place
from pyro_vae.inference.programs.simulate import example_data, simulate
from pyro_vae.inference.programs.standard_errors import monte_carlo_error, standard_error
from pyro_vae.inference.scoring.posterior import posterior_draws
from pyro_vae.inference.scoring.tail import KHAT_LIMIT

Groups = dict[str, Any]
"""Datasets of xarray by the names that ArviZ gives to groups."""
_PER_DATUM = ("log_px", "std_error", "ess", "khat", "elbo")
_WHERE_THERE = ("acceptance", "counts", "choice", "no_mode")
"""Per datum, of some methods."""
_FACTS = ("num_particles", "seed", "method", "data", "debiased")
_IN_NEWER_FILES = ("estimators", "seconds", "notes", "scored", "precision", "joint")
TOO_MANY = 0.05
"""Share of flagged data above which the mean is said to be a bound."""


@dataclass(frozen=True)
class Source:
    """The programs and data that an evaluation was made from.

    Attributes:
        model: Pyro program for p(x, z).
        guide: Pyro program for q(z | x).
        args: their arguments, N data, on any device.
        device: the device that the programs are on.
    """

    model: Program
    guide: Program
    args: Args
    device: torch.device


@dataclass(frozen=True, repr=False)
class Evidence:
    """Estimates of log p(x_n), in nats.

    Attributes:
        log_px: log (1/K) sum_k w_kn, shape (N,); a stochastic lower bound, E[log_px] = L_K <= log p(x_n). The
            jackknife takes off its bias of first order, and with it the bound.
        std_error: Monte Carlo standard error of each, by the delta method, shape (N,); NaN for K = 1.
        ess: effective sample size (sum w)^2 / sum w^2 out of K, shape (N,).
        khat: Pareto k-hat of the weights, shape (N,); above 0.7 a datum's estimate cannot be trusted.
        elbo: (1/K) sum_k log w_kn, shape (N,): the ELBO of whatever the weights are of, the guide, the fitted guide
            or the defensive mixture; for annealed importance sampling the mean log weight of its chains, and for
            "auto" that of the guide's pilot draws.
        curve: {k: (mean over data of L_k, its standard error)} for k = 1, 2, 4, ... <= K; for "auto" of the guide's
            pilot draws.
        num_particles: K; where ``counts`` is there, that of the importance samplers.
        seed: the seed it was computed with.
        method: the estimator and its settings, in words.
        data: a hash of the data that were scored; estimates can be compared where it is the same.
        scored: which arguments the model observes, and by density or mass, in words; "" where that is not known.
        precision: that of the networks' products, "" for their own.
        debiased: whether the bias of first order has been taken off.
        joint: N, where the one estimate is of log p(x_1, ..., x_N); 0 where each datum has its own.
        acceptance: mean acceptance rate of annealed importance sampling, shape (N,); None for other methods.
        counts: K of each datum, shape (N,).
        estimators: names of the estimators among which one was chosen for each datum; empty where there is one.
        choice: the number of each datum's estimator among them, shape (N,); None where there is one.
        no_mode: data whose posterior's mode was searched for and not found, shape (N,); None where none was searched.
        seconds: {estimator: how long it took, with its pilot draws}, where there are several.
        notes: what else a reader has to know, such as estimators that these programs cannot have.
        source: the programs and data themselves, for ``to_arviz``; not saved.
    """

    log_px: Tensor
    std_error: Tensor
    ess: Tensor
    khat: Tensor
    elbo: Tensor
    curve: dict[int, tuple[float, float]]
    num_particles: int
    seed: int
    method: str = "importance weighting"
    data: str = ""
    scored: str = ""
    precision: str = ""
    debiased: bool = False
    joint: int = 0
    acceptance: Tensor | None = None
    counts: Tensor | None = None
    estimators: tuple[str, ...] = ()
    choice: Tensor | None = None
    no_mode: Tensor | None = None
    seconds: dict[str, float] = field(default_factory=dict, compare=False)
    notes: tuple[str, ...] = ()
    source: Source | None = field(default=None, repr=False, compare=False)

    @property
    def mean(self) -> float:
        """Mean of log_px over data, nats per datum."""
        return self.log_px.mean().item()

    @property
    def stderr(self) -> float:
        """Standard error of ``mean`` as an estimate of E[log p(x)], over data and Monte Carlo.

        s / sqrt(N), with s the sample standard deviation of log_px: each estimate carries its own independent
        Monte Carlo noise, so that s^2 already contains the mean Monte Carlo variance, and adding it would
        count it twice. NaN for N = 1. The noise's downward bias is in ``bias``, not here. Of a joint estimate it is
        Monte Carlo's alone: the data are given.
        """
        if self.joint:
            return self.mc_stderr
        return standard_error(self.log_px).item()

    @property
    def mc_stderr(self) -> float:
        """The Monte Carlo part of ``stderr``: sqrt(sum_n std_error_n^2) / N."""
        return monte_carlo_error(self.std_error.square()).item()

    @property
    def bias(self) -> float:
        """First-order bias of ``mean`` that is left in it, -1/2 mean_n std_error_n^2 <= 0.

        0 for the jackknife; NaN for K = 1, and where many data are flagged: no expansion in 1/K is known to hold then.

        Source: Nowozin (2018), Debiasing Evidence Approximations, proposition 1.
        """
        if self.num_particles == 1 or self.many_flagged:
            return math.nan
        return 0.0 if self.debiased else -0.5 * self.std_error.square().mean().item()

    @property
    def flagged(self) -> Tensor:
        """Whether k-hat is above 0.7, shape (N,): then neither estimate nor standard error can be trusted."""
        return self.khat > KHAT_LIMIT

    @property
    def num_flagged(self) -> int:
        """Number of data with k-hat above 0.7."""
        return int(self.flagged.sum())

    @property
    def many_flagged(self) -> bool:
        """Whether more than 5% of the data are flagged: ``mean`` is then a lower bound in expectation, and no more."""
        return self.num_flagged > TOO_MANY * len(self.khat)

    @property
    def method_of(self) -> np.ndarray:
        """The name of the estimator that each datum was scored by, shape (N,)."""
        if self.choice is None:
            return np.full(len(self.log_px), self.method)
        return np.array(self.estimators)[self.choice.numpy()]

    @property
    def next_step(self) -> str | None:
        """The name of the method to try where many data are flagged; None where there is no need, or no better one."""
        if not self.many_flagged:
            return None
        return "ais" if self.estimators else "auto"

    def by_method(self) -> Any:
        """Return a pandas ``DataFrame`` with a row for each estimator among which "auto" chose.

        Its columns: data that it scored; of these flagged; their mean log_px and mean std_error, in nats; the seconds
        that it took, pilot draws included. ``attrs["no_mode"]`` counts data whose posterior's mode was not found.
        """
        import pandas as pd

        names, method_of = self.estimators or (self.method,), self.method_of
        per_datum = {name: getattr(self, name).numpy() for name in ("log_px", "std_error", "flagged")}
        frame = pd.DataFrame(per_datum | {"method": method_of}).groupby("method")
        table = pd.DataFrame(
            {
                "data": frame.size(),
                "flagged": frame["flagged"].sum(),
                "log_px": frame["log_px"].mean(),
                "std_error": frame["std_error"].mean(),
            }
        ).reindex(pd.Index(names, name="method"))
        table[["data", "flagged"]] = table[["data", "flagged"]].fillna(0).astype(int)
        if self.seconds:
            table["seconds"] = pd.Series(self.seconds)
        table.attrs["no_mode"] = 0 if self.no_mode is None else int(self.no_mode.sum())
        return table

    @property
    def line(self) -> str:
        """The result in one line; >= for = where it is a bound in expectation."""
        how = self.title if self.estimators else f"K={self.num_particles}"
        relation = ">=" if self.many_flagged and not self.debiased else "="
        if self.joint:
            what, number, flagged = f"log p(x_1, ..., x_{self.joint})", "", "yes" if self.num_flagged else "no"
        else:
            what, number, flagged = "log p(x)", f"N={len(self.log_px)}, ", f"{self.num_flagged} of {len(self.khat)}"
        flagged = "unknown, K < 26" if self.khat.isnan().all() else flagged
        return f"{what} {relation} {self.mean:.2f} +- {self.stderr:.2f} nats  ({how}, {number}flagged: {flagged})"

    def __str__(self) -> str:
        """Return the result in one line, and where many data are flagged what to try next."""
        return self.line if self.next_step is None else f'{self.line}  next: method="{self.next_step}"'

    @property
    def title(self) -> str:
        """The estimator's name in words, without its settings."""
        return self.method.partition(" (")[0]

    def __repr__(self) -> str:
        return f"<Evidence: {self}>"

    def to_dataframe(self) -> Any:
        """Return a pandas ``DataFrame`` with a row for each datum: log_px, std_error, ess, khat, elbo, in nats.

        Then its K; annealed importance sampling adds its acceptance rate, "auto" each datum's estimator and whether
        no mode was found. ``attrs`` says the method, K, the seed and the data's hash.
        """
        import pandas as pd

        columns = {name: getattr(self, name).numpy() for name in _PER_DATUM} | self._where_there()
        if self.choice is not None:
            columns["method"] = self.method_of
            del columns["choice"]
        columns["num_particles"] = columns.pop("counts", self.num_particles)
        frame = pd.DataFrame(columns, index=range(len(self.log_px))).rename_axis("datum")
        frame.attrs.update({name: getattr(self, name) for name in _FACTS})
        return frame

    def _where_there(self) -> dict[str, Any]:
        """Return as arrays what some methods say of each datum."""
        values = {name: getattr(self, name) for name in _WHERE_THERE}
        return {name: value.numpy() for name, value in values.items() if value is not None}

    def to_arviz(self, num_draws: int = 100, *, seed: int = 0) -> Any:
        """Return an ArviZ ``InferenceData`` (0.x) or ``DataTree`` (1.x) with draws of the posterior of each datum.

        Posterior draws are resampled from K particles with their weights, so that they follow p(z|x_n) and not
        the guide, as far as the weights can be trusted. All groups have one chain.

            posterior             z, dims (chain, draw, data, ...)
            posterior_predictive  x drawn at those z
            importance_weights    log_w, the draws' log weights before resampling, dims (chain, draw, data)
            prior, prior_predictive, and observed_data with dims (data, ...), where the model observes its
            arguments as they are
            constant_data         log_px, std_error, ess, khat, elbo, dims (data,)

        Of a joint estimate there is no dimension ``data`` in any group but observed_data: the draws are of all latents.

        There is no group log_likelihood, so that ``az.loo`` and ``az.compare`` refuse: a log p(x_n | z) is that of a
        datum given a latent of its own, and LOO of it is not the score of a new datum, which log p(x) is. Programs are
        run as they are now: further training changes the draws, though not the estimates.

        Args:
            num_draws: draws for each datum S; all of them are held in memory.
            seed: seed of the draws.

        Raises:
            ValueError: if the evidence was loaded from a file, which holds no programs.
        """
        return to_arviz(self, num_draws, seed)

    def save(self, path: str | Path) -> None:
        """Write everything but ``source`` to one ``.npz`` file, under a temporary name until it is whole."""
        per_datum = {name: getattr(self, name).numpy() for name in _PER_DATUM} | self._where_there()
        curve = np.array([[k, *row] for k, row in self.curve.items()])
        facts = {name: getattr(self, name) for name in _FACTS}
        facts |= {name: json.dumps(getattr(self, name)) for name in _IN_NEWER_FILES}
        with atomic_path(Path(path)) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, curve=curve, **facts, **per_datum)

    @classmethod
    def load(cls, path: str | Path) -> Evidence:
        """Read what ``save`` wrote.

        Raises:
            ValueError: if the file is missing or unreadable.
        """
        try:
            with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                per_datum: dict[str, Any] = {
                    n: torch.from_numpy(file[n]) for n in (*_PER_DATUM, *_WHERE_THERE) if n in file
                }
                several = {n: json.loads(file[n].item()) for n in _IN_NEWER_FILES if n in file}
                several |= {n: tuple(several[n]) for n in ("estimators", "notes") if n in several}
                curve = {int(k): (mean, se) for k, mean, se in file["curve"].tolist()}
                return cls(**per_datum, curve=curve, **several, **{name: file[name].item() for name in _FACTS})
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, zlib.error) as error:
            raise ValueError(f"Cannot read {path}: {error}. Run the evaluation again.") from error


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
    with evaluation_mode(source.model, source.guide, source.device, seed):
        groups = _groups_of_all(source, num_draws) if evidence.joint else _groups(source, num_draws)
    scores = {name: getattr(evidence, name) for name in _PER_DATUM}
    groups["constant_data"] = _dataset(_first(scores, 0), ()) if evidence.joint else _dataset(scores, ("data",))
    facts = {"inference_library": "pyro-vae", "method": evidence.method, "num_particles": evidence.num_particles}
    return _assemble(groups, facts)


def _groups(source: Source, num_draws: int) -> Groups:
    drawn = posterior_draws(source.model, source.guide, source.args, num_draws)
    sampled = ("chain", "draw", "data")
    groups = {
        "posterior": _dataset(_one_chain(drawn.latents), sampled),
        "posterior_predictive": _dataset(_one_chain(drawn.predictive), sampled),
        "importance_weights": _dataset(_one_chain({"log_w": drawn.log_w}), sampled),
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


def _observed(args: Args, places: Mapping[str, Place]) -> dict[str, Tensor]:
    return {name: place.of(args) for name, place in places.items()}


def _groups_of_all(source: Source, num_draws: int) -> Groups:
    """Return the groups of a joint estimate, of which all data are one datum."""
    drawn = posterior_draws(*as_one_datum(source.model, source.guide, source.args), num_draws)
    sampled = ("chain", "draw")
    groups = {
        "posterior": _dataset(_one_chain(_first(drawn.latents, 1)), sampled),
        "posterior_predictive": _dataset(_one_chain(_first(drawn.predictive, 1)), sampled),
        "importance_weights": _dataset(_one_chain({"log_w": drawn.log_w[:, 0]}), sampled),
    }
    try:
        draws = [simulate(source.model, source.args, shared=True) for _ in range(num_draws)]
    except ValueError:  # as above
        return groups
    latents = [draw.latents for draw in draws]
    data = [_observed(draw.args, draw.places) for draw in draws]
    return groups | {
        "prior": _dataset(_one_chain(_stacked(latents)), sampled),
        "prior_predictive": _dataset(_one_chain(_stacked(data)), sampled),
        "observed_data": _dataset(_observed(source.args, draws[0].places), ("data",)),
    }


def _first(values: Mapping[str, Tensor], dim: int) -> dict[str, Tensor]:
    return {name: value.select(dim, 0) for name, value in values.items()}


def _stacked(draws: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}


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
