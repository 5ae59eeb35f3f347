"""One file on its way to disk, through breaks and restarts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, cast

import attrs

from modellab_async import endpoints
from modellab_async.downloads.part import Held, Part, on_disk
from modellab_async.downloads.writer import Writer
from modellab_async.errors import DownloadError, StatusError, TransportError

if TYPE_CHECKING:
    from collections.abc import Callable

    from modellab_async.bulk import Perform
    from modellab_async.clock import Clock
    from modellab_async.retry import RetryPolicy
    from modellab_async.transport import Stream

_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)
"""RFC 9110, section 14.4."""


class _StaleError(Exception):
    """What the part file holds may not be the beginning of what the server has."""


@attrs.define
class Transfer:
    """Brings one file to disk.

    Attributes:
        part: where it is brought.
        size: its size in bytes by the listing, or None where there is none.
        on_advance: told by how many bytes the file came further, or fell back, each time.
        position: how many bytes are on disk and known to be right.
        total: the size of the whole file, once an answer has told it.
    """

    perform: Perform
    policy: RetryPolicy
    clock: Clock
    project_id: int | str
    artifact_path: str
    part: Part
    size: int | None = None
    on_advance: Callable[[int], object] = lambda _count: None
    position: int = attrs.field(default=0, init=False)
    total: int | None = attrs.field(default=None, init=False)

    async def run_unless_there(self) -> None:
        """Like `run`, unless the target has the listed size and the server's last 4 KiB already.

        Raises:
            DownloadError: as `run` does.
            ModelLabError: where the server cannot be asked.
        """
        if await self._is_there():
            self._advance(self.size or 0)
        else:
            await self.run()

    async def run(self) -> None:
        """Bring the file, and give it its name once it is whole.

        Raises:
            DownloadError: where the size is not the one announced, the disk refuses, or the body
                breaks off ``policy.attempts`` times without getting further.
            ModelLabError: where the server cannot be asked.
        """
        furthest = failures = 0
        while (broken := await self._attempt()) is not None:
            failures = 1 if self.position > furthest else failures + 1
            furthest = max(furthest, self.position)
            if failures >= self.policy.attempts:
                raise DownloadError(
                    f"{self.artifact_path!r} keeps breaking off at {furthest} bytes;"
                    f" {self.part.path} is kept to go on from"
                ) from broken
            await self.clock.sleep(self.policy.backoff(failures, self.clock.random()))

    async def _is_there(self) -> bool:
        held = await on_disk(self.part.look_at_target, self.size or 0)
        stream = await self._ask(held) if held.offset else None
        if stream is None:
            return False
        try:
            begin, _ = self._span(stream, held)
            return begin > 0 and await _matching_head(stream, held.tail) == held.tail
        except (_StaleError, TransportError):
            return False
        finally:
            stream.close()

    async def _attempt(self) -> TransportError | None:
        """Ask once, or twice where the part file is stale; gives what broke the body off."""
        held = await on_disk(self.part.look)
        stream = await self._ask(held)
        if stream is not None:
            try:
                return await self._receive(stream, held)
            except _StaleError:
                pass
            finally:
                stream.close()
        await on_disk(self.part.discard)
        return await self._attempt()

    async def _ask(self, held: Held) -> Stream | None:
        """The answer's body; None where the server has nothing from the offset on."""
        call = endpoints.artifact_content(
            self.project_id, self.artifact_path, streamed=True, offset=held.offset
        )
        if held.offset and held.etag:
            call = attrs.evolve(call, headers={**(call.headers or {}), "If-Range": held.etag})
        try:
            return cast("Stream", await self.perform(call))
        except StatusError as error:
            if error.status != 416 or not held.offset:
                raise
            return None

    async def _receive(self, stream: Stream, held: Held) -> TransportError | None:
        begin, total = self._span(stream, held)
        self.total = total
        head = b""
        if begin:
            try:
                head = await _matching_head(stream, held.tail)
            except TransportError as error:
                return error
        self._advance(begin - self.position)
        writer = Writer(self.part, self.clock, self._advance)
        writer.begin(self.part.open, held, begin, stream.headers.get("ETag"))
        try:
            broken = await _copy(head, stream, writer, None if total is None else total - begin)
        finally:
            await writer.close()
        if broken is not None:
            return broken
        if total is not None and self.position != total:
            await on_disk(self.part.discard)
            more = "more than " if self.position > total else ""
            got = total if more else self.position
            raise DownloadError(
                f"{self.artifact_path!r} has {more}{got} bytes where {total} were announced"
            )
        await on_disk(self.part.finish)
        return None

    def _span(self, stream: Stream, held: Held) -> tuple[int, int | None]:
        """Where the body belongs, and the size of the whole file, where it is known."""
        headers = stream.headers
        encoded = headers.get("Content-Encoding", "identity") != "identity"
        if stream.status == 206 and held.offset:
            told = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
            first, last, total = map(int, told.groups()) if told else (0, 0, 0)
            if (
                encoded
                or (first, last + 1) != (held.offset, total)
                or self.size not in {None, total}
                or (held.etag and headers.get("ETag", held.etag) != held.etag)
            ):
                raise _StaleError
            return held.offset, total
        if stream.status != 200:
            raise DownloadError(f"unexpected status {stream.status} for {self.artifact_path!r}")
        told_length = headers.get("Content-Length")
        length = None if told_length is None or encoded else int(told_length)
        if self.size is not None and length not in {None, self.size}:
            raise DownloadError(
                f"{self.artifact_path!r} has {length} bytes where the listing says {self.size}"
            )
        return 0, self.size if length is None else length

    def _advance(self, count: int) -> None:
        self.position += count
        self.on_advance(count)


async def _matching_head(stream: Stream, tail: bytes) -> bytes:
    """The beginning of a body that repeats ``tail``.

    Raises:
        _StaleError: where it does not.
    """
    head = b""
    async for chunk in stream:
        head += chunk
        if len(head) >= len(tail):
            break
    if not head.startswith(tail):
        raise _StaleError
    return head


async def _copy(
    head: bytes, stream: Stream, writer: Writer, limit: int | None
) -> TransportError | None:
    """Write what was read and what still comes, though hardly more than ``limit`` bytes."""
    received = len(head)
    try:
        await writer.add(head)
        async for chunk in stream:
            await writer.add(chunk)
            received += len(chunk)
            if limit is not None and received > limit:
                break
    except TransportError as error:
        return error
    return None
