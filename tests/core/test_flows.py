"""Flows: densities against Jacobians, gradients against each other, and what a score costs."""

from __future__ import annotations

import copy
import subprocess
import sys

import pyro
import pytest
import torch
from pyro import poutine
from torch.autograd.functional import jacobian

from pyro_vae.core.flows import FLOW_KINDS, build_flow
from pyro_vae.inference import log_weights

DIM, CONTEXT = 3, 2
each_kind = pytest.mark.parametrize("kind", FLOW_KINDS)
DRAWS_IN_ONE_PASS = {"iaf", "nsf_inverse", "realnvp"}


def _flow(kind, dim=DIM, context=0, **sizes):
    return build_flow(kind, dim, context, hidden=(8,), **sizes).double()


def _given(*leading):
    return torch.randn(*leading, CONTEXT, dtype=torch.float64)


def _count_passes(flow):
    passes = []
    for name, module in flow.named_modules():
        if name.endswith("hyper"):
            module.register_forward_hook(lambda *_: passes.append(1))
    return passes


def _gradients(value, flow):
    return torch.autograd.grad(value, list(flow.parameters()), retain_graph=True, allow_unused=True)


@each_kind
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_log_prob_is_the_change_of_variables(kind, dim):
    flow = _flow(kind, dim, CONTEXT)
    q = flow(_given())
    z = q.sample()
    noise = q.transform(z)
    log_det = torch.linalg.slogdet(jacobian(q.transform, z)).logabsdet
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(noise).sum() + log_det
    torch.testing.assert_close(q.log_prob(z.clone()), expected)


@each_kind
@pytest.mark.parametrize("leading", [(), (4,), (2, 4)])
def test_shapes_with_a_context(kind, leading):
    q = _flow(kind, context=CONTEXT)(_given(*leading))
    assert (q.batch_shape, q.event_shape) == (leading, (DIM,))
    z = q.rsample((6,))
    assert z.shape == (6, *leading, DIM)
    assert q.log_prob(z).shape == q.log_prob(z.clone()).shape == (6, *leading)
    assert q.log_prob(z[0]).shape == leading


@each_kind
def test_a_context_reaches_its_own_datum_and_no_other(kind):
    flow = _flow(kind, context=CONTEXT)
    given, z = _given(4), torch.randn(5, 4, DIM, dtype=torch.float64)
    together = flow(given).expand((5, 4)).log_prob(z)
    alone = torch.stack([flow(c).log_prob(z[:, i]) for i, c in enumerate(given)], 1)
    torch.testing.assert_close(together, alone)


@each_kind
def test_a_draw_is_scored_for_nothing_and_right_in_value_and_gradient(kind):
    flow = _flow(kind, context=CONTEXT)
    passes = _count_passes(flow)
    q = flow(_given(4)).expand((3, 4))
    z = q.rsample()
    drawing = len(passes)
    if kind in DRAWS_IN_ONE_PASS:
        assert drawing <= 2 * 3  # 3 transforms, each one pass to draw and at most one more for its Jacobian
    remembered = q.log_prob(z)
    assert len(passes) == drawing
    honest = q.log_prob(z.view_as(z))
    assert len(passes) > drawing
    torch.testing.assert_close(remembered, honest)
    weights = torch.randn(3, 4, dtype=torch.float64)
    for one, other in zip(*(_gradients((weights * v).sum(), flow) for v in (remembered, honest)), strict=True):
        torch.testing.assert_close(one, other)


