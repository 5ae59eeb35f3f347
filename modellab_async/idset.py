"""Millions of ids in little memory."""

from __future__ import annotations

from typing import Final

_BLOCK: Final = 512


class IdSet:
    """A set of ids that only grows: one bit per id if they are dense.

    A million ids in a row take a quarter of a megabyte, a set takes 60.
    """

    def __init__(self) -> None:
        self._blocks: dict[int, int] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, number: int) -> bool:
        block, bit = divmod(number, _BLOCK)
        return bool(self._blocks.get(block, 0) >> bit & 1)

    def add(self, number: int) -> None:
        """Take one in; taking it in again changes nothing."""
        block, bit = divmod(number, _BLOCK)
        bits = self._blocks.get(block, 0)
        if not bits >> bit & 1:
            self._blocks[block] = bits | 1 << bit
            self._count += 1
