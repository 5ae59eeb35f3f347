"""Plots for the documentation: SVG whose gray text can be read on white and on black."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt  # the backend comes first
from matplotlib.axes import Axes

GRAY = "#7c828a"
STYLE = {
    "axes.facecolor": "none",
    "axes.edgecolor": GRAY,
    "axes.labelcolor": GRAY,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": GRAY,
    "axes.titlesize": 11,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "grid.alpha": 0.35,
    "grid.color": GRAY,
    "legend.frameon": False,
    "legend.labelcolor": GRAY,
    "savefig.transparent": True,
    "svg.hashsalt": "modellab_async",
    "text.color": GRAY,
    "xtick.color": GRAY,
    "ytick.color": GRAY,
}
COLORS = {
    "one-request loop": GRAY,
    "page loop of dicts": "#8e6bbf",
    "modellab_async": "#2f8fd8",
    "Datadog's client": "#d9822b",
}

Bars = Mapping[str, Sequence[float]]
Points = Mapping[str, tuple[Sequence[float], Sequence[float]]]


def speeds(file: Path, sizes: Sequence[str], panels: Mapping[str, Bars]) -> None:
    """A panel of grouped bars for each yardstick, whose own speed is the line at 1."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(panels), figsize=(9, 3.4))
        for axis, (title, bars) in zip(axes, panels.items(), strict=True):
            width = 0.8 / len(bars)
            for index, (name, values) in enumerate(bars.items()):
                places = [n + (index - (len(bars) - 1) / 2) * width for n in range(len(sizes))]
                label, color = name.partition(",")[0], _color(name)
                drawn = axis.bar(places, values, 0.92 * width, label=label, color=color)
                axis.bar_label(drawn, fmt=_short, padding=2, fontsize=8)
            axis.margins(y=0.12)
            axis.axhline(1, color=GRAY, linestyle="--", linewidth=1)
            axis.set(title=title, ylabel="times its speed", xticks=range(len(sizes)))
            axis.set_xticklabels([f"{size} KB" for size in sizes])
        _save(figure, axes[-1], file)


def rates(file: Path, points: Points) -> None:
    """A line for each client on two logarithmic axes."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(9, 3.6))
        for name, (xs, ys) in points.items():
            style = "--" if "loop" in name else "-"
            marker = "s" if "batch" in name else "o"
            axis.loglog(xs, ys, style, marker=marker, markersize=5, color=_color(name), label=name)
        axis.set(xlabel="requests in flight", ylabel="runs per second")
        axis.set_xticks(xs, labels=[f"{x:g}" for x in xs])
        axis.yaxis.set_major_formatter("{x:,.0f}")
        axis.minorticks_off()
        axis.grid(visible=True)
        _save(figure, axis, file)


def _color(name: str) -> str:
    return next(color for start, color in COLORS.items() if name.startswith(start))


def _short(value: float) -> str:
    return f"{value:.2g}" if value < 1 else f"{value:.1f}"


def _save(figure: plt.Figure, last: Axes, file: Path) -> None:
    """Write a figure with the legend of its last panel, which has all clients, above it."""
    figure.legend(*last.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
