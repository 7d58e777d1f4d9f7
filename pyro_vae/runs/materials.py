"""The parts that a config names, made to the measure of the data, for a pair to build model and guide of."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.core.conditioning import join
from pyro_vae.data.splits import Splits
from pyro_vae.models.networks import Factory, NetworkFactory, mlp
from pyro_vae.runs.kinds import Pair
from pyro_vae.runs.reading import filled
from pyro_vae.runs.registry import (
    build_part,
    changed_arguments,
    class_path,
    describe_spec,
    find_part,
    known_parts,
    takes,
)

ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "softplus": nn.Softplus, "silu": nn.SiLU, "gelu": nn.GELU}
NETWORKS = ("encoder", "decoder")
ImageShape = tuple[int, int, int]
LATENT_DIM = 10
"""Latent dimension where the config has none."""


class Materials:
    """What a config and the data determine.

    Args:
        config: as ``pyro-vae train`` writes it down.
        splits: the data.
        loc: what the encoder subtracts from x.
        scale: what it divides x - loc by.

    Raises:
        ValueError: for hidden widths or an activation that no network takes.
    """

    def __init__(self, config: dict[str, Any], splits: Splits, loc: Tensor, scale: Tensor) -> None:
        self.config, self.splits, self.loc, self.scale = config, splits, loc, scale
        self.event_shape = splits.event_shape
        self.missing = bool(config.get("missing"))
        self.train = filled(splits.train)
        dim = config["latent_dim"]
        self.latent_dim = LATENT_DIM if dim is None else dim
        self.shared = {name: value for name, value in self._shared().items() if value is not None}
        _check_used(self.shared, config)

    def _shared(self) -> dict[str, Any]:
        """Return what the options for both networks say."""
        hidden, activation = self.config["hidden"], self.config["activation"]
        if activation is not None and activation not in ACTIVATIONS:
            raise ValueError(f"Expected activation to be one of {', '.join(ACTIVATIONS)}; got {activation!r}.")
        return {"hidden": None if hidden is None else tuple(hidden), "activation": ACTIVATIONS.get(activation)}

    @property
    def seen(self) -> dict[str, Any]:
        """What every guide is told of the data that its encoder sees."""
        return {"loc": self.loc, "scale": self.scale, "missing": self.missing}

    def takes(self, kind: str, argument: str) -> bool:
        """Say whether a part takes an argument of this name."""
        return takes(kind, self.config[kind], argument)

    def prior(self, *, dim: int | None = None, guide: nn.Module | None = None) -> Any:
        """Build the prior, of the latent dimension if no other is given."""
        return build_part("prior", self.config["prior"], dim=self._dim(dim), data=self.train, guide=guide)

    def family(self, *, dim: int | None = None) -> Any:
        """Build the guide's family, of the latent dimension if no other is given."""
        return build_part("guide", self.config["guide"], dim=self._dim(dim), data=self.train)

    def likelihood(self) -> Any:
        """Build the likelihood of the data."""
        if self.splits.table is not None:
            return copy.deepcopy(self.splits.table)
        return build_part(
            "likelihood",
            self.config["likelihood"],
            event_shape=self.event_shape,
            total_count=self.splits.max_count,
            data=self.train,
        )

    def encoder(self, *, num_beside: int = 0) -> Factory:
        """Return the factory of the encoder.

        Args:
            num_beside: entries that follow those of flat x in its input; beside a picture they are channels.
        """
        image = self.splits.image_shape
        if image is None or not num_beside:
            return self._network("encoder", image)[0]
        lengthened = (image[0] + num_beside, *image[1:])
        factory, wants_image = self._network("encoder", lengthened)
        return functools.partial(_beside_image, factory, image, lengthened) if wants_image else factory

    def decoder(self) -> Factory:
        """Return the factory of the decoder."""
        return self._network("decoder", self.splits.image_shape)[0]

    def hidden_layers(self) -> Factory:
        """Return the factory of a further network, with the hidden layers of both."""
        return mlp(**self.shared)

    def activation(self) -> Callable[[], nn.Module]:
        """Return the nonlinearity of a further network."""
        return self.shared.get("activation", nn.Tanh)

    def describe_networks(self) -> str:
        """Return encoder and decoder as they would be written in Python, defaults and all."""
        return ", ".join(f"{kind} {self._describe_network(kind)}" for kind in NETWORKS)

    def _describe_network(self, kind: str) -> str:
        factory = self._network(kind, self.splits.image_shape)[0]
        if not isinstance(factory, NetworkFactory):
            return describe_spec(network_spec(self.config, kind))
        settings = {k: v for k, v in vars(factory).items() if k not in ("image_shape", "activation")}
        named = [f"{k}={list(v) if isinstance(v, Sequence) else v}" for k, v in settings.items()]
        activation = [vars(factory)["activation"].__name__.lower()] if "activation" in vars(factory) else []
        return f"{type(factory).__name__}({', '.join([*named, *activation])})"

    def refuse_latent_dim(self, why: str) -> None:
        """Refuse a latent dimension that would have no effect, with a ``ValueError``."""
        if self.config["latent_dim"] is not None:
            raise ValueError(f"Expected no --latent-dim for {self._model()}: {why}.")

    def refuse_other(self, kind: str, only: str, why: str) -> None:
        """Refuse any part but one, where another would have no effect, with a ``ValueError``."""
        if find_part(kind, self.config[kind]["class_path"]) is not known_parts(kind)[only]:
            got = self.config[kind]["class_path"].rpartition(".")[2]
            raise ValueError(f"Expected --{kind} {only} for {self._model()}, since {why}; got {got}.")

    def _model(self) -> str:
        return self.config["model"]["class_path"].rpartition(".")[2]

    def _dim(self, dim: int | None) -> int:
        return self.latent_dim if dim is None else dim

    def _network(self, kind: str, image_shape: ImageShape | None) -> tuple[Factory, bool]:
        """Return the factory of a network, and whether it is one of images."""
        spec = network_spec(self.config, kind)
        part = find_part(kind, spec["class_path"])
        accepted = inspect.signature(part).parameters
        wants_image = "image_shape" in accepted
        if wants_image and image_shape is None:
            raise ValueError(
                f"Expected pictures for --{kind} {part.__name__}; the data of {self.splits.name} are vectors. Choose "
                f"--{kind} mlp or gated_mlp, or store pictures as (N, H, W) or (N, C, H, W)."
            )
        if wants_image and kind == "encoder" and self.missing:
            raise ValueError(f"Expected no missing entries for --encoder {part.__name__}. Choose mlp or gated_mlp.")
        known = self.shared | {"image_shape": image_shape}
        if issubclass(part, NetworkFactory):
            return build_part(kind, spec, **known), wants_image
        filled = {name: value for name, value in known.items() if name in accepted and name != "activation"}
        return functools.partial(_build_module, kind, part, filled | spec.get("init_args", {})), wants_image


