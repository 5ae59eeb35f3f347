"""The drawing of the architecture page: ``python docs/figures.py`` writes it.

It follows the colour scheme of whoever looks at it, by a media query.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

PICTURE = Path(__file__).parent / "_static/architecture.svg"
WIDTH, HEIGHT = 860, 470

STYLE = """
text { fill: #1f2430; font: 13px sans-serif; text-anchor: middle }
.name { font: 600 13px monospace }
.small { font-size: 11px }
.left { text-anchor: start }
.paper { fill: #ffffff }
.box { stroke: #9aa3b2 }
.frame { fill: none; stroke: #9aa3b2; stroke-dasharray: 4 4 }
.arrow { fill: none; stroke: #5b6472; stroke-width: 1.5 }
.again { stroke-dasharray: 5 4 }
.head { fill: #5b6472 }
.client { fill: #fde8ee }
.pure { fill: #e6f4ea }
.call { fill: #fdeee0 }
@media (prefers-color-scheme: dark) {
text { fill: #e3e6ec }
.paper { fill: #131416 }
.arrow { stroke: #aab3c2 }
.head { fill: #aab3c2 }
.client { fill: #4b2531 }
.pure { fill: #1d3d29 }
.call { fill: #4a3320 }
}
"""


def text(x: int, y: int, words: str, kind: str = "") -> str:
    """A line of text."""
    return f'<text x="{x}" y="{y}" class="{kind}">{escape(words)}</text>'


def box(x: int, y: int, width: int, layer: str, name: str, *lines: str) -> str:
    """A module: its file, and what it does."""
    middle = x + width // 2
    place = f'x="{x}" y="{y}" width="{width}" height="{32 + 18 * len(lines)}"'
    parts = [
        f'<rect {place} rx="6" class="box {layer}"/>',
        text(middle, y + 22, name, "name"),
        *(text(middle, y + 40 + 16 * row, line, "small") for row, line in enumerate(lines)),
    ]
    return "".join(parts)


def arrow(*points: tuple[int, int], kind: str = "") -> str:
    """A line through points, with a head at its end."""
    path = " ".join(f"{x},{y}" for x, y in points)
    return f'<polyline points="{path}" class="arrow {kind}" marker-end="url(#head)"/>'


def architecture() -> str:
    """A call's way to its result, and back to the limiter after a failure."""
    parts = [
        text(20, 34, "await lab.runs.get(70158)", "name left"),
        arrow((100, 42), (100, 62)),
        box(20, 64, 160, "client", "resources.py", "Runs.get"),
        arrow((180, 89), (228, 89)),
        box(230, 64, 170, "pure", "endpoints.py", "builds a Call"),
        arrow((400, 89), (448, 89)),
        box(450, 64, 190, "call", "calls.py", "Caller.perform(call)"),
        '<rect x="20" y="150" width="820" height="178" rx="6" class="frame"/>',
        text(760, 170, "one attempt", "small"),
        arrow((545, 114), (545, 134), (108, 134), (108, 182)),
        box(32, 184, 152, "call", "limiter.py", "waits for a permit"),
        arrow((184, 209), (222, 209)),
        box(224, 184, 172, "call", "transport.py", "sends one request"),
        arrow((396, 209), (434, 209)),
        box(436, 184, 172, "call", "limiter.py", "learns from the headers"),
        arrow((608, 209), (646, 209)),
        box(648, 184, 178, "pure", "responses.py", "status to error"),
        arrow((310, 234), (310, 264)),
        text(310, 282, "the API"),
        arrow((737, 234), (737, 260)),
        box(648, 262, 178, "pure", "documents.py", "JSON to a Run"),
        arrow((737, 312), (737, 372)),
        text(737, 390, "a frozen Run"),
        arrow((545, 328), (545, 362), kind="again"),
        box(420, 364, 250, "call", "retry.py", "repeat this failure? after how long?"),
        arrow((420, 389), (60, 389), (60, 236), kind="again"),
        text(240, 381, "after back-off, within deadline and budget", "small"),
        arrow((545, 414), (545, 438)),
        text(545, 456, "or a ModelLabError with the number of attempts"),
    ]
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    namespace = "http://www.w3.org/2000/svg"
    marker = 'id="head" markerWidth="9" markerHeight="8" refX="8" refY="4" orient="auto"'
    lines = [
        f'<svg xmlns="{namespace}" {size} role="img">',
        "<title>The path of a call</title>",
        f"<style>{STYLE}</style>",
        f'<defs><marker {marker}><path d="M0,0 L9,4 L0,8 z" class="head"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" class="paper"/>',
        *parts,
        "</svg>",
        "",
    ]
    return "\n".join(lines)


def figures() -> dict[Path, str]:
    """Each picture by its file."""
    return {PICTURE: architecture()}


if __name__ == "__main__":
    for path, picture in figures().items():
        path.write_text(picture, "utf-8")
