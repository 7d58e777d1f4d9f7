"""Mistakes in a program that would give a wrong number are refused."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import decoded, normal_model

from pyro_vae.inference import log_weights
from pyro_vae.inference.objectives import IWAE

D, P = 3, 4
WEIGHT = torch.randn(D, P, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _forgot_to_event(x):
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z[..., None], 1.0), obs=x)


def _forgot_to_squeeze(x):
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def _scalar_guide(x):
    with pyro.plate("data", x.shape[0]):
        pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))


def _inner_subsample(x):
    with pyro.plate("data", x.shape[0], dim=-2):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("counts", x.shape[1], subsample_size=2, dim=-1) as index:
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, index])


def _outer_guide(x):
    with pyro.plate("data", x.shape[0], dim=-2):
        pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))


def _wide_guide(x):
    with pyro.plate("data", x.shape[0]):
        pyro.sample("z", dist.Normal(torch.zeros(1, dtype=x.dtype), 1.0).to_event(1))


def _noisy_guide(x):
    with pyro.plate("data", x.shape[0]):
        u = pyro.sample("u", dist.Normal(torch.zeros(()), 1.0), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Normal(u, 1.0))


def _time_outside(x):
    with pyro.plate("time", x.shape[1], dim=-2), pyro.plate("data", x.shape[0], dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)


def _time_outside_guide(x):
    with pyro.plate("time", x.shape[1], dim=-2), pyro.plate("data", x.shape[0], dim=-1):
        pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))


SILENT = {
    "no to_event": (
        _forgot_to_event,
        _scalar_guide,
        (6, 1),
        r"the value observed at site 'x' of the model of shape \(\d,\).*; got",
    ),
    "one batch too many": (_forgot_to_squeeze, _scalar_guide, (6, 1), r"declare the event with \.to_event\(n\)"),
    "subsampled inside": (_inner_subsample, _outer_guide, (6, 4), "plate 'counts'; it is subsampled, 2 of 4"),
    "guide narrower": (
        decoded(lambda z: z[..., :1] * WEIGHT[0]),
        _wide_guide,
        (6, P),
        r"event shape at latent site 'z'; model \(3,\)",
    ),
    "auxiliary noise": (_forgot_to_squeeze, _noisy_guide, (6,), "'z' of the guide to be a function of its auxiliary"),
}


@pytest.mark.parametrize("num_particles", [1, 4])
@pytest.mark.parametrize("name", SILENT)
def test_mistakes_that_would_give_a_wrong_number_are_refused(name, num_particles):
    model, guide, shape, message = SILENT[name]
    with pytest.raises(ValueError, match=message):
        log_weights(model, guide, torch.randn(shape, dtype=torch.float64), num_particles)


def _observing(value):
    """A model of one latent number, an event, that observes what ``value`` makes of x at a site of event (1,)."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1, dtype=x.dtype), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=value(x))

    return model


def _second_site(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(1, dtype=x.dtype), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[:, None])
        pyro.sample("again", dist.Normal(z, 1.0).to_event(1), obs=x)


def _inner_plate_of_size_n(x):
    with pyro.plate("data", len(x), dim=-2):
        z = pyro.sample("z", dist.Normal(torch.zeros(1, dtype=x.dtype), 1.0).to_event(1))
        with pyro.plate("inner", len(x), dim=-1):
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[:, None])


def _outer_wide_guide(x):
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", dist.Normal(torch.zeros(1, dtype=x.dtype), 1.0).to_event(1))


BROADCAST = {
    "no event dimension": (_observing(lambda x: x), _wide_guide),
    "the first datum for all": (_observing(lambda x: x[:1, None]), _wide_guide),
    "a second site": (_second_site, _wide_guide),
    "an inner plate as large as the data": (_inner_plate_of_size_n, _outer_wide_guide),
}


@pytest.mark.parametrize("num_particles", [1, 3])
@pytest.mark.parametrize("name", BROADCAST)
def test_observed_values_that_broadcast_are_refused(name, num_particles):
    model, guide = BROADCAST[name]
    with pytest.raises(ValueError, match=r"Expected the value observed at site '(x|again)' of the model of shape"):
        log_weights(model, guide, torch.randn(5, dtype=torch.float64), num_particles)


def test_observed_values_of_the_site_s_own_shape_are_scored():
    """z ~ N(0, 1), x | z ~ N(z, 1): at the posterior as guide all weights are N(x; 0, 2)."""

    def posterior(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, None] / 2, 0.5**0.5).to_event(1))

    x = torch.randn(5, dtype=torch.float64)
    log_w = log_weights(_observing(lambda x: x[:, None]), posterior, x, 3)
    torch.testing.assert_close(log_w, dist.Normal(0.0, 2**0.5).log_prob(x).expand(3, -1), atol=1e-6, rtol=0)


