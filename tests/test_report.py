import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba

from pyro_vae import plots
from pyro_vae.inference import AmortizedGuide, Evidence, evidence, fit, guides
from pyro_vae.models import VAE, likelihoods, mlp, priors
from pyro_vae.report import doubts, write_report

VOID = {"meta", "img", "link", "br", "hr", "input"}
HISTORY = [
    {"epoch": e, "loss": 100 / e + 50, "valid_bound": -110 / e - 51, "kl_weight": min(1.0, e / 3)} for e in range(1, 21)
]


class Page(HTMLParser):
    """Collects text, attributes and tags that do not balance."""

    def __init__(self, html):
        super().__init__()
        self.open, self.stray, self.words, self.attributes, self.seen = [], [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *attr) for attr in attrs]
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.stray.append(tag)

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def trained():
    x = torch.bernoulli(torch.full((60, 64), 0.4), generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VAE(priors.StandardNormal(3), likelihoods.Bernoulli((64,)), mlp((16,)))
        guide = AmortizedGuide((64,), guides.DiagonalNormal(3), mlp((16,)))
    result = fit(model, guide, x, epochs=3, batch_size=20, valid=x[:20], progress=False, device="cpu")
    return model, guide, x, result.history


@pytest.fixture(scope="module")
def scored(trained):
    model, guide, x, _ = trained
    return evidence(model, guide, x, 100, progress=False, device="cpu")


@pytest.fixture(scope="module")
def html(tmp_path_factory, trained, scored):
    return build(tmp_path_factory.mktemp("report") / "report.html", trained, scored)


def build(path, trained, scored, **settings):
    model, guide, x, history = trained
    arguments = {"title": "a run", "facts": {"K": "100"}, "history": history, "image_shape": (1, 8, 8), "x": x}
    write_report(path, evidence=scored, model=model, guide=guide, **(arguments | settings))
    return path.read_text(encoding="utf-8")


def made_up(log_px, khat, num_particles=100):
    log_px, khat = (torch.tensor(v, dtype=torch.float64) for v in (log_px, khat))
    ones = torch.ones_like(log_px)
    curve = {1: (log_px.mean().item() - 0.1, 0.5), num_particles: (log_px.mean().item(), 0.4)}
    return Evidence(log_px, 0.1 * ones, 10 * ones, khat, log_px - 1, curve, num_particles, seed=0)


def lines(figure):
    return {line.get_label(): line for line in figure.axes[0].get_lines()}


def legend(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def render(figure):
    figure.canvas.draw()
    return figure


@pytest.mark.parametrize("image_shape", [(1, 8, 8), None])
def test_report_is_one_whole_page(tmp_path, trained, scored, image_shape):
    html = build(tmp_path / "report.html", trained, scored, image_shape=image_shape, labels=torch.arange(60) % 3)
    page = Page(html)
    assert page.open == []
    assert page.stray == []
    assert f"test {scored}".replace("  ", " ") in page.text
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert len(html) < 3e6


def test_report_loads_nothing_from_elsewhere(html):
    page = Page(html)
    sources = [value for _, name, value in page.attributes if name in ("src", "href", "srcset", "action")]
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "script" not in page.seen
    assert "url(" not in "".join(page.words)
    assert "@import" not in "".join(page.words)


def test_every_figure_has_alt_text_and_a_caption(html):
    page = Page(html)
    alts = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")]
    assert page.seen.count("img") == page.seen.count("figcaption") == len(alts) == 11
    assert all(alts)


def test_all_text_is_escaped(tmp_path, trained, scored):
    nasty = "<script>alert('1')</script> & \"co\""
    html = build(tmp_path / "report.html", trained, scored, title=nasty, facts={nasty: nasty})
    page = Page(html)
    assert "script" not in page.seen
    assert page.text.count("<script>alert('1')</script> & \"co\"") == 4  # title, heading, name and value
    assert page.stray == []


def test_same_arguments_give_the_same_page_and_another_seed_other_draws(tmp_path, trained, scored, html):
    history = json.loads(json.dumps(trained[3]))  # as read back from a run's folder
    assert build(tmp_path / "0.html", trained, scored, history=history) == html
    assert build(tmp_path / "1.html", trained, scored, seed=1) != html


def test_nothing_global_changes(tmp_path, trained, scored):
    model, guide, _, _ = trained
    numpy_state = np.random.get_state  # the legacy global generator
    before = torch.get_rng_state(), numpy_state()[1].copy(), dict(mpl.rcParams), plt.get_fignums()
    model.train()
    guide.eval()
    build(tmp_path / "report.html", trained, scored)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(numpy_state()[1], before[1])
    assert dict(mpl.rcParams) == before[2]
    assert plt.get_fignums() == before[3]
    assert model.training
    assert not guide.training
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(("num_particles", "image_shape"), [(1, (1, 8, 8)), (10, (1, 8, 8)), (50, None)])
def test_one_datum_and_few_particles(tmp_path, trained, num_particles, image_shape):
    model, guide, x, _ = trained
    one = evidence(model, guide, x[:1], num_particles, progress=False, device="cpu")
    html = build(tmp_path / "report.html", trained, one, x=x[:1], image_shape=image_shape, labels=torch.tensor([1]))
    page = Page(html)
    assert page.stray == page.open == []
    assert "its standard error unknown nats" in page.text
    assert all(note in page.text for note in doubts(one))


def test_report_says_every_doubt_and_what_khat_cannot_see(tmp_path, trained, scored):
    log_px, khat = scored.log_px.clone(), torch.full_like(scored.khat, 0.9)
    log_px[3] = -torch.inf
    doubtful = replace(scored, log_px=log_px, khat=khat)
    text = Page(build(tmp_path / "report.html", trained, doubtful)).text
    assert len(doubts(doubtful)) == 2
    assert all(note in text for note in doubts(doubtful))
    assert "What k-hat cannot see" in text


def test_no_doubts_about_sound_weights():
    assert doubts(made_up([-10.0, -12.0, -11.0], [0.1, 0.7, -float("inf")])) == []


def test_unreliable_data_are_counted():
    (note,) = doubts(made_up([-10.0, -12.0, -11.0], [0.71, 0.7, 5.0]))
    assert note.startswith("2 of 3 data have k-hat above 0.7")


def test_unknown_khat_is_no_good_khat():
    (note,) = doubts(made_up([-10.0, -14.0, -11.0], [float("nan")] * 3))
    assert note.startswith("There is no k-hat")


def test_impossible_data_and_a_lone_datum_are_said():
    (note,) = doubts(made_up([-10.0, -12.0, -float("inf")], [0.1, 0.1, 0.1]))
    assert note.startswith("1 of 3 data have log p(x) = -inf")
    (note,) = doubts(made_up([-10.0], [0.1]))
    assert note.startswith("One datum")


def test_too_small_a_k_is_said(tmp_path, trained, scored):
    rising = replace(scored, curve={1: (scored.mean - 9, 0.1), 32: (scored.mean - 8, 0.1), 100: (scored.mean, 0.1)})
    text = Page(build(tmp_path / "report.html", trained, rising)).text
    assert "The bound still gained 8.00 nats from k = 32 to 100" in text
    assert "about 3.765 nats are still missing" in text  # 8 * 32 / (100 - 32)


def test_extremes_are_in_order(tmp_path, trained, scored):
    text = Page(build(tmp_path / "report.html", trained, scored, image_shape=None)).text
    lowest = text[text.index("The 12 data with the lowest") : text.index("The 12 data with the highest")]
    index = scored.log_px.argsort()[:12].tolist()
    rows = [f"{n} {scored.log_px[n]:.2f} {scored.std_error[n]:.3f}" for n in index]
    places = [lowest.index(row) for row in rows]
    assert places == sorted(places)


def test_no_history_no_learning_curves(tmp_path, trained, scored):
    page = Page(build(tmp_path / "report.html", trained, scored, history=[]))
    assert "Training" not in page.words


def test_guide_without_a_mean(tmp_path, trained, scored):
    class Skewed(guides.DiagonalNormal):
        def forward(self, h):
            base = torch.distributions.Normal(*h.chunk(2, -1)[:1], 1.0)
            skewed = torch.distributions.TransformedDistribution(base, [torch.distributions.ExpTransform()])
            return torch.distributions.Independent(skewed, 1)

    guide = AmortizedGuide((64,), Skewed(3), mlp((16,)))
    model, _, x, history = trained
    assert "Latent space" in build(tmp_path / "report.html", (model, guide, x, history), scored)


@pytest.mark.parametrize("wrong", [{"x": torch.zeros(5, 64)}, {"labels": torch.zeros(5)}])
def test_data_that_were_not_scored_are_refused(tmp_path, trained, scored, wrong):
    with pytest.raises(ValueError, match="of the 60 data that evidence scored; got 5"):
        build(tmp_path / "report.html", trained, scored, **wrong)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_folder_is_a_value_error(tmp_path, trained, scored):
    with pytest.raises(ValueError, match="Cannot write"):
        build(tmp_path / "absent" / "report.html", trained, scored)


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


def test_bound_curve_is_the_curve_with_one_error_bar(scored):
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


def test_image_grid_shows_each_picture_on_one_scale():
    x = torch.arange(5 * 6.0).reshape(5, 6)
    figure = render(plots.image_grid(x, (1, 2, 3), titles=list("abcde"), columns=2))
    assert [axes.get_title() for axes in figure.axes] == list("abcde")
    drawn = [axes.get_images()[0].get_array() for axes in figure.axes]
    assert np.allclose(np.stack(drawn), (x / 29).reshape(5, 2, 3))


def test_image_grid_scales_by_the_reference_and_clips():
    x = torch.tensor([[-1.0, 0.0, 4.0, 8.0]])
    figure = plots.image_grid(x, (1, 2, 2), reference=torch.tensor([[0.0, 4.0, 0.0, 0.0]]))
    assert figure.axes[0].get_images()[0].get_array().tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize(("channels", "shape"), [(1, (4, 5)), (2, (4, 5)), (3, (4, 5, 3))])
def test_image_grid_channels(channels, shape):
    x = torch.rand(2, channels, 4, 5)
    figure = render(plots.image_grid(x, (channels, 4, 5)))
    assert figure.axes[0].get_images()[0].get_array().shape == shape


def test_constant_pictures_and_columns_are_drawn():
    render(plots.image_grid(torch.ones(2, 4), (1, 2, 2)))
    render(plots.image_grid(torch.ones(2, 4), None))


def test_image_grid_of_tables_is_a_heat_map_with_a_scale_for_each_column():
    x = torch.tensor([[0.0, 100.0], [1.0, 300.0], [0.5, 200.0]])
    axes = render(plots.image_grid(x, None, titles=["a", "b", "c"])).axes[0]
    assert axes.get_images()[0].get_array().tolist() == [[0, 0], [1, 1], [0.5, 0.5]]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b", "c"]


def test_reconstructions_are_below_the_data():
    x, mean = torch.eye(4)[:3], torch.full((3, 4), 0.25)
    figure = render(plots.reconstructions(x, mean, (1, 2, 2)))
    drawn = torch.tensor(np.stack([axes.get_images()[0].get_array() for axes in figure.axes]))
    assert torch.equal(drawn.flatten(1), torch.cat([x, mean]))
    rows = [axes.get_subplotspec().rowspan.start for axes in figure.axes]
    assert rows == [0, 0, 0, 1, 1, 1]


def test_reconstructions_of_tables():
    figure = render(plots.reconstructions(torch.eye(4), torch.full((4, 4), 0.25), None))
    assert [axes.get_title() for axes in figure.axes[:2]] == ["x", "mean of p(x|z)"]


def test_predictive_check_shows_the_moments_of_each_entry():
    x, draws = torch.tensor([[0.0, 2.0], [2.0, 6.0]]), torch.tensor([[1.0, 1.0], [5.0, 1.0]])
    mean, std = (axes.collections[0].get_offsets().tolist() for axes in render(plots.predictive_check(x, draws)).axes)
    assert mean == [[1, 3], [4, 1]]
    assert std == [[1, 2], [2, 0]]


def test_latent_scatter_of_two_dimensions_is_the_means_themselves():
    loc = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    figure = render(plots.latent_scatter(loc, torch.tensor([7, 8, 7])))
    groups = [points.get_offsets().tolist() for points in figure.axes[0].collections]
    assert groups == [[[0, 1], [4, 5]], [[2, 3]]]
    assert legend(figure) == ["7", "8"]
    (points,) = plots.latent_scatter(loc).axes[0].collections
    assert points.get_offsets().tolist() == loc.tolist()


def test_latent_scatter_of_more_dimensions_names_the_principal_components():
    generator = torch.Generator().manual_seed(0)
    loc = torch.randn(50, 4, generator=generator) * torch.tensor([10.0, 1.0, 0.1, 0.1])
    axes = render(plots.latent_scatter(loc)).axes[0]
    assert re.fullmatch(r"principal component 1 of E\[z\|x\] \(9[89]% of variance\)", axes.get_xlabel())
    first = axes.collections[0].get_offsets()[:, 0]
    assert abs(np.corrcoef(first, loc[:, 0])[0, 1]) > 0.999


@pytest.mark.parametrize(
    "labels", [None, torch.arange(30.0), torch.arange(30) % 2 == 0, torch.arange(30) % 13], ids=str
)
@pytest.mark.parametrize("dim", [1, 2, 5])
def test_latent_scatter_of_any_labels_and_dimension(labels, dim):
    render(plots.latent_scatter(torch.randn(30, dim, generator=torch.Generator().manual_seed(0)), labels))


def test_collapsed_latents_are_drawn():
    render(plots.latent_scatter(torch.zeros(30, 5)))
