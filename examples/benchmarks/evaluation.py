"""Evaluation of log p(x) at large K: this library, a hand-written PyTorch loop, JAX, and pythae's ``get_nll``.

One network for all (784-200-200-50, tanh), the same weights, the same data, float32, importance weighting with the
encoder as proposal. The contenders run in turn, several rounds, and the median of each is compared with ours within a
round; a contender that is not installed is left out. Peak memory is by how much
that of a process rises which runs one contender alone.
pythae scores one datum at a time, so that it gets fewer data; all rates are in weights (datum times particle) a second.

    python examples/benchmarks/evaluation.py --data_root DIR --out evaluation.md
"""

import math
import mmap
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from jsonargparse import auto_cli
from peers.by_hand import compile_by_hand
from peers.task import Unavailable
from torch import Tensor, nn

import pyro_vae as pv
from pyro_vae.inference import AmortizedGuide, evidence, guides
from pyro_vae.models import VAE, likelihoods, mlp, priors

D, CHUNK = 50, 10_000
Scorer = Callable[[Tensor, int], Tensor]
"""(x, K) -> estimates of log p(x), shape (N,)."""


def build(seed: int = 0) -> tuple[VAE, AmortizedGuide]:
    torch.manual_seed(seed)
    model = VAE(priors.StandardNormal(D), likelihoods.Bernoulli((784,)), mlp((200, 200)))
    return model, AmortizedGuide((784,), guides.DiagonalNormal(D), mlp((200, 200)))


def ours(model: VAE, guide: AmortizedGuide) -> Scorer:
    return lambda x, k: (
        evidence(model, guide, x, k, chunk_size=CHUNK, device=x.device, method="iw", progress=False).log_px
    )


