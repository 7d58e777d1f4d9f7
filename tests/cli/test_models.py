"""Networks and kinds of model on the command line: what is built, what it is called with, what is estimated."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import QUICK, built, train, train_bits
from torch import nn

from pyro_vae.cli import main
from pyro_vae.inference import Evidence, evidence, guides
from pyro_vae.models import HierarchicalVAE, likelihoods, mlp
from pyro_vae.models.networks.convolution import ConvDecoder, ConvEncoder, Residual
from pyro_vae.runs import Run

NETWORK = """
from torch import nn


class Narrow(nn.Module):
    def __init__(self, in_shape, out_features, width: int = 3):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(in_shape.numel(), width), nn.Tanh(), nn.Linear(width, out_features))

    def forward(self, x):
        return self.layers(x)
"""


@pytest.fixture
def pictures(folder):
    """Binary pictures of 5 x 7 pixels in the working directory."""
    np.save("pictures.npy", (np.random.default_rng(1).random((100, 5, 7)) < 0.4).astype(np.float32))
    return ["--data", "pictures.npy"]


def shapes(module):
    return [tuple(p.shape) for p in module.parameters()]


def test_convolutions_are_built_as_asked_and_scored_again_alike(pictures):
    options = ["--encoder", "conv", "--encoder.channels", "[3, 4]", "--encoder.residual_blocks", "2"]
    assert (
        train(*pictures, *options, "--decoder", "deconv", "--decoder.channels", "[4]", "--hidden", "--out", "run") == 2
    )
    short = [option for option in QUICK if option not in ("--hidden", "8")]
    assert (
        main(["train", *short, *pictures, *options, "--decoder", "deconv", "--decoder.channels", "[4]", "--out", "run"])
        == 0
    )
    _, splits, model, guide, _ = Run("run").load()
    assert isinstance(guide.encoder, ConvEncoder)
    assert isinstance(model.decoder, ConvDecoder)
    assert [m.out_channels for m in guide.encoder.stages if isinstance(m, nn.Conv2d)] == [3, 4]
    assert sum(isinstance(m, Residual) for m in guide.encoder.modules()) == 4
    assert "encoder conv(channels=[3, 4], kernel_size=3, residual_blocks=2, relu)" in Run("run").facts()["networks"]
    trained = Evidence.load("run/evidence.npz")
    again = evidence(model, guide, splits.test, 30, seed=0, method="iw", progress=False, device="cpu")
    assert torch.equal(again.log_px, trained.log_px)


def test_hidden_and_activation_are_for_both_networks_unless_one_has_its_own(folder):
    options = ["--data", "bits.npy", "--latent-dim", "2", "--hidden", "7", "--activation", "silu"]
    model, guide = built(*options, "--encoder", "gated_mlp", "--encoder.hidden", "[5, 4]")
    assert shapes(guide.encoder) == [(10, 6), (10,), (8, 5), (8,), (4, 4), (4,)]  # a gated layer is twice as wide
    assert shapes(model.decoder) == [(7, 2), (7,), (6, 7), (6,)]
    assert any(isinstance(m, nn.SiLU) for m in model.decoder.modules())


def test_default_networks_are_those_of_the_library(folder):
    model, guide = built("--data", "bits.npy")
    assert shapes(model.decoder) == shapes(mlp()(torch.Size((20,)), 6))
    assert any(isinstance(m, nn.Tanh) for m in guide.encoder.modules())


def test_network_of_ones_own(folder):
    (folder / "cli_test_networks.py").write_text(NETWORK)
    short = [option for option in QUICK if option not in ("--hidden", "8")]
    own = ["--encoder", "cli_test_networks.Narrow", "--encoder.width", "4", "--decoder", "cli_test_networks.Narrow"]
    assert main(["train", "--data", "bits.npy", *short, *own, "--out", "run"]) == 0
    _, _, model, guide, _ = Run("run").load()
    assert guide.encoder.layers[0].out_features == 4
    assert model.decoder.layers[0].out_features == 3
    assert main(["train", "--resume", "run", "--epochs", "3"]) == 0
    assert Run("run").facts()["networks"] == "encoder Narrow(width=4), decoder Narrow()"


def test_hierarchy_is_the_two_layer_network_of_burda_et_al(folder):
    model, guide = built("--data", "bits.npy", "--model", "HierarchicalVAE")
    layers = (mlp((200, 200)), mlp((100, 100)))
    theirs = HierarchicalVAE((100, 50), likelihoods.Bernoulli(6), layers)
    families = (guides.DiagonalNormal(100), guides.DiagonalNormal(50))
    assert shapes(model) == shapes(theirs)
    assert shapes(guide) == shapes(guides.HierarchicalGuide(6, families, layers))


def test_ladder_shares_the_networks_of_the_model(folder):
    options = ["--model", "HierarchicalVAE", "--model.latent_dims", "[4, 3, 2]", "--model.guide", "ladder"]
    model, guide = built("--data", "bits.npy", *options)
    assert isinstance(guide, guides.LadderGuide)
    assert guide.transitions is model.transitions
    assert [head.out_features for head in guide.heads] == [8, 6, 4]


@pytest.mark.parametrize("guide", ["ladder", "bottom_up"])
def test_hierarchy_is_trained_scored_drawn_from_and_reported(guide, folder, capsys):
    options = ["--model", "HierarchicalVAE", "--model.latent_dims", "[3, 2]", "--model.guide", guide]
    short = QUICK[: QUICK.index("--latent-dim")] + QUICK[QUICK.index("--latent-dim") + 2 :]
    assert main(["train", "--data", "bits.npy", *short, *options, "--model.hidden", "[4]", "--out", "run"]) == 0
    _, splits, model, q, _ = Run("run").load()
    again = evidence(model, q, splits.test, 30, seed=0, method="iw", progress=False, device="cpu")
    torch.testing.assert_close(again.log_px, Evidence.load("run/evidence.npz").log_px)
    assert Run("run").facts()["latent dimension"] == "[3, 2]"
    assert main(["sample", "run", "--num-samples", "3"]) == 0
    assert np.load("run/samples.npy").shape == (3, 6)
    capsys.readouterr()
    assert main(["sample", "run", "--label", "1"]) == 2
    assert "Expected no --label for HierarchicalVAE" in capsys.readouterr().err


MISTAKES = {
    "no pictures": (["--encoder", "conv"], "Expected pictures for --encoder conv; the data of bits.npy are vectors"),
    "no pictures to decode": (["--decoder", "deconv"], "Expected pictures for --decoder deconv"),
    "decoder": (["--decoder", "conv"], "Unknown decoder 'conv'. Did you mean deconv?"),
    "model": (["--model", "HierachicalVAE"], "Unknown model 'HierachicalVAE'. Did you mean HierarchicalVAE?"),
    "option of a model": (
        ["--model", "ConditionalVAE", "--model.lable", "x"],
        "has no option --model.lable. Did you mean --model.label?",
    ),
    "no labels": (["--model", "ConditionalVAE"], "Expected data with labels; bits.npy has none. Name a column"),
    "no such column": (["--model", "ConditionalVAE", "--model.label", "x"], "Expected a column of bits.npy; got 'x'"),
    "latent dimension": (["--model", "HierarchicalVAE"], "Expected no --latent-dim for HierarchicalVAE"),
    "layers": (["--model", "HierarchicalVAE", "--model.latent_dims", "[3]"], "Expected at least two latent_dims"),
    "no list": (["--model", "HierarchicalVAE", "--model.latent_dims", "3"], "--model.latent_dims: Expected a list"),
    "kind of guide": (["--model", "HierarchicalVAE", "--model.guide", "lader"], "one of 'bottom_up', 'ladder'"),
    "channels": (["--encoder.channels", "[3]"], "mlp has no option --encoder.channels. It has --encoder.hidden"),
    "option of a part": (
        ["--prior", "Mixture", "--prior.num_component", "3"],
        "Mixture has no option --prior.num_component. Did you mean --prior.num_components?",
    ),
    "part not named": (["--likelihood.scale", "3"], "Expected --likelihood PART with --likelihood.scale"),
    "optimizer": (["--optimizer", "Adm"], "Unknown optimizer 'Adm'. Did you mean Adam?"),
    "option of an optimizer": (["--optimizer.lrr", "3"], "Adam has no option --optimizer.lrr. Did you mean"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_get_one_line_and_leave_nothing_behind(name, folder, capsys):
    before = {p.name for p in folder.rglob("*")}
    options, message = MISTAKES[name]
    assert train_bits(*options) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert message in error
    assert {p.name for p in folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hidden", "3", "--encoder", "conv", "--decoder", "deconv"], "neither conv nor deconv takes it"),
        (["--model", "HierarchicalVAE", "--model.guide", "ladder", "--guide", "StudentT"], "layers of a ladder are"),
        (["--model", "ConditionalVAE", "--model.prior_given_label", "true", "--prior", "Laplace"], "Expected --prior"),
        (["--model", "SemiSupervisedVAE", "--model.num_labels", "9999"], "Expected num_labels of at most 1197"),
        (["--model", "ConditionalVAE", "--model.label", "0"], "Expected a table of at least two columns"),
    ],
)
def test_what_does_not_go_together_is_refused(options, message, folder, capsys):
    assert main(["train", "--epochs", "1", *options]) == 2
    assert message in capsys.readouterr().err
    assert not (folder / "runs").exists()


def test_a_network_that_is_named_starts_from_its_own_defaults_and_not_those_of_another(folder):
    """Hidden widths of the default network, [200, 200], would otherwise count as asked for, and win over --hidden."""
    model, guide = built("--data", "bits.npy", "--encoder", "gated_mlp", "--hidden", "8")
    assert shapes(guide.encoder)[0] == (16, 6)
    assert shapes(model.decoder)[0][0] == 8
    _, guide = built("--data", "bits.npy", "--encoder", "gated_mlp")
    assert shapes(guide.encoder)[0] == (600, 6)
