from dataclasses import replace

import numpy as np
import pytest
from helpers import legend, lines, made_up, render
from matplotlib.colors import to_rgba

from pyro_vae.report import figures as plots

HISTORY = [
    {"epoch": e, "loss": 100 / e + 50, "valid_bound": -110 / e - 51, "kl_weight": min(1.0, e / 3)} for e in range(1, 21)
]


def test_learning_curves_show_the_bounds_and_the_end():
    figure = render(plots.learning_curves(HISTORY, best_epoch=20))
    drawn = lines(figure)
    assert drawn["training"].get_xdata().tolist() == list(range(1, 21))
    assert drawn["training"].get_ydata() == pytest.approx([-row["loss"] for row in HISTORY])
    assert drawn["validation"].get_ydata() == pytest.approx([row["valid_bound"] for row in HISTORY])
    assert drawn["epoch kept: 20"].get_xdata() == [20, 20]
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
    assert [tuple(c[:3]) for c in finite.get_facecolor()] == [to_rgba(c)[:3] for c in (plots.BLUE, plots.ORANGE)]
    assert constant.get_offsets()[:, 0].tolist() == [-1.0]
    levels = [line.get_ydata()[0] for line in figure.axes[0].get_lines()]
    assert levels == [0.5, 0.7]


def test_khat_plot_without_khat_says_so():
    figure = render(plots.khat_plot(made_up([-3.0, -2.0], [float("nan")] * 2)))
    assert any("no k-hat" in text.get_text() for text in figure.axes[0].texts)
