"""The pieces of an HTML page: all text is escaped here, and figures are inlined."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from matplotlib.figure import Figure

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1e; --paper: #fff; --quiet: #5f6368; --line: #dadce0; --alarm: #b3400a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8ea; --paper: #17181a; --quiet: #a5a8ad; --line: #3a3d42; --alarm: #ff9a62; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 46rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; }
.result { font-size: 1.3rem; font-weight: 600; line-height: 1.35; margin: 0 0 1rem;
  font-variant-numeric: tabular-nums; }
.warning { border-left: 4px solid var(--alarm); padding: .25rem 0 .25rem .8rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .3rem 1rem .3rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
.facts th { white-space: nowrap; color: var(--quiet); }
.facts td { overflow-wrap: anywhere; }
figure { margin: 1.25rem 0; }
figure img { display: block; width: 100%; height: auto; border-radius: 6px; background: #fff; }
figcaption, summary { color: var(--quiet); font-size: .9rem; margin-top: .4rem; }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """Put the parts on a page whose own policy forbids it to load anything."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
{chr(10).join(parts)}
</body>
</html>
"""


def section(heading: str, body: str) -> str:
    """Put a body of HTML under a heading."""
    return f"<section><h2>{escape(heading)}</h2>{body}</section>"


def paragraph(text: str, style: str | None = None) -> str:
    """Return text as a paragraph, one of class ``style`` if given."""
    attribute = f' class="{style}"' if style else ""
    return f"<p{attribute}>{escape(text)}</p>"


def figure(drawn: Figure, alt: str, caption: str) -> str:
    """Inline a figure as PNG: unlike SVG, its size does not grow with the number of data."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=180, facecolor="white")
    source = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<figure><img src="data:image/png;base64,{source}" alt="{escape(alt)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table with one line of column names."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def fact_table(facts: Mapping[str, str]) -> str:
    """Return a table of names and values; nothing where there are none."""
    rows = "".join(
        f'<tr><th scope="row">{escape(str(name))}</th><td>{escape(str(value))}</td></tr>'
        for name, value in facts.items()
    )
    return f'<div class="wide"><table class="facts"><tbody>{rows}</tbody></table></div>' if rows else ""


def decimal(value: float, digits: int) -> str:
    """Write a number with that many decimals; NaN is "unknown"."""
    return "unknown" if math.isnan(value) else f"{value:.{digits}f}"
