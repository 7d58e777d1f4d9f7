"""Every program of the table by every entry point: the right value, or a refusal that says which site and what to do.

Statistical contracts hold each datum to 4.5 standard errors at fixed seeds; of a hundred such tests of seven data,
by chance alone one fails in about 200 choices of the seeds.
"""

from __future__ import annotations

import math
import warnings
from contextlib import contextmanager
from functools import partial

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO

from programs_of_others.table import PROGRAMS, ROWS, Row
from pyro_vae.inference import diagnostics, evidence, fit, gaps, log_weights, methods, sandwich
from pyro_vae.inference.objectives import ELBO, IWAE
from pyro_vae.inference.programs.call import modules_of_both
from pyro_vae.inference.scoring.posterior import posterior_draws

quiet = dict(progress=False, device="cpu")
ANNEALED = methods.AIS(num_temperatures=20)
OBJECTIVES = {
    **{f"ELBO, {g}": partial(ELBO, 2, gradient=g) for g in ("pathwise", "stl", "dreg", "score", "vimco")},
    **{f"IWAE, {g}": partial(IWAE, 3, gradient=g) for g in ("pathwise", "dreg", "score", "vimco")},
}


def latents_of(runs, num_particles, num_data):
    """Return {site: value, shape (K, B, ...)} of the runs of a guide, the first of which had no particles."""
    first, last = runs[0], runs[-1]
    if num_particles > 1 and all(len(value) == num_particles * num_data for value in last.values()):  # of copies
        return {name: value.unflatten(0, (num_particles, num_data)) for name, value in last.items()}
    if any(last[name].ndim > first[name].ndim for name in last):
        return last
    return {name: torch.stack([run[name] for run in runs[-num_particles:]]) for name in last}


def recorded(guide):
    """Return a guide that keeps what it draws, and the list where it keeps it."""
    runs = []

    def program(*args):
        trace = poutine.util.prune_subsample_sites(poutine.trace(guide).get_trace(*args))
        runs.append({name: trace.nodes[name]["value"].detach() for name in trace.stochastic_nodes})

    return program, runs


def weights_and_latents(p, num_particles, seed=1):
    guide, runs = recorded(p.guide)
    torch.manual_seed(seed)
    with torch.no_grad():
        log_w = log_weights(p.model, guide, p.x, num_particles)
    return log_w, latents_of(runs, num_particles, len(p.args[0]))


def close_to_exact(log_px, std_error, exact):
    """Hold estimates to 4.5 standard errors, and to a nat, since an error that is large excuses everything."""
    assert log_px.shape == exact.shape
    assert ((log_px - exact).abs() <= 4.5 * std_error + 1e-6).all(), (log_px, exact, std_error)
    assert ((log_px - exact).abs() < 1.0).all(), (log_px, exact)


def weights(num_particles, p, row):
    log_w, latents = weights_and_latents(p, num_particles)
    assert log_w.shape == (num_particles, len(p.args[0]))
    own = p.log_w(latents, *p.args).to(log_w.dtype).expand_as(log_w)
    torch.testing.assert_close(log_w, own, rtol=0, atol=row.tolerance)


def scored(method, num_particles, p, row, guide=True):
    guide = p.guide if guide else None
    ev = evidence(p.model, guide, p.x, num_particles, method=method, seed=3, **quiet)
    if p.log_px is not None:
        close_to_exact(ev.log_px, ev.std_error, p.log_px(*p.args))


def chunks(p, row):
    """A few data at a time, with a last chunk of fewer: other draws, one value."""
    whole = evidence(p.model, p.guide, p.x, 300, method="iw", chunk_size=10_000, **quiet)
    parts = evidence(p.model, p.guide, p.x, 300, method="iw", chunk_size=900, **quiet)
    close_to_exact(parts.log_px, (parts.std_error**2 + whole.std_error**2).sqrt(), whole.log_px)


