"""Parts of the user's own on the command line: listed, described, and suggested; and the help of the commands."""

from __future__ import annotations

import pytest

from pyro_vae.cli import main
from pyro_vae.cli.commands import COMMANDS
from pyro_vae.cli.parser import build_parsers

PARTS = '''
import pyro.distributions as dist
import torch
from torch import nn

from pyro_vae.inference.guides import DiagonalNormal


class Spike(nn.Module):
    """Spike at 0, p(z) = N(z; 0, s^2 I).

    Args:
        dim: latent dimension.
        scale: s.
    """

    def __init__(self, dim: int, scale: float = 0.1):
        super().__init__()
        self.dim, self.scale = dim, scale

    def forward(self):
        return dist.Normal(torch.zeros(self.dim), self.scale).to_event(1)


class Wide(DiagonalNormal):
    """Diagonal normal family of my own."""


class Grey(nn.Module):
    def __init__(self, event_shape):
        super().__init__()

    def forward(self, h):
        return dist.Normal(h, 1.0).to_event(1)


class Net(nn.Module):
    """A network."""

    def __init__(self, in_shape, out_features, depth: int = 2):
        super().__init__()


class Helper:
    """No part."""
'''


@pytest.fixture
def own(folder):
    (folder / "own_parts_test.py").write_text(PARTS)
    return folder


def test_parts_of_a_module_are_listed_by_kind(own, capsys):
    assert main(["parts", "own_parts_test"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [" ".join(line.split()) for line in lines[1:]] == [
        "Spike prior: Spike at 0, p(z) = N(z; 0, s^2 I).",
        "Wide guide: Diagonal normal family of my own.",
        "Grey likelihood:",
        "Net encoder/decoder: A network.",
    ]


def test_part_of_ones_own_is_described_like_those_shipped_here(own, capsys):
    assert main(["parts", "own_parts_test.Spike"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("own_parts_test.Spike(dim, scale=0.1): --prior own_parts_test.Spike\n\nSpike at 0, p(z) = N")
    assert "    scale: s." in out
    assert out.endswith("Options: --prior.scale\n")
    assert main(["parts", "own_parts_test.Grey"]) == 0
    assert "No docstring." in capsys.readouterr().out  # not the one that it inherits from torch
    assert main(["parts", "own_parts_test.Net"]) == 0
    out = capsys.readouterr().out
    assert "--encoder own_parts_test.Net" in out
    assert "Options: --decoder.depth" in out


def test_parts_shipped_here_show_their_options(capsys):
    assert main(["parts", "mixture"]) == 0
    out = capsys.readouterr().out
    assert "Options: --prior.num_components --prior.spread" in out
    assert "--guide Mixture" in out  # a part of that name is of two kinds
    assert main(["parts", "HierarchicalVAE"]) == 0
    assert "Options: --model.latent_dims --model.hidden --model.guide" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_parts_test.Spke", "own_parts_test has no Spke. Did you mean Spike?"),
        ("own_part_test", "Unknown part 'own_part_test'. Did you mean own_parts_test?"),
        ("own_part_test.Spike", "No module named 'own_part_test'. Did you mean own_parts_test?"),
        ("math", "math holds no part"),
        ("broken_parts_test", "broken_parts_test raises SyntaxError"),
        ("VampPrio", "Unknown part 'VampPrio'. Did you mean VampPrior?"),
    ],
)
def test_what_is_no_part_is_said_in_one_line(name, message, own, capsys):
    (own / "broken_parts_test.py").write_text("x = (")
    assert main(["parts", name]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_class_that_is_misspelt_in_training(own, capsys):
    assert main(["train", "--prior", "own_parts_test.Spke"]) == 2
    assert "own_parts_test has no Spke. Did you mean Spike?" in capsys.readouterr().err
    assert main(["train", "--prior", "own_parts_test.Spike", "--prior.scal", "2"]) == 2
    assert "Spike has no option --prior.scal. Did you mean --prior.scale?" in capsys.readouterr().err


def test_value_of_an_option_of_ones_own_part(own, capsys):
    assert main(["train", "--prior", "own_parts_test.Spike", "--prior.scale", "wide"]) == 2
    error = capsys.readouterr().err
    assert error == "pyro-vae: error: --prior.scale: Expected a value of type float. Got value: wide\n"


@pytest.mark.parametrize("command", ["train", "evaluate", "sample"])
def test_help_says_what_each_option_does_and_no_more(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    out = capsys.readouterr().out
    for noise in ("<class", "known subclasses", "Base class", "type:", ",null", "CLASS_PATH"):
        assert noise not in out
    assert len(out.splitlines()) < 110
    for action in build_parsers(COMMANDS, {})[1][command]._actions:
        assert action.help
    assert out.startswith("usage: pyro-vae")


def test_help_of_a_part_is_still_there(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--prior.help", "Mixture"])
    assert "--prior.num_components" in capsys.readouterr().out


def test_defaults_are_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    for default in ("(default: digits)", "(default: VAE)", "(default: StandardNormal)", "training (default: 0)"):
        assert default in out


def test_a_class_among_the_defaults_is_shown_by_its_name(capsys):
    assert main(["parts", "conv"]) == 0
    assert "activation=ReLU, residual_blocks=0" in capsys.readouterr().out
