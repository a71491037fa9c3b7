"""SVG documents for the documentation. One file serves both themes: a media query selects the colours."""

import math
from collections.abc import Sequence
from html import escape
from typing import Final

STYLE: Final = (
    "text{font:13px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#1f2328}.small{font-size:11px;fill:#59636e}"
    ".title{font-weight:600}.grid{stroke:#d0d7de}.bar{stroke:#0b5c8f;stroke-width:2}.dot{fill:#0b5c8f}"
    ".box{fill:#ffffff;stroke:#d0d7de}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#9198a1}.grid{stroke:#3d444d}"
    ".bar{stroke:#6cb8ea}.dot{fill:#6cb8ea}.box{fill:#0d1117;stroke:#3d444d}}"
)
WIDTH: Final = 860
MARGIN: Final = 16


def ticks(most: float, count: int = 4) -> list[float]:
    """Return about `count` round numbers from 0 up to at least `most`: multiples of 1, 2 or 5 times a power of ten."""
    least = max(most, 1e-9) / count
    power = 10.0 ** math.floor(math.log10(least))
    step = next(each * power for each in (1, 2, 5, 10) if each * power >= least * (1 - 1e-9))
    return [step * number for number in range(math.ceil(most / step - 1e-9) + 1)]


def text(x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> str:
    """Return a line of text; `kind` is a class of `STYLE`."""
    klass = f' class="{kind}"' if kind else ""
    return f'<text x="{x:g}" y="{y:g}"{klass} text-anchor="{anchor}">{escape(content)}</text>'


def document(height: float, label: str, parts: Sequence[str]) -> str:
    """Return the whole file; `label` describes it to screen readers."""
    size = f'viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(label)}">'
    box = f'<rect class="box" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1:g}" rx="6"/>'
    return "\n".join([f"{head}<style>{STYLE}</style>{box}", *parts, "</svg>", ""])
