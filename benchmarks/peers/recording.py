"""A terminal recording as one SVG: a real run in a real terminal, and a few of its screens, one after the other.

    python -m benchmarks.peers.recording docs/images/sweep.svg raybench sweep deit_reverse --preset quick

Needs pyte (pip install pyte), a terminal in Python that turns what a command writes into what a person would have seen.
What is beside it, the times of the run say; the recording is only shorter. No font and nothing else is fetched by it.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import shlex
import struct
import sys
import termios
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.style import Style
from rich.terminal_theme import TerminalTheme
from rich.text import Text

COLUMNS, ROWS = 120, 38
FRAMES = 7
"""Screens shown; a page that holds hundreds is slow to load."""
SHOWN_S, LAST_S = 1.6, 8.0
"""How long each is shown, and the last."""
STANDS_S = 0.2
"""A screen that is written on sooner is half drawn."""
THEME = TerminalTheme(
    (22, 27, 34),
    (222, 228, 235),
    [
        (72, 79, 88),
        (255, 140, 130),
        (110, 210, 130),
        (230, 190, 90),
        (120, 180, 255),
        (200, 160, 255),
        (90, 210, 220),
        (222, 228, 235),
    ],
)
"""Light on dark, on its own ground: the same on a dark page and on a light one."""
FORMAT = """<g class="frame" style="animation-name: {unique_id}">
<style>{styles}</style>
<clipPath id="{unique_id}-clip-terminal"><rect width="{terminal_width}" height="{terminal_height}"/></clipPath>
<defs>{lines}</defs>{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g>"""
FONT = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"


def record(command: list[str]) -> list[tuple[float, bytes]]:
    """Run a command in a terminal; what it wrote, and when (s)."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ |= {"TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(ROWS)}
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    begun, written = time.monotonic(), []
    while True:
        select.select([terminal], [], [])
        try:
            some = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        if not some:
            break
        written.append((time.monotonic() - begun, some))
    _, status = os.waitpid(pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{shlex.join(command)} ended with exit code {code}")
    return written


def screens(written: list[tuple[float, bytes]]) -> list[tuple[float, Text]]:
    """What a person saw: a few screens that stood for a while, at even times, the first and the last among them."""
    try:
        import pyte
    except ImportError:
        raise SystemExit("a recording needs pyte: pip install pyte") from None

    def played() -> Iterator[tuple[int, Any]]:
        screen = pyte.Screen(COLUMNS, ROWS)
        stream = pyte.ByteStream(screen)
        for index, (_, some) in enumerate(written):
            stream.feed(some)
            yield index, screen

    # Twice, since the colours of thousands of screens, of which few are shown, would take minutes.
    seen: list[int] = []
    shown: list[str] = []
    for index, screen in played():
        stands = index == len(written) - 1 or written[index + 1][0] - written[index][0] > STANDS_S
        if stands and screen.display != shown:
            seen, shown = [*seen, index], screen.display
    picked = set(chosen([written[index][0] for index in seen]))
    wanted = {index for place, index in enumerate(seen) if place in picked}
    return [(written[index][0], _text(screen)) for index, screen in played() if index in wanted]


def _text(screen: Any) -> Text:
    """The lines of a terminal with their styles."""
    whole = Text()
    for row in range(ROWS):
        line = Text()
        cells = [screen.buffer[row][column] for column in range(COLUMNS)]
        for (color, bold), alike in groupby(cells, key=lambda cell: (cell.fg, cell.bold)):
            line.append("".join(cell.data for cell in alike), Style(color=_color(color), bold=bold))
        line.rstrip()
        whole.append_text(line).append("\n")
    whole.rstrip()
    return whole


def _color(name: str) -> str | None:
    """A colour as rich calls it."""
    if re.fullmatch(r"[0-9a-f]{6}", name):
        return f"#{name}"
    return None if name == "default" else name.replace("brown", "yellow").replace("bright", "bright_")


def chosen(times: list[float], count: int = FRAMES) -> list[int]:
    """Which of these times are nearest to even ones; the last is among them."""
    first, last = times[0], times[-1]
    even = [first + (last - first) * step / (count - 1) for step in range(count)]
    return sorted({min(range(len(times)), key=lambda index: abs(times[index] - at)) for at in even})


def svg(command: list[str], frames: list[tuple[float, Text]]) -> str:
    """One picture of all of them, which shows one after the other, and the last where motion is not wanted."""
    total = SHOWN_S * (len(frames) - 1) + LAST_S
    parts, keys, begins = [], [], 0.0
    for index, (_, text) in enumerate(frames):
        console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
        console.print(text, end="")
        drawn = console.export_svg(theme=THEME, code_format=FORMAT, unique_id=f"f{index}")
        parts.append(drawn.replace("&#160;", "\N{NO-BREAK SPACE}"))  # in a third of the bytes
        ends = begins + (SHOWN_S if index < len(frames) - 1 else LAST_S)
        keys.append(_keyframes(f"f{index}", 100 * begins / total, 100 * ends / total))
        begins = ends
    char, line = 12.2, 24.4
    width, height = round(COLUMNS * char) + 32, round(ROWS * line) + 64
    title = f"$ {shlex.join(command)}"
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">
<title id="title">{_escaped(title)}: a recording of {frames[-1][0]:.0f} s, {len(frames)} screens of it</title>
<style>
.frame {{ font-family: {FONT}; font-size: 20px; visibility: hidden;
  animation-duration: {total:g}s; animation-iteration-count: infinite; animation-timing-function: step-end }}
.frame:last-child {{ visibility: visible }}
{"".join(keys)}
@media (prefers-reduced-motion: reduce) {{ .frame {{ animation: none }} }}
</style>
<rect width="{width}" height="{height}" rx="10" fill="{THEME.background_color.hex}"/>
<text x="16" y="32" font-family="{FONT}" font-size="20" fill="#8fd19e" xml:space="preserve">{_escaped(title)}</text>
<g transform="translate(16 48)">
{chr(10).join(parts)}
</g>
</svg>
"""


def _keyframes(name: str, begins: float, ends: float) -> str:
    """When a screen is seen, in % of the whole."""
    before = "" if begins == 0 else "0% { visibility: hidden } "
    after = "" if ends >= 100 else f"{ends:.2f}% {{ visibility: hidden }} "
    return f"@keyframes {name} {{ {before}{begins:.2f}% {{ visibility: visible }} {after}}}\n"


def _escaped(text: str) -> str:
    return re.sub(r"[&<>]", lambda found: {"&": "&amp;", "<": "&lt;", ">": "&gt;"}[found[0]], text)


def main() -> None:
    """Record, choose and write."""
    out, command = Path(sys.argv[1]), sys.argv[2:]
    frames = screens(record(command))
    out.write_text(svg(command, frames))
    print(f"{out}: {len(frames)} screens of {frames[-1][0]:.0f} s, {out.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
