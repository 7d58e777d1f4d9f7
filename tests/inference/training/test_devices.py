"""A step makes no tensor on another device than its data's and reads no value: torch's device "meta" stands for a GPU.

A tensor that is made on the CPU is copied at each step, for which a GPU is waited for, and so it is for a value that
is read: neither can be in a CUDA graph. Nothing on "meta" has values, so that reading one is an error.
"""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from parts.guides import DISCRETE, FAMILIES, family_for, pair
from parts.likelihoods import LIKELIHOODS
from parts.objectives import OBJECTIVES, STOCK
from parts.priors import PRIORS
from programs import deep_pair, make_pair
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae.inference import AmortizedGuide, guides, objectives
from pyro_vae.inference.compile.record import _without_questions
from pyro_vae.inference.programs.call import unvalidated
from pyro_vae.inference.programs.plates import Plates
from pyro_vae.inference.training.step import Stepper
from pyro_vae.models import VAE, conv, deconv, likelihoods, mlp, priors

CPU, META = torch.device("cpu"), torch.device("meta")
NO_META_KERNEL = {"_sample_dirichlet", "_dirichlet_grad", "binomial", "_standard_gamma", "_standard_gamma_grad"}
LOOKS = {"normal.Tensor_Tensor", "normal.float_Tensor", "_linalg_check_errors.default"}
"""Operations that look at values on a GPU, though not on "meta"."""


class Kernels(TorchDispatchMode):
    """Gives "meta" the kernels that it lacks in this or that version of torch."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if str(func).removeprefix("aten.").partition(".")[0] in NO_META_KERNEL:
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))


class OnMeta(Kernels):
    """Refuses tensors on other devices, and looks at values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func).removeprefix("aten.")
        assert name not in LOOKS, f"{name} looks at values"
        result = super().__torch_dispatch__(func, types, args, kwargs)
        given = [arg for arg in args if isinstance(arg, torch.Tensor) and not name.startswith("lift_fresh")]
        for made in result if isinstance(result, tuple | list) else [result]:
            if isinstance(made, torch.Tensor) and made.numel() and {t.device for t in [made, *given]} == {CPU}:
                assert given or _in_plate(), f"{name} makes a tensor of shape {tuple(made.shape)} on the CPU"
        return result


def _in_plate():
    """Say whether a plate is at work: Pyro's number their data on the CPU, and nobody asks for the numbers."""
    frame = sys._getframe()
    while frame is not None and not frame.f_code.co_filename.endswith("subsample_messenger.py"):
        frame = frame.f_back
    return frame is not None


def check_step(model, guide, objective, *event):
    """Take the gradient of a minibatch as it is recorded for a compiled step."""
    batch = (torch.zeros(4, *event, device=META),)
    beta = torch.ones((), device=META, dtype=torch.float64)
    model, guide, objective = model.to(META), guide.to(META), copy.deepcopy(objective)
    with unvalidated(), _without_questions():
        with Kernels():
            stepper = Stepper(model, guide, objective, torch.optim.Adam, None, batch)
        with OnMeta():
            stepper.gradient(batch, beta)


@pytest.fixture(autouse=True)
def _all_particles_at_once(monkeypatch):
    """What is found out about the programs by a look at values, before the first step."""
    monkeypatch.setattr("pyro_vae.inference.objectives.base.find_plates", lambda model, guide, args: Plates(1, 1))


@pytest.mark.filterwarnings("ignore:CUBO fits the guide alone", "ignore:The programs do not run with all")
@pytest.mark.parametrize("name", [*OBJECTIVES, *STOCK])
def test_objectives(name):
    check_step(*make_pair(), {**OBJECTIVES, **STOCK}[name](), 6)


@pytest.mark.parametrize("name", FAMILIES)
def test_guides(name):
    check_step(*pair(name), objectives.ELBO(2, gradient="score" if name in DISCRETE else "pathwise"), 6)


@pytest.mark.parametrize("name", PRIORS)
def test_priors(name):
    prior = PRIORS[name](3)
    guide = AmortizedGuide(6, family_for(prior)(3), mlp((8,)))
    estimator = "vimco" if type(prior).__name__ in ("Bernoulli", "Categorical") else "pathwise"
    x = prior.pseudo_inputs.shape[1:] if "Vamp" in name else (6,)
    if "Vamp" in name:
        guide = prior.guide
    check_step(VAE(prior, likelihoods.Bernoulli(x), mlp((8,))), guide, objectives.IWAE(3, estimator), *x)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihoods(name):
    model = VAE(priors.StandardNormal(2), LIKELIHOODS[name](), mlp((8,)))
    shape = model.event_shape
    check_step(model, AmortizedGuide(shape, guides.DiagonalNormal(2), mlp((8,))), objectives.IWAE(3), *shape)


def test_hierarchies_and_convolutions():
    for kind in ("bottom-up", "top-down"):
        check_step(*deep_pair(kind), objectives.IWAE(3), 2, 3)
    decoder, encoder = deconv((1, 7, 5), (3, 4), residual_blocks=1), conv((4, 5), residual_blocks=1)
    model = VAE(priors.StandardNormal(2), likelihoods.Bernoulli((1, 7, 5)), decoder)
    check_step(model, AmortizedGuide((1, 7, 5), guides.DiagonalNormal(2), encoder), objectives.ELBO(), 1, 7, 5)


@pytest.mark.filterwarnings("ignore:No closed KL")
def test_kl_terms_without_a_closed_form():
    check_step(*pair("StudentT"), objectives.ELBO(2, kl="analytic"), 6)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (lambda x: x + torch.zeros(()), "zeros.default makes a tensor"),
        (lambda x: x * torch.tensor([2.0]).to(META), "lift_fresh.default makes a tensor"),
        (lambda x: torch.normal(x, x), "looks at values"),
    ],
)
def test_what_is_made_elsewhere_and_what_is_looked_at_are_noticed(body, words):
    with pytest.raises(AssertionError, match=words), OnMeta():
        body(torch.ones(2, device=META))
