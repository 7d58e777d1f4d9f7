"""The parts that a config names, made to the measure of the data, for a kind of model to put together."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pyro_vae.core.registry import FILLED_IN, Registry, Spec
from pyro_vae.data.splits import Splits
from pyro_vae.data.tables import LIKELIHOODS
from pyro_vae.inference import guides
from pyro_vae.models import networks, priors
from pyro_vae.models.networks import Factory, NetworkFactory, mlp
from pyro_vae.models.networks.convolution import with_constant_channels
from pyro_vae.runs.config import ACTIVATIONS, LATENT_DIM, Config

NETWORK_FILLED_IN = frozenset({"in_shape", "out_features", "image_shape"})


def _networks(kind: str, what: str, without: str) -> Registry:
    return Registry(
        kind,
        networks.NetworkFactory,
        networks,
        what,
        accepts=(nn.Module,),
        without=frozenset({without}),
        filled_in=NETWORK_FILLED_IN,
        filled_in_ours=frozenset({"activation"}),  # --activation is of both networks
    )


PRIORS = Registry("prior", priors.Prior, priors, "prior p(z)", accepts=(nn.Module, Distribution), filled_in=FILLED_IN)
GUIDES = Registry(
    "guide", guides.GuideFamily, guides, "family of the guide q(z|x)", accepts=(nn.Module,), filled_in=FILLED_IN
)
NETWORKS = {
    "encoder": _networks("encoder", "network of the guide: mlp, gated_mlp or conv", without="deconv"),
    "decoder": _networks("decoder", "network of the model: mlp, gated_mlp or deconv", without="conv"),
}
ImageShape = tuple[int, int, int]


class Parts:
    """What a config and the data determine, each part built when it is asked for.

    Args:
        config: the settings.
        splits: the data.

    Attributes:
        latent_dim: dimension of z where it has one layer.
        shared: settings of both networks, {"hidden": ..., "activation": ...}.
        seen: what every guide is told of the data that its encoder sees.

    Raises:
        ValueError: for an activation that there is not.
    """

    def __init__(self, config: Config, splits: Splits) -> None:
        self.config, self.splits = config, splits
        self.event_shape = splits.event_shape
        self.missing = bool(config.data.missing)
        self.latent_dim = LATENT_DIM if config.parts.latent_dim is None else config.parts.latent_dim
        loc, scale = standardization(splits)
        self.seen: dict[str, Any] = {"loc": loc, "scale": scale, "missing": self.missing}
        self.shared = {name: value for name, value in self._shared().items() if value is not None}
        self._train = fill_with_means(splits.train)

    def _shared(self) -> dict[str, Any]:
        hidden, activation = self.config.networks.hidden, self.config.networks.activation
        if activation is not None and activation not in ACTIVATIONS:
            raise ValueError(f"Expected activation to be one of {', '.join(ACTIVATIONS)}; got {activation!r}.")
        return {
            "hidden": None if hidden is None else tuple(hidden),
            "activation": None if activation is None else ACTIVATIONS[activation],
        }

    def prior(self, *, dim: int | None = None, guide: nn.Module | None = None) -> Any:
        """Build the prior, of the latent dimension if no other is given."""
        dim = self.latent_dim if dim is None else dim
        return PRIORS.build(self.config.parts.prior, dim=dim, data=self._train, guide=guide)

    def prior_takes_guide(self) -> bool:
        """Say whether the prior is made of the guide, as a VampPrior is."""
        return PRIORS.takes(self.config.parts.prior, "guide")

    def family(self, *, dim: int | None = None) -> Any:
        """Build the guide's family, of the latent dimension if no other is given."""
        dim = self.latent_dim if dim is None else dim
        return GUIDES.build(self.config.parts.guide, dim=dim, data=self._train)

    def likelihood(self) -> Any:
        """Build the likelihood of the data."""
        if self.splits.table is not None:
            return copy.deepcopy(self.splits.table)
        spec = self.config.parts.likelihood
        assert spec is not None  # chosen by the data where none is named
        known = {"event_shape": self.event_shape, "total_count": self.splits.max_count, "data": self._train}
        return LIKELIHOODS.build(spec, **known)

    def encoder(self, *, num_beside: int = 0) -> Factory:
        """Return the factory of the encoder.

        Args:
            num_beside: entries that follow those of flat x in its input; beside a picture they are channels.
        """
        image = self.splits.image_shape
        if image is None or not num_beside:
            return self._network("encoder", image)[0]
        factory, wants_image = self._network("encoder", (image[0] + num_beside, *image[1:]))
        return with_constant_channels(factory, image, num_beside) if wants_image else factory

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
            return NETWORKS[kind].describe(self.config[kind])
        settings = {k: v for k, v in vars(factory).items() if k not in ("image_shape", "activation")}
        named = [f"{k}={list(v) if isinstance(v, Sequence) else v}" for k, v in settings.items()]
        activation = [vars(factory)["activation"].__name__.lower()] if "activation" in vars(factory) else []
        return f"{type(factory).__name__}({', '.join([*named, *activation])})"

    def check_shared_used(self, further: Sequence[str]) -> None:
        """Refuse a setting of both networks that neither takes.

        Args:
            further: settings that further networks of the model take.

        Raises:
            ValueError: naming the setting and the networks.
        """
        for name in self.shared:
            if name not in further and not any(r.takes(self.config[kind], name) for kind, r in NETWORKS.items()):
                names = " nor ".join(dict.fromkeys(self.config[kind].name for kind in NETWORKS))
                raise ValueError(f"Expected a network that --{name} has an effect on; neither {names} takes it.")

    def refuse_latent_dim(self, why: str) -> None:
        """Refuse a latent dimension that would have no effect, with a ``ValueError``."""
        if self.config.parts.latent_dim is not None:
            raise ValueError(f"Expected no --latent-dim for {self.config.parts.model.name}: {why}.")

    def refuse_other(self, registry: Registry, only: str, why: str) -> None:
        """Refuse any part but one, where another would have no effect, with a ``ValueError``."""
        spec: Spec = self.config[registry.kind]
        if registry.find(spec.class_path) is not registry.find(only):
            model = self.config.parts.model.name
            raise ValueError(f"Expected --{registry.kind} {only} for {model}, since {why}; got {spec.name}.")

    def _network(self, kind: str, image_shape: ImageShape | None) -> tuple[Factory, bool]:
        """Return the factory of a network, and whether it is one of images."""
        registry, spec = NETWORKS[kind], self.config[kind]
        part = registry.find(spec.class_path)
        accepted = inspect.signature(part).parameters
        wants_image = "image_shape" in accepted
        if wants_image and image_shape is None:
            raise ValueError(
                f"Expected pictures for --{kind} {part.__name__}; the data of {self.splits.name} are vectors. Choose "
                f"--{kind} mlp or gated_mlp, or store pictures as (N, H, W) or (N, C, H, W)."
            )
        if wants_image and kind == "encoder" and self.missing:
            raise ValueError(f"Expected no missing entries for --encoder {part.__name__}. Choose mlp or gated_mlp.")
        given = registry.changed(spec)  # what is at its default gives way to the settings of both networks
        known = self.shared | {"image_shape": image_shape}
        if issubclass(part, NetworkFactory):
            return registry.build(Spec(spec.class_path, given), **known), wants_image
        fitting = {name: value for name, value in known.items() if name in accepted and name != "activation"}
        return functools.partial(_build_module, kind, part, fitting | given), wants_image


