"""The table: each program, and what it is refused and by what words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from programs_of_others.flows import FLOWS
from programs_of_others.formulas import Published
from programs_of_others.images import IMAGES
from programs_of_others.plates import PLATES
from programs_of_others.sequences import SEQUENCES
from programs_of_others.simple import SIMPLE
from programs_of_others.tables import TABLES
from programs_of_others.text import TEXT

FAMILIES = (IMAGES, FLOWS, SEQUENCES, TEXT, TABLES, PLATES, SIMPLE)
PROGRAMS: dict[str, Callable[[int], Published]] = {name: make for family in FAMILIES for name, make in family.items()}
ALL = "*"


@dataclass(frozen=True)
class Row:
    """What becomes of a program where it is not simply the right value.

    Attributes:
        refused: {contract: what the ``ValueError`` says}; ``ALL`` stands for every contract that is not named.
        fine: contracts to which ``ALL`` does not apply.
        only: the contracts that say something of the program; all if empty.
        warns: a warning that the program earns, by its own hand.
        tolerance: of log weights, in nats.
    """

    refused: dict[str, str] = field(default_factory=dict)
    fine: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    warns: str = ""
    tolerance: float = 1e-6

    def words(self, contract: str) -> str | None:
        return self.refused.get(contract, None if contract in self.fine else self.refused.get(ALL))


def every(contracts: tuple[str, ...], words: str) -> dict[str, str]:
    return dict.fromkeys(contracts, words)


def without_annealing(contracts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(contract for contract in contracts if contract not in ("sandwich", "ais"))


SIMULATING = ("sandwich", "sbc", "coverage", "pit", "predictive check")
PATHWISE = ("ELBO, pathwise", "ELBO, stl", "ELBO, dreg", "IWAE, pathwise", "IWAE, dreg", "fit, IWAE", "gaps")
FITTED = ("fit", "fit, IWAE", "fit, score")
HELD = ("ELBO, stl", "ELBO, dreg", "IWAE, dreg")
FEW = (
    "weights, K = 1",
    "weights, K = 3",
    "iw",
    "auto",
    "no guide",
    "ELBO, score",
    "fit, IWAE",
    "sandwich",
    "sbc",
    "pit",
)
FEW += ("kl", "draws", "gaps")

DISCRETE = every(("laplace", "ais", "sandwich"), 'is discrete .*method="iw"') | every(PATHWISE, "cannot be reparameter")
SUMMED = every(("laplace", "ais", "sandwich"), "with latent sites; there is none")
UNTRAINED = every(FITTED, "Found no parameters to train")
MASKED = every(("surgery", "sbc"), "masked")
TIED = "the data that they were made with, all at once"

ROWS: dict[str, Row] = {
    "vae": Row(),
    "M2, labelled": Row(only=(*without_annealing(FEW), *FITTED[::2], "laplace", "kl", "surgery")),
    "M2, unlabelled": Row(refused=DISCRETE),
    "M2, labelled, plate without size": Row(only=FEW),
    "M2, partly labelled": Row(refused=DISCRETE | MASKED),
    "cvae": Row(only=(*without_annealing(FEW), *HELD, "laplace", "predictive check", "surgery")),
    "flows": Row(only=(*without_annealing(FEW), *HELD, "laplace", "surgery"), tolerance=1e-4),
    "planar guide": Row(
        refused={"surgery": "a flow without an inverse"},
        only=("weights, K = 1", "weights, K = 3", "auto", "ELBO, pathwise", "fit", "fit, IWAE", "draws", "surgery"),
    ),
    "prior of zuko's": Row(only=(*FEW, *HELD, "laplace", "ais", "predictive check")),
    "deep Markov, entries masked": Row(refused=MASKED),
    "deep Markov, events masked": Row(refused=MASKED, only=(*FEW, "laplace", "ais", "surgery")),
    "deep Markov, mask by a handler": Row(refused=MASKED, only=(*FEW, "laplace", "ais", "surgery")),
    "attend, infer, repeat": Row(refused=DISCRETE | MASKED),
    "prodlda": Row(only=(*without_annealing(FEW), *HELD, "laplace", "ais", "coverage", "predictive check", "chunks")),
    "prodlda, softmax from the left": Row(
        only=("weights, K = 1", "weights, K = 3", "ELBO, pathwise", "fit", "kl", "draws"),
    ),
    "topics, summed out": Row(only=(*FEW, *HELD, "laplace", "predictive check")),
    "topics, enumerated by the model": Row(refused={"draws": "which have no draws"}, only=FEW),
    "topics, global": Row(
        refused={ALL: "'topics_words'.*(every|all) (datum|data)"},
        only=FEW,
    ),
    "cells, loss in the guide": Row(
        refused={ALL: "'classification_loss' of the guide is scored.*poutine.block"},
        fine=("no guide", "pit"),
        only=without_annealing(FEW),
    ),
    "cells, loss blocked": Row(
        warns="The scale that poutine.scale sets",
        only=(*without_annealing(FEW), *HELD, "laplace", "chunks", "coverage"),
    ),
    "cevae": Row(),
    "cevae, treatment scored": Row(
        refused={ALL: "'t' of the guide is scored.*poutine.block"},
        fine=("no guide", "pit"),
        only=without_annealing(FEW),
    ),
    "mixed columns": Row(only=(*without_annealing(FEW), *HELD, "laplace", "predictive check")),
    "plate": Row(refused=UNTRAINED),
    "plate without size": Row(refused=UNTRAINED, only=without_annealing(FEW)),
    "inner plate": Row(refused=UNTRAINED),
    "inner plate without dims": Row(refused=UNTRAINED, only=FEW),
    "mixture, assignments in the guide": Row(refused=DISCRETE | SUMMED, warns="\n?assignment"),
    "mixture, assignments in the model": Row(
        refused=SUMMED | every(("sbc", "kl"), "with latent sites; there is none") | {"draws": "which have no draws"},
        only=FEW,
    ),
    "AutoNormal": Row(
        refused=every((*FITTED, "sbc", "coverage"), TIED)
        | {"surgery": "latent sites alone", "gaps": "point mass or auxiliary"},
    ),
    "AutoDiagonalNormal": Row(
        refused={ALL: "'_AutoDiagonalNormal_latent'"} | every(("fit, IWAE", "sbc"), TIED),
        fine=("no guide", "sandwich", "pit"),
        only=FEW,
    ),
    "a parameter for each datum": Row(
        refused=every(("fit, IWAE", "sbc"), TIED),
        only=(*FEW, "chunks", "laplace", "ais"),
    ),
    "embedding, integers first": Row(only=(*FEW, *HELD, "laplace", "predictive check")),
    "embedding, floats first": Row(only=(*FEW, *HELD, "laplace")),
    "gamma and Poisson": Row(refused=UNTRAINED),
    "beta and Bernoulli": Row(refused=UNTRAINED),
    "MixtureSameFamily": Row(refused=UNTRAINED),
}