def by_hand(model: VAE, guide: AmortizedGuide, through: Callable[[Callable], Callable] = lambda f: f) -> Scorer:
    """What a careful user would write in PyTorch: a streaming logsumexp over chunks, and nothing else."""
    decoder, encoder = model.decoder.layers, guide.encoder.layers

    @torch.no_grad()
    def score(x: Tensor, k: int) -> Tensor:
        rows = max(1, CHUNK // min(k, 256))
        return torch.cat([score_chunk(part, k, CHUNK // len(part)) for part in x.split(rows)])

    @through
    def log_sum(loc: Tensor, log_scale: Tensor, x: Tensor, count: int) -> Tensor:
        noise = torch.randn(count, *loc.shape, device=x.device)
        z = loc + log_scale.exp() * noise
        logits = decoder(z)
        log_p_x = -nn.functional.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        log_ratio = (0.5 * noise.square() + log_scale - 0.5 * z.square()).sum(-1)
        return (log_p_x + log_ratio).logsumexp(0)

    def score_chunk(x: Tensor, k: int, size: int) -> Tensor:
        loc, log_scale = encoder(x).chunk(2, -1)
        total = x.new_full((len(x),), -math.inf)
        for start in range(0, k, size):
            total = torch.logaddexp(total, log_sum(loc, log_scale, x, min(size, k - start)))
        return total - math.log(k)

    return score


def by_hand_compiled(model: VAE, guide: AmortizedGuide) -> Scorer:
    """The same with the weights of a chunk through torch.compile."""
    torch.compiler.reset()  # or the limit of recompilations is met by what came before
    return by_hand(model, guide, partial(compile_by_hand, device=next(model.parameters()).device.type))


def in_jax(model: VAE, guide: AmortizedGuide) -> Scorer:
    import jax
    import jax.numpy as jnp

    on_gpu = next(model.parameters()).is_cuda
    if on_gpu and jax.default_backend() != "gpu":
        raise Unavailable("the installed JAX has no GPU; pip install 'jax[cuda12]'")
    jax.config.update("jax_default_matmul_precision", "highest")  # TF32 is JAX's default on a GPU, not PyTorch's
    device = jax.devices("gpu" if on_gpu else "cpu")[0]

    def weights(layers: nn.Sequential) -> list[tuple]:
        linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
        return [
            tuple(jax.device_put(p.detach().cpu().numpy(), device) for p in (layer.weight, layer.bias))
            for layer in linear
        ]

    decoder, encoder = weights(model.decoder.layers), weights(guide.encoder.layers)

    def network(layers: list[tuple], h):
        for weight, bias in layers[:-1]:
            h = jnp.tanh(h @ weight.T + bias)
        return h @ layers[-1][0].T + layers[-1][1]

    @jax.jit
    def log_w(key, x, noise_shape):
        loc, log_scale = jnp.split(network(encoder, x), 2, -1)
        noise = jax.random.normal(key, (noise_shape.shape[0], *loc.shape))
        z = loc + jnp.exp(log_scale) * noise
        logits = network(decoder, z)
        softplus = jnp.maximum(logits, 0) + jnp.log1p(jnp.exp(-jnp.abs(logits)))  # twice as fast as jnp.logaddexp
        log_p_x = (x * logits - softplus).sum(-1)
        log_ratio = (0.5 * noise**2 + log_scale - 0.5 * z**2).sum(-1)
        return jax.scipy.special.logsumexp(log_p_x + log_ratio, axis=0)

    def score(x: Tensor, k: int) -> Tensor:
        rows = max(1, CHUNK // min(k, 256))
        parts = []
        for i, part in enumerate(x.split(rows)):
            size, data = CHUNK // len(part), jax.device_put(part.cpu().numpy(), device)
            sizes = [min(size, k - start) for start in range(0, k, size)]
            keys = jax.random.split(jax.random.PRNGKey(i), len(sizes))
            sums = [log_w(key, data, jnp.zeros(s)) for key, s in zip(keys, sizes, strict=True)]
            parts.append(jax.scipy.special.logsumexp(jnp.stack(sums), axis=0) - math.log(k))
        return torch.from_numpy(__import__("numpy").array(jnp.concatenate(parts)))

    return score


def in_pythae(model: VAE, guide: AmortizedGuide) -> Scorer:
    from pythae.models import VAE as PythaeVAE
    from pythae.models import VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = guide.encoder

        def forward(self, x: Tensor) -> ModelOutput:
            loc, log_scale = self.network(x.flatten(1)).chunk(2, -1)
            return ModelOutput(embedding=loc, log_covariance=2 * log_scale)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.network = model.decoder

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=torch.sigmoid(self.network(z)))

    config = VAEConfig(input_dim=(784,), latent_dim=D, reconstruction_loss="bce")
    peer = PythaeVAE(config, Encoder(), Decoder()).to(next(model.parameters()).device)

    @torch.no_grad()
    def score(x: Tensor, k: int) -> Tensor:
        size = max(n for n in range(1, min(k, 1000) + 1) if k % n == 0)  # faster than its 100; others would change K
        mean = float(peer.get_nll(x, n_samples=k, batch_size=size))  # of log p(x), whatever its name
        return x.new_full((len(x),), mean)

    return score


CONTENDERS = {"pyro-vae": ours, "PyTorch by hand": by_hand, "JAX": in_jax, "pythae": in_pythae}
PACKAGES = {"JAX": "jax", "pythae": "pythae"}


def load(data: str, root: str | None, num_data: int) -> Tensor:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return pv.load_data(data, root=root).test[:num_data].to(device)


def run_alone(name: str, x: Tensor, num_particles: int) -> None:
    """Run one contender and print by how much memory peaks in MiB, on the GPU where there is one."""
    model, guide = (program.to(x.device) for program in build())
    score = CONTENDERS[name](model, guide)
    before, peak, done = resident(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], resident() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    score(x, num_particles)
    done.set()
    watcher.join()
    print(_peak_on_gpu(name) if x.is_cuda else peak[0])


def _peak_on_gpu(name: str) -> float:
    if name == "JAX":
        import jax

        return jax.devices("gpu")[0].memory_stats()["peak_bytes_in_use"] / 2**20
    return torch.cuda.max_memory_allocated() / 2**20


def resident() -> float:
    """Return the resident memory of this process in MiB; 0 where there is no /proc."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * mmap.PAGESIZE / 2**20 if statm.exists() else 0.0


def peak_memory(name: str, x: Tensor, num_particles: int) -> float:
    """Return what ``run_alone`` prints in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.pt"
        torch.save(x, path)
        command = [
            sys.executable,
            __file__,
            "--alone",
            name,
            "--data",
            str(path),
            "--num_particles",
            str(num_particles),
        ]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main(
    data: str = "binarized_mnist",
    data_root: str | None = None,
    num_data: int = 200,
    num_data_pythae: int = 20,
    num_particles: int = 5000,
    rounds: int = 5,
    out: str = "evaluation.md",
    alone: str | None = None,
) -> None:
    """Time the contenders in turn and write a table.

    Args:
        data: name of a data set of binary images of 28 x 28, or a file; see ``pyro_vae.load_data``.
        data_root: folder with the data set's files.
        num_data: how many data of the test split are scored.
        num_data_pythae: how many by pythae.
        num_particles: K.
        rounds: turns of each contender.
        out: Markdown file to write.
        alone: contender whose peak memory is printed, instead of a table; ``data`` is then a file of a tensor.
    """
    if alone is not None:
        run_alone(alone, torch.load(data), num_particles)
        return
    x = load(data, data_root, num_data)
    names = [name for name in CONTENDERS if find_spec(PACKAGES.get(name, "torch"))]
    model, guide = (program.to(x.device) for program in build())
    scorers, skipped = {}, []
    for name in names:
        try:
            scorers[name] = CONTENDERS[name](model, guide)
        except Unavailable as reason:
            skipped.append(f"Without {name}: {reason}.")
    names = list(scorers)
    inputs = {name: x[:num_data_pythae] if name == "pythae" else x for name in names}
    values = {name: scorers[name](inputs[name], num_particles) for name in names}  # compiles and warms up
    rates: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            started = time.perf_counter()
            scorers[name](inputs[name], num_particles).sum().item()
            rates[name].append(len(inputs[name]) * num_particles / (time.perf_counter() - started))
    lines = [_protocol(data, num_data, num_data_pythae, num_particles, rounds), ""]
    lines += [
        "| | weights/s | ours is faster by | min to max | mean log p(x) | peak MiB |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        ratios = sorted(a / b for a, b in zip(rates["pyro-vae"], rates[name], strict=True))
        peak = peak_memory(name, inputs[name], num_particles)
        lines.append(
            f"| {name} | {statistics.median(rates[name]):,.0f} | {statistics.median(ratios):.2f} "
            f"| {ratios[0]:.2f} to {ratios[-1]:.2f} | {values[name].mean():.2f} | {peak:,.0f} |"
        )
    lines += ["", *skipped] if skipped else []
    Path(out).write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def _protocol(data: str, num_data: int, num_data_pythae: int, num_particles: int, rounds: int) -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    return (
        f"{data}, K={num_particles}, {num_data} data (pythae {num_data_pythae}), chunks of {CHUNK} weights, median of "
        f"{rounds} rounds; {device}, PyTorch {torch.__version__}, Python {platform.python_version()}."
    )


if __name__ == "__main__":
    auto_cli(main)
