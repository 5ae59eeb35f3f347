"""Keeping many runs without the pauses of Python's garbage collector."""

from __future__ import annotations

import gc
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator


@attrs.define
class _Pause:
    """The one pause of this process's collector, shared by all who want it."""

    users: int = 0
    was_enabled: bool = False
    lock: threading.Lock = attrs.field(factory=threading.Lock)


_pause: Final = _Pause()


@contextmanager
def large_results() -> Iterator[None]:
    """Pause Python's cyclic garbage collector, for as long as a large result is being built.

    The collector looks at everything that is kept, again and again as it grows, and stops the
    event loop meanwhile. Runs are not among it, so that keeping them takes the same time from the
    first to the last; but what a program makes of them is, such as 20,000 of them as dicts, which
    stop it for a sixth of a second. Inside this context manager nothing does.

    The collector is the whole process's: while it is paused, garbage that refers to itself in a
    circle is not freed, of whichever library it is; all other garbage is freed as always. The
    first collection afterwards looks at all that was kept, once; ``gc.freeze()`` spares it that.

    It may be nested, and used in several tasks and threads at once; when the last one leaves, the
    collector is as it was before the first one came.

    Example:
        ```python
        from modellab_async import large_results

        with large_results():
            runs = await lab.runs.get_many([70158, 71354])
        ```

    Source: https://docs.python.org/3/library/gc.html
    """
    with _pause.lock:
        if _pause.users == 0:
            _pause.was_enabled = gc.isenabled()
            gc.disable()
        _pause.users += 1
    try:
        yield
    finally:
        with _pause.lock:
            _pause.users -= 1
            if _pause.users == 0 and _pause.was_enabled:
                gc.enable()
