"""What the goldens record: small seeded computations through public names alone, each a flat list of numbers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.cli import main
from pyro_vae.inference import (
    AmortizedGuide,
    Evidence,
    diagnostics,
    evidence,
    fit,
    gaps,
    gradient_snr,
    guides,
    impute,
    log_weights,
    methods,
    objectives,
    rate_distortion_curve,
    sandwich,
)
from pyro_vae.models import VAE, ConditionalVAE, HierarchicalVAE, SemiSupervisedVAE, likelihoods, mlp, priors

FOLDER = Path(__file__).parent
DIRECTORIES = FOLDER / "directories"
"""Run directories that version 0.1 wrote, one of each kind."""
THREADS = 1
"""Threads of torch: with others sums are rounded otherwise."""
Numbers = list[float]
BITS = (torch.rand(60, 6, generator=torch.Generator().manual_seed(0)) < 0.4).float()
CLASSES = torch.arange(60) % 3


def vae(missing: bool = False):
    model = VAE(priors.StandardNormal(2), likelihoods.Bernoulli(6), mlp((8,)), missing=missing)
    return model, AmortizedGuide(6, guides.DiagonalNormal(2), mlp((8,)), missing=missing), BITS


def with_missing():
    x = BITS.masked_fill(torch.rand(60, 6, generator=torch.Generator().manual_seed(1)) < 0.2, torch.nan)
    return *vae(missing=True)[:2], x


def hierarchical():
    model = HierarchicalVAE((3, 2), likelihoods.Bernoulli(6), (mlp((8,)), mlp((4,))))
    families = (guides.DiagonalNormal(3), guides.DiagonalNormal(2))
    return model, guides.HierarchicalGuide(6, families, (mlp((8,)), mlp((4,)))), BITS


def ladder():
    model = HierarchicalVAE((3, 2), likelihoods.Bernoulli(6), (mlp((8,)), mlp((4,))))
    return model, guides.LadderGuide(6, model, (mlp((8,)), mlp((4,))), widths=(6, 4)), BITS


def conditional():
    model = ConditionalVAE(priors.StandardNormal(2), likelihoods.Bernoulli(6), mlp((8,)), num_classes=3)
    guide = guides.ConditionalGuide(6, guides.DiagonalNormal(2), mlp((8,)), num_classes=3)
    return model, guide, (BITS, CLASSES)


def semi_supervised():
    known = CLASSES.where(torch.arange(60) < 30, -1)
    model = SemiSupervisedVAE(priors.StandardNormal(2), likelihoods.Bernoulli(6), mlp((8,)), num_classes=3)
    guide = guides.SemiSupervisedGuide(6, guides.DiagonalNormal(2), mlp((8,)), mlp((8,)), num_classes=3, alpha=0.2)
    return model, guide, (BITS, known)


def table():
    frame = pd.DataFrame({"a": np.sin(np.arange(60.0)), "b": np.arange(60) % 7, "c": [*"xyz"] * 20})
    frame.loc[::9, "a"] = np.nan
    mixed = likelihoods.Mixed.from_dataframe(frame)
    model = VAE(priors.StandardNormal(2), mixed, mlp((8,)), missing=True)
    return model, AmortizedGuide(3, guides.DiagonalNormal(2), mlp((8,)), missing=True), mixed.encode(frame)


def plain_pyro():
    def model(x):
        loc = pyro.param("loc", lambda: torch.zeros(6))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Bernoulli(logits=z[..., None] + loc).to_event(1), obs=x)

    def guide(x):
        slope = pyro.param("slope", lambda: torch.tensor(0.1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x.sum(1), 1.0))

    return model, guide, BITS


KINDS = {
    f.__name__: f for f in (vae, with_missing, hierarchical, ladder, conditional, semi_supervised, table, plain_pyro)
}
OBJECTIVES = {
    "ELBO analytic": lambda: objectives.ELBO(2, kl="analytic"),
    "ELBO stl": lambda: objectives.ELBO(2, gradient="stl"),
    "ELBO score": lambda: objectives.ELBO(3, gradient="score"),
    "IWAE": lambda: objectives.IWAE(4),
    "IWAE in chunks": lambda: objectives.IWAE(4, chunk_size=40),
    "IWAE dreg": lambda: objectives.IWAE(4, gradient="dreg"),
    "IWAE vimco": lambda: objectives.IWAE(4, gradient="vimco"),
    "MIWAE": lambda: objectives.MIWAE(3, 2),
    "CIWAE": lambda: objectives.CIWAE(3, 0.5),
    "Renyi": lambda: objectives.Renyi(4, 0.5),
    "TVO": lambda: objectives.TVO(4),
    "RWS": lambda: objectives.RWS(4, phi="both"),
    "FreeBits": lambda: objectives.FreeBits(0.1),
    "BetaTCVAE": lambda: objectives.BetaTCVAE(60, 2.0),
    "InfoVAE": lambda: objectives.InfoVAE(),
    "Trace_ELBO": lambda: pyro.infer.Trace_ELBO(num_particles=2, vectorize_particles=True),
}
METHODS = {
    "iw": methods.IW(),
    "defensive": methods.IW(defensive=0.2),
    "refined": methods.IW(refine=5),
    "jackknife": methods.Jackknife(),
    "ais": methods.AIS(10, 2),
    "ais from the guide": methods.AIS(10, 2, start="guide"),
}
QUIET = {"progress": False, "device": "cpu"}


def made(kind: str):
    """Return model, guide and data of a kind, at fixed first parameters."""
    pyro.clear_param_store()
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return KINDS[kind]()


def numbers(*tensors: Tensor) -> Numbers:
    return [float(v) for t in tensors for v in torch.as_tensor(t).detach().double().flatten()]


def trained(kind: str, compile: bool = False) -> Numbers:
    """Losses of three epochs, and log p(x) of the first data at K = 40."""
    model, guide, x = made(kind)
    objective = objectives.ELBO(gradient="enumerate") if kind == "semi_supervised" else None
    result = fit(model, guide, x, objective=objective, epochs=3, batch_size=20, valid=x, compile=compile, **QUIET)
    scored = x[0] if kind == "semi_supervised" else x
    ev = evidence(model, guide, scored, 40, method="iw", compile=compile, **QUIET)
    history = [row[name] for row in result.history for name in ("loss", "valid_bound")]
    return [*history, *numbers(ev.log_px[:5], ev.std_error[:5], ev.khat[:5])]


def objective(name: str) -> Numbers:
    """Losses of three epochs."""
    model, guide, x = made("vae")
    result = fit(model, guide, x, objective=OBJECTIVES[name](), epochs=3, batch_size=20, **QUIET)
    return [row["loss"] for row in result.history]


def method(name: str) -> Numbers:
    model, guide, x = made("vae")
    ev = evidence(model, guide, x[:12], 30, method=METHODS[name], chunk_size=100, **QUIET)
    return numbers(ev.log_px, ev.std_error, ev.elbo)


def weights() -> Numbers:
    model, guide, x = made("vae")
    torch.manual_seed(2)
    return numbers(log_weights(model, guide, x[:4], 3))


def judged() -> Numbers:
    """What diagnostics that do not count ranks say."""
    model, guide, x = made("vae")
    kl = diagnostics.kl_per_dimension(model, guide, x, **QUIET)
    units = diagnostics.active_units(model, guide, x, **QUIET)
    rate = diagnostics.rate_distortion(model, guide, x, **QUIET)
    surgery = diagnostics.elbo_surgery(model, guide, x, **QUIET)
    snr = gradient_snr(model, guide, x, objectives.ELBO(), num_repeats=5)
    parts = gaps(model, guide, x[:6], 30, steps=5, **QUIET)
    return [
        *numbers(kl.kl, kl.std_error, units.variance, units.std_error, rate.rate, rate.distortion),
        *(surgery.mutual_information, surgery.marginal_kl, snr.model, snr.guide),
        *numbers(parts.approximation, parts.amortization),
    ]


def ranked() -> Numbers:
    """What diagnostics that count ranks say; a draw that another processor rounds otherwise can move a rank."""
    model, guide, x = made("vae")
    sbc = diagnostics.sbc(model, guide, 40, num_draws=9, **QUIET)
    coverage = diagnostics.expected_coverage(model, guide, 40, num_draws=9, **QUIET)
    pit = diagnostics.pit(model, x, num_draws=9, **QUIET)
    check = diagnostics.predictive_check(model, guide, x, {"mean": torch.mean}, num_draws=9, num_particles=20, **QUIET)
    return numbers(sbc.ranks.double().mean(0), coverage.level.mean(), pit.u.mean(0), check.replicated["mean"].mean())


def annealed() -> Numbers:
    model, guide, _ = made("vae")
    s = sandwich(model, guide, 5, num_particles=3, num_temperatures=10, **QUIET)
    curve = rate_distortion_curve(model, BITS[:8], num_particles=3, num_temperatures=6, **QUIET)
    return numbers(s.lower, s.upper, s.lower_std_error, s.acceptance, curve.rate, curve.distortion)


def drawn() -> Numbers:
    model, guide, x = made("with_missing")
    return numbers(impute(model, guide, x, 4, num_particles=20, **QUIET).mean(0))


def command(*argv: str) -> str:
    """Return what a command prints, with a terminal's width that is fixed by the caller."""
    out = StringIO()
    with redirect_stdout(out), redirect_stderr(out), suppress(SystemExit):
        main(list(argv))
    return out.getvalue()


