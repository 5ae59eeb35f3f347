"""Ids with gaps, in ascending order, and the dice rolled for each: all computed, nothing stored."""

from __future__ import annotations

import struct
from abc import abstractmethod
from collections.abc import Sequence
from hashlib import blake2b
from typing import overload

import attrs

_DRAWS = struct.Struct("<16I")
_INDEX = struct.Struct("<q")


class ComputedIds(Sequence[int]):
    """Ids that are computed one by one as they are asked for."""

    @abstractmethod
    def at(self, position: int) -> int:
        """The id at a position that there is, counted from 0."""

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[int]: ...
    def __getitem__(self, index: int | slice) -> int | Sequence[int]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        return self.at(position)


class IdSequence(ComputedIds):
    """`count` ascending ids between `lowest` and about `highest`, some numbers left out.

    The same seed and kind give the same ids and the same draws on every machine.
    """

    def __init__(self, seed: int, kind: str, *, count: int, lowest: int, highest: int) -> None:
        if count < 0:
            raise ValueError(f"count must not be negative, not {count}")
        self._key = f"{seed}/{kind}".encode()[:64]
        self._count = count
        self._lowest = lowest
        self._stride = max(2, (highest - lowest) // max(1, count))

    def draws(self, index: int) -> tuple[int, ...]:
        """Sixteen 32-bit numbers that belong to this index."""
        digest = blake2b(_INDEX.pack(index), digest_size=_DRAWS.size, key=self._key)
        return _DRAWS.unpack(digest.digest())

    def id_of(self, index: int, first_draw: int) -> int:
        """The id at `index`, for a caller that already has `draws(index)[0]`."""
        return self._lowest + index * self._stride + first_draw % self._stride

    def __len__(self) -> int:
        return self._count

    def at(self, position: int) -> int:
        """The id there."""
        return self.id_of(position, self.draws(position)[0])

    def find(self, value: int) -> int | None:
        """The index of an id, or None if no such id exists."""
        position = (value - self._lowest) // self._stride
        if 0 <= position < self._count and self[position] == value:
            return position
        return None

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int) and self.find(value) is not None

    def index(self, value: int, start: int = 0, stop: int | None = None) -> int:
        """The index of an id.

        Raises:
            ValueError: no such id exists in that range.
        """
        position = self.find(value)
        if position is None or position not in range(self._count)[start:stop]:
            raise ValueError(f"{value} is not one of these ids")
        return position


@attrs.frozen
class JoinedIds(ComputedIds):
    """One sequence of ids after another, without copying either."""

    first: Sequence[int]
    second: Sequence[int]

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def at(self, position: int) -> int:
        """The id there."""
        if position < len(self.first):
            return self.first[position]
        return self.second[position - len(self.first)]

    def __contains__(self, value: object) -> bool:
        return value in self.first or value in self.second