def bounded(name, p, row):
    """The value is the reduction of the log weights of the same seed, and the gradient is finite."""
    objective = OBJECTIVES[name]()
    log_w, _ = weights_and_latents(p, objective.num_particles, seed=2)
    bound = log_w.mean(0) if name.startswith("ELBO") else log_w.logsumexp(0) - math.log(len(log_w))
    torch.manual_seed(2)
    loss = objective.loss(p.model, p.guide, *p.args)
    torch.manual_seed(2)
    differentiable = objective.differentiable_loss(p.model, p.guide, *p.args)
    assert loss == pytest.approx(-bound.mean().item(), abs=1e-5)
    assert differentiable.item() == pytest.approx(-bound.mean().item(), abs=1e-5)
    if parameters := parameters_of(p):
        gradients = torch.autograd.grad(differentiable, parameters, allow_unused=True)
        assert all(g is None or g.isfinite().all() for g in gradients)


def parameters_of(p):
    """Return every parameter of the programs, unconstrained."""
    with poutine.trace(param_only=True) as capture:
        p.guide(*p.args)
        p.model(*p.args)
    announced = [site["value"].unconstrained() for site in capture.trace.nodes.values()]
    owned = [parameter for module in modules_of_both(p.model, p.guide) for parameter in module.parameters()]
    return list({id(q): q for q in [*announced, *owned] if q.requires_grad}.values())


def trained(objective, p, row, compiled=False, batch_size=4):
    settings = dict(objective=objective, epochs=2, batch_size=batch_size, seed=5, compile=compiled, **quiet)
    result = fit(p.model, p.guide, p.x, **settings)
    losses = [epoch["loss"] for epoch in result.history]
    assert len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)
    return losses


def enumerated(p, row):
    """Before the first step the loss is -log p(x) itself, where the assignment is all that is latent."""
    losses = trained(TraceEnum_ELBO(max_plate_nesting=1), p, row, batch_size=len(p.args[0]))
    assert losses[0] == pytest.approx(-p.log_px(*p.args).mean().item(), abs=1e-5)


def sandwiched(p, row):
    bounds = sandwich(p.model, p.guide, 8, x=p.x, num_particles=2, num_temperatures=20, progress=False, device="cpu")
    assert bounds.mean_gap < 1.0
    if p.log_px is not None:
        assert bounds.contains(p.log_px(*bounds.args), 4.5)


def calibrated(p, row):
    ranks = diagnostics.sbc(p.model, p.guide, 20, x=p.x, num_draws=9, **quiet).ranks
    assert len(ranks) == 20
    assert ((ranks >= 0) & (ranks <= 9)).all()


def covered(p, row):
    level = diagnostics.expected_coverage(p.model, p.guide, 20, x=p.x, num_draws=9, **quiet).level
    assert level.shape == (20,)
    assert ((level >= 0) & (level <= 1)).all()


def uniform(p, row):
    u = diagnostics.pit(p.model, p.x, num_draws=9, **quiet).u
    assert len(u) == len(p.args[0])
    assert ((u > 0) & (u < 1)).all()


def checked(p, row):
    def mean(x):
        return (x[0] if isinstance(x, tuple) else x).double().mean()

    check = diagnostics.predictive_check(p.model, p.guide, p.x, {"mean": mean}, num_draws=20, num_particles=50, **quiet)
    assert check.observed["mean"] == pytest.approx(mean(p.x).item())
    assert 0 < check.two_sided["mean"] <= 1


def own_rate(p, num_particles=400):
    """Return the mean of log q - log p(z) over draws and data, and its Monte Carlo error."""
    _, latents = weights_and_latents(p, num_particles)
    with torch.no_grad():
        _, prior, log_q = p.terms(latents, *p.args)
    means = (log_q - prior).mean(1)
    return means.mean().item(), means.std().item() / num_particles**0.5


def kl(p, row):
    found = diagnostics.kl_per_dimension(p.model, p.guide, p.x, num_particles=400, **quiet)
    rate, error = own_rate(p)
    assert found.total == pytest.approx(rate, abs=4.5 * math.hypot(error, found.mc_error.norm().item()) + 1e-6)


def surgery(p, row):
    """The two parts sum to the rate, and the first is between 0 and log N."""
    found = diagnostics.elbo_surgery(p.model, p.guide, p.x, num_particles=100, **quiet)
    rate, error = own_rate(p)
    errors = (error, found.mutual_information_error, found.marginal_kl_error)
    assert found.kl == pytest.approx(rate, abs=4.5 * math.hypot(*errors))
    slack = 4.5 * found.mutual_information_error + 1e-6
    assert -slack <= found.mutual_information <= math.log(len(p.args[0])) + slack