def fill_with_means(x: Tensor) -> Tensor:
    """Return data with the mean of its entry in the place of each missing one, for parts that start at data."""
    return torch.where(x.isnan(), x.nanmean(0), x).nan_to_num(0.0) if x.isnan().any() else x


def standardization(splits: Splits) -> tuple[Tensor, Tensor]:
    """Return what the encoder subtracts and divides by.

    The mean of each entry over the training data, without what is missing; for pictures one standard deviation for
    all entries, since a border pixel's own is close to 0, and for tables that of each column.
    """
    loc = splits.train.nanmean(0).nan_to_num(0.0)
    squares, observed = (splits.train - loc).square(), ~splits.train.isnan()
    if splits.image_shape:
        squares, observed = squares.flatten(), observed.flatten()
    scale = (squares.nansum(0) / (observed.sum(0) - 1).clamp(min=1)).sqrt()
    return loc, torch.where(scale > 0, scale, torch.ones_like(scale))


def _build_module(kind: str, part: type, arguments: dict[str, Any], in_shape: torch.Size, width: int) -> nn.Module:
    """Build a network of the user's own, a class called with (in_shape, out_features, ...)."""
    try:
        return part(in_shape, width, **arguments)
    except TypeError as error:
        raise ValueError(
            f"Cannot build {kind} {part.__name__}: {error}. Its class is called with in_shape and out_features."
        ) from error
