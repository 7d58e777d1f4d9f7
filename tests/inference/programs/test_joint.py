"""Programs of which the whole data set is one datum, and their particles at once."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import autoguide

from pyro_vae.inference.annealing.unconstrained import Unconstrained
from pyro_vae.inference.programs.joint import as_one_datum, particles_of
from pyro_vae.inference.programs.latents import latent_values
from pyro_vae.inference.programs.particles import Particles
from pyro_vae.inference.programs.plates import ONE_DATUM
from pyro_vae.inference.programs.sites import sample_sites
from pyro_vae.inference.programs.vectorize import Prior, find_plates
from pyro_vae.inference.programs.weights import weight_terms

F64 = torch.float64
X = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
Y = X @ torch.tensor([1.0, -1.0], dtype=F64)


def model(x, y):
    scale = pyro.sample("scale", dist.HalfCauchy(torch.ones((), dtype=F64)))
    beta = pyro.sample("beta", dist.Normal(torch.zeros(2, dtype=F64), scale).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(x @ beta, 0.5), obs=y)


def whole(program=model, guide=None):
    return as_one_datum(program, Prior(program) if guide is None else guide, (X, Y))


def verdicts(joint):
    return list(joint.particles._together.values())


def test_a_joint_program_has_one_weight_for_each_particle_and_no_warning():
    joint, guide, args = whole()
    assert find_plates(joint, guide, args) == ONE_DATUM
    terms = weight_terms(joint, guide, args, 50)
    assert terms.log_w.shape == (50, 1)
    assert verdicts(joint) == [True]
    assert terms.log_w.flatten().unique().numel() == 50


def test_terms_are_those_of_the_program_alone():
    joint, guide, args = whole()
    torch.manual_seed(0)
    terms = weight_terms(joint, guide, args)
    drawn = {name: site["value"] for name, site in terms.guide_sites.items()}
    trace = poutine.trace(poutine.condition(model, drawn)).get_trace(X, Y)
    sites = sample_sites(trace).items()
    log_p = {name: site["fn"].log_prob(site["value"]).sum() for name, site in sites if name != "data"}
    for name, value in (terms.likelihood | terms.prior).items():
        assert value.shape == (1, 1)
        assert value.item() == pytest.approx(log_p[name].item())
    assert terms.log_w.item() == pytest.approx(log_p["y"].item())


def test_densities_at_once_are_those_of_each_alone():
    joint, _, args = whole()
    space = Unconstrained(joint, None, args, 20)
    assert space.start.shape == (20, 1, 3)
    u = space.start.requires_grad_()
    log = space(u)
    alone = [space.with_data(args, 1)(part[None]) for part in u]
    for name in ("prior", "likelihood", "guide"):
        assert torch.allclose(getattr(log, name), torch.cat([getattr(one, name) for one in alone]))
    (together,) = torch.autograd.grad(log.joint.sum(), u)
    (each,) = torch.autograd.grad(torch.cat([one.joint for one in alone]).sum(), u)
    assert torch.allclose(together, each)
    assert all(verdicts(joint))


def branching(x, y):
    """Python that depends on a value runs for no two particles at once."""
    z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=F64), 1.0))
    loc = 1.0 if z > 0 else -1.0
    pyro.sample("y", dist.Normal(loc + z, 1.0).expand(y.shape).to_event(1), obs=y)


def test_what_cannot_run_at_once_runs_one_by_one():
    joint, guide, args = whole(branching)
    torch.manual_seed(0)
    log_w = weight_terms(joint, guide, args, 30).log_w
    assert verdicts(joint) == [False]
    assert log_w.shape == (30, 1)
    space = Unconstrained(joint, None, args, 30)
    z = space.start[:, 0, 0]
    exact = dist.Normal(z.sign() + z, 1.0).log_prob(Y[:, None]).sum(0)
    assert torch.allclose(space(space.start).likelihood[:, 0], exact)


class FromNumpy(dist.Normal):
    """Draws by numpy, of which all particles at once would get one draw."""

    has_rsample = False

    def sample(self, sample_shape=()):
        draw = np.random.normal()  # noqa: NPY002 - as users do
        return torch.full(self.batch_shape, draw, dtype=F64)


def test_a_sampler_that_is_not_torchs_draws_for_each_particle():
    def of_numpy(x, y):
        z = pyro.sample("z", FromNumpy(torch.zeros((), dtype=F64), 1.0))
        pyro.sample("y", dist.Normal(z, 1.0).expand(y.shape).to_event(1), obs=y)

    joint, guide, args = whole(of_numpy)
    log_w = weight_terms(joint, guide, args, 30).log_w
    assert log_w.unique().numel() == 30


@pytest.mark.parametrize("kind", [autoguide.AutoNormal, autoguide.AutoMultivariateNormal])
def test_an_autoguide_draws_at_once_and_its_draws_start_a_space(kind):
    torch.manual_seed(0)
    guide = kind(model)
    guide(X, Y)
    with torch.no_grad():
        for parameter in guide.double().parameters():
            parameter += 0.1 * torch.randn_like(parameter)  # so that values are rounded
    joint, of_guide, args = whole(guide=guide)
    log_w = weight_terms(joint, of_guide, args, 40).log_w
    assert verdicts(joint) == [True]
    assert log_w.unique().numel() == 40
    drawn = Unconstrained(joint, of_guide, args, 200, draws_only=True).start
    assert drawn.shape == (200, 1, 3)
    with pytest.raises(ValueError, match="is auxiliary"):
        Unconstrained(joint, of_guide, args, 2)


def test_a_singular_matrix_of_one_particle_is_nan_and_no_error():
    def factor(u):
        return {"value": torch.linalg.cholesky(u * torch.eye(2, dtype=F64)).sum()}

    u = torch.tensor([1.0, -1.0, 4.0, 9.0], dtype=F64)
    found = Particles().evaluate("factor", factor, u)["value"]
    assert found.isnan().tolist() == [False, True, False, False]
    assert found[2] == 4


def test_noise_of_its_own_follows_the_distribution():
    """Means of 4,000 draws, of which a few sites are drawn into memory of their own; fails at 1 in 10^5."""

    def many(x, y):
        for name, prior in {
            "n": dist.Normal(2.0, 3.0),
            "e": dist.Exponential(torch.tensor(0.5)),
            "u": dist.Uniform(1.0, 3.0),
        }.items():
            pyro.sample(name, prior)
        median = pyro.sample("c", dist.Cauchy(1.0, 2.0))
        pyro.sample("y", dist.Normal(median, 1.0).expand(y.shape).to_event(1), obs=y)

    joint, _, args = whole(many)
    torch.manual_seed(0)
    u = Unconstrained(joint, None, args, 4000).start[:, 0]
    assert verdicts(joint) == [True]
    assert abs(u[:, 0].mean() - 2) < 5 * 3 / 4000**0.5
    assert abs(u[:, 1].exp().mean() - 2) < 5 * 2 / 4000**0.5
    assert abs(u[:, 2].sigmoid().mean() - 0.5) < 5 * 0.29 / 4000**0.5
    assert abs((u[:, 3] < 3).double().mean() - 0.75) < 5 * 0.43 / 4000**0.5


def test_marks_leave_per_datum_programs_alone():
    trace = poutine.trace(model).get_trace(X, Y)
    assert particles_of(sample_sites(trace)) is None


def test_weights_and_shares_are_drawn_at_once_from_gammas():
    """10,000 draws of a Dirichlet and a Beta prior: means within 5 standard errors, also where gammas underflow."""
    shapes = torch.tensor([0.01, 2.0, 3.0], dtype=F64)

    def weights(y):
        w = pyro.sample("w", dist.Dirichlet(shapes))
        with pyro.plate("two", 2):
            b = pyro.sample("b", dist.Beta(torch.tensor(0.5, dtype=F64), 1.5))
        pyro.sample("y", dist.Normal(w.sum() + b.sum(), 1.0), obs=y)

    joint, guide, args = as_one_datum(weights, Prior(weights), (torch.zeros((), dtype=F64)[None],))
    values = latent_values(weight_terms(joint, guide, args))
    assert values["w"].shape == (1, 1, 3)
    space = Unconstrained(joint, None, args, 10_000)
    assert all(verdicts(joint))
    w = torch.distributions.biject_to(torch.distributions.constraints.simplex)(space.start[:, 0, :2])
    b = space.start[:, 0, 2:].sigmoid()
    assert ((w.mean(0) - shapes / shapes.sum()).abs() < 5 * w.std(0) / 100).all()
    assert ((b.mean(0) - 0.25).abs() < 5 * b.std(0) / 100).all()