def drawn(p, row):
    """The log weights that come with the draws are those of the draws."""
    with torch.random.fork_rng():
        draws = posterior_draws(p.model, p.guide, p.args, 4, 50)
    own = p.log_w(draws.latents, *p.args).to(draws.log_w.dtype)
    torch.testing.assert_close(draws.log_w, own, rtol=0, atol=row.tolerance)


def gap(p, row):
    """The whole gap is log p(x) - ELBO, held against the exact value and an ELBO of our own."""
    found = gaps(p.model, p.guide, p.x, 400, steps=5, **quiet)
    log_w, _ = weights_and_latents(p, 400)
    exact = p.log_px(*p.args) if p.log_px is not None else found.log_px.log_px
    means = log_w.double().mean(1)
    errors = (2**0.5 * means.std().item() / 20, found.log_px.std_error.norm().item() / len(exact))
    expected = exact.mean().item() - means.mean().item()
    assert found.inference.mean().item() == pytest.approx(expected, abs=4.5 * math.hypot(*errors) + 1e-6)


CONTRACTS = {
    "weights, K = 1": partial(weights, 1),
    "weights, K = 3": partial(weights, 3),
    "iw": partial(scored, "iw", 1000),
    "auto": partial(scored, "auto", 1000),
    "no guide": partial(scored, methods.IW(), 2000, guide=False),
    "laplace": partial(scored, "laplace", 1000),
    "ais": partial(scored, ANNEALED, 50),
    "chunks": chunks,
    **{name: partial(bounded, name) for name in OBJECTIVES},
    "fit": partial(trained, None),
    "fit, IWAE": partial(trained, IWAE(3)),
    "fit, score": partial(trained, ELBO(2, gradient="score")),
    "sandwich": sandwiched,
    "sbc": calibrated,
    "coverage": covered,
    "pit": uniform,
    "predictive check": checked,
    "kl": kl,
    "surgery": surgery,
    "draws": drawn,
    "gaps": gap,
}
LEAVES_NO_TRACE = set(CONTRACTS) - {name for name in CONTRACTS if name.startswith("fit")}
DRAWS_FOR_ITS_CALLER = {"weights, K = 1", "weights, K = 3", *OBJECTIVES}


def cases():
    for name in PROGRAMS:
        row = ROWS.get(name, Row())
        for contract in CONTRACTS:
            if contract in (row.only or CONTRACTS):
                yield pytest.param(name, contract, id=f"{name}: {contract}")


def state_of(p):
    modules = modules_of_both(p.model, p.guide)
    tensors = [*pyro.get_param_store().items()]
    tensors += [named for module in modules for named in [*module.named_parameters(), *module.named_buffers()]]
    training = [part.training for module in modules for part in module.modules()]
    needed = [tensor.requires_grad for _, tensor in tensors]
    return [(name, tensor.detach().clone()) for name, tensor in tensors], training, needed


@contextmanager
def unchanged(p, contract):
    """Parameters, buffers, modes, the store and the global generator are as they were."""
    generator, (before, *flags) = torch.get_rng_state(), state_of(p)
    yield
    after, *flags_after = state_of(p)
    assert [name for name, _ in before] == [name for name, _ in after]
    assert all(torch.equal(old, new) for (_, old), (_, new) in zip(before, after, strict=True))
    assert flags == flags_after
    if contract not in DRAWS_FOR_ITS_CALLER | {"kl", "surgery", "gaps"}:
        assert torch.equal(generator, torch.get_rng_state())


def met(p):
    """Run the programs once, which is when ``pyro.param`` and ``pyro.module`` make what they announce."""
    with torch.random.fork_rng():
        trace = poutine.trace(p.guide).get_trace(*p.args)
        poutine.replay(p.model, trace=trace)(*p.args)


@pytest.mark.parametrize(("name", "contract"), list(cases()))
def test_contract(name, contract):
    row, p = ROWS.get(name, Row()), PROGRAMS[name](0)
    met(p)
    with warnings.catch_warnings():
        if row.warns:
            warnings.filterwarnings("ignore", row.warns)
        if words := row.words(contract):
            with pytest.raises(ValueError, match=words):
                CONTRACTS[contract](p, row)
        elif contract in LEAVES_NO_TRACE:
            with unchanged(p, contract):
                CONTRACTS[contract](p, row)
        else:
            CONTRACTS[contract](p, row)
