"""Every network: shapes, one datum at a time, and a gradient for every parameter."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pyro_vae.models import conv, deconv, gated_mlp, likelihoods, mlp

IMAGES = [(1, 28, 28), (3, 8, 8), (2, 31, 5), (1, 1, 7)]
ENCODERS = {
    "mlp": lambda: mlp((7, 6)),
    "mlp, affine": lambda: mlp(()),
    "gated_mlp": lambda: gated_mlp((7, 6)),
    "conv": lambda: conv((4, 5)),
    "conv, kernel 5": lambda: conv((4,), kernel_size=5, activation=nn.ELU),
    "conv, residual": lambda: conv((8, 9, 8), residual_blocks=2),
}
DECODERS = {
    "mlp": lambda image: mlp((7,)),
    "gated_mlp": lambda image: gated_mlp((7,)),
    "deconv": lambda image: deconv(image, (5, 4)),
    "deconv, kernel 5": lambda image: deconv(image, (4,), kernel_size=5),
    "deconv, residual": lambda image: deconv(image, (3, 5, 4), activation=nn.ELU, residual_blocks=1),
}
BOTH = [(kind, name) for kind, table in (("encoder", ENCODERS), ("decoder", DECODERS)) for name in table]


def _build(kind, name, image=(2, 7, 5)):
    """Return a network and its event shapes: from an image to 6 features, or from 3 to two images' features."""
    shape = torch.Size(image)
    ends = (shape, 6) if kind == "encoder" else (torch.Size((3,)), 2 * shape.numel())
    factory = ENCODERS[name]() if kind == "encoder" else DECODERS[name](image)
    return factory(*ends).double(), *ends


@pytest.mark.parametrize("image", IMAGES, ids=str)
@pytest.mark.parametrize(("kind", "name"), BOTH)
def test_shapes_for_any_size_and_leading_dimensions(kind, name, image):
    network, in_shape, out = _build(kind, name, image)
    for leading in ((), (3,), (2, 3), (2, 1, 3)):
        assert network(torch.randn(*leading, *in_shape, dtype=torch.float64)).shape == (*leading, out)


@pytest.mark.parametrize(("kind", "name"), BOTH)
def test_each_datum_alone(kind, name):
    network, in_shape, _ = _build(kind, name)
    x = torch.randn(2, 3, *in_shape, dtype=torch.float64)
    alone = torch.stack([torch.stack([network(datum) for datum in row]) for row in x])
    torch.testing.assert_close(network(x), alone)
    assert not (alone[0, 0] - alone[0, 1]).abs().max() < 1e-3  # and different data have different outputs


@pytest.mark.parametrize(("kind", "name"), BOTH)
def test_gradient_reaches_every_parameter_and_no_state_is_kept(kind, name):
    network, in_shape, _ = _build(kind, name)
    network(torch.randn(9, *in_shape, dtype=torch.float64)).square().sum().backward()
    for parameter in network.parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().sum() > 0
    assert not list(network.buffers())


@pytest.mark.parametrize(("kind", "name"), BOTH)
def test_training_and_evaluation_are_the_same(kind, name):
    network, in_shape, _ = _build(kind, name)
    x = torch.randn(4, *in_shape, dtype=torch.float64)
    torch.testing.assert_close(network(x), network.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", [name for name in ENCODERS if name.startswith("conv")])
def test_encoders_take_flat_data_and_images_without_channel(name):
    torch.manual_seed(0)
    image, *_ = _build("encoder", name, (1, 9, 6))
    options = {"conv": {}, "conv, kernel 5": {"kernel_size": 5, "activation": nn.ELU}}
    channels = {"conv": (4, 5), "conv, kernel 5": (4,)}.get(name, (8, 9, 8))
    factory = conv(channels, (9, 6), **options.get(name, {"residual_blocks": 2}))
    flat = factory(torch.Size((54,)), 6).double()
    flat.load_state_dict(image.state_dict())
    x = torch.randn(2, 4, 9, 6, dtype=torch.float64)
    torch.testing.assert_close(flat(x.flatten(-2)), image(x[:, :, None]))
    two = ENCODERS[name]()(torch.Size((9, 6)), 6).double()
    two.load_state_dict(image.state_dict())
    torch.testing.assert_close(two(x), image(x[:, :, None]))


@pytest.mark.parametrize("name", [name for name in DECODERS if name.startswith("deconv")])
def test_features_are_in_the_likelihoods_order(name):
    # The decoder's last channels are (feature, channel): a bias there moves one parameter of one channel, everywhere.
    image = (3, 7, 5)
    network = DECODERS[name](image)(torch.Size((2,)), 2 * 3 * 7 * 5).double()
    likelihood = likelihoods.Normal(image, "datum").double()
    z = torch.randn(4, 2, dtype=torch.float64)
    before = likelihood(network(z)).base_dist
    with torch.no_grad():
        network.stages[-1].bias[1] += 2.0  # the mean of channel 1
        network.stages[-1].bias[3 + 2] += 1.0  # the log scale of channel 2
    after = likelihood(network(z)).base_dist
    moved, widened = after.loc - before.loc, (after.scale / before.scale).log()
    for c in range(3):
        torch.testing.assert_close(moved[:, c], torch.full_like(moved[:, c], 2.0 if c == 1 else 0.0))
        torch.testing.assert_close(widened[:, c], torch.full_like(moved[:, c], 1.0 if c == 2 else 0.0))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: mlp((3, 0)), "Expected hidden widths to be an integer >= 1; got 0"),
        (lambda: gated_mlp((2.5,)), "Expected hidden widths to be an integer >= 1; got 2.5"),
        (lambda: conv((4, -1)), "Expected channels to be an integer >= 1; got -1"),
        (lambda: conv(()), r"Expected at least one width in channels; got \(\)\. Use mlp"),
        (lambda: conv(kernel_size=4), "Expected an odd kernel_size, whose middle is a pixel; got 4"),
        (lambda: deconv(8, residual_blocks=-1), r"Expected residual_blocks \+ 1 to be an integer >= 1; got 0"),
        (lambda: deconv(784), r"Expected an image of shape \(C, H, W\) or \(H, W\); got \(784,\)\. For data that"),
        (lambda: conv()(torch.Size((784,)), 3), r"got \(784,\)\. For data that come flat, give the shape: image_shape"),
        (lambda: conv(image_shape=(8, 9))(torch.Size((64,)), 3), r"an input of shape \(1, 8, 9\), or flat; got \(64,"),
        (lambda: deconv((8, 8))(torch.Size((2,)), 65), "Expected a multiple of the 64 entries .* wants 65"),
    ],
)
def test_bad_settings_get_one_clear_line(build, message):
    with pytest.raises(ValueError, match=message):
        build()
