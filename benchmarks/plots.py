"""Plots for the documentation, as SVG that brings its own light and dark colours.

Nothing is measured here. ``bars`` compares clients on a linear scale, ``lines`` shows how they grow
on two logarithmic ones; both give the text of an SVG file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 76, 20, 96, 56
INNER_WIDTH, INNER_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
COLOURS = ("#8a8f98", "#3987cf", "#2b9a68", "#d27d22", "#a866c4", "#c4556b")
CLIENTS = {
    "hand-written loop": COLOURS[0],
    "modellab_async, single": COLOURS[1],
    "modellab_async, batch": COLOURS[2],
    "datadog-api-client[async]": COLOURS[3],
    "datadog-api-client, threads": COLOURS[4],
    "a loop as most write it": COLOURS[5],
}
"""The colours of clients, the same in every plot; other series have those that remain."""

# The first is the baseline: a broad line on which the others remain visible.
STROKES = ("5", "2.5", "2.5", "2.5", "2.5", "2.5")
DASHES = ("", "", "8 3", "3 3", "8 3 2 3", "12 4")
STYLE = """
text{font:13px system-ui,sans-serif;fill:#24292f} .panel{fill:#fff} .grid{stroke:#d8dde3}
.title{font-size:15px;font-weight:600} .reference{stroke:#24292f;stroke-dasharray:5 4}
@media (prefers-color-scheme: dark){text{fill:#dfe3e8} .panel{fill:#16191d}
.grid{stroke:#333a42} .reference{stroke:#dfe3e8}}
"""

Series = Mapping[str, Sequence[float]]
Points = Mapping[str, Sequence[tuple[float, float]]]


def bars(
    title: str,
    groups: Sequence[str],
    series: Series,
    *,
    y_label: str,
    x_label: str,
    reference: float | None = None,
) -> str:
    """Groups of bars with their values written on them; ``reference`` draws a line to compare."""
    top = 1.12 * max(max(values) for values in series.values())
    step = _step(top)

    def y(value: float) -> float:
        return TOP + INNER_HEIGHT * (1 - value / top)

    colours = _colours(series)
    parts = [_level(y(tick * step), f"{tick * step:g}") for tick in range(int(top / step) + 1)]
    slot = INNER_WIDTH / len(groups)
    width = slot * 0.84 / len(series)
    for place, group in enumerate(groups):
        start = LEFT + slot * (place + 0.08)
        parts.append(_text(LEFT + slot * (place + 0.5), TOP + INNER_HEIGHT + 20, group))
        for index, values in enumerate(series.values()):
            x, height = start + index * width, y(0) - y(values[place])
            parts.append(
                f'<rect x="{x:.1f}" y="{y(values[place]):.1f}" width="{width * 0.9:.1f}" '
                f'height="{height:.1f}" fill="{colours[index]}"/>'
            )
            parts.append(_text(x + width * 0.45, y(values[place]) - 5, _number(values[place])))
    if reference is not None:
        parts.append(
            f'<line class="reference" x1="{LEFT}" x2="{WIDTH - RIGHT}" '
            f'y1="{y(reference):.1f}" y2="{y(reference):.1f}"/>'
        )
    legend = _legend(list(series), [""] * len(series))
    return _document(title, [*legend, *parts], y_label=y_label, x_label=x_label)


def lines(title: str, points: Points, *, y_label: str, x_label: str) -> str:
    """One line per client over two logarithmic axes."""
    every = [point for line in points.values() for point in line]
    measured = sorted({x for x, _ in every})
    left, right = measured[0], max(measured[-1], 2 * measured[0])
    low = math.floor(math.log10(min(y for _, y in every)))
    high = max(math.ceil(math.log10(max(y for _, y in every))), low + 1)

    def place(point: tuple[float, float]) -> tuple[float, float]:
        across = (math.log(point[0]) - math.log(left)) / (math.log(right) - math.log(left))
        up = (math.log10(point[1]) - low) / (high - low)
        return LEFT + INNER_WIDTH * across, TOP + INNER_HEIGHT * (1 - up)

    parts = [
        _level(
            place((left, 10.0**power))[1], f"{10.0**power:,g}" if power < 0 else f"{10**power:,}"
        )
        for power in range(low, high + 1)
    ]
    parts += [
        _text(place((x, 10.0**low))[0], TOP + INNER_HEIGHT + 20, f"{x:,g}")
        for x in (measured if len(measured) < 8 else _log_ticks(left, right))
    ]
    colours = _colours(points)
    for index, line in enumerate(points.values()):
        spots = [place(point) for point in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colours[index]}" '
            f'stroke-width="{STROKES[index]}" stroke-dasharray="{DASHES[index]}"/>'
        )
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colours[index]}"/>' for x, y in spots
        ]
    legend = _legend(list(points), DASHES)
    return _document(title, [*legend, *parts], y_label=y_label, x_label=x_label)


def _colours(names: Iterable[str]) -> list[str]:
    """A colour for each series."""
    names = list(names)
    taken = {CLIENTS[name] for name in names if name in CLIENTS}
    rest = iter([colour for colour in COLOURS if colour not in taken])
    return [CLIENTS.get(name) or next(rest) for name in names]


def _document(title: str, parts: Sequence[str], *, y_label: str, x_label: str) -> str:
    middle = TOP + INNER_HEIGHT / 2
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
            f"<title>{escape(title)}</title><style>{STYLE}</style>",
            f'<rect class="panel" width="{WIDTH}" height="{HEIGHT}" rx="8"/>',
            f'<text class="title" x="{LEFT}" y="28">{escape(title)}</text>',
            *parts,
            _text(LEFT + INNER_WIDTH / 2, HEIGHT - 12, x_label),
            f'<g transform="translate(18 {middle}) rotate(-90)">{_text(0, 0, y_label)}</g>',
            "</svg>\n",
        ]
    )


def _legend(names: Sequence[str], dashes: Sequence[str]) -> Iterator[str]:
    x, y = LEFT, 52
    for name, colour, dash in zip(names, _colours(names), dashes, strict=False):
        width = 48 + 7 * len(name)
        if x + width > WIDTH:
            x, y = LEFT, y + 20
        yield (
            f'<line x1="{x}" x2="{x + 22}" y1="{y - 4}" y2="{y - 4}" stroke="{colour}" '
            f'stroke-width="4" stroke-dasharray="{dash}"/><text x="{x + 28}" y="{y}">'
            f"{escape(name)}</text>"
        )
        x += width


def _level(y: float, label: str) -> str:
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text text-anchor="end" x="{LEFT - 8}" y="{y + 4:.1f}">{label}</text>'
    )


def _text(x: float, y: float, text: str) -> str:
    return f'<text text-anchor="middle" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}" if value < 1 else f"{value:.1f}"


def _step(top: float) -> float:
    """A round distance that gives four to nine levels."""
    power = 10.0 ** math.floor(math.log10(top / 4))
    return max(power * factor for factor in (1, 2, 5) if power * factor <= top / 4)


def _log_ticks(left: float, right: float) -> list[float]:
    """1, 2, 5, 10 … within the range; only the powers of ten where it is wide."""
    factors = (1, 2, 5) if right / left < 2_000 else (1,)
    powers = range(math.floor(math.log10(left)), math.ceil(math.log10(right)) + 1)
    ticks = [factor * 10.0**power for power in powers for factor in factors]
    return [tick for tick in ticks if left <= tick <= right]
