"""Outliers: data whose log p(x) is rare among data that the model itself drew."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.inference.diagnostics.uniformity import check_level

SIDES = ("low", "high", "both")


@dataclass(frozen=True)
class Outliers:
    """How rare each datum's log p(x) is under the model.

    Attributes:
        p_value: of the hypothesis that the datum was drawn from the model, shape (N,).
        flagged: which are outliers, shape (N,), boolean.
        alpha: bound on the expected share of flagged data that are none.
    """

    p_value: Tensor
    flagged: Tensor
    alpha: float

    def __str__(self) -> str:
        """Return the result in one line."""
        return (
            f"{int(self.flagged.sum())} of {len(self.flagged)} data are outliers (false discovery rate {self.alpha:g})"
        )


def outliers(log_px: Tensor, simulated: Tensor, *, side: str = "low", alpha: float = 0.05) -> Outliers:
    """Rank each datum's log p(x) among those of data that the model drew.

        p_n = (1 + #{m: s_m <= log p(x_n)}) / (1 + M),   s_m = log p(x'_m), x'_m ~ p(x)

    for side "low"; "high" counts s_m >= log p(x_n), and "both" doubles the smaller of the two. p_n is valid,
    P(p_n <= a) <= a for a datum from the model, also where both are noisy estimates of log p(x), as long as they are
    estimates of one kind: the same guide, K and method. Flags follow Benjamini and Hochberg's rule.

    A high log p(x) is no proof of being typical: data of little variety often score above the training data, and
    side "both" is for those.

    Args:
        log_px: log p(x_n) of the data, shape (N,), such as ``evidence(...).log_px``.
        simulated: log p(x'_m) of data from the model, shape (M,), such as that of ``model.sample(M)``.
        side: "low", "high" or "both".
        alpha: false discovery rate.

    Raises:
        ValueError: for another side, NaN, or shapes other than these.

    Source: Bates, Candès, Lei, Romano and Sesia (2023), Testing for Outliers with Conformal p-values; for typicality
    on both sides, Nalisnick et al. (2019), Do Deep Generative Models Know What They Don't Know?
    """
    from scipy.stats import false_discovery_control

    if side not in SIDES:
        raise ValueError(f"Expected side to be one of {', '.join(SIDES)}; got {side!r}.")
    check_level(alpha, "alpha")
    for values, name in ((log_px, "log_px"), (simulated, "simulated")):
        if values.ndim != 1 or not len(values) or values.isnan().any():
            raise ValueError(f"Expected {name} of shape (N,), N >= 1, without NaN; got shape {tuple(values.shape)}.")
    data, draws = log_px.detach().cpu().double(), simulated.detach().cpu().double().sort().values
    low = _tail(torch.searchsorted(draws, data, right=True), len(draws))
    high = _tail(len(draws) - torch.searchsorted(draws, data), len(draws))
    p_value = {"low": low, "high": high, "both": (2 * torch.minimum(low, high)).clamp(max=1)}[side]
    return Outliers(p_value, torch.from_numpy(false_discovery_control(p_value.numpy()) <= alpha), alpha)


def _tail(count: Tensor, num_draws: int) -> Tensor:
    return (1 + count).double() / (1 + num_draws)
