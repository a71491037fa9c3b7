"""SVG plots for docs/evidence.md."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.evidence.cells import Cell
from bench.svg import MARGIN, WIDTH, document, text

LEFT: Final = 260
"""Width of the column of labels."""
ROW: Final = 24
PANEL: Final = 300
"""Height of a scatter plot."""


@dataclass(frozen=True)
class Point:
    """A labelled point of a scatter plot."""

    label: str
    x: float
    y: float


def accuracy_plot(panels: Sequence[tuple[str, Sequence[Cell]]]) -> str:
    """Draw the accuracy of each method with its interval, one panel a scenario, the best method first."""
    parts: list[str] = []
    top = MARGIN
    for title, cells in panels:
        ordered = sorted(cells, key=lambda cell: -cell.accuracy.mean)
        parts.append(text(MARGIN, top + 16, title, "title"))
        top += 28
        bottom = top + ROW * len(ordered)
        for tick in range(0, 101, 25):
            x = _scaled(tick / 100)
            parts.append(f'<line class="grid" x1="{x}" y1="{top}" x2="{x}" y2="{bottom}"/>')
            parts.append(text(x, bottom + 14, f"{tick} %", "small", "middle"))
        for place, cell in enumerate(ordered):
            y = top + ROW * place + ROW // 2
            parts.append(text(MARGIN, y + 4, cell.method.label))
            found = cell.accuracy
            if found.low is not None and found.high is not None:
                low, high = _scaled(max(0.0, found.low)), _scaled(min(1.0, found.high))
                parts.append(f'<line class="bar" x1="{low}" y1="{y}" x2="{high}" y2="{y}"/>')
            parts.append(f'<circle class="dot" cx="{_scaled(found.mean)}" cy="{y}" r="4"/>')
        top = bottom + 34
    return document(top, "Accuracy on test rows with 95 % intervals, by scenario and method", parts)


def scatter(panels: Sequence[tuple[str, Sequence[Point]]], x_label: str, y_label: str) -> str:
    """Draw accuracy (a share, upwards) against another number, one panel a scenario."""
    parts: list[str] = []
    top = MARGIN
    for title, points in panels:
        largest = 4 * _step(max([point.x for point in points], default=0.0) / 4)
        parts.append(text(MARGIN, top + 16, title, "title"))
        top += 44
        left, right, bottom = MARGIN + 50, WIDTH - 190, top + PANEL
        for tick in range(5):
            y = round(bottom - PANEL * tick / 4, 1)
            x = round(left + (right - left) * tick / 4, 1)
            parts.append(f'<line class="grid" x1="{left}" y1="{y}" x2="{right}" y2="{y}"/>')
            parts.append(text(left - 6, y + 4, f"{25 * tick} %", "small", "end"))
            parts.append(text(x, bottom + 16, f"{largest * tick / 4:g}", "small", "middle"))
        parts.append(text((left + right) / 2, bottom + 34, x_label, "small", "middle"))
        parts.append(text(left, top - 8, y_label, "small"))
        placed: list[tuple[float, float]] = []
        for point in sorted(points, key=lambda point: -point.y):
            x = round(left + (right - left) * point.x / largest, 1)
            y = round(bottom - PANEL * point.y, 1)
            parts.append(f'<circle class="dot" cx="{x}" cy="{y}" r="4"/>')
            label = y + 4
            while any(abs(label - other) < 12 and abs(x - place) < 150 for place, other in placed):
                label += 12
            placed.append((x, label))
            parts.append(text(x + 9, round(label, 1), point.label, "small"))
        top = bottom + 54
    return document(top, f"{y_label} against {x_label}, by scenario and method", parts)


def _step(least: float) -> float:
    """Return a round distance of at least `least` between two labels of an axis."""
    return next((step for step in (0.05, 0.1, 0.25, 0.5, 1.0) if step >= least), 2.0)


def _scaled(share: float) -> float:
    return round(LEFT + (WIDTH - LEFT - 3 * MARGIN) * share, 1)
