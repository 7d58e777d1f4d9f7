"""Priors and guides under one budget: test log p(x) on static binarised MNIST.

The network, budget and estimator of ``objectives.py``; each row changes the prior or the guide family alone.

    python examples/benchmarks/parts.py --data_root DIR --budget.epochs 80 --budget.kl_warmup 20 --budget.decay true
"""

from jsonargparse import auto_cli
from table import Budget, Row, write_table, write_times

from pyro_vae.inference import guides
from pyro_vae.models import priors

PARTS = {
    "standard normal prior, diagonal normal guide": Row(),
    "mixture prior, 50 components": Row(prior=lambda dim, guide, data: priors.Mixture(dim, 50)),
    "VampPrior, 200 pseudo-inputs": Row(
        prior=lambda dim, guide, data: priors.VampPrior(guide, num_components=200, data=data)
    ),
    "flow prior, RealNVP": Row(prior=lambda dim, guide, data: priors.Flow(dim, kind="realnvp")),
    "flow prior, NSF": Row(prior=lambda dim, guide, data: priors.Flow(dim, kind="nsf")),
    "full-rank normal guide": Row(family=guides.FullRankNormal),
    "flow prior, MAF": Row(prior=lambda dim, guide, data: priors.Flow(dim, kind="maf")),
    "flow guide, IAF": Row(family=lambda dim: guides.Flow(dim, kind="iaf")),
}


def main(
    data: str = "binarized_mnist",
    data_root: str | None = None,
    budget: Budget = Budget(),  # noqa: B008 - it holds settings only
    rows: tuple[str, ...] = tuple(PARTS),
    out: str = "parts.md",
    times: int = 0,
) -> None:
    """Write the table, or with --times N only how long steps take, measured in N rounds."""
    chosen = {name: PARTS[name] for name in rows}
    if times:
        write_times(chosen, data, data_root, times, out)
        return
    write_table(chosen, data, data_root, budget, out)


if __name__ == "__main__":
    auto_cli(main)
