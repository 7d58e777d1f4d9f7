"""What a command line stands for: parts by name, configs and what overrides them, and options that there are not."""

from __future__ import annotations

import pytest

from pyro_vae.cli import main
from pyro_vae.cli.commands import COMMANDS
from pyro_vae.cli.parser import config_of, parse
from pyro_vae.core.registry import Spec
from pyro_vae.runs.config import Config


def parsed(*argv: str) -> Config:
    return config_of(parse(COMMANDS, ["train", *argv])[1])


def write(tmp_path, text: str) -> list[str]:
    (tmp_path / "some.yaml").write_text(text)
    return ["--config", str(tmp_path / "some.yaml")]


def test_no_option_is_the_default_config():
    config = parsed()
    for name in ("model", "prior", "guide", "encoder", "decoder", "optimizer"):
        assert config[name].class_path == Config()[name].class_path
    assert config.data == Config().data
    assert config.training.objective.class_path == "Trace_ELBO"
    assert parsed("--model", "SemiSupervisedVAE").training.objective.init_args["gradient"] == "enumerate"
    same = parsed("--model", "SemiSupervisedVAE", "--objective", "ELBO", "--objective.beta", "2").training.objective
    assert same.init_args["gradient"] == "enumerate"
    other = parsed("--model", "SemiSupervisedVAE", "--objective", "IWAE").training.objective
    assert other.init_args["gradient"] == "pathwise"


def test_parts_and_their_arguments():
    config = parsed("--prior", "mixture", "--prior.num_components", "3", "--latent-dim=4")
    assert config.parts.prior == Spec("Mixture", {"num_components": 3, "spread": 1.0})
    assert config.parts.latent_dim == 4
    assert parsed("--optimizer", "SGD").training.optimizer.init_args["lr"] == 2e-3
    assert parsed("--optimizer", "SGD", "--optimizer.lr", "0.5").training.optimizer.init_args["lr"] == 0.5


def test_a_config_gives_way_to_options_and_its_parts_to_those_that_are_named(tmp_path):
    text = """
    prior: {class_path: Mixture, init_args: {num_components: 3}}
    scheduler: {class_path: torch.optim.lr_scheduler.StepLR, init_args: {step_size: 2}}
    guide: pyro_vae.old.place.FullRankNormal
    epochs: 7
    """
    file = write(tmp_path, text)
    config = parsed(*file)
    assert config.parts.prior.init_args["num_components"] == 3
    assert config.training.scheduler.init_args["step_size"] == 2
    assert config.parts.guide == Spec("FullRankNormal")
    assert (config.training.epochs, config.training.batch_size) == (7, 100)
    config = parsed(*file, "--epochs", "9", "--prior.num_components", "4", "--scheduler", "null")
    assert (config.training.epochs, config.training.scheduler) == (9, None)
    assert config.parts.prior.init_args["num_components"] == 4
    assert parsed(*file, "--prior", "StandardNormal").parts.prior == Spec("StandardNormal")


def test_what_print_config_writes_is_read_again(tmp_path, capsys):
    options = ["--prior", "Flow", "--prior.hidden", "[4, 4]", "--schema", "{age: null}", "--out", "somewhere"]
    with pytest.raises(SystemExit):
        main(["train", *options, "--print_config"])
    assert parsed(*write(tmp_path, capsys.readouterr().out)) == parsed(*options)


MISTAKES = {
    "option": (["--epocs", "3"], r"Unknown option --epocs\. Did you mean --epochs\?"),
    "option of another command": (["--num-draws", "3"], r"Unknown option --num-draws\."),
    "argument": (["--prior", "Mixture", "--prior.spred", "2"], r"Mixture has no option --prior\.spred\. Did you mean"),
    "argument of the default": (["--guide.rank", "2"], r"DiagonalNormal has no option --guide\.rank\. It has none\."),
    "argument of no part": (["--likelihood.scale", "2"], r"Expected --likelihood PART with --likelihood\.scale"),
    "optimizer": (["--optimizer", "Adm"], r"Unknown optimizer 'Adm'\. Did you mean Adam\?"),
    "type": (["--epochs", "many"], r"--epochs: Expected a value of type int\. Got value: many"),
    "type of an argument": (["--optimizer.amsgrad", "3"], r"--optimizer\.amsgrad: "),
    "another kind": (["--prior", "subprocess.Popen"], r"Expected a class of Prior or .* for the prior"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name):
    argv, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message):
        parsed(*argv)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epocs: 2", "Unknown setting 'epocs' in the config"),
        ("prior: subprocess.Popen", "Expected a class of Prior or .* for the prior; got subprocess.Popen"),
        ("optimizer: {class_path: subprocess.Popen, init_args: {args: ls}}", "Expected a class of Optimizer"),
        ("epochs: many", "--epochs: Expected a value of type int"),
    ],
)
def test_configs_are_held_to_the_same(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        parsed(*write(tmp_path, text))


def test_files_of_settings_are_merged_the_later_over_the_earlier(tmp_path):
    first = write(tmp_path, "{data: bits.npy, epochs: 3, prior: {class_path: Mixture, init_args: {num_components: 3}}}")
    (tmp_path / "over.yaml").write_text("{epochs: 5, latent-dim: 4}")
    config = parsed(*first, "--config", str(tmp_path / "over.yaml"))
    assert (config.data.data, config.training.epochs, config.parts.latent_dim) == ("bits.npy", 5, 4)
    assert config.parts.prior.init_args["num_components"] == 3


def test_of_a_part_that_is_named_twice_the_last_counts():
    assert parsed("--prior", "Mixture", "--prior", "Flow", "--prior.kind", "maf").parts.prior.class_path == "Flow"
    assert parsed("--optimizer", "SGD", "--optimizer=Adam").training.optimizer.class_path == "Adam"
    assert parsed("--prior.class_path", "Mixture").parts.prior.class_path == "Mixture"


@pytest.mark.parametrize("text", ["{model: null, encoder: null, prior: null, optimizer: null}", "{}"])
def test_a_part_that_is_null_is_at_its_default(text, tmp_path):
    assert parsed(*write(tmp_path, text)) == parsed()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3: 4", "Unknown setting '3'"),
        (
            "prior: {class_path: Mixture, num_components: 3}",
            "Expected the name of a class, or class_path and init_args",
        ),
        ("prior: {class_path: Mixture, init_args: 5}", "Expected the name of a class, or class_path and init_args"),
        ("prior: {class_path: Mixture, init_args: {num_component: 3}}", "Did you mean --prior.num_components"),
    ],
)
def test_damaged_configs_get_one_line(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        parsed(*write(tmp_path, text))


def test_further_arguments_of_a_config_are_arguments(tmp_path):
    file = write(tmp_path, "prior: {class_path: Mixture, dict_kwargs: {num_components: 3}}")
    assert parsed(*file).parts.prior.init_args["num_components"] == 3


OWN = """
from torch import nn, optim


class Settings(nn.Module):
    def __init__(self, dim, settings: dict[str, float] = {"scale": 1.0}):
        super().__init__()


class Step(optim.lr_scheduler.StepLR):
    def __init__(self, optimizer, **anything):
        super().__init__(optimizer, **anything)
"""


def test_own_parts_with_mappings_and_further_arguments(tmp_path, monkeypatch):
    (tmp_path / "parser_test_parts.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = parsed("--prior", "parser_test_parts.Settings", "--prior.settings.scale", "3")
    assert config.parts.prior.init_args["settings"] == {"scale": 3.0}
    config = parsed("--scheduler", "parser_test_parts.Step", "--scheduler.step_size", "2")
    assert config.training.scheduler.init_args["step_size"] == 2
