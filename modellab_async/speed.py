"""An event loop and a gzip decoder that are faster than the standard library's.

The extra ``speed`` installs both. The ``modellab`` command uses them if they are installed; an
application calls :func:`run` instead of `asyncio.run`. Nothing else in the package imports them.
The performance page says what they save.
"""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """Run a coroutine to its end as `asyncio.run` does, with uvloop and isal if installed.

    uvloop provides the event loop of this call. isal decompresses what any aiohttp client of this
    process receives, from this call on.

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
    with asyncio.Runner(debug=debug, loop_factory=factory) as runner:
        return runner.run(main)