def _with_factor(x):
    _wide_guide(x)
    with pyro.plate("again", len(x)):
        pyro.factor("reg", -3.0 * torch.ones(len(x)), has_rsample=False)


def _with_observation(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(1, dtype=x.dtype), 1.0).to_event(1))
        pyro.sample("seen", dist.Normal(0.0, 1.0), obs=x)


@pytest.mark.parametrize(("guide", "site"), [(_with_factor, "reg"), (_with_observation, "seen")])
def test_scored_terms_of_a_guide_are_refused_and_work_when_hidden(guide, site):
    model, x = _observing(lambda x: x[:, None]), torch.randn(5, dtype=torch.float64)
    for objective in (None, IWAE(2)):
        with pytest.raises(
            ValueError, match=rf"Site '{site}' of the guide is scored.*block\(guide, hide=\['{site}'\]\)"
        ):
            log_weights(model, guide, x, 2) if objective is None else objective(model, guide)(x)
    hidden = pyro.poutine.block(guide, hide=[site])
    with pyro.poutine.seed(rng_seed=0):
        log_w = log_weights(model, hidden, x, 2)
    with pyro.poutine.seed(rng_seed=0):
        torch.testing.assert_close(log_w, log_weights(model, _wide_guide, x, 2))


def _through(number):
    """A guide that makes one latent number of so many auxiliary ones, at the exact posterior for one."""

    def guide(x):
        with pyro.plate("data", len(x)):
            noise = dist.Normal(torch.zeros(number, dtype=x.dtype), (0.5 / number) ** 0.5).to_event(1)
            a = pyro.sample("a", noise, infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(x / 2 + a.sum(-1)))

    return guide


def test_auxiliary_sites_of_another_dimension_are_refused():
    x = torch.randn(4, dtype=torch.float64)
    for num_particles in (1, 3):
        with pytest.raises(ValueError, match=r"auxiliary sites \['a'\] have \d+ numbers in all .* keeps the dimension"):
            log_weights(normal_model, _through(2), x, num_particles)
    log_w = log_weights(normal_model, _through(1), x, 3)  # a shift: the density carries over
    torch.testing.assert_close(log_w, dist.Normal(0.0, 2**0.5).log_prob(x).expand(3, -1), atol=1e-6, rtol=0)


def _exists(x):
    return torch.arange(len(x)) % 2 == 0


def _masked(model_hides, guide_hides, around=False, of_guide=lambda x: True):
    """z ~ N(0, 1) where it exists, x | z ~ N(z, 1), else N(0, 1), and the exact guide.

    Args:
        model_hides: mask z by ``.mask`` of its distribution in the model.
        guide_hides: the same in the guide.
        around: mask it in the model by ``poutine.mask``.
        of_guide: the mask of ``poutine.mask`` in the guide.
    """

    def model(x):
        with pyro.plate("data", len(x)):
            with pyro.poutine.mask(mask=_exists(x) if around else True):
                z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).mask(_exists(x) if model_hides else True))
            pyro.sample("x", dist.Normal(torch.where(_exists(x), z, 0.0), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)), pyro.poutine.mask(mask=of_guide(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5).mask(_exists(x) if guide_hides else True))

    return model, guide


@pytest.mark.parametrize(("model_hides", "guide_hides", "who"), [(True, False, "model"), (False, True, "guide")])
def test_a_mask_of_the_distribution_in_one_program_alone_is_refused(model_hides, guide_hides, who):
    x = torch.randn(4, dtype=torch.float64)
    with pytest.raises(ValueError, match=rf"Latent site 'z' is masked by \.mask\(\.\.\.\) .* in the {who} and not in"):
        log_weights(*_masked(model_hides, guide_hides), x, 3)


@pytest.mark.parametrize("hides", [(True, True, False), (False, True, True), (False, False, True)])
def test_a_mask_of_both_programs_or_around_the_models_site_leaves_the_latent_out(hides):
    """The guide's own ``poutine.mask(mask=True)`` hides nothing, and keeps no mask of the model away."""
    x = torch.randn(4, dtype=torch.float64)
    exact = torch.where(_exists(x), dist.Normal(0.0, 2**0.5).log_prob(x), dist.Normal(0.0, 1.0).log_prob(x))
    torch.testing.assert_close(log_weights(*_masked(*hides), x, 3), exact.expand(3, -1))


def test_where_masks_of_both_programs_differ_that_of_the_model_says_what_a_latent_is():
    """log q is known everywhere, and counts where log p does."""
    x = torch.randn(6, dtype=torch.float64)
    exact = torch.where(_exists(x), dist.Normal(0.0, 2**0.5).log_prob(x), dist.Normal(0.0, 1.0).log_prob(x))
    programs = _masked(False, False, True, lambda x: torch.arange(len(x)) % 3 == 0)
    torch.testing.assert_close(log_weights(*programs, x, 3), exact.expand(3, -1))