def network_spec(config: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return a network as the config has it, without arguments at their defaults: those for both networks win."""
    spec = config.get(kind) or {"class_path": class_path(mlp)}
    return {"class_path": spec["class_path"], "init_args": changed_arguments(spec)}


def _check_used(shared: dict[str, Any], config: dict[str, Any]) -> None:
    specs = [network_spec(config, kind) for kind in NETWORKS]
    model: Any = find_part("model", config["model"]["class_path"]) if config.get("model") else Pair
    used = model.further_networks
    for name in shared:
        if name not in used and not any(takes("encoder", spec, name) for spec in specs):
            names = " nor ".join(dict.fromkeys(spec["class_path"].rpartition(".")[2] for spec in specs))
            raise ValueError(f"Expected a network that --{name} has an effect on; neither {names} takes it.")


def _build_module(kind: str, part: type, arguments: dict[str, Any], in_shape: torch.Size, width: int) -> nn.Module:
    """Build a network of the user's own, a class called with (in_shape, out_features, ...)."""
    try:
        return part(in_shape, width, **arguments)
    except TypeError as error:
        raise ValueError(
            f"Cannot build {kind} {part.__name__}: {error}. Its class is called with in_shape and out_features."
        ) from error


class BesideImage(nn.Module):
    """A network of images, whose input is a flat image and E entries that become constant channels.

    Args:
        image_shape: (C, H, W).
        network: takes images of shape (..., C + E, H, W).
    """

    def __init__(self, image_shape: torch.Size, network: nn.Module) -> None:
        super().__init__()
        self.image_shape, self.network = image_shape, network

    def forward(self, x: Tensor) -> Tensor:
        """Map x of shape (..., C H W + E) to (..., out_features)."""
        image, beside = x.tensor_split([self.image_shape.numel()], -1)
        return self.network(join(image.unflatten(-1, self.image_shape), beside, self.image_shape))


def _beside_image(
    factory: Factory, image: ImageShape, lengthened: ImageShape, in_shape: torch.Size, width: int
) -> nn.Module:
    """Build a network of images for one that comes flat, with other entries behind it."""
    return BesideImage(torch.Size(image), factory(torch.Size(lengthened), width))
