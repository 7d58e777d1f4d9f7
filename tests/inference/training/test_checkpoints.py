"""A run that stopped goes on where it stopped, to the same result."""

from __future__ import annotations

from functools import partial

import pyro
import pytest
import torch
from programs import PIXELS, losses_of, make_pair, plain_guide, plain_model, quick, weights_of
from pyro import infer

from pyro_vae.inference import evidence, fit, objectives
from pyro_vae.inference.training.checkpoints import load_checkpoint, read_checkpoint
from pyro_vae.inference.training.epochs import load_optimizer


def test_plain_functions_with_params_train_score_and_resume(tmp_path):
    x = torch.randn(200, 1) + torch.randn(200, 4) * 0.5 + 2
    path = tmp_path / "checkpoint.pt"
    settings = dict(optimizer=partial(torch.optim.Adam, lr=0.05), batch_size=50, progress=False, checkpoint=path)
    whole = fit(plain_model, plain_guide, x, epochs=60, **settings)
    learnt = {name: value.detach().clone() for name, value in pyro.get_param_store().items()}
    assert (learnt["loc"] - x.mean(0)).abs().max() < 0.4
    assert evidence(plain_model, plain_guide, x, 50, method="iw", progress=False).mean > -whole.history[0]["loss"]

    pyro.clear_param_store()
    fit(plain_model, plain_guide, x, epochs=11, **settings)
    pyro.clear_param_store()
    resumed = fit(plain_model, plain_guide, x, epochs=60, resume=True, **settings)
    assert losses_of(resumed) == losses_of(whole)
    for name, value in pyro.get_param_store().items():
        assert torch.equal(value, learnt[name]), name


RESUMED = {
    "default": {},
    "patience": {"patience": 50},
    "IWAE": {"objective": objectives.IWAE(3)},
    "ELBO, K=3": {"objective": objectives.ELBO(3, beta=0.5)},
    "Trace_ELBO, K=3": {"objective": infer.Trace_ELBO(num_particles=3, vectorize_particles=True)},
    "TraceEnum_ELBO": {"objective": infer.TraceEnum_ELBO(strict_enumeration_warning=False)},
    "RenyiELBO": {"objective": infer.RenyiELBO(num_particles=3, vectorize_particles=True)},
}


@pytest.mark.parametrize("name", RESUMED)
def test_resumed_run_equals_the_uninterrupted_one(tmp_path, name):
    settings = dict(
        **RESUMED[name],
        scheduler=partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.8),
        valid=PIXELS[:10],
        kl_warmup=4,
        clip_norm=1.0,
        transform=torch.bernoulli,
        batch_size=25,
    )
    grey = PIXELS * 0.8 + 0.1
    whole_pair, pair, fresh = make_pair(), make_pair(), make_pair(9)
    whole = quick(*whole_pair, grey, epochs=6, **settings)
    path = tmp_path / "checkpoint.pt"
    quick(*pair, grey, epochs=2, checkpoint=path, **settings)
    resumed = quick(*fresh, grey, epochs=6, checkpoint=path, resume=True, **settings)
    keys = ("epoch", "loss", "valid_bound", "kl_weight", "lr")
    assert [[r[k] for k in keys] for r in resumed.history] == [[r[k] for k in keys] for r in whole.history]
    assert torch.equal(weights_of(*fresh), weights_of(*whole_pair))
    assert resumed.best_epoch == whole.best_epoch


class _Interrupt:
    """Raises KeyboardInterrupt at the n-th minibatch."""

    def __init__(self, after):
        self.left = after

    def __call__(self, x):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return x


def test_interruption_keeps_the_last_checkpoint_and_says_where(tmp_path):
    path = tmp_path / "checkpoint.pt"
    # Two calls look at the data first; then 3 minibatches an epoch: the interruption comes in the third epoch.
    with pytest.raises(KeyboardInterrupt, match=rf"Interrupted in epoch 3\. The checkpoint {path} holds 2 epochs"):
        quick(*make_pair(), PIXELS, epochs=5, checkpoint=path, transform=_Interrupt(2 + 7))
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]
    pair = make_pair(4)
    resumed = quick(*pair, PIXELS, epochs=5, checkpoint=path, resume=True, transform=lambda x: x)
    assert losses_of(resumed) == losses_of(quick(*make_pair(), PIXELS, epochs=5))


def test_interruption_in_the_first_epoch_has_a_checkpoint_too(tmp_path):
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt, match="holds 0 epochs"):
        quick(*make_pair(), PIXELS, checkpoint=path, transform=_Interrupt(3))
    assert read_checkpoint(path)["epoch"] == 0


