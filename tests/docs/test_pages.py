"""README and the pages of docs/: their links lead somewhere, their Python runs, their command lines parse."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path

import pytest

from pyro_vae import inference, models
from pyro_vae.cli import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TINY = {"epochs": 1, "num_particles": 25, "steps": 2, "num_temperatures": 5, "num_repeats": 2, "refine": 2}
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def blocks(page: Path, language: str) -> list[str]:
    found = re.findall(rf"^ *```{language}\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for block in found]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_lead_somewhere(page):
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if "://" not in link]
    for link in links:
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_index_and_says_what_it_is_for():
    index = (ROOT / "docs" / "index.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        if page.stem != "index":
            assert f"({page.name})" in index
            assert re.match(r"# .*\n\nThis page is ", page.read_text()), page.name


PYTHON = [(page, code) for page in PAGES for code in blocks(page, "python")]


@pytest.mark.parametrize(("page", "code"), PYTHON, ids=lambda value: getattr(value, "stem", ""))
def test_python_runs(page, code, capsys):
    tiny = re.sub(rf"\b({'|'.join(TINY)})=\d+", lambda match: f"{match[1]}={TINY[match[1]]}", code)
    assert "epochs=1" in tiny or "fit(" not in code
    exec(compile(tiny, page.name, "exec"), {"__name__": page.stem})
    printed = capsys.readouterr().out
    assert printed.strip() or "print(" not in code
    if "print(ev" in code:
        assert re.search(r"log p\(x\) >?= -\d+\.\d\d \+- \d+\.\d\d nats  \((K=25|auto), N=\d+", printed)


def test_the_example_of_the_readme_is_short():
    (code,) = blocks(ROOT / "README.md", "python")
    assert len(code.strip().splitlines()) <= 15


def test_the_example_of_the_readme_is_quickstart_with_numbers_for_its_settings():
    (code,) = blocks(ROOT / "README.md", "python")
    settings = {"epochs=200": "epochs=epochs", "num_particles=5000": "num_particles=num_particles"}
    for number, setting in settings.items():
        assert number in code
        code = code.replace(number, setting)
    quickstart = [line.strip() for line in (ROOT / "examples" / "quickstart.py").read_text().splitlines()]
    assert [line for line in code.splitlines() if line not in quickstart] == []


ROOMS = {
    "priors": models.priors,
    "likelihoods": models.likelihoods,
    "guides": inference.guides,
    "objectives": inference.objectives,
    "networks": models,
    "models": models,
}


@pytest.mark.parametrize("kind", ROOMS)
def test_the_parts_of_the_readme_are_there(kind):
    (row,) = re.findall(rf"^\| {kind} \| (.*) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    names = re.findall(r"`(\w+)`", row)
    assert names
    assert [name for name in names if not hasattr(ROOMS[kind], name)] == []


@pytest.mark.parametrize(("kind", "base"), [("priors", "Prior"), ("likelihoods", "Likelihood")])
def test_the_readme_has_all_parts_but_relaxations_and_mixtures(kind, base):
    readme, room = (ROOT / "README.md").read_text(), ROOMS[kind]
    shipped = {c.__name__ for c in vars(room).values() if isinstance(c, type) and issubclass(c, getattr(room, base))}
    named = {name for name in shipped - {base} if not re.match("Relaxed|MixtureOf", name)}
    assert {name for name in named if f"`{name}`" not in readme} == set()


def test_readme_names_both_commands():
    commands = (ROOT / "README.md").read_text().splitlines()
    assert "pip install -e . && pyro-vae train" in commands
    assert 'pip install -e ".[test]" && pytest' in commands


LINES = sorted(
    {
        line.strip()
        for page in PAGES
        for block in blocks(page, "sh")
        for line in block.splitlines()
        if "pyro-vae " in line and "pip install" not in line
    }
)


@pytest.mark.parametrize("line", LINES)
def test_command_lines_parse(line, tmp_path, monkeypatch, capsys):
    """Training prints its settings and stops; other commands understand all options before they miss the run."""
    words = shlex.split(line, comments=True)
    argv = words[words.index("pyro-vae") + 1 :]
    monkeypatch.chdir(ROOT / "examples" if words[0] == "cd" else tmp_path)
    (tmp_path / "mymodule.py").write_text(SKIP)
    for option in {"--config", "--resume"}.intersection(argv):
        path = tmp_path / argv[argv.index(option) + 1]
        path = path if path.suffix else path / "config.yaml"
        path.parent.mkdir(parents=True)
        path.write_text("data: digits\n")
    if argv[0] == "train":
        with pytest.raises(SystemExit, match=r"^0$"):
            main([*argv, "--print_config"])
    else:
        assert main(argv) == 2
        missing = r"pyro-vae: error: (runs/\S+ holds no run|Cannot read runs/\S+evidence.npz)"
        assert re.match(missing, capsys.readouterr().err)


SKIP = """
from torch import nn

class Skip(nn.Linear):
    def __init__(self, in_shape: tuple[int, ...], out_features: int, width: int = 64) -> None:
        super().__init__(in_shape[0], out_features)
"""
"""A network of the user's own, as the page of parts names it."""
