"""A page of HTML: the blocks that can stand on it, and the template that writes them down."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from jinja2 import Template


@dataclass(frozen=True)
class Text:
    """A paragraph.

    Attributes:
        text: what it says.
        style: "result" or "warning", which have a look of their own, or nothing.
    """

    kind: ClassVar = "text"
    text: str
    style: str = ""


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    kind: ClassVar = "heading"
    text: str


@dataclass(frozen=True)
class Table:
    """A table with one line of column names.

    Attributes:
        header: names of the columns.
        rows: cells, as many in each row as there are columns.
    """

    kind: ClassVar = "table"
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Facts:
    """A table of names and values; nothing where there are none."""

    kind: ClassVar = "facts"
    facts: Mapping[str, str]


@dataclass(frozen=True)
class Drawing:
    """A figure with its caption.

    Attributes:
        figure: what is drawn.
        alt: the text for a reader who cannot see it.
        caption: how to read it.
    """

    kind: ClassVar = "drawing"
    figure: Figure
    alt: str
    caption: str

    @property
    def png(self) -> str:
        """The figure as PNG in base 64, to stand in the page: unlike SVG, its size does not grow with the data."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=180, facecolor="white")
        return base64.b64encode(buffer.getvalue()).decode("ascii")


@dataclass(frozen=True)
class Details:
    """Blocks that are hidden until the reader opens them.

    Attributes:
        summary: what stands there while they are closed.
        blocks: what is inside.
    """

    kind: ClassVar = "details"
    summary: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Section:
    """Blocks under a heading."""

    kind: ClassVar = "section"
    heading: str
    blocks: Sequence[Block]


Block = Text | Heading | Table | Facts | Drawing | Details | Section


def render(title: str, blocks: Iterable[Block]) -> str:
    """Return the blocks as one page of HTML, which needs no other file and no network.

    Args:
        title: its title, and the heading at its top.
        blocks: what stands on it, from top to bottom.
    """
    return _template().render(title=title, blocks=blocks)


@lru_cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("pyro_vae.report")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template("page.html")


def decimal(value: float, digits: int) -> str:
    """Write a number with that many decimals; NaN is "unknown"."""
    return "unknown" if math.isnan(value) else f"{value:.{digits}f}"
