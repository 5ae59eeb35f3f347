"""What columns turn out to hold, once all runs have been seen: types of params, keys for ``*``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import attrs

from modellab_async.frames.columns import ANY, first, parse_column
from modellab_async.frames.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from modellab_async.frames.columns import Column, Kind, Part
    from modellab_async.frames.layout import Shape
    from modellab_async.models import Run

# Only what would be written in the same way again is an integer: no 007, no +1.
_INTEGER: Final = re.compile(r"0|-?[1-9][0-9]*", re.ASCII)
_NUMBER: Final = re.compile(
    r"[+-]?(?:(?:\d+\.\d*|\.\d+|\d+(?=e))(?:e[+-]?\d+)?|inf(?:inity)?|nan)",
    re.ASCII | re.IGNORECASE,
)
_MOST_DIGITS: Final = 20


@attrs.define
class Guess:
    """What all values of a param seen so far could be.

    Attributes:
        integer: whether each is an integer of 64 bits.
        number: whether each is a number that a double holds without loss.
    """

    integer: bool = True
    number: bool = True

    def see(self, value: str) -> None:
        """Take one more value into account."""
        if len(value) <= _MOST_DIGITS and _INTEGER.fullmatch(value):
            number = int(value)
            self.integer &= -(2**63) <= number < 2**63
            self.number &= abs(number) <= 2**53
        else:
            self.integer = False
            self.number &= _NUMBER.fullmatch(value) is not None

    @property
    def kind(self) -> Kind:
        """The narrowest kind that takes them all."""
        return "integer" if self.integer else "number" if self.number else "text"


class Survey:
    """Learns from every run which columns there are, and of which kind those of params are."""

    def __init__(
        self,
        shape: Shape,
        columns: Sequence[Column],
        known: Mapping[str, Guess | None] | None = None,
    ) -> None:
        """Begin to learn; there is nothing to learn for the long shape, where all is text.

        Args:
            shape: what a row will stand for.
            columns: those asked for; a key of ``*`` stands for all keys.
            known: what `learned` said of runs seen earlier.
        """
        self._shape: Shape = shape
        self._columns = columns
        if shape == "long":
            columns, known = (), None
        self._guesses: dict[str, Guess] = {}
        self._any_param = any(c.part == "params" and c.key == ANY for c in columns)
        self._params = {c.key for c in columns if c.part == "params" and c.key not in {"", ANY}}
        self._known = [parse_column(name, "latest") for name in known or ()]
        self._keys: dict[Part, set[str]] = {
            c.part: set() for c in columns if c.key == ANY and c.part in {"tags", "metrics"}
        }
        for column in self._known:
            guess = (known or {})[column.name]
            if guess is not None:
                self._guesses[column.key] = attrs.evolve(guess)

    def see(self, run: Run) -> None:
        """Take one more run into account."""
        if self._any_param or self._params:
            for key, value in first(run, "params").items():
                if self._any_param or key in self._params:
                    guess = self._guesses.get(key)
                    if guess is None:
                        guess = self._guesses[key] = Guess()
                    if guess.number or guess.integer:
                        guess.see(value)
        for part, keys in self._keys.items():
            keys.update(first(run, part))

    def layout(self) -> Layout:
        """The layout for all runs seen."""
        columns = self._columns if self._shape == "long" else self._resolved()
        return Layout(self._shape, tuple(columns))

    def learned(self) -> dict[str, Guess | None]:
        """The columns' names, and what is known of those of params, for a later `Survey`."""
        return {
            column.name: self._guesses.get(column.key) if column.part == "params" else None
            for column in self.layout().columns
        }

    def _resolved(self) -> list[Column]:
        """The columns, each key's own in place of ``*``; keys known earlier keep their place."""
        found: dict[str, Column] = {}
        for column in self._columns:
            for each in self._expanded(column) if column.key == ANY else (column,):
                if each.part == "params" and (guess := self._guesses.get(each.key)):
                    each = attrs.evolve(each, kind=guess.kind)  # noqa: PLW2901
                found.setdefault(each.name, each)
        return list(found.values())

    def _expanded(self, column: Column) -> Iterator[Column]:
        keys = set(self._guesses) if column.part == "params" else self._keys[column.part]
        ending = f".{column.statistic}" if column.statistic else ""
        old = {
            known.key: None
            for known in self._known
            if (known.part, known.statistic) == (column.part, column.statistic) and known.key
        }
        for key in (*old, *sorted(keys - old.keys() - {"", ANY})):
            yield attrs.evolve(column, name=f"{column.part}.{key}{ending}", key=key)
