"""The transfer of one file, through interruptions and restarts."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING, Final, cast

import attrs

from modellab_async import endpoints
from modellab_async.downloads.part import Held, PartFile, Version, on_disk
from modellab_async.errors import DownloadError, ModelLabError, StatusError, TransportError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from modellab_async.clock import Clock
    from modellab_async.endpoints import Perform
    from modellab_async.retry import RetryPolicy
    from modellab_async.transport import Stream

CHUNKS_AHEAD: Final = 8
"""How many chunks are read while the disk is busy; a chunk of aiohttp has up to 256 KiB."""

_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)
"""RFC 9110, section 14.4."""


class _StaleError(Exception):
    """What the part file holds may not be the beginning of what the server has."""


@attrs.define
class Transfer:
    """Downloads one file.

    Attributes:
        permits: how many files may be received at once.
        part: the file that the bytes go to.
        size: the file's size in bytes by the listing, or None without one.
        on_advance: called with how many bytes the file has gained, or lost by starting over.
        position: how many bytes are on disk and known to be right.
        total: the size of the whole file, once a response has named it.
    """

    perform: Perform
    policy: RetryPolicy
    clock: Clock
    permits: asyncio.Semaphore
    project_id: int | str
    artifact_path: str
    part: PartFile
    size: int | None = None
    on_advance: Callable[[int], object] = lambda _count: None
    position: int = attrs.field(default=0, init=False)
    total: int | None = attrs.field(default=None, init=False)

    async def run_unless_there(self) -> None:
        """Like `run`, unless the target has the listed size and the server's last 4 KiB already.

        Raises:
            DownloadError: as `run` does.
            ModelLabError: if the server cannot be asked.
        """
        if await self._is_there():
            self._advance(self.size or 0)
        else:
            await self.run()

    async def run(self) -> None:
        """Download the file, and rename it to its target once it is whole.

        Raises:
            DownloadError: if the size is not the one announced, the disk refuses, or the body
                breaks off ``policy.attempts`` times without progress.
            ModelLabError: if the server cannot be asked.
        """
        furthest = failures = 0
        while (broken := await self._attempt()) is not None:
            failures = 1 if self.position > furthest else failures + 1
            furthest = max(furthest, self.position)
            if failures >= self.policy.attempts:
                raise DownloadError(
                    f"{self.artifact_path!r} keeps breaking off at {furthest} bytes;"
                    f" {self.part.path} is kept to resume from"
                ) from broken
            await self.clock.sleep(self.policy.backoff(failures, self.clock.random()))

    async def _is_there(self) -> bool:
        held = await on_disk(self.part.look_at_target, self.size or 0)
        if not held.offset:
            return False
        try:
            async with self._open(held) as stream:
                begin, _ = self._span(stream, held)
                return begin > 0 and await _matching_head(stream, held.tail) == held.tail
        except (_StaleError, TransportError):
            return False

    async def _attempt(self) -> TransportError | None:
        """Ask once, or twice if the part file is stale; returns the error that ended the body."""
        held = await on_disk(self.part.look)
        try:
            return await self._receive(held, held)
        except _StaleError:
            return await self._receive(held, Held())

    @contextlib.asynccontextmanager
    async def _open(self, held: Held) -> AsyncIterator[Stream]:
        """The body from the offset on, or all of it.

        Raises:
            _StaleError: if the server has nothing from the offset on.
        """
        call = endpoints.artifact_content(
            self.project_id, self.artifact_path, streamed=True, offset=held.offset
        )
        if held.offset and held.version and held.version.validator:
            headers = {**(call.headers or {}), "If-Range": held.version.validator}
            call = attrs.evolve(call, headers=headers)
        async with self.permits:
            try:
                stream = cast("Stream", await self.perform(call))
            except StatusError as error:
                if error.status == 416 and held.offset:
                    raise _StaleError from error
                raise
            try:
                yield stream
            finally:
                stream.close()

    async def _receive(self, held: Held, resumed: Held) -> TransportError | None:
        """Ask once, to resume what is held or, with nothing resumed, to start over."""
        async with self._open(resumed) as stream:
            begin, version = self._span(stream, resumed)
            self.total = version.size
            head = b""
            if begin:
                try:
                    head = await _matching_head(stream, resumed.tail)
                except TransportError as error:
                    return error
            self._advance(begin - self.position)
            try:
                broken = await self._copy(head, stream, held, begin, version)
                if broken is None:
                    await self._finish()
            finally:
                await on_disk(self.part.close)
        if isinstance(broken, TransportError):
            return broken
        if broken is not None:
            raise broken
        return None

    async def _finish(self) -> None:
        """Rename the part file, unless it has another size than announced."""
        if self.total is not None and self.position != self.total:
            await on_disk(self.part.discard)
            more = "more than " if self.position > self.total else ""
            got = self.total if more else self.position
            raise DownloadError(
                f"{self.artifact_path!r} has {more}{got} bytes; {self.total} were announced"
            )
        await on_disk(self.part.finish)

    async def _copy(
        self, head: bytes, stream: Stream, held: Held, begin: int, version: Version
    ) -> ModelLabError | None:
        """Write what was read and what still arrives; returns the error that ended the body early.

        Reading continues while a thread writes: aiohttp drops what is unread when a connection
        breaks. All that has arrived meanwhile is written at once.
        """
        chunks = asyncio.Queue[bytes](CHUNKS_AHEAD)
        limit = None if version.size is None else version.size - begin
        reading = asyncio.create_task(_read(head, stream, chunks, limit))
        try:
            await on_disk(self.part.open, held, begin, version)
            more = True
            while more:
                batch = [await chunks.get(), *_ready(chunks)]
                more = batch[-1] != b""
                await on_disk(self.part.write, batch)
                self._advance(sum(map(len, batch)))
            return await reading
        finally:
            reading.cancel()
            await asyncio.wait([reading])

    def _span(self, stream: Stream, held: Held) -> tuple[int, Version]:
        """Where the body belongs, and the version that it is of.

        Raises:
            _StaleError: if it does not continue what is held.
            DownloadError: if it is not content, or of another size than listed.
        """
        headers = stream.headers
        # A stream decompresses such a body, whose length and ranges are not the file's.
        encoded = headers.get("Content-Encoding", "identity") != "identity"
        if stream.status == 206 and held.offset:
            span = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
            first, last, total = map(int, span.groups()) if span else (0, 0, 0)
            version = Version.of(headers, total)
            if (
                encoded
                or (first, last + 1) != (held.offset, total)
                or self.size not in {None, total}
                or (held.version and not held.version.is_continued_by(version))
            ):
                raise _StaleError
            return held.offset, version
        if stream.status != 200:
            raise DownloadError(f"unexpected status {stream.status} for {self.artifact_path!r}")
        length = headers.get("Content-Length")
        size = self.size if length is None or encoded else int(length)
        if self.size not in {None, size}:
            raise DownloadError(
                f"{self.artifact_path!r} has {size} bytes; the listing says {self.size}"
            )
        return 0, Version.of(headers, size)

    def _advance(self, count: int) -> None:
        self.position += count
        self.on_advance(count)


async def _matching_head(stream: Stream, tail: bytes) -> bytes:
    """The beginning of a body that repeats ``tail``.

    Raises:
        _StaleError: if it does not.
    """
    head = b""
    async for chunk in stream:
        head += chunk
        if len(head) >= len(tail):
            break
    if not head.startswith(tail):
        raise _StaleError
    return head


async def _read(
    head: bytes, stream: Stream, chunks: asyncio.Queue[bytes], limit: int | None
) -> ModelLabError | None:
    """Put what arrives into a queue, hardly more than ``limit`` bytes, then an empty chunk."""
    received = len(head)
    broken: ModelLabError | None = None
    try:
        if head:
            await chunks.put(head)
        async for chunk in stream:
            await chunks.put(chunk)
            received += len(chunk)
            if limit is not None and received > limit:
                break
    except ModelLabError as error:
        broken = error
    await chunks.put(b"")
    return broken


def _ready(chunks: asyncio.Queue[bytes]) -> list[bytes]:
    """All that is in a queue already."""
    return [chunks.get_nowait() for _ in range(chunks.qsize())]
