"""Whether the runs of a fetch are kept, or dropped as soon as they were looked at."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from modellab_async.models import Run

_OURS: Final = 2
"""CPython's count of references to what nobody else holds: its place, and who counts."""


class Keeping:
    """Finds out by samples: a run that was given a while ago, or its params, are in use or not.

    Making equal params and tags one object costs as much as parsing them, and is for nothing where
    they are dropped.

    Attributes:
        likely: whether runs are kept, as far as anybody knows.
    """

    def __init__(self) -> None:
        self.likely: bool = True
        self._sample: Run | None = None
        self._due = 0

    def look(self, given: int, run: Run | None, *, due: int) -> None:
        """Look at the sample if its time has come, or take a new one.

        Args:
            given: how many runs were given so far.
            run: one that is about to be given; None where it could not be fetched.
            due: how many will have been given when whoever took it has gone on.
        """
        if self._sample is None:
            self._sample, self._due = run, due
        elif given >= self._due:
            sample = self._sample
            self._sample = None
            self.likely = sys.getrefcount(sample) > _OURS or (
                bool(sample.params) and sys.getrefcount(sample.params) > _OURS
            )
