"""Figures show the numbers that they are given."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import legend, lines, made_up, render
from matplotlib.colors import to_rgb, to_rgba
from scipy import stats

from pyro_vae.inference.diagnostics import SBC, Coverage, PredictiveCheck, uniformity
from pyro_vae.report import figures as plots
from pyro_vae.report.figures import BLUE, ORANGE

HISTORY = [
    {"epoch": e, "loss": 100 / e + 50, "valid_bound": -110 / e - 51, "kl_weight": min(1.0, e / 3)} for e in range(1, 21)
]


def test_learning_curves_show_the_bounds_and_the_end():
    figure = render(plots.learning_curves(HISTORY))
    drawn = lines(figure)
    assert drawn["training"].get_xdata().tolist() == list(range(1, 21))
    assert drawn["training"].get_ydata() == pytest.approx([-row["loss"] for row in HISTORY])
    assert drawn["validation"].get_ydata() == pytest.approx([row["valid_bound"] for row in HISTORY])
    low, high = figure.axes[0].get_ylim()
    assert -63 < low < -61  # the later half starts at -59 and -61; the first epoch was at -161
    assert -55 < high < -50
    assert "earlier epochs" in figure.axes[0].get_title(loc="left")


def test_learning_curves_shade_every_epoch_that_had_a_smaller_kl_weight():
    figure = plots.learning_curves(HISTORY)
    (shade,) = figure.axes[0].patches
    assert (shade.get_x(), shade.get_x() + shade.get_width()) == (0.5, 3.5)
    assert not plots.learning_curves([row | {"kl_weight": 1.0} for row in HISTORY]).axes[0].patches


def test_learning_curves_of_few_rows_without_validation():
    rows = [{"epoch": 1, "loss": 80.0}, {"epoch": 2, "loss": 60.0}]
    figure = render(plots.learning_curves(rows))
    assert set(lines(figure)) == {"training"}
    assert lines(figure)["training"].get_marker() == "o"
    low, high = figure.axes[0].get_ylim()
    assert low < -80 < -60 < high
    render(plots.learning_curves(rows[:1]))
    render(plots.learning_curves([row | {"valid_bound": float("nan")} for row in rows]))


def test_bound_curve_is_the_curve_with_one_error_bar():
    scored = made_up([-10.0, -12.0, -11.0], [0.1, 0.2, 0.3])
    figure = render(plots.bound_curve(scored))
    (axes,) = figure.axes
    curve = lines(figure)["$L_k$, mean over data"]
    assert curve.get_xdata().tolist() == sorted(scored.curve)
    assert curve.get_ydata().tolist() == [scored.curve[k][0] for k in sorted(scored.curve)]
    assert axes.get_xscale() == "log"
    (bar,) = axes.containers
    low, high = bar.lines[2][0].get_segments()[0][:, 1]
    assert (high - low) / 2 == pytest.approx(scored.curve[100][1])
    assert (high + low) / 2 == pytest.approx(scored.curve[100][0])


def test_bound_curve_of_one_particle_and_one_datum():
    one = replace(made_up([-3.0], [float("nan")], 1), curve={1: (-3.0, float("nan"))})
    assert not render(plots.bound_curve(one)).axes[0].containers


def test_histogram_counts_all_data_and_marks_unreliable_ones():
    ev = made_up([-10.0, -11.0, -12.0, -30.0, -float("inf")], [0.1, 0.2, float("nan"), 0.9, 0.9])
    figure = render(plots.log_px_histogram(ev))
    good, poor = figure.axes[0].containers
    assert sum(bar.get_height() for bar in good) == 3
    assert sum(bar.get_height() for bar in poor) == 1
    rug = [line for line in figure.axes[0].get_lines() if line.get_marker() == "|"]
    assert [line.get_xdata().tolist() for line in rug] == [[-30.0]]


def test_histogram_mean_line_and_its_error():
    ev = made_up([-10.0, -12.0, -14.0], [0.1, 0.2, 0.3])
    figure = render(plots.log_px_histogram(ev))
    assert lines(figure)["mean -12.00"].get_xdata() == [-12, -12]
    assert legend(figure) == ["data", "mean -12.00", "± 1.15, its standard error"]


def test_histogram_of_a_far_outlier_has_few_bins():
    ev = made_up([-1e6, *np.linspace(-11, -10, 999)], [0.1] * 1000)
    assert len(plots.log_px_histogram(ev).axes[0].containers[0]) <= 60


def test_khat_plot_shows_each_datum():
    ev = made_up([-3.0, -2.0, -1.0, 0.0], [0.2, 0.8, -float("inf"), float("nan")])
    figure = render(plots.khat_plot(ev))
    finite, constant = figure.axes[0].collections
    assert finite.get_offsets().tolist() == [[-3.0, 0.2], [-2.0, 0.8]]
    assert [tuple(c[:3]) for c in finite.get_facecolor()] == [to_rgba(c)[:3] for c in (BLUE, ORANGE)]
    assert constant.get_offsets()[:, 0].tolist() == [-1.0]
    levels = [line.get_ydata()[0] for line in figure.axes[0].get_lines()]
    assert levels == [0.5, 0.7]


def test_khat_plot_without_khat_says_so():
    figure = render(plots.khat_plot(made_up([-3.0, -2.0], [float("nan")] * 2)))
    assert any("no k-hat" in text.get_text() for text in figure.axes[0].texts)


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
