"""NumPyro: ``SVI.update`` inside one jitted ``lax.scan`` over the steps of a pass, the data gathered in it.

XLA runs convolutions many times slower inside a loop than outside on a CPU; there, each step is a jitted call.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import torch
from numpyro.infer import SVI, RenyiELBO, Trace_ELBO

from peers.task import PIXELS, Networks, Pass, Task, Unavailable, timed

Array = jax.Array


class NumPyroScan:
    """Float32 in full precision; the loss is a sum over the minibatch."""

    def __init__(self, task: Task) -> None:
        if task.device == "cuda" and jax.default_backend() != "gpu":
            raise Unavailable("the installed JAX has no GPU; pip install 'jax[cuda12]'")
        jax.config.update("jax_default_matmul_precision", "highest")  # TF32 is JAX's default on a GPU, not PyTorch's
        device = jax.devices("gpu" if task.device == "cuda" else "cpu")[0]
        self.task, self.device = task, device
        self.x = jax.device_put(task.data().cpu().numpy(), device)
        encoder, decoder = (self._leaves(module) for module in vars(task.networks()).values())
        self.sizes = len(encoder)
        loss = Trace_ELBO() if task.num_particles == 1 else RenyiELBO(0, task.num_particles)
        self.svi = SVI(self.model, self.guide, numpyro.optim.Adam(task.lr), loss)
        start = {"encoder": encoder, "decoder": decoder}
        self.state = self.svi.init(jax.random.PRNGKey(task.seed), self.x[: task.batch_size], start)
        looped = task.network == "conv" and task.device == "cpu"
        self.run = self._loop(jax.jit(self._step)) if looped else jax.jit(self._scan)

    def _leaves(self, module: torch.nn.Module) -> list[Array]:
        return [jax.device_put(p.detach().cpu().numpy(), self.device) for p in module.parameters()]

    def model(self, x: Array, start: dict[str, list[Array]]) -> None:
        params = numpyro.param("decoder", start["decoder"])
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros((len(x), self.task.latent_dim)), 1.0).to_event(1))
            decode = deconvolve if self.task.network == "conv" else perceptron
            numpyro.sample("x", dist.Bernoulli(logits=decode(params, z)).to_event(1), obs=x)

    def guide(self, x: Array, start: dict[str, list[Array]]) -> None:
        params = numpyro.param("encoder", start["encoder"])
        encode = convolve if self.task.network == "conv" else perceptron
        with numpyro.plate("data", len(x)):
            loc, log_scale = jnp.split(encode(params, x), 2, -1)
            numpyro.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))

    def _step(self, state, x: Array, index: Array):
        return self.svi.update(state, x[index], {"encoder": None, "decoder": None})  # the state has the parameters

    def _order(self, key: Array) -> Array:
        rows = self.task.steps * self.task.batch_size
        return jax.random.permutation(key, rows).reshape(self.task.steps, self.task.batch_size)

    def _scan(self, state, key: Array, x: Array):
        return jax.lax.scan(lambda s, index: self._step(s, x, index), state, self._order(key))

    def _loop(self, step: Callable) -> Callable:
        def run(state, key: Array, x: Array):
            losses = []
            for index in self._order(key):
                state, loss = step(state, x, index)
                losses.append(loss)
            return state, jnp.stack(losses)

        return run

    def train(self, epochs: int) -> list[Pass]:
        return [timed(self._epoch, "cpu") for _ in range(epochs)]

    def _epoch(self) -> float:
        key = jax.random.PRNGKey(int(torch.randint(2**31, ())))
        self.state, losses = jax.block_until_ready(self.run(self.state, key, self.x))
        return float(losses.sum()) / len(self.x)

    def networks(self) -> Networks:
        params = self.svi.get_params(self.state)
        values = [torch.from_numpy(np.array(p)) for p in [*params["encoder"], *params["decoder"]]]
        return self.task.networks().load(values)


def perceptron(params: list[Array], h: Array) -> Array:
    """Tanh layers and an affine one; weights as PyTorch has them, (out, in)."""
    *hidden, weight, bias = params
    for w, b in zip(hidden[::2], hidden[1::2], strict=True):
        h = jnp.tanh(h @ w.T + b)
    return h @ weight.T + bias


def convolve(params: list[Array], x: Array) -> Array:
    """PyTorch's ``Conv2d(kernel 3, stride 2, padding 1)`` twice, with relu, and an affine layer."""
    h = x.reshape(-1, 1, 28, 28)
    for w, b in (params[0:2], params[2:4]):
        layout = ("NCHW", "OIHW", "NCHW")
        h = jax.lax.conv_general_dilated(h, w, (2, 2), ((1, 1), (1, 1)), dimension_numbers=layout)
        h = jax.nn.relu(h + b[:, None, None])
    return h.reshape(len(x), -1) @ params[4].T + params[5]


def deconvolve(params: list[Array], z: Array) -> Array:
    """An affine layer and PyTorch's ``ConvTranspose2d(kernel 3, stride 2, padding 1, output padding 1)`` twice."""
    h = (z @ params[0].T + params[1]).reshape(-1, 64, 7, 7)
    for w, b in (params[2:4], params[4:6]):
        flipped, layout = jnp.flip(w, (2, 3)), ("NCHW", "IOHW", "NCHW")
        h = jax.lax.conv_general_dilated(
            jax.nn.relu(h), flipped, (1, 1), ((1, 2), (1, 2)), lhs_dilation=(2, 2), dimension_numbers=layout
        )
        h = h + b[:, None, None]
    return h.reshape(*z.shape[:-1], PIXELS)