COMMANDS = ("train", "evaluate", "compare", "report", "sample", "impute", "parts")
TEXTS = {"help": ("--help",), **{f"help-{name}": (name, "--help") for name in COMMANDS}, "parts": ("parts",)}
DESCRIBED = ("VampPrior", "Flow", "Bernoulli", "HierarchicalVAE", "conv", "IWAE", "AIS")
TEXTS |= {f"parts-{name}": ("parts", name) for name in DESCRIBED}


def scored_again(run: str) -> Numbers:
    """log p(x) of the first test data of a run directory in the working directory, evaluated anew."""
    assert main(["evaluate", run, "--method", "IW", "--num-particles", "20", "--data-root", str(DIRECTORIES)]) == 0
    ev = Evidence.load(f"{run}/test-K20-seed0/evidence.npz")
    return numbers(ev.log_px[:5], ev.std_error[:5])


def resumed(run: str) -> Numbers:
    """Losses of a run directory in the working directory after one more epoch, and its log p(x)."""
    assert main(["train", "--resume", run, "--epochs", "3", "--method", "IW", "--data-root", str(DIRECTORIES)]) == 0
    metrics = pd.read_csv(f"{run}/metrics.csv")
    ev = Evidence.load(f"{run}/evidence.npz")
    return [*metrics["loss"], *metrics["valid_bound"], *numbers(ev.log_px[:5])]


CASES: dict[str, Callable[[], Numbers]] = {
    **{f"trained: {kind}": (lambda kind=kind: trained(kind)) for kind in KINDS},
    **{f"compiled: {kind}": (lambda kind=kind: trained(kind, True)) for kind in KINDS if kind != "semi_supervised"},
    **{f"objective: {name}": (lambda name=name: objective(name)) for name in OBJECTIVES},
    **{f"method: {name}": (lambda name=name: method(name)) for name in METHODS},
    **{f.__name__: f for f in (weights, judged, ranked, annealed, drawn)},
}
