import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from helpers import made_up

from pyro_vae.inference import AmortizedGuide, evidence, fit, guides
from pyro_vae.models import VAE, likelihoods, mlp, priors
from pyro_vae.report.evidence import doubts, evidence_section
from pyro_vae.report.page import render
from pyro_vae.report.report import Scored, write_report

VOID = {"meta", "img", "link", "br", "hr", "input"}


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
    return evidence(model, guide, x, 100, method="iw", progress=False, device="cpu")


@pytest.fixture(scope="module")
def html(tmp_path_factory, trained, scored):
    return build(tmp_path_factory.mktemp("report") / "report.html", trained, scored)


def build(path, trained, scored, **settings):
    model, guide, x, history = trained
    data = {"x": x, "image_shape": (1, 8, 8)}
    data |= {name: settings.pop(name) for name in ("x", "y", "labels", "image_shape", "split") if name in settings}
    arguments = {"title": "a run", "facts": {"K": "100"}, "history": history}
    write_report(path, Scored(scored, **data), model, guide, **(arguments | settings))
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("image_shape", [(1, 8, 8), None])
def test_report_is_one_whole_page(tmp_path, trained, scored, image_shape):
    html = build(tmp_path / "report.html", trained, scored, image_shape=image_shape, labels=torch.arange(60) % 3)
    page = Page(html)
    assert page.open == []
    assert page.stray == []
    assert f"test {scored.line}".replace("  ", " ") in page.text
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
    one = evidence(model, guide, x[:1], num_particles, method="iw", progress=False, device="cpu")
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


def test_no_doubts_about_sound_weights():
    assert doubts(made_up([-10.0, -12.0, -11.0], [0.1, 0.7, -float("inf")])) == []


def test_unreliable_data_are_counted():
    (note,) = doubts(made_up([-10.0, -12.0, -11.0], [0.71, 0.7, 5.0]))
    assert note.startswith("2 of 3 data are flagged, k-hat above 0.7")


def test_unknown_khat_is_no_good_khat():
    (note,) = doubts(made_up([-10.0, -14.0, -11.0], [float("nan")] * 3))
    assert note.startswith("There is no k-hat")


def test_impossible_data_and_a_lone_datum_are_said():
    (note,) = doubts(made_up([-10.0, -12.0, -float("inf")], [0.1, 0.1, 0.1]))
    assert note.startswith("1 of 3 data have log p(x) = -inf")
    (note,) = doubts(made_up([-10.0], [0.1]))
    assert note.startswith("One datum")


def test_acceptance_is_shown_where_chains_were_run():
    plain = made_up([-1.0, -2.0, -3.0], [0.1, 0.2, 0.3])
    annealed = replace(plain, acceptance=torch.tensor([0.5, 0.7, 0.6]))
    assert "acceptance" not in render("", [evidence_section(plain)])
    assert "<td>median acceptance</td><td>0.60</td>" in render("", [evidence_section(annealed)])
