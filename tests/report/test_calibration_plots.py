"""Figures of calibration and criticism show the numbers that they are given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import legend, lines, render
from matplotlib.colors import to_rgb
from scipy import stats

from pyro_vae.inference.diagnostics import SBC, Coverage, PredictiveCheck, uniformity
from pyro_vae.report import calibration_plots as plots
from pyro_vae.report.figures import BLUE, ORANGE


def _sbc(num_columns=2, num_draws=99, num_data=400):
    ranks = torch.randint(0, num_draws + 1, (num_data, num_columns))
    ranks[:, 0] = ranks[:, 0] // 2  # none in the upper half
    u = (ranks + torch.rand(ranks.shape, dtype=torch.float64)) / (num_draws + 1)
    return SBC(ranks, num_draws, uniformity(u, [f"z[{j}]" for j in range(num_columns)], alpha=1e-4))


def _shown(figure):
    return [axes for axes in figure.axes if axes.get_visible()]


@pytest.mark.parametrize(("num_draws", "num_bins"), [(99, 20), (9, 10), (100, 20), (4, 5), (2, 3)])
def test_rank_histograms_count_every_datum(num_draws, num_bins):
    figure = render(plots.rank_histograms(_sbc(num_draws=num_draws)))
    for axes in _shown(figure):
        (steps,) = axes.patches
        assert len(steps.get_data().values) == num_bins
        assert steps.get_data().values.sum() == 400
        assert axes.get_ylim()[0] == 0
        assert axes.get_ylim()[1] >= steps.get_data().values.max()


def test_rejected_columns_have_their_own_colour():
    result = _sbc()
    for figure in (plots.rank_histograms(result), plots.ecdf_differences(result.test)):
        bad, good = _shown(render(figure))
        assert [axes.get_title() for axes in (bad, good)] == ["z[0]", "z[1]"]
        for axes, colour in ((bad, ORANGE), (good, BLUE)):
            drawn = axes.get_lines()[0].get_color() if axes.get_lines() else axes.patches[0].get_edgecolor()
            assert to_rgb(drawn) == to_rgb(colour)


def test_band_of_the_histogram_is_binomial():
    # The smallest counts below and above which lie at most 0.5% of Binomial(400, 1/20) each.
    axes = _shown(render(plots.rank_histograms(_sbc())))[0]
    heights = axes.collections[0].get_paths()[0].vertices[:, 1]
    k = np.arange(401)
    low = k[stats.binom.cdf(k - 1, 400, 0.05) <= 0.005].max()
    high = k[stats.binom.sf(k, 400, 0.05) <= 0.005].min()
    assert (heights.min(), heights.max()) == (low, high)


def test_only_the_worst_of_many_columns_are_drawn():
    result = _sbc(num_columns=30)
    for figure in (plots.rank_histograms(result, max_panels=4), plots.ecdf_differences(result.test, max_panels=4)):
        shown = _shown(render(figure))
        assert len(shown) == 4
        assert shown[0].get_title() == "z[0]"
        assert "4 of 30" in figure.get_suptitle()


def test_ecdf_difference_is_the_ecdf_minus_the_diagonal():
    u = torch.tensor([[0.1], [0.2], [0.2], [0.9]], dtype=torch.float64)
    (axes,) = _shown(render(plots.ecdf_differences(uniformity(u))))
    x, y = axes.get_lines()[0].get_data()
    np.testing.assert_allclose(y + x, [(u[:, 0] <= p).double().mean() for p in x], atol=1e-12)


def test_coverage_curve_says_what_it_shows():
    level = torch.rand(500, dtype=torch.float64) ** 2
    coverage = Coverage(level, uniformity(level[:, None]))
    figure = render(plots.coverage_curve(coverage))
    x, y = lines(figure)["conservative"].get_data()
    assert legend(figure) == ["95% if exact", "conservative"]
    np.testing.assert_allclose(y, [(level <= p).double().mean() for p in x])
    assert (x[0], x[-1], y[0], y[-1]) == (0, 1, 0, 1)


def test_replicated_statistics_mark_the_data():
    draws = {name: torch.randn(50, dtype=torch.float64) for name in ("mean", "sd", "max", "min")}
    check = PredictiveCheck(dict.fromkeys(draws, 0.5), draws, "prior")
    figure = render(plots.replicated_statistics(check))
    shown = _shown(figure)
    assert [axes.get_title() for axes in shown] == [f"{n}: p = {p:.3f}" for n, p in check.two_sided.items()]
    for axes in shown:
        assert sum(bar.get_height() for bar in axes.patches) == 50
        assert axes.get_lines()[0].get_xdata() == [0.5, 0.5]
