"""Every example, run with tiny arguments."""

from __future__ import annotations

import importlib
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from pyro_vae.inference import methods

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs_and_prints_a_result(path, capsys, monkeypatch):
    """Scored by the guide, since after one epoch many data would be annealed on long paths; one as it is."""
    if path.stem != "plain_pyro":
        monkeypatch.setitem(methods.BY_NAME, "auto", methods.IW)
    runpy.run_path(str(path))["main"](epochs=1, num_particles=25)
    assert re.search(r"log p\(x\) >?= -\d+\.\d\d \+- \d+\.\d\d nats  \((K=25|auto), N=\d+", capsys.readouterr().out)


@pytest.fixture
def benchmarks(tmp_path, monkeypatch):
    """The folder of benchmarks, on the path as it is when one is run as a script, and a small data set."""
    folder = ROOT / "examples" / "benchmarks"
    monkeypatch.syspath_prepend(str(folder))
    bits = (np.random.default_rng(0).random((360, 784)) < 0.2).astype(np.float32)
    np.savez(tmp_path / "bits.npz", train=bits[:120], valid=bits[120:240], test=bits[240:])
    yield folder
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(folder)):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("script", "rows"),
    [
        ("objectives", ("ELBO", "IWAE, K=5, dreg", "beta-TCVAE, beta=2")),
        ("parts", ("VampPrior, 200 pseudo-inputs", "flow prior, RealNVP", "flow guide, IAF")),
    ],
)
def test_benchmark_writes_a_table(benchmarks, tmp_path, script, rows):
    module = runpy.run_path(str(benchmarks / f"{script}.py"))
    main, out = module["main"], tmp_path / "table.md"
    budget = module["Budget"](epochs=2, kl_warmup=1, decay=True, num_particles=30)
    main(str(tmp_path / "bits.npz"), budget=budget, rows=rows, out=str(out))
    table = [line for line in out.read_text().splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in table[1:]] == [f"| {name}" for name in rows]
    main(str(tmp_path / "bits.npz"), rows=rows[:2], out=str(out), times=1)
    assert out.read_text().count(" to ") == 3  # in the title, and a range for each row


def test_benchmark_of_evaluation_compares_what_is_installed(benchmarks, tmp_path):
    main = runpy.run_path(str(benchmarks / "evaluation.py"))["main"]
    out = tmp_path / "table.md"
    main(str(tmp_path / "bits.npz"), num_data=4, num_data_pythae=1, num_particles=200, rounds=1, out=str(out))
    rows = [line.split(" | ") for line in out.read_text().splitlines() if line.startswith("| ")][1:]
    assert [row[0] for row in rows[:2]] == ["| pyro-vae", "| PyTorch by hand"]
    ours, by_hand = (float(row[4]) for row in rows[:2])
    assert ours == pytest.approx(by_hand, abs=3)  # log p(x) near -543 at K = 200, either with a sd of 0.5


CONTESTANTS = ("pyro-vae", "by hand")


def test_benchmark_of_speed_compares_contestants_round_by_round(benchmarks, tmp_path):
    main = runpy.run_path(str(benchmarks / "speed.py"))["main"]
    out = tmp_path / "speed.md"
    chosen = {"contestants": (*CONTESTANTS, "by hand, CUDA graph"), "rounds": 2, "max_steps": 2, "out": str(out)}
    main(workloads=("iwae-5", "evaluation"), num_particles=50, num_data=2, **chosen)
    table = [line.split(" | ") for line in out.read_text().splitlines() if line.startswith("| ")]
    names = [name for name, *_ in table]
    assert names == ["|", *(f"| {name}" for name in CONTESTANTS)] * 2
    assert [row[2] for row in table if row[0] == "| by hand"] == ["1.00", "1.00"]
    assert "Without by hand, CUDA graph: CUDA graphs need --device cuda." in out.read_text()
    with pytest.raises(ValueError, match=r'Expected workloads among "elbo-100".*got "elbo"\.'):
        main(workloads=("elbo",))
    with pytest.raises(ValueError, match=r"Expected rounds of at least 1; got 0\."):
        main(rounds=0)


