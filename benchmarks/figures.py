"""A figure of the soak, and whether it holds."""

from __future__ import annotations

from attrs import frozen


@frozen
class Figure:
    """One figure beside what it must be and what was aimed at; all three in ``unit``."""

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
        if not self.holds:
            return "misses"
        return "aim" if self.aim is not None and self._within(self.aim) else "must"

    def _within(self, bound: float | None) -> bool:
        if bound is None:
            return True
        return self.measured >= bound if self.at_least else self.measured <= bound
