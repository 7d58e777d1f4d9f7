"""The table: each program, what it is refused and by what words, and what is not yet as it should be."""

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
        broken: {contract: why it fails today}; what should come is the refusal above, or else the right value.
        fine: contracts to which ``ALL`` does not apply.
        only: the contracts that say something of the program; all if empty.
        warns: a warning that the program earns, by its own hand.
        tolerance: of log weights, in nats.
    """

    refused: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    fine: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    warns: str = ""
    tolerance: float = 1e-6

    def words(self, contract: str) -> str | None:
        return self.refused.get(contract, None if contract in self.fine else self.refused.get(ALL))

    def reason(self, contract: str) -> str | None:
        return self.broken.get(contract, None if contract in self.fine else self.broken.get(ALL))


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
NOT_AN_ARGUMENT = every(SIMULATING, "site '(x_1|picture)' observes something computed from the arguments")
UNTRAINED = every(FITTED, "Found no parameters to train")
ANNOUNCED = every(HELD, "pyro.module warns of each parameter that the guide's second run holds still")
NUMBERED = "integers as the first argument are refused: x.float(), which neither an embedding nor a Categorical takes"
UNSUPPORTED = "an empty NotImplementedError, since ZukoToPyro declares no support and has no sample"
ONE_BY_ONE = "a warning that particles run one by one: they are compared by a density that such a flow has not"
UNSIZED = "a plate without a size is refused"
MANY = "the message is Pyro's or torch's shapes, or names another plate, and not what to do"
MASKED = "pairs a code with another datum's mask: densities in different dimensions"
TIED = "a program with a parameter for each datum meets fewer data: the message says shapes, not what to do"
SWAPPED = "asks whether model and guide are swapped, where log_weights says which site to hide"
DEPENDENT = "data that share a latent are tested as if they were independent: a true model is rejected 38 times of 40"
GLOBAL = "a latent outside the plate ends in an IndexError or RuntimeError of torch"

ROWS: dict[str, Row] = {
    "vae": Row(broken=ANNOUNCED),
    "M2, labelled": Row(only=(*without_annealing(FEW), *FITTED[::2], "laplace", "kl", "surgery")),
    "M2, unlabelled": Row(refused=DISCRETE),
    "M2, labelled, plate without size": Row(broken={ALL: UNSIZED}, fine=("pit",), only=FEW),
    "M2, partly labelled": Row(refused=DISCRETE),
    "cvae": Row(broken=ANNOUNCED, only=(*without_annealing(FEW), *HELD, "laplace", "predictive check", "surgery")),
    "flows": Row(broken=ANNOUNCED, only=(*without_annealing(FEW), *HELD, "laplace", "surgery"), tolerance=1e-4),
    "planar guide": Row(
        refused={"surgery": "a flow without an inverse"},
        broken=every(("weights, K = 3", "ELBO, pathwise", "fit, IWAE", "draws", "surgery"), ONE_BY_ONE)
        | {"auto": "a KeyError of Pyro's, since the flow cannot score what it did not draw"},
        only=("weights, K = 1", "weights, K = 3", "auto", "ELBO, pathwise", "fit", "fit, IWAE", "draws", "surgery"),
    ),
    "prior of zuko's": Row(
        broken=ANNOUNCED | every(("iw", "auto", "no guide", "laplace", "ais", "sandwich", "gaps"), UNSUPPORTED),
        only=(*FEW, *HELD, "laplace", "ais", "predictive check"),
    ),
    "deep Markov, entries masked": Row(
        refused=NOT_AN_ARGUMENT,
        broken=ANNOUNCED
        | every(("laplace", "auto"), "what is masked inside to_event counts as a latent: +4 nats, not flagged")
        | {"surgery": MASKED},
    ),
    "deep Markov, events masked": Row(
        refused=NOT_AN_ARGUMENT,
        broken=ANNOUNCED | every(("laplace", "ais"), "a masked normal is refused as improper") | {"surgery": MASKED},
        only=(*FEW, "laplace", "ais", "surgery"),
    ),
    "deep Markov, mask by a handler": Row(
        refused=NOT_AN_ARGUMENT,
        broken=ANNOUNCED | {"surgery": MASKED},
        only=(*FEW, "laplace", "ais", "surgery"),
    ),
    "attend, infer, repeat": Row(
        refused=DISCRETE | NOT_AN_ARGUMENT,
        broken=ANNOUNCED | {"kl": "IndexError: torch's KL of Bernoullis of unequal shapes where a probability is 0"},
    ),
    "prodlda": Row(only=(*without_annealing(FEW), *HELD, "laplace", "ais", "coverage", "predictive check", "chunks")),
    "prodlda, softmax from the left": Row(
        warns="The programs do not run with all particles at once",
        only=("weights, K = 1", "weights, K = 3", "ELBO, pathwise", "fit", "kl", "draws"),
    ),
    "topics, summed out": Row(
        broken={ALL: NUMBERED} | ANNOUNCED,
        fine=("weights, K = 1", "weights, K = 3", "ELBO, score", "draws", "sbc"),
        only=(*FEW, *HELD, "laplace", "predictive check"),
    ),
    "topics, enumerated by the model": Row(
        refused={ALL: "'topic' of the model is not in the guide"},
        broken=every(("iw", "auto", "no guide", "fit, IWAE", "sandwich", "pit", "kl", "gaps"), NUMBERED),
        only=FEW,
    ),
    "topics, global": Row(
        refused={ALL: "'topics_words'.*(every|all) (datum|data)"},
        broken={ALL: MANY, "sandwich": GLOBAL, "pit": DEPENDENT},
        only=FEW,
    ),
    "cells, loss in the guide": Row(
        refused={ALL: "'classification_loss' of the guide is scored.*poutine.block"},
        broken=every(("iw", "auto", "gaps"), SWAPPED),
        fine=("no guide", "pit"),
        only=without_annealing(FEW),
    ),
    "cells, loss blocked": Row(
        broken=ANNOUNCED, only=(*without_annealing(FEW), *HELD, "laplace", "chunks", "coverage")
    ),
    "cevae": Row(broken=ANNOUNCED),
    "cevae, treatment scored": Row(
        refused={ALL: "'t' of the guide is scored.*poutine.block"},
        broken=every(("iw", "auto", "gaps"), SWAPPED),
        fine=("no guide", "pit"),
        only=without_annealing(FEW),
    ),
    "mixed columns": Row(broken=ANNOUNCED, only=(*without_annealing(FEW), *HELD, "laplace", "predictive check")),
    "plate": Row(refused=UNTRAINED),
    "plate without size": Row(
        refused=UNTRAINED, broken={ALL: UNSIZED}, fine=("pit", "fit, IWAE"), only=without_annealing(FEW)
    ),
    "inner plate": Row(refused=UNTRAINED),
    "inner plate without dims": Row(
        refused={ALL: "leftmost dim"} | UNTRAINED,
        fine=("pit",),
        only=FEW,
    ),
    "mixture, assignments in the guide": Row(refused=DISCRETE, broken=ANNOUNCED, warns="\n?assignment"),
    "mixture, assignments in the model": Row(
        refused={ALL: "'assignment' of the model is not in the guide", "sandwich": "is discrete"},
        fine=("no guide", "pit"),
        only=FEW,
    ),
    "AutoNormal": Row(
        refused={"surgery": "latent sites alone", "gaps": "point mass or auxiliary"},
        broken=every((*FITTED, "sbc", "coverage", "chunks"), TIED),
    ),
    "AutoDiagonalNormal": Row(
        refused={ALL: "'_AutoDiagonalNormal_latent'"},
        broken=every(("fit, IWAE", "sbc"), MANY),
        fine=("no guide", "sandwich", "pit"),
        only=FEW,
    ),
    "a parameter for each datum": Row(
        broken=every(("fit, IWAE", "sbc", "chunks"), TIED),
        only=(*FEW, "chunks", "laplace", "ais"),
    ),
    "embedding, integers first": Row(
        broken={ALL: NUMBERED} | ANNOUNCED,
        fine=("weights, K = 1", "weights, K = 3", "ELBO, score", "draws", "sbc"),
        only=(*FEW, *HELD, "laplace", "predictive check"),
    ),
    "embedding, floats first": Row(broken=ANNOUNCED, only=(*FEW, *HELD, "laplace")),
    "gamma and Poisson": Row(refused=UNTRAINED),
    "beta and Bernoulli": Row(refused=UNTRAINED),
    "MixtureSameFamily": Row(refused=UNTRAINED),
}
