"""A server that misbehaves byte by byte, by script; bare asyncio, no HTTP library.

Each request meets the next act of the script, or the default, which answers as the API would. An
act writes whatever bytes it likes and ends the connection however it likes. What was asked is
counted from the bytes that arrived, so that it can bear witness.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import ssl
import struct
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal, Self
from urllib.parse import unquote

import attrs

Ending = Literal["keep", "close", "reset", "half_close", "stall"]
"""What follows an act's bytes.

The next request; FIN; RST; FIN one way only, so that requests which cross it are counted, though
never answered; or nothing at all.
"""

ATTRIBUTES: Final[dict[str, Any]] = {
    "name": "resnet",
    "project_id": 1,
    "status": "completed",
    "created_at": "2026-05-15T02:57:03.079Z",
    "params": [{"key": "lr", "value": "0.1"}],
}

CONTENT: Final = bytes(range(256)) * 64
"""What every artifact holds."""

_MOST_ENDLESS: Final = 8 * 1024**3
"""Bytes after which even an endless answer ends, so that no test runs for ever."""


@attrs.frozen
class Seen:
    """A request as it arrived.

    Attributes:
        headers: by names in lower case.
        connection: which connection it came on, counted from 1.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    connection: int


class _OverError(Exception):
    """The connection is not to be used any more."""


@attrs.frozen
class Exchange:
    """A request, and the connection to misbehave on."""

    seen: Seen
    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def end(self, how: Ending) -> None:
        if how == "keep":
            return
        if how == "reset":
            linger = struct.pack("ii", 1, 0)
            sock = self._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self._writer.transport.abort()
        elif how == "half_close":
            self._writer.write_eof()
        elif how == "stall":
            await self._reader.read()
        elif how == "close":
            self._writer.close()
        raise _OverError


Act = Callable[[Exchange], Awaitable[None]]


def http(
    body: bytes | str = b"", status: int | str = 200, *headers: str, length: int | None = None
) -> bytes:
    """An answer's bytes; well-formed, unless its parts are not.

    Args:
        body: what follows the header block.
        status: the code, or the whole rest of the status line.
        headers: further header lines.
        length: another Content-Length than the body's; none at all if negative.
    """
    content = body.encode() if isinstance(body, str) else body
    reason = f"{status} X" if isinstance(status, int) else status
    size = len(content) if length is None else length
    lines = [f"HTTP/1.1 {reason}", "Content-Type: application/json", *headers]
    if size >= 0:
        lines.append(f"Content-Length: {size}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + content


def resource(run_id: int | str, **attributes: Any) -> dict[str, Any]:
    """A run as the API gives it; the caller may change it."""
    return {"id": str(run_id), "type": "runs", "attributes": {**ATTRIBUTES, **attributes}}


def run_body(run_id: int | str, **attributes: Any) -> bytes:
    """The body of an answer about one run."""
    return json.dumps({"data": resource(run_id, **attributes)}).encode()


def listing(*items: Any, **numbers: Any) -> bytes:
    """The body of a page of a listing; bytes among the items stand as they are."""
    texts = [item if isinstance(item, bytes) else json.dumps(item).encode() for item in items]
    return b'{"data":[%s],"meta":{"page":%s}}' % (b",".join(texts), json.dumps(numbers).encode())


def send(data: bytes, then: Ending = "keep", *, every: float | None = None) -> Act:
    """Writes bytes, all at once or one by one so many seconds apart, and ends as told."""

    async def act(exchange: Exchange) -> None:
        if every is None:
            await exchange.write(data)
        else:
            for byte in data:
                await exchange.write(bytes([byte]))
                await asyncio.sleep(every)
        await exchange.end(then)

    return act


def endless(head: bytes, piece: bytes) -> Act:
    """Writes a beginning, then the same piece for as long as the client takes it."""

    async def act(exchange: Exchange) -> None:
        await exchange.write(head)
        for _ in range(_MOST_ENDLESS // len(piece)):
            await exchange.write(piece)
            await asyncio.sleep(0)
        await exchange.end("close")

    return act


def bomb(kind: Literal["gzip", "deflate"], megabytes: int, start: bytes = b"") -> bytes:
    """A body that is a thousand times larger once it is decompressed."""
    packer = zlib.compressobj(9, wbits=31 if kind == "gzip" else 15)
    spaces = b" " * 1_000_000
    parts = [packer.compress(start), *(packer.compress(spaces) for _ in range(megabytes))]
    return b"".join([*parts, packer.flush()])


async def well_behaved(exchange: Exchange) -> None:
    """Answers as the API would; every run exists."""
    seen = exchange.seen
    target = unquote(seen.target)
    if seen.method in {"POST", "DELETE"}:
        await exchange.write(b"HTTP/1.1 204 No Content\r\n\r\n")
    elif run := re.search(r"/runs/(\d+)$", target):
        await exchange.write(http(run_body(run[1])))
    elif ids := re.search(r"filter\[id\]=([\d,]+)", target):
        wanted = [resource(run_id) for run_id in ids[1].split(",")]
        await exchange.write(http(listing(*wanted, number=0, total=len(wanted))))
    elif "/artifacts/content" in target:
        await exchange.write(http(CONTENT))
    else:
        await exchange.write(http('{"errors":["not here"]}', 404))


class FaultServer:
    """Listens on loopback while its ``async with`` lasts.

    Args:
        greeting: what every new connection meets before any request is read.
        tls: speaks TLS with that context.

    Attributes:
        seen: every request that arrived whole, in order.
        connections: how many were accepted.
        tasks: those that serve a connection each.
        open: how many connections are open.
        address: its host and port.
        default: the act that a request meets where the script has none.
    """

    def __init__(
        self, *script: Act, greeting: Act | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.seen: list[Seen] = []
        self.connections = 0
        self.default: Act = well_behaved
        self._script = deque(script)
        self._greeting = greeting
        self._tls = tls
        self.tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.address = ""

    @property
    def open(self) -> int:
        return len(self.tasks)

    @property
    def base_url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.address}"

    def script(self, *acts: Act) -> None:
        """The next requests meet these, one each."""
        self._script.extend(acts)

    def forget(self) -> None:
        """Drop what is left of the script."""
        self._script.clear()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", 0, ssl=self._tls, limit=1 << 20
        )
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._serve(reader, writer, self.connections))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int
    ) -> None:
        try:
            with contextlib.suppress(_OverError):
                await self._answer(reader, writer, connection)
            while not writer.is_closing():
                self.seen.append(await _read_request(reader, connection))
        except (OSError, EOFError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int
    ) -> None:
        if self._greeting is not None:
            await self._greeting(Exchange(Seen("", "", {}, connection), reader, writer))
        while True:
            seen = await _read_request(reader, connection)
            self.seen.append(seen)
            act = self._script.popleft() if self._script else self.default
            await act(Exchange(seen, reader, writer))


async def _read_request(reader: asyncio.StreamReader, connection: int) -> Seen:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    await reader.readexactly(int(headers.get("content-length", 0)))
    return Seen(method, target, headers, connection)
