"""Convolutional networks and their factories: an image to a vector, and a vector to the features of an image.

Each stage halves the image, H -> ceil(H / 2), or undoes it exactly, so that any height and width will do. There is
no batch normalisation: its statistics would mix the data of a minibatch, whose weights are then not per datum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from pyro_vae.core.conditioning import join, joint_shape
from pyro_vae.core.modules import Shape, as_shape
from pyro_vae.models.networks.perceptron import Factory, NetworkFactory, check_widths


@dataclass(frozen=True)
class Stages:
    """Settings of a convolutional network's stages.

    Args:
        channels: their widths.
        kernel_size: odd size of the kernels.
        activation: class of the nonlinearity.
        residual_blocks: residual blocks in each.

    Raises:
        ValueError: for widths that are no positive integers, or an even kernel size.
    """

    channels: tuple[int, ...]
    kernel_size: int
    activation: Callable[[], nn.Module]
    residual_blocks: int

    def __post_init__(self) -> None:
        check_widths(self.channels, "channels")
        check_widths((self.kernel_size,), "kernel_size")
        check_widths((self.residual_blocks + 1,), "residual_blocks + 1")
        if not self.channels:
            raise ValueError("Expected at least one width in channels; got (). Use mlp(()) for an affine map.")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"Expected an odd kernel_size, whose middle is a pixel; got {self.kernel_size}.")

    def at(self, width: int) -> list[nn.Module]:
        """Return the layers of one stage between its convolutions, residual blocks and an activation."""
        blocks = [Residual(width, self.kernel_size, self.activation) for _ in range(self.residual_blocks)]
        return [*blocks, self.activation()]


class ConvEncoder(nn.Module):
    """Strided convolutions on an image and an affine map of what they leave of it.

    Args:
        in_shape: event shape of the input.
        out_features: width of the output.
        image_shape: (C, H, W) of as many entries as ``in_shape``.
        stages: settings of the stages, each of which halves the image.
    """

    def __init__(self, in_shape: torch.Size, out_features: int, image_shape: torch.Size, stages: Stages) -> None:
        super().__init__()
        self.event_dim, self.image_shape = len(in_shape), image_shape
        k = stages.kernel_size
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise((image_shape[0], *stages.channels)):
            layers += [nn.Conv2d(width_in, width_out, k, stride=2, padding=k // 2), *stages.at(width_out)]
        self.stages = nn.Sequential(*layers)
        height, width = _sizes(image_shape, len(stages.channels))[-1]
        self.head = nn.Linear(stages.channels[-1] * height * width, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Map x of shape (..., *in_shape) to (..., out_features)."""
        leading = x.shape[: x.ndim - self.event_dim]
        maps = self.stages(x.reshape(leading.numel(), *self.image_shape))
        return self.head(maps.flatten(1)).reshape(*leading, -1)


