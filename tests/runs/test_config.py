"""The config: typed settings, written and read again, in this format and the one before."""

from __future__ import annotations

import dataclasses

import cases
import pytest
import yaml

from pyro_vae.core.registry import Spec
from pyro_vae.runs import Run
from pyro_vae.runs.config import FORMAT, PART_SETTINGS, SETTINGS, Config, read_settings
from pyro_vae.runs.registry import REGISTRIES


def test_every_setting_that_names_a_part_has_a_registry():
    assert set(PART_SETTINGS) == set(REGISTRIES)
    for name in PART_SETTINGS:
        default = Config()[name]
        assert default is None or REGISTRIES[name].find(default.class_path) is not None


def test_a_config_is_read_as_it_was_written(tmp_path):
    config = Config().with_settings(
        data="bits.npy", prior=Spec("Mixture", {"num_components": 3}), epochs=7, schema={"age": None}, num_particles=9
    )
    config.write(tmp_path / "config.yaml")
    assert Config.from_dict(read_settings(tmp_path / "config.yaml")) == config
    written = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert written["format"] == FORMAT
    assert written["prior"] == {"class_path": "Mixture", "init_args": {"num_components": 3}}
    assert list(written)[1:] == list(SETTINGS)


def test_settings_are_found_by_name_and_cannot_be_changed():
    config = Config()
    assert config["epochs"] == config.training.epochs == 250
    assert config["num_particles"] == config.scoring.num_particles
    changed = config.with_settings(epochs=3, data="mnist", latent_dim=4)
    assert (changed.training.epochs, changed.data.data, changed.parts.latent_dim) == (3, "mnist", 4)
    assert config["epochs"] == 250
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.training.epochs = 3


@pytest.mark.parametrize("name", [path.name for path in cases.DIRECTORIES.iterdir() if path.is_dir()])
def test_configs_of_version_0_1_name_the_same_parts(name):
    config = Run(cases.DIRECTORIES / name).config()
    old = yaml.safe_load((cases.DIRECTORIES / name / "config.yaml").read_text())
    assert "format" not in old
    for kind in PART_SETTINGS:
        if old.get(kind) is not None:
            registry, name = REGISTRIES[kind], old[kind]["class_path"].rpartition(".")[2]
            assert registry.name_of(registry.find(config[kind].class_path)) == name
            assert config[kind].init_args == old[kind].get("init_args", {})
    kept = [n for n in SETTINGS if n not in PART_SETTINGS and n in old]
    assert {n: config[n] for n in kept} == {n: old[n] for n in kept}
    assert set(SETTINGS) - set(old) == {"method", "audit", "watch"}


def test_settings_that_an_older_config_lacks_are_at_their_defaults():
    assert Config.from_dict({"data": "bits.npy"}) == Config().with_settings(data="bits.npy")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epocs: 3", r"Unknown setting 'epocs' in the config. Did you mean epochs\?"),
        ("prior: 3", "Expected the name of a class, or class_path and init_args; got 3"),
        ("[1, 2]", "is no config of pyro-vae"),
        ("a: [", "Cannot read the config"),
        ("format: 4", "has format 4; this version of pyro-vae reads up to 3"),
        ("format: new", "has format 'new'"),
    ],
)
def test_files_that_are_no_config_are_refused(text, words, tmp_path):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=words):
        Config.from_dict(read_settings(tmp_path / "config.yaml"))


def test_absent_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Cannot read the config"):
        read_settings(tmp_path / "absent.yaml")
    with pytest.raises(ValueError, match="holds no run: cannot read"):
        Run(tmp_path).config()
