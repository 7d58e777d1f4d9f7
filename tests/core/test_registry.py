"""Parts by name: ours wherever a version has them, a user's own by dotted name, and nothing of another kind called."""

from __future__ import annotations

import pyro.infer
import pytest
import torch

from pyro_vae.core.registry import Registry, Spec
from pyro_vae.models import priors
from pyro_vae.runs.registry import REGISTRIES

PRIORS = REGISTRIES["prior"]
OWN = """
from torch import nn

called = []


class Mine(nn.Module):
    def __init__(self, dim, scale=1.0, widths=(2, 3)):
        super().__init__()
        self.dim, self.scale, self.widths = dim, scale, widths


class Other:
    def __init__(self, **anything):
        called.append(anything)
"""


@pytest.fixture
def own(folder, monkeypatch):
    (folder / "registry_test_parts.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(folder))
    import registry_test_parts

    return registry_test_parts


@pytest.mark.parametrize("kind", REGISTRIES)
def test_what_is_known_is_found_by_the_name_that_a_config_records(kind):
    registry = REGISTRIES[kind]
    for name, part in registry.known().items():
        assert registry.find(name) is part
        assert registry.find(f"{part.__module__}.{part.__qualname__}") is part
        assert registry.name_of(part) == name


def test_names_are_found_in_any_case_and_in_any_module_of_this_library():
    for name in ("vampprior", "VampPrior", "pyro_vae.models.priors.VampPrior", "pyro_vae.where.it.was.VampPrior"):
        assert PRIORS.find(name) is priors.VampPrior
    assert REGISTRIES["objective"].find("pyro.infer.Trace_ELBO") is pyro.infer.Trace_ELBO
    assert REGISTRIES["optimizer"].find("torch.optim.SGD") is torch.optim.SGD


@pytest.mark.parametrize("kind", REGISTRIES)
@pytest.mark.parametrize("stranger", ["subprocess.Popen", "pathlib.Path", "registry_test_parts.Other"])
def test_a_class_of_another_kind_is_refused_before_it_is_called(kind, stranger, own):
    with pytest.raises(ValueError, match=rf"Expected a class of .+ for the {kind}; got {stranger}"):
        REGISTRIES[kind].build(Spec(stranger, {"args": "echo owned > OWNED", "shell": True}))
    assert not own.called


def test_a_part_of_one_kind_is_none_of_another():
    with pytest.raises(ValueError, match=r"Unknown objective 'VampPrior'"):
        REGISTRIES["objective"].find("VampPrior")
    with pytest.raises(
        ValueError, match=r"Expected a class of LRScheduler for the scheduler; got torch.optim.adam.Adam"
    ):
        REGISTRIES["scheduler"].find("torch.optim.Adam")


def test_a_users_own_part_is_built_with_what_it_takes(own):
    spec = Spec.of({"class_path": "registry_test_parts.Mine", "init_args": {"scale": 2.0, "widths": (4, 5)}})
    part = PRIORS.build(spec, dim=7, data=torch.zeros(2), guide=None)
    assert (part.dim, part.scale, list(part.widths)) == (7, 2.0, [4, 5])
    assert PRIORS.name_of(own.Mine) == "registry_test_parts.Mine"
    assert PRIORS.options(own.Mine) == ["scale", "widths"]
    with pytest.raises(ValueError, match=r"Cannot build prior Mine: .*unexpected keyword argument 'size'"):
        PRIORS.build(Spec("registry_test_parts.Mine", {"size": 1}), dim=1)


def test_arguments_at_their_defaults_are_left_out_of_a_description(own):
    at_defaults = Spec.of({"class_path": "registry_test_parts.Mine", "init_args": {"scale": 1.0, "widths": [2, 3]}})
    assert PRIORS.describe(at_defaults) == "Mine()"
    assert PRIORS.describe(Spec("registry_test_parts.Mine", {"widths": [2, 4]})) == "Mine(widths=[2, 4])"
    assert REGISTRIES["optimizer"].describe(Spec("Adam", {"lr": 1e-3, "eps": 1e-8})) == "Adam(lr=0.001)"


@pytest.mark.parametrize("value", [3, None, {}, {"class_path": 3}, ["VAE"]])
def test_what_names_no_class_is_refused(value):
    with pytest.raises(ValueError, match=r"Expected the name of a class, or class_path and init_args; got"):
        Spec.of(value)


def test_abstract_classes_and_strangers_in_a_room_are_no_parts():
    registry = Registry("prior", priors.Prior, {"Prior": priors.Prior, "Path": str, "Flat": priors.Flat})
    assert list(registry.known()) == ["Flat"]


def test_lists_of_a_config_are_tuples_where_the_class_has_tuples(own):
    part = PRIORS.build(Spec("registry_test_parts.Mine", {"widths": [4, 5]}), dim=1)
    assert part.widths == (4, 5)
    make = REGISTRIES["optimizer"].partial(Spec("Adam", {"betas": [0.8, 0.9]}))
    assert make([torch.zeros(1, requires_grad=True)]).param_groups[0]["betas"] == (0.8, 0.9)


def test_specs_are_the_same_where_class_and_all_arguments_are(own):
    mine = Spec("registry_test_parts.Mine")
    assert PRIORS.same(mine, Spec("registry_test_parts.Mine", {"scale": 1.0, "widths": [2, 3]}))
    assert not PRIORS.same(mine, Spec("registry_test_parts.Mine", {"scale": None}))
    assert not PRIORS.same(mine, Spec("StandardNormal"))
    assert PRIORS.same(Spec("pyro_vae.models.priors.VampPrior"), Spec("VampPrior"))