class ConvDecoder(nn.Module):
    """An affine map to a small image and transposed convolutions that double it.

    Args:
        in_shape: event shape of the input.
        out_features: width of the output, M features for each entry of the image: feature m of entry (c, i, j)
            is the output's entry (m, c, i, j), as ``chunk(M, -1)`` and ``unflatten(-1, (C, H, W))`` take it.
        image_shape: (C, H, W).
        stages: settings of the stages, each of which doubles the image.
    """

    def __init__(self, in_shape: torch.Size, out_features: int, image_shape: torch.Size, stages: Stages) -> None:
        super().__init__()
        self.event_dim, self.out_features = len(in_shape), out_features
        sizes = _sizes(image_shape, len(stages.channels))[::-1]
        self.small = torch.Size((stages.channels[0], *sizes[0]))
        self.head = nn.Linear(torch.Size(in_shape).numel(), self.small.numel())
        widths = (*stages.channels, out_features // (image_shape[1] * image_shape[2]))
        layers: list[nn.Module] = []
        for (width_in, width_out), (size, target) in zip(pairwise(widths), pairwise(sizes), strict=True):
            layers += [*stages.at(width_in), _doubling(width_in, width_out, stages.kernel_size, size, target)]
        self.stages = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Map z of shape (..., *in_shape) to (..., out_features)."""
        leading = z.shape[: z.ndim - self.event_dim]
        maps = self.head(z.reshape(leading.numel(), -1)).unflatten(1, self.small)
        return self.stages(maps).reshape(*leading, self.out_features)


class ConstantChannels(nn.Module):
    """A network of images for a flat image and E entries behind it, which it sees as channels that are constant.

    Args:
        image_shape: (C, H, W).
        network: takes images of shape (..., C + E, H, W).
    """

    def __init__(self, image_shape: torch.Size, network: nn.Module) -> None:
        super().__init__()
        self.image_shape, self.network = image_shape, network

    def forward(self, x: Tensor) -> Tensor:
        """Map x of shape (..., C H W + E) to (..., out_features)."""
        image, entries = x.tensor_split([self.image_shape.numel()], -1)
        return self.network(join(image.unflatten(-1, self.image_shape), entries, self.image_shape))


class Residual(nn.Module):
    """Residual block, x + V * a(W * a(x)) with convolutions V and W and the activation a.

    Args:
        channels: width.
        kernel_size: odd size of the kernels.
        activation: class of the nonlinearity.

    Source: He et al. (2016), Identity Mappings in Deep Residual Networks, without the batch normalisation.
    """

    def __init__(self, channels: int, kernel_size: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()

        def same() -> nn.Module:
            return nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2)

        self.branch = nn.Sequential(activation(), same(), activation(), same())

    def forward(self, x: Tensor) -> Tensor:
        """Map images of shape (N, C, H, W) to the same shape."""
        return x + self.branch(x)


def _sizes(image_shape: torch.Size, stages: int) -> list[tuple[int, int]]:
    """Return (H, W), and what is left of it after each halving."""
    sizes = [(image_shape[1], image_shape[2])]
    for _ in range(stages):
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes


def _doubling(
    width_in: int, width_out: int, kernel_size: int, size: tuple[int, int], target: tuple[int, int]
) -> nn.Module:
    """Return the transposed convolution from an image of one size to one of twice the size, or one less."""
    missing = target[0] - (2 * size[0] - 1), target[1] - (2 * size[1] - 1)
    return nn.ConvTranspose2d(
        width_in, width_out, kernel_size, stride=2, padding=kernel_size // 2, output_padding=missing
    )


@dataclass(frozen=True)
class conv(NetworkFactory):
    """Convolutional encoders, from an image to a vector, residual ones where there are residual blocks.

    Args:
        channels: widths of the stages, each of which halves the image.
        image_shape: (C, H, W) or (H, W) of data that come flat; that of the input itself if absent.
        kernel_size: odd size of the kernels.
        activation: class of the nonlinearity.
        residual_blocks: residual blocks in each stage.

    Raises:
        ValueError: for widths that are no positive integers, an even kernel size, or, when the factory is called,
            an input that is no image of that shape.
    """

    channels: Sequence[int] = (32, 64)
    image_shape: Shape | None = None
    _: KW_ONLY
    kernel_size: int = 3
    activation: Callable[[], nn.Module] = nn.ReLU
    residual_blocks: int = 0

    def __post_init__(self) -> None:
        _stages(self)

    def __call__(self, in_shape: torch.Size, out_features: int) -> nn.Module:
        """Return the network."""
        image = as_image_shape(in_shape if self.image_shape is None else self.image_shape)
        if image.numel() != torch.Size(in_shape).numel():
            raise ValueError(f"Expected an input of shape {tuple(image)}, or flat; got {tuple(in_shape)}.")
        return ConvEncoder(in_shape, out_features, image, _stages(self))


@dataclass(frozen=True)
class deconv(NetworkFactory):
    """Convolutional decoders, from a vector to the features of an image, residual ones with residual blocks.

    Args:
        image_shape: (C, H, W) or (H, W) of one datum, which may itself be flat.
        channels: widths of the stages, each of which doubles the image.
        kernel_size: odd size of the kernels.
        activation: class of the nonlinearity.
        residual_blocks: residual blocks in each stage.

    Raises:
        ValueError: for widths that are no positive integers, an even kernel size, or, when the factory is called,
            a number of features that is no multiple of the number of entries.
    """

    image_shape: Shape
    channels: Sequence[int] = (64, 32)
    _: KW_ONLY
    kernel_size: int = 3
    activation: Callable[[], nn.Module] = nn.ReLU
    residual_blocks: int = 0

    def __post_init__(self) -> None:
        _stages(self)
        as_image_shape(self.image_shape)

    def __call__(self, in_shape: torch.Size, out_features: int) -> nn.Module:
        """Return the network."""
        image = as_image_shape(self.image_shape)
        if out_features % image.numel():
            raise ValueError(
                f"Expected a multiple of the {image.numel()} entries of image_shape={tuple(image)} as the number of "
                f"features; the likelihood wants {out_features}. Give decoder and likelihood the same image."
            )
        return ConvDecoder(in_shape, out_features, image, _stages(self))


def with_constant_channels(factory: Factory, image_shape: Shape, num_entries: int) -> Factory:
    """Return a factory of networks for a flat image and E entries behind it, shape (..., C H W + E).

    Args:
        factory: of networks of images, called with (C + E, H, W).
        image_shape: (C, H, W) or (H, W).
        num_entries: E.
    """
    image = as_image_shape(image_shape)

    def build(in_shape: torch.Size, out_features: int) -> nn.Module:
        return ConstantChannels(image, factory(joint_shape(image, num_entries), out_features))

    return build


def _stages(factory: conv | deconv) -> Stages:
    return Stages(tuple(factory.channels), factory.kernel_size, factory.activation, factory.residual_blocks)


def as_image_shape(shape: Shape) -> torch.Size:
    """Return (C, H, W) as it is and (H, W) with one channel.

    Raises:
        ValueError: for any other shape.
    """
    shape = as_shape(shape)
    if len(shape) not in (2, 3):
        raise ValueError(
            f"Expected an image of shape (C, H, W) or (H, W); got {tuple(shape)}. For data that come flat, give the "
            "shape: image_shape=(1, 28, 28)."
        )
    return shape if len(shape) == 3 else torch.Size((1, *shape))
