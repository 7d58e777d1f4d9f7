"""Every objective under one budget: test log p(x) on static binarised MNIST, and seconds for each epoch.

One network (784-200-200-50, tanh), one number of epochs, Adam 1e-3, batch 100, one seed; the whole test split is
scored with K = 1,000 by the same estimator. Prints a Markdown table and writes it beside the script's --out.

    python examples/benchmarks/objectives.py --data_root DIR --budget.epochs 10 --out objectives.md
"""

from jsonargparse import auto_cli
from table import Budget, Row, write_table, write_times

from pyro_vae.inference.objectives import CIWAE, ELBO, IWAE, MIWAE, RWS, TVO, BetaTCVAE, FreeBits, InfoVAE, Renyi

N = 50_000
OBJECTIVES = {
    "ELBO": ELBO(),
    "ELBO, stl": ELBO(gradient="stl"),
    "ELBO, analytic KL": ELBO(kl="analytic"),
    "IWAE, K=5": IWAE(5),
    "IWAE, K=5, dreg": IWAE(5, "dreg"),
    "IWAE, K=50": IWAE(50),
    "MIWAE, K=5, M=2": MIWAE(5, 2),
    "CIWAE, K=5": CIWAE(5, 0.5),
    "Renyi 0.5, K=5": Renyi(5, 0.5),
    "TVO, K=5": TVO(5, 2),
    "RWS, K=5": RWS(5),
    "free bits 0.05": FreeBits(0.05),
    "beta-TCVAE, beta=2": BetaTCVAE(N, beta=2.0),
    "InfoVAE": InfoVAE(),
}


def main(
    data: str = "binarized_mnist",
    data_root: str | None = None,
    budget: Budget = Budget(),  # noqa: B008 - it holds settings only
    rows: tuple[str, ...] = tuple(OBJECTIVES),
    out: str = "objectives.md",
    times: int = 0,
) -> None:
    """Write the table, or with --times N only how long steps take, measured in N rounds."""
    chosen = {name: Row(objective=OBJECTIVES[name]) for name in rows}
    if times:
        write_times(chosen, data, data_root, times, out)
        return
    write_table(chosen, data, data_root, budget, out)


if __name__ == "__main__":
    auto_cli(main)
