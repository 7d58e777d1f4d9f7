"""Every objective under one budget: test log p(x) on static binarised MNIST, and seconds for each epoch.

One network (784-200-200-50, tanh), one number of epochs, Adam 1e-3, batch 100, one seed; the whole test split is
scored with K = 1,000 by the same estimator. Prints a Markdown table and writes it beside the script's --out.

    python examples/benchmarks/objectives.py --data_root DIR --epochs 5 --out objectives.md
"""

import platform
import statistics
from pathlib import Path

import torch
from jsonargparse import auto_cli

import pyro_vae as pv
from pyro_vae.inference import AmortizedGuide, evidence, fit, guides
from pyro_vae.inference.objectives import CIWAE, ELBO, IWAE, MIWAE, RWS, TVO, BetaTCVAE, FreeBits, InfoVAE, Renyi
from pyro_vae.models import VAE, likelihoods, mlp, priors

N = 50_000
ROWS = {
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


def score(name: str, splits: pv.Splits, epochs: int, num_particles: int, seed: int) -> str:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = VAE(priors.StandardNormal(50), likelihoods.Bernoulli((784,)), mlp((200, 200)))
        guide = AmortizedGuide((784,), guides.DiagonalNormal(50), mlp((200, 200)), loc=splits.train.mean(0))
    result = fit(model, guide, splits.train, objective=ROWS[name], epochs=epochs, seed=seed)
    seconds = statistics.median(row["seconds"] for row in result.history)
    ev = evidence(model, guide, splits.test, num_particles)
    return f"| {name} | {ev.mean:.2f} | {ev.stderr:.2f} | {ev.elbo.mean():.2f} | {seconds:.1f} |"


def main(
    data: str = "binarized_mnist",
    data_root: str | None = None,
    epochs: int = 5,
    num_particles: int = 1000,
    rows: tuple[str, ...] = tuple(ROWS),
    seed: int = 0,
    out: str = "objectives.md",
) -> None:
    splits = pv.load_data(data, root=data_root)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    lines = [
        f"{splits.protocol}; {epochs} epochs, batch 100, Adam 1e-3, seed {seed}; test log p(x) at K={num_particles}.",
        f"{device}, PyTorch {torch.__version__}, Python {platform.python_version()}, pyro-vae {pv.__version__}.",
        "",
        "| objective | test log p(x) | SE | test ELBO | s/epoch |",
        "|---|---|---|---|---|",
    ]
    for name in rows:
        lines.append(score(name, splits, epochs, num_particles, seed))
        Path(out).write_text("\n".join(lines) + "\n")
        print(lines[-1], flush=True)


if __name__ == "__main__":
    auto_cli(main)
