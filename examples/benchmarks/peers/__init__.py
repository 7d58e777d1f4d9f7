"""The contestants of the benchmarks, one file each, all with the same interface (``peers.task``)."""

from importlib import import_module

from peers.task import Contestant, Task, Unavailable

CONTESTANTS = {
    "pyro-vae": ("peers.ours", "Ours"),
    "pyro-vae, compiled": ("peers.ours", "OursCompiled"),
    "Pyro SVI": ("peers.pyro_svi", "PyroSVI"),
    "Pyro SVI, JIT": ("peers.pyro_svi", "PyroJit"),
    "by hand": ("peers.by_hand", "Eager"),
    "by hand, torch.compile": ("peers.by_hand", "Compiled"),
    "by hand, CUDA graph": ("peers.by_hand", "Graph"),
    "by hand, compiled CUDA graph": ("peers.by_hand", "CompiledGraph"),
    "NumPyro scan": ("peers.numpyro_scan", "NumPyroScan"),
    "pythae": ("peers.pythae_peer", "Pythae"),
}


def enter(name: str, task: Task) -> Contestant:
    """Return a contestant ready to train.

    Raises:
        Unavailable: if a package is missing, or the contestant cannot do the task.
    """
    module, kind = CONTESTANTS[name]
    return getattr(load(module), kind)(task)


def load(module: str):
    """Import the file of a peer.

    Raises:
        Unavailable: if its package is missing.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise Unavailable(f'{error.name} is not installed; pip install -e ".[bench]"') from error