@each_kind
def test_log_weights_pay_no_pass_for_the_score_of_the_guide(kind):
    prior, flow = _flow(kind), _flow(kind, context=CONTEXT)
    guide_passes, prior_passes = _count_passes(flow), _count_passes(prior)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior())
            pyro.sample("x", pyro.distributions.Normal(z[..., :CONTEXT], 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", flow(x))

    x = _given(4)
    flow(x).rsample()
    drawing = len(guide_passes)
    guide_passes.clear()
    trace = poutine.trace(guide).get_trace(x)
    replayed = poutine.trace(poutine.replay(model, trace=trace)).get_trace(x)
    prior_passes.clear()
    trace.compute_log_prob()
    assert len(guide_passes) == drawing
    replayed.compute_log_prob()  # a value from elsewhere is scored honestly
    assert len(prior_passes) > 0
    assert replayed.nodes["z"]["value"] is trace.nodes["z"]["value"]
    torch.testing.assert_close(trace.nodes["z"]["log_prob"], flow(x).log_prob(trace.nodes["z"]["value"]))
    assert log_weights(model, guide, x, 5).shape == (5, 4)


def _edit(z):
    with torch.no_grad():
        return z.mul_(1.5)


EDITS = {
    "copied": lambda z: z.clone(),
    "detached": lambda z: z.detach(),
    "edited": _edit,
    "detached in place": lambda z: z.detach_(),
}


@pytest.mark.parametrize("edit", EDITS)
def test_what_was_done_to_a_draw_shows_in_its_score(edit):
    flow = _flow("iaf")
    q = flow()
    z = EDITS[edit](q.rsample((4,)))
    score, expected = q.log_prob(z), flow().log_prob(z)
    torch.testing.assert_close(score, expected)
    for one, other in zip(_gradients(score.sum(), flow), _gradients(expected.sum(), flow), strict=True):
        torch.testing.assert_close(one, other)


def test_a_draw_without_a_graph_is_scored_anew_where_a_gradient_is_wanted():
    flow = _flow("iaf")
    q = flow()
    z = q.sample()
    assert q.log_prob(z).requires_grad
    passes = _count_passes(flow)
    with torch.no_grad():
        q.log_prob(z)
    assert not passes


def test_a_gradient_by_the_draw_alone_needs_a_copy():
    q = _flow("maf")()
    z = q.rsample()
    with pytest.raises(RuntimeError, match="not have been used in the graph"):
        torch.autograd.grad(q.log_prob(z), z)
    copy_of_z = z.view_as(z)
    (gradient,) = torch.autograd.grad(q.log_prob(copy_of_z), copy_of_z)
    reference = jacobian(lambda v: q.log_prob(v), z.detach())
    torch.testing.assert_close(gradient, reference)


def test_copies_forget_the_draw():
    flow = _flow("iaf")
    with torch.no_grad():
        q = flow()
        z = q.rsample()
    for other in (copy.copy(q), copy.deepcopy(q), q.expand((1,))):
        assert other._drawn is None
        torch.testing.assert_close(other.log_prob(z).reshape(()), q.log_prob(z))


def test_inference_mode_draws_are_scored_honestly():
    q = _flow("realnvp")()
    with torch.inference_mode():
        z = q.sample()
        torch.testing.assert_close(q.log_prob(z), q.log_prob(z.clone()))


@each_kind
def test_copies_and_state_dicts_carry_the_parameters(kind, device):
    flow, other = (build_flow(kind, DIM, CONTEXT, hidden=(8,)).to(device) for _ in range(2))
    context, z = torch.randn(4, CONTEXT, device=device), torch.randn(4, DIM, device=device)
    other.load_state_dict(flow.state_dict())
    for same in (other, copy.deepcopy(flow)):
        torch.testing.assert_close(same(context).log_prob(z), flow(context).log_prob(z))
    assert flow(context).rsample().device.type == device.type


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inf", 2), "Expected kind to be one of maf, iaf, nsf, .*; got 'inf'. Did you mean"),
        (("maf", 0), "Expected dim to be an integer >= 1; got 0"),
        (("maf", 2, 0, 0), "Expected transforms to be an integer >= 1; got 0"),
        (("maf", 2, 0, 1, (0,)), "Expected hidden to be an integer >= 1; got 0"),
        (("maf", 2, -1), "Expected num_context to be an integer >= 1; got -1"),
    ],
)
def test_bad_settings_get_one_clear_line(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_flow(*arguments)


@pytest.mark.parametrize(("expected", "given"), [(2, None), (0, torch.ones(4)), (2, torch.ones(4))])
def test_a_context_of_another_width_is_refused(expected, given):
    got = "none" if given is None else "one of width 4"
    with pytest.raises(ValueError, match=f"Expected a context of width {expected} for the flow; got {got}"):
        build_flow("maf", 2, expected)(given)


def test_building_a_flow_leaves_validation_on():
    code = (
        "import torch\nfrom pyro_vae.core.flows import build_flow\nimport sys\nassert 'zuko' not in sys.modules\n"
        "build_flow('maf', 2)\nassert torch.distributions.Distribution._validate_args\n"
        "torch.distributions.Normal(0., 1.)\n"
        "try:\n    torch.distributions.Normal(0., -1.)\nexcept ValueError:\n    print('refused')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "refused"