def test_the_passes_of_a_gpu_are_long_but_for_those_of_a_data_set(benchmarks):
    speed, peers = (importlib.import_module(name) for name in ("speed", "peers"))
    assert speed.shorten(peers.Task(steps=5), "cuda", None).steps == speed.GPU_STEPS
    assert speed.shorten(peers.Task(steps=5), "cuda", 2).steps == 2
    assert speed.shorten(peers.Task(steps=5), "cpu", None).steps == 5
    assert speed.shorten(peers.Task(steps=100, natural=True), "cuda", None).steps == 100


def test_both_graphs_by_hand_need_a_gpu(benchmarks):
    peers = importlib.import_module("peers")
    for name in ("by hand, CUDA graph", "by hand, compiled CUDA graph"):
        with pytest.raises(peers.Unavailable, match="CUDA graphs need --device cuda"):
            peers.enter(name, peers.Task(steps=1))


def test_benchmark_of_speed_draws_curves(benchmarks, tmp_path, monkeypatch):
    curves, peers = (importlib.import_module(name) for name in ("curves", "peers"))
    few = {"K": [peers.Task(num_particles=k, steps=1) for k in (1, 2)], "N": [peers.Task(steps=1, natural=True)]}
    monkeypatch.setattr(curves, "SWEEPS", few)
    swept = {name: curves.sweep(name, CONTESTANTS, "cpu", rounds=1) for name in few}
    by_k, by_n = curves.draw(swept).axes
    assert [line.get_label() for line in by_k.get_lines()] == list(CONTESTANTS)
    assert list(by_k.get_lines()[0].get_xdata()) == [1, 2]
    assert by_n.get_xlabel() == "N"


def test_benchmark_profiles_a_step(benchmarks, tmp_path):
    module, out = runpy.run_path(str(benchmarks / "profiling.py")), tmp_path / "profile.md"
    module["main"](workloads=("elbo-100",), contestants=CONTESTANTS, max_steps=3, out=str(out))
    rows = [line.strip("| ").split(" | ") for line in out.read_text().splitlines() if line.startswith("| ")]
    milliseconds = {name: [float(cell.split(" ")[0]) for cell in cells] for name, *cells in rows[1:]}
    together = milliseconds.pop("together")
    assert milliseconds.keys() == {*module["KINDS"], module["REST"]} - {"convolutions", "kernels of the compiler"}
    assert all(min(values) > 0 for kind, values in milliseconds.items() if kind != "optimiser")
    assert milliseconds["optimiser"][CONTESTANTS.index("by hand")] > 0  # eager fit takes Adam as the user made it
    assert [sum(column) for column in zip(*milliseconds.values(), strict=True)] == pytest.approx(together, rel=0.02)
    layers = ((784, 200), (200, 200), (200, 100), (50, 200), (200, 200), (200, 784))
    products = 3 * sum(fan_in * fan_out for fan_in, fan_out in layers) - 784 * 200  # no gradient by the data
    assert f"{2 * 100 * products / 1e9:.3g} GFLOP a step" in out.read_text()


@pytest.mark.parametrize("num_particles", [1, 5])
@pytest.mark.parametrize("name", ["pyro-vae", "Pyro SVI", "Pyro SVI, JIT", "NumPyro scan", "pythae"])
def test_contestants_do_the_same_work(benchmarks, name, num_particles):
    peers, equal_work = (importlib.import_module(name) for name in ("peers", "equal_work"))
    task = peers.Task(num_particles=num_particles, batch_size=50, steps=20, width=30, latent_dim=5)
    try:
        z, progress = equal_work.check(name, task)
    except peers.Unavailable as reason:
        pytest.skip(str(reason))
    assert abs(z) < 4
    assert abs(progress) < 0.01  # noise is 0.1%; a learning rate off by a quarter either way gives 3% and -6%


def test_a_missing_peer_says_how_to_install_it(benchmarks, monkeypatch):
    peers = importlib.import_module("peers")
    monkeypatch.setitem(sys.modules, "numpyro", None)
    sys.modules.pop("peers.numpyro_scan", None)
    with pytest.raises(peers.Unavailable, match=r'not installed; pip install -e "\.\[bench\]"'):
        peers.enter("NumPyro scan", peers.Task())
