"""Run a program with a faster event loop and gzip decoder, and fewer garbage collections.

The extra ``speed`` installs the first two. The ``modellab`` command calls :func:`run`, and an
application does so instead of `asyncio.run`. Nothing else in the package imports the two. The
performance page says what they save.
"""

from __future__ import annotations

import asyncio
import gc
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")

COLLECT_EVERY: Final = 50_000
"""The threshold of the garbage collector's youngest generation: some 350 large runs.

Python's own, 700 or 2,000 objects, is a few runs; the collector then spends more time on runs that
are kept than it takes to decode them (``python -m benchmarks.bench --only kept``).
"""


def run(main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """Run a coroutine to its end as `asyncio.run` does, but faster.

    - uvloop, if installed, provides the event loop of this call.
    - isal, if installed, decompresses what any aiohttp client of this process receives, from this
      call on.
    - Python's garbage collector runs after 50,000 new objects instead of 700 or 2,000, unless the
      process has set a higher threshold or none. This applies to the whole process; the previous
      threshold returns with this call.

    Args:
        main: The coroutine to run.
        debug: Whether the event loop runs in debug mode, as for `asyncio.run`.

    Returns:
        What the coroutine returns; its exception is raised unchanged.

    Raises:
        RuntimeError: An event loop is already running in this thread.
    """
    if find_spec("isal"):
        import aiohttp  # noqa: PLC0415 - what the caller imports in any case, but not for this
        from isal import isal_zlib  # noqa: PLC0415

        backend: Any = isal_zlib  # its annotations are narrower than the protocol of aiohttp
        aiohttp.set_zlib_backend(backend)
    factory = None
    if find_spec("uvloop"):
        import uvloop  # noqa: PLC0415

        factory = uvloop.new_event_loop
    threshold = gc.get_threshold()
    if 0 < threshold[0] < COLLECT_EVERY:
        gc.set_threshold(COLLECT_EVERY, *threshold[1:])
    try:
        with asyncio.Runner(debug=debug, loop_factory=factory) as runner:
            return runner.run(main)
    finally:
        gc.set_threshold(*threshold)
