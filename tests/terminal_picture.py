"""Records a command in a terminal, and draws the recording as an animated SVG.

The frames stand next to each other, and CSS moves the strip behind a window. Equal lines are stored once. Waits are
shortened; what the program wrote is not changed.
"""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

import pyte
from pyte.screens import Char

COLUMNS: Final = 120
ROWS: Final = 46
LONGEST_WAIT_SECONDS: Final = 1.0
"""Longer waits between two changes of the screen are shown this long, before all are shortened alike."""
PLAY_SECONDS: Final = 24.0
FRAME_SECONDS: Final = 0.12
"""Frames follow each other no faster than this."""
END_SECONDS: Final = 8.0
FONT: Final = 'ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace'
CELL: Final = 8.4, 18
"""Width and height of a character."""
BASELINE: Final = 14
"""Of the first line, below the top of the window."""
MARGIN: Final = 14
LIGHT: Final = {"default": "#1f2328", "red": "#b42318", "green": "#116329", "brown": "#7d4e00", "blue": "#0550ae"} | {
    "dim": "#59636e"
}
DARK: Final = {"default": "#e6edf3", "red": "#ff8f85", "green": "#56d364", "brown": "#e3b341", "blue": "#79c0ff"} | {
    "dim": "#9198a1"
}
LIGHT_BOX, DARK_BOX = ("#ffffff", "#d0d7de"), ("#0d1117", "#3d444d")
TICKING: Final = re.compile(r"[\u2800-\u28ff]|\d+:\d\d")
"""Spinners and clocks, which change while nothing happens."""
DIM: Final = {b"\x1b[2m": b"\x1b[90m", b"\x1b[1;2m": b"\x1b[1;90m"}
"""Faint text, which pyte ignores -> grey text."""
NAMES: Final = {
    "brightblack": "dim",
    "3a3a3a": "dim",
    "cyan": "blue",
    "magenta": "blue",
    "brightgreen": "green",
    "brightred": "red",
}


class Output(NamedTuple):
    """What a program wrote, and when, in seconds since its start."""

    seconds: float
    data: bytes


class Frame(NamedTuple):
    """The lines of the screen, each as markup, and when they are first shown."""

    seconds: float
    lines: tuple[str, ...]


def record(argv: Sequence[str | Path], environment: Mapping[str, str]) -> list[Output]:
    """Run a command in a terminal of its own to its end and return what it wrote. Raises `CalledProcessError`."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    kind = {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(ROWS)}
    started = time.monotonic()
    outputs = []
    with subprocess.Popen(argv, env={**environment, **kind}, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        while data := _read(ours):
            outputs.append(Output(time.monotonic() - started, data))
    os.close(ours)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, argv)
    return outputs


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # the last program on the other side has ended
        return b""


def draw(command: str, outputs: Sequence[Output]) -> str:
    """Return the SVG. It starts with a prompt and the command."""
    frames = [*_frames(command, outputs)]
    strip_width = COLUMNS * CELL[0] + 2 * MARGIN
    end = frames[-1].seconds + END_SECONDS
    numbers: dict[str, int] = {}
    drawn = []
    for position, frame in enumerate(frames):
        places = [(numbers.setdefault(line, len(numbers)), row) for row, line in enumerate(frame.lines) if line]
        uses = "".join(f'<use href="#l{number}" y="{row * CELL[1]}"/>' for number, row in places)
        drawn.append(f'<g transform="translate({position * strip_width:g} {BASELINE})">{uses}</g>')
    steps = "".join(
        f"{100 * frame.seconds / end:.2f}%{{transform:translateX({-position * strip_width:g}px)}}"
        for position, frame in enumerate(frames)
    )
    last = f"translateX({-(len(frames) - 1) * strip_width:g}px)"
    width, height = strip_width, ROWS * CELL[1] + 2 * MARGIN
    lines = "".join(f'<text id="l{number}">{line}</text>' for line, number in numbers.items())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height}" width="{width:g}" height="{height}" '
        f'role="img" aria-label="{escape(command)} in a terminal"><style>'
        f"text{{font:14px {FONT};white-space:pre}}.b{{font-weight:700}}{_colours(LIGHT, LIGHT_BOX)}"
        f"@media(prefers-color-scheme:dark){{{_colours(DARK, DARK_BOX)}}}"
        f".strip{{animation:play {end:.2f}s steps(1,end) infinite}}@keyframes play{{{steps}100%{{transform:{last}}}}}"
        f"@media(prefers-reduced-motion:reduce){{.strip{{animation:none;transform:{last}}}}}"
        f"</style><defs>{lines}</defs>"
        f'<rect class="box" x=".5" y=".5" width="{width - 1:g}" height="{height - 1}" rx="8"/>'
        f'<svg x="{MARGIN}" y="{MARGIN}" width="{COLUMNS * CELL[0]:g}" height="{height}" overflow="hidden">'
        f'<g class="strip">{"".join(drawn)}</g></svg></svg>\n'
    )


def _colours(palette: Mapping[str, str], box: tuple[str, str]) -> str:
    classes = "".join(f".{name}{{fill:{colour}}}" for name, colour in palette.items() if name != "default")
    return f"text{{fill:{palette['default']}}}{classes}.box{{fill:{box[0]};stroke:{box[1]}}}"


def _frames(command: str, outputs: Sequence[Output]) -> Iterator[Frame]:
    changes = [*_changes(command, outputs)]
    waits = [min(after.seconds - before.seconds, LONGEST_WAIT_SECONDS) for before, after in pairwise(changes)]
    pace = min(1.0, PLAY_SECONDS / sum(waits))
    yield changes[0]
    now, shown_at = 0.0, 0.0
    for wait, change in zip(waits, changes[1:], strict=True):
        now += wait * pace
        if now - shown_at >= FRAME_SECONDS:
            yield Frame(now, change.lines)
            shown_at = now
    yield Frame(now + FRAME_SECONDS, changes[-1].lines)


def _changes(command: str, outputs: Sequence[Output]) -> Iterator[Frame]:
    """Yield the screen whenever it has changed by more than spinners and clocks."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    stream.feed(f"$ {command}\r\n".encode())
    last = ""
    for output in [Output(-LONGEST_WAIT_SECONDS, b""), *outputs]:
        data = output.data
        for faint, grey in DIM.items():
            data = data.replace(faint, grey)
        stream.feed(data)
        if (text := TICKING.sub("", "".join(screen.display))) != last:
            yield Frame(output.seconds, _snapshot(screen))
            last = text


def _snapshot(screen: pyte.Screen) -> tuple[str, ...]:
    rows = [[screen.buffer[row][column] for column in range(COLUMNS)] for row in range(ROWS)]
    return tuple(map(_line, rows))


def _line(cells: Sequence[Char]) -> str:
    """Return the markup of a line: a `tspan` for each run of one style, placed by its column."""
    parts, column = [], 0
    for style, group in groupby(cells, key=_style):
        text = "".join(cell.data for cell in group)
        if text.strip():
            indent = len(text) - len(text.lstrip())
            word = text.strip()
            # The length keeps columns aligned whatever the width of the reader's font.
            place = f'x="{(column + indent) * CELL[0]:.4g}" textLength="{len(word) * CELL[0]:.4g}"'
            kind = f' class="{style}"' if style else ""
            parts.append(f"<tspan {place}{kind}>{escape(word)}</tspan>")
        column += len(text)
    return "".join(parts)


def _style(cell: Char) -> str:
    colour = NAMES.get(cell.fg, cell.fg)
    return " ".join([*([colour] if colour in LIGHT and colour != "default" else []), *(["b"] if cell.bold else [])])
