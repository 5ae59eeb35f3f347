"""A figure beside what was promised for it."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from benchmarks.results import table


@frozen
class Figure:
    """One figure, its bound (``must``) and its goal (``aim``), all three in ``unit``."""

    row: str
    what: str
    measured: float
    must: float | None
    aim: float | None = None
    unit: str = ""
    at_least: bool = False
    """Whether more is better."""

    @property
    def holds(self) -> bool:
        return self._within(self.must)

    @property
    def verdict(self) -> str:
        if self.must is self.aim is None:
            return ""
        if not self.holds:
            return "**missed**"
        return "aim" if self.aim is not None and self._within(self.aim) else "must"

    def cells(self) -> list[str]:
        bounds = map(self._bound, (self.must, self.aim))
        return [self.row, self.what, _number(self.measured, self.unit), *bounds, self.verdict]

    def _within(self, bound: float | None) -> bool:
        if bound is None:
            return True
        return self.measured >= bound if self.at_least else self.measured <= bound

    def _bound(self, value: float | None) -> str:
        if value is None:
            return ""
        sign = "" if value == 0 else "≥ " if self.at_least else "≤ "
        return sign + _number(value, self.unit)


def figures_table(figures: Sequence[Figure]) -> str:
    """The figures as a table; a row that continues the one above does not repeat its name."""
    rows = [figure.cells() for figure in figures]
    names = [None, *(figure.row for figure in figures)]
    for cells, above in zip(rows, names, strict=False):
        if cells[0] == above:
            cells[0] = ""
    return table(["", "figure", "measured", "must", "aim", "verdict"], rows)


def _number(value: float, unit: str) -> str:
    whole = value == round(value) or value >= 100
    digits = f"{value:,.0f}" if whole else f"{value:.6g}" if value > 99 else f"{value:.3g}"
    return f"{digits} {unit}".strip()
