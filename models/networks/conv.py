"""Factories of convolutional encoders and decoders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import nn

from pyro_vae.core.modules import Shape, as_shape
from pyro_vae.models.networks.base import NetworkFactory
from pyro_vae.models.networks.convolutions import ConvDecoder, ConvEncoder, Stages


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
