"""Keeping many runs without the pauses of Python's garbage collector."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import attrs


@attrs.define
class _Pause:
    """The one pause of this process's collector, shared by all its users."""

    users: int = 0
    was_enabled: bool = False
    lock: threading.Lock = attrs.field(factory=threading.Lock)


_pause: Final = _Pause()


@contextmanager
def large_results() -> Iterator[None]:
    """Pause Python's cyclic garbage collector while a large result is being built.

    The collector visits every object that is kept, again and again as their number grows, and
    stops the event loop meanwhile. Inside this context manager it does not.

    The collector is the whole process's: while it is paused, garbage with reference cycles is not
    freed, whichever library made it; all other garbage is freed as always. The first collection
    afterwards visits everything that was kept, once; ``gc.freeze()`` avoids that.

    It may be nested, and used in several tasks and threads at once; when the last one leaves, the
    collector is as it was before the first one entered.

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
