"""The diagrams of the architecture page: ``python docs/figures.py`` draws them anew.

The rooms are taken from the table of that page; a request's journey is drawn by hand.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

DOCS = Path(__file__).parent
PAGE = DOCS / "explanation/architecture.md"
WIDTH = 860
INK, MUTED, LINE = "#1f2430", "#5b6472", "#9aa3b2"
FILLS = {
    "facts": "#e8eefc",
    "pure": "#e6f4ea",
    "motion": "#fdeee0",
    "work": "#f3e8fb",
    "face": "#fde8ee",
    "edges": "#eef0f3",
}
PLAIN = "#ffffff"


def text(x: float, y: float, words: str, *, size: int = 13, style: str = "") -> str:
    """A line of text."""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{INK}" {style}>{escape(words)}</text>'
    )


def rectangle(  # noqa: PLR0917  # as SVG orders them
    x: float, y: float, width: float, height: float, fill: str, more: str = ""
) -> str:
    """A rectangle with rounded corners."""
    place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
    return f'<rect {place} rx="6" fill="{fill}" {more}/>'


def box(x: float, y: float, width: float, lines: tuple[str, ...], fill: str) -> str:
    """A room: its name in monospace, and below what it does there."""
    height = 32 if len(lines) == 1 else 54
    first = y + height / 2 + 4.5 - 8 * (len(lines) - 1)
    parts = [rectangle(x, y, width, height, fill, f'stroke="{LINE}"')]
    for number, line in enumerate(lines):
        family = "" if number else 'font-family="monospace" font-weight="600"'
        style = f'text-anchor="middle" {family}'
        size = 11 if number else 13
        parts.append(text(x + width / 2, first + 16 * number, line, size=size, style=style))
    return "".join(parts)


def arrow(*points: tuple[float, float], dashed: bool = False) -> str:
    """A line through points, with a head at its end."""
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return (
        f'<polyline points="{path}" fill="none" stroke="{MUTED}" stroke-width="1.5"{dash}'
        ' marker-end="url(#head)"/>'
    )


def svg(height: float, title: str, parts: list[str]) -> str:
    """A whole picture."""
    size = f'viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}"'
    marker = 'id="head" markerWidth="9" markerHeight="8" refX="8" refY="4" orient="auto"'
    head = f'<path d="M0,0 L9,4 L0,8 z" fill="{MUTED}"/>'
    namespace = "http://www.w3.org/2000/svg"
    lines = [
        f'<svg xmlns="{namespace}" {size} role="img" font-family="sans-serif">',
        f"<title>{escape(title)}</title>",
        f"<defs><marker {marker}>{head}</marker></defs>",
        f'<rect width="{WIDTH}" height="{height:g}" fill="{PLAIN}"/>',
        *parts,
        "</svg>",
        "",
    ]
    return "\n".join(lines)


def layers() -> dict[str, list[str]]:
    """The rooms of the page's table, by their layer."""
    found: dict[str, list[str]] = {}
    layer = ""
    rows = re.findall(r"^\|([^|]*)\|([^|]*)\|", PAGE.read_text("utf-8"), flags=re.MULTILINE)
    for name, rooms in rows:
        layer = name.strip() or layer
        found.setdefault(layer, []).extend(re.findall(r"`([\w./]+)`", rooms))
    return {layer: rooms for layer, rooms in found.items() if rooms}


def rooms() -> str:
    """The layers, from facts to edges."""
    parts, top = [], 16.0
    for layer, names in layers().items():
        start, x, y = top, 118.0, top + 12
        boxes = []
        for name in names:
            width = 20 + 8.0 * len(name)
            if x + width > WIDTH - 70:
                x, y = 118.0, y + 42
            boxes.append(box(x, y, width, (name,), PLAIN))
            x += width + 10
        top = y + 32 + 12
        parts += [
            rectangle(12, start, WIDTH - 64, top - start, FILLS.get(layer, PLAIN)),
            text(26, (start + top) / 2 + 5, layer, size=15, style='font-weight="600"'),
            *boxes,
        ]
        top += 10
    side = WIDTH - 28
    middle = top / 2
    parts += [
        arrow((side, top - 14), (side, 20)),
        text(
            side + 16,
            middle,
            "imports only what is above",
            size=12,
            style=f'text-anchor="middle" transform="rotate(-90 {side + 16} {middle:g})"',
        ),
    ]
    return svg(top + 4, "The rooms of modellab_async, layer by layer", parts)


def journey() -> str:
    """A request's way, and the way back of a failure."""
    motion, pure, face = FILLS["motion"], FILLS["pure"], FILLS["face"]
    middle = 'text-anchor="middle"'
    parts = [
        text(20, 34, "await lab.runs.get(70158)", style='font-family="monospace"'),
        arrow((100, 42), (100, 62)),
        box(20, 64, 160, ("resources/", "Runs.get"), face),
        arrow((180, 90), (228, 90)),
        box(230, 64, 170, ("endpoints.py", "a Call: pure, no I/O"), pure),
        arrow((400, 90), (448, 90)),
        box(450, 64, 190, ("client.py", "perform(call)"), face),
        rectangle(20, 150, 820, 196, "#fbfbfc", f'stroke="{LINE}" stroke-dasharray="4 4"'),
        text(126, 171, "an attempt", size=12, style='font-weight="600"'),
        arrow((545, 116), (545, 134), (110, 134), (110, 184)),
        box(34, 186, 152, ("limiter.py", "wait for a place"), motion),
        arrow((186, 214), (226, 214)),
        box(228, 186, 168, ("transport.py", "send, read the answer"), motion),
        arrow((396, 214), (436, 214)),
        box(438, 186, 168, ("limiter.py", "learn from the headers"), motion),
        arrow((606, 214), (646, 214)),
        box(648, 186, 178, ("wire.py", "a bad status: an error"), pure),
        arrow((737, 242), (737, 270)),
        box(648, 272, 178, ("codec/", "bytes to a Run"), pure),
        arrow((312, 242), (312, 268)),
        text(312, 285, "the API", style=middle),
        text(312, 302, "(aiohttp, one request)", size=11, style=middle),
        arrow((737, 328), (737, 388)),
        text(737, 406, "a frozen Run", style=middle),
        arrow((560, 346), (560, 386), dashed=True),
        box(438, 388, 244, ("retry.py", "a failure: again? and after how long?"), motion),
        arrow((438, 416), (60, 416), (60, 244), dashed=True),
        text(250, 408, "after full jitter, within the deadline", size=12, style=middle),
        arrow((560, 444), (560, 474)),
        text(560, 492, "or one of our errors, which says how often it was tried", style=middle),
    ]
    return svg(508, "A request's journey", parts)


def figures() -> dict[Path, str]:
    """Each picture, and where it is kept."""
    return {DOCS / "_static/rooms.svg": rooms(), DOCS / "_static/journey.svg": journey()}


if __name__ == "__main__":
    for path, picture in figures().items():
        path.write_text(picture, "utf-8")