def test_patience_stops_and_keeps_the_best_epoch(tmp_path):
    model, guide = make_pair()
    huge = partial(torch.optim.SGD, lr=0.5)
    settings = dict(epochs=200, optimizer=huge, valid=1 - PIXELS[:20], patience=3, checkpoint=tmp_path / "c.pt")
    result = quick(model, guide, PIXELS, **settings)
    bounds = [row["valid_bound"] for row in result.history]
    assert len(bounds) == result.best_epoch + 3 < 200
    assert bounds[result.best_epoch - 1] == max(bounds)
    other = make_pair(5)
    load_checkpoint(tmp_path / "c.pt", *other)
    assert torch.equal(weights_of(*other), weights_of(model, guide))


def test_programs_around_a_module_resume_in_new_objects(tmp_path):
    settings = dict(checkpoint=tmp_path / "c.pt", objective=objectives.IWAE(2))

    def wrapped(seed):
        model, guide = make_pair(seed)
        return lambda x: model(x), lambda x: guide(x)

    whole = quick(*wrapped(0), PIXELS, epochs=4, objective=objectives.IWAE(2))
    quick(*wrapped(0), PIXELS, epochs=2, **settings)
    resumed = quick(*wrapped(5), PIXELS, epochs=4, resume=True, **settings)
    assert losses_of(resumed) == losses_of(whole)


@pytest.mark.parametrize(("how", "device"), [({}, "cpu"), ({"fused": True}, "meta"), ({"capturable": True}, "meta")])
def test_a_count_that_a_captured_run_kept_on_its_device_is_where_the_run_that_goes_on_looks(how, device):
    """Left there, it would be asked for in every step that is neither fused nor captured."""
    captured = torch.optim.Adam([torch.zeros(3, requires_grad=True)], lr=torch.tensor(0.1), capturable=True, fused=True)
    captured.param_groups[0]["params"][0].grad = torch.ones(3)
    captured.step()
    optimizer = torch.optim.Adam([torch.zeros(3, device="meta", requires_grad=True)], **how)
    load_optimizer(optimizer, captured.state_dict())
    (state,), (group,) = optimizer.state.values(), optimizer.param_groups
    assert (state["step"].device.type, state["exp_avg"].device.type) == (device, "meta")
    assert (group["capturable"], group["fused"]) == (how.get("capturable", False), how.get("fused"))
    assert group["lr"] == pytest.approx(0.1)
    assert type(group["lr"]) is float


def test_checkpoints_that_cannot_be_read_say_so(tmp_path):
    path = tmp_path / "checkpoint.pt"
    quick(*make_pair(), PIXELS, epochs=1, checkpoint=path)
    whole = path.read_bytes()
    load = partial(quick, epochs=2, resume=True)
    for name, content in {"half.pt": whole[: len(whole) // 2], "empty.pt": b"", "text.pt": b"hello"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=r"Cannot read the checkpoint .*\.pt") as caught:
            load(*make_pair(), PIXELS, checkpoint=tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="No checkpoint at"):
        load(*make_pair(), PIXELS, checkpoint=tmp_path / "absent.pt")
    torch.save({"weights": 1}, tmp_path / "foreign.pt")
    with pytest.raises(ValueError, match="is no checkpoint of this version"):
        load(*make_pair(), PIXELS, checkpoint=tmp_path / "foreign.pt")
    with pytest.raises(ValueError, match="The checkpoint is of another model or guide"):
        load(*make_pair(hidden=(9,)), PIXELS, checkpoint=path)
    with pytest.raises(ValueError, match="Expected batch_size=20, as in the checkpoint; got 30"):
        load(*make_pair(), PIXELS, checkpoint=path, batch_size=30)
    with pytest.raises(ValueError, match=r"Expected objective='Trace_ELBO.*, as in the checkpoint; got 'IWAE"):
        load(*make_pair(), PIXELS, checkpoint=path, objective=objectives.IWAE(4))
    with pytest.raises(ValueError, match="Expected precision=None, as in the checkpoint; got 'bf16'"):
        load(*make_pair(), PIXELS, checkpoint=path, precision="bf16")


def test_checkpoint_in_a_folder_that_cannot_be_written_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"Cannot write .*Choose a writable folder"):
        quick(*make_pair(), PIXELS, checkpoint=tmp_path / "absent" / "checkpoint.pt")
