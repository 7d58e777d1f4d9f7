"""What every part must satisfy, whatever its kind: each check takes a part, or the function that builds one."""

from __future__ import annotations

import torch
from scipy import stats
from torch import Tensor, nn
from torch.distributions import Distribution


def shipped(room, base) -> set[str]:
    """Names of the public parts of a room."""
    return {name for name, c in vars(room).items() if isinstance(c, type) and issubclass(c, base) and c != base}


def call(part: nn.Module, leading: tuple[int, ...] = (), dtype: torch.dtype = torch.float64) -> Distribution:
    """Call a prior with nothing, any other part with random features of the width it asks for."""
    if not hasattr(part, "num_features"):
        return part()
    return part(torch.randn(*leading, part.num_features, dtype=dtype))


def check_shapes(part: nn.Module, leading: tuple[int, ...], event_shape: tuple[int, ...]) -> None:
    p = call(part.double(), leading)
    assert p.batch_shape == leading
    assert p.event_shape == event_shape
    x = p.sample()
    assert x.shape == leading + event_shape
    assert p.log_prob(x).shape == leading
    assert p.log_prob(x).dtype == torch.float64


def check_sums_to_one(p: Distribution, grid: Tensor) -> None:
    """The probabilities of all values, shape (number, *event), sum to one."""
    total = p.log_prob(grid).exp().sum()
    torch.testing.assert_close(total, torch.ones((), dtype=torch.float64))


def check_counts(p: Distribution, grid: Tensor, num_draws: int = 20_000) -> None:
    """Draws fall on the values of a finite support as log_prob says: a chi-squared test at 1e-4."""
    expected = num_draws * p.log_prob(grid).exp()
    x = p.sample((num_draws,))
    observed = torch.stack([(x == g).flatten(1).all(1).sum() for g in grid])
    kept = expected >= 5
    rest = [[num_draws - table[kept].sum().item()] for table in (observed.double(), expected)]
    tables = [torch.cat([t[kept].double(), torch.tensor(o)]) for t, o in zip((observed, expected), rest, strict=True)]
    if tables[1][-1] < 1e-9:
        tables = [table[:-1] for table in tables]
    assert stats.chisquare(tables[0].numpy(), tables[1].numpy()).pvalue > 1e-4


def check_gradients(part: nn.Module) -> None:
    """A finite gradient of log_prob reaches every parameter and every feature, and not all of it is zero."""
    h = torch.randn(7, part.num_features, requires_grad=True) if hasattr(part, "num_features") else None
    learnt = [*part.parameters(), *([] if h is None else [h])]
    if not learnt:
        return
    p = part() if h is None else part(h)
    with torch.no_grad():
        x = p.sample() if h is not None else p.sample((50,))
    p.log_prob(x).sum().backward()
    for tensor in learnt:
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().sum() > 0


def check_round_trip(build, device: torch.device) -> None:
    """A state dict carries a part over to another one, on any device."""
    part, other = build().to(device), build().to(device)
    with torch.no_grad():
        for p in part.parameters():
            p.add_(0.3)
    other.load_state_dict(part.state_dict())
    h = () if not hasattr(part, "num_features") else (torch.randn(part.num_features, device=device),)
    x = part(*h).sample()
    assert x.device.type == device.type
    torch.testing.assert_close(part(*h).log_prob(x), other(*h).log_prob(x))
