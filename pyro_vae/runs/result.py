"""The result of a run: the numbers, and the facts to cite them by."""

from __future__ import annotations

import math
import platform
from importlib.metadata import version
from typing import Any

from pyro_vae.core.registry import Spec
from pyro_vae.data.splits import Splits
from pyro_vae.data.tables import LIKELIHOODS
from pyro_vae.inference.scoring.estimates import Evidence
from pyro_vae.runs.kinds import KINDS
from pyro_vae.runs.parts import GUIDES, PRIORS
from pyro_vae.runs.registry import OBJECTIVES, OPTIMIZERS
from pyro_vae.runs.setup import Setup, num_levels


def numbers_of(evidence: Evidence) -> dict[str, Any]:
    """Return the numbers of a result, in nats per datum."""
    return {
        "log_px": evidence.mean,
        "stderr": evidence.stderr,
        "mc_stderr": evidence.mc_stderr,
        "bias": None if math.isnan(evidence.bias) else evidence.bias,
        "elbo": evidence.elbo.mean().item(),
        "num_particles": evidence.num_particles,
        "num_data": len(evidence.log_px),
        "num_flagged": evidence.num_flagged,
        **({"estimators": _by_method(evidence)} if evidence.estimators else {}),
        "unit": "nats per datum",
    }


def _by_method(evidence: Evidence) -> dict[str, Any]:
    """Return {estimator: data, flagged data, seconds}."""
    table = evidence.by_method()[["data", "flagged", "seconds"]]
    return {str(name): row for name, row in table.round(1).to_dict("index").items()}


def facts_of(setup: Setup, evidence: Evidence, split: str, device: str) -> dict[str, str]:
    """Return all that somebody needs to cite or repeat a result.

    Args:
        setup: data, settings and kind of model.
        evidence: the result.
        split: the split of the data that was scored.
        device: where.
    """
    config, training = setup.config, setup.config.training
    assert config.parts.likelihood is not None  # chosen by the data where none is named
    assert training.objective is not None
    packages = {name: version(name) for name in ("pyro-vae", "pyro-ppl", "torch", "arviz")}
    return {
        "data": setup.splits.protocol,
        "estimated": setup.kind.quantity,
        "scored": f"{split} split, N = {len(evidence.log_px)}",
        "estimator": _estimator(evidence),
        "prior": PRIORS.describe(config.parts.prior),
        "likelihood": _describe_likelihood(config.parts.likelihood, setup.splits),
        "guide": GUIDES.describe(config.parts.guide),
        "model": KINDS.describe(config.parts.model),
        "latent dimension": f"{setup.kind.latent_dims_of(setup.parts)}",
        "networks": setup.parts.describe_networks(),
        "objective": OBJECTIVES.describe(training.objective),
        "training": f"batch {training.batch_size}, {OPTIMIZERS.describe(training.optimizer)}, seed {training.seed}",
        "device": device,
        "versions": ", ".join(f"{name} {v}" for name, v in packages.items()) + f", Python {platform.python_version()}",
    }


def _estimator(evidence: Evidence) -> str:
    """Return the estimator as a result cites it, with how many data each took where there are several."""
    cited = f"{evidence.method}, K = {evidence.num_particles}, seed {evidence.seed}"
    if not evidence.estimators:
        return cited
    taken = evidence.by_method()["data"]
    return f"{cited}: {', '.join(f'{name} {count}' for name, count in taken.items() if count)}"


def _describe_likelihood(likelihood: Spec, splits: Splits) -> str:
    """Return the likelihood as a result cites it, of a table with that of each column."""
    if splits.table is None:
        return LIKELIHOODS.describe(likelihood)
    return f"Mixed({', '.join(' '.join(line.split()) for line in splits.table.describe().splitlines())})"


def bits_per_dimension(likelihood: Spec | None, splits: Splits, evidence: Evidence) -> str | None:
    """Return -log2 p(x) / D with its standard error where p(x) is the probability of level numbers, D entries each."""
    if num_levels(likelihood) is None or splits.table is not None:
        return None
    bits = splits.event_shape.numel() * math.log(2)
    return (
        f"{-evidence.mean / bits:.4f} +- {evidence.stderr / bits:.4f} (log p(x) is the log probability mass of "
        f"{splits.event_shape.numel()} level numbers)"
    )
