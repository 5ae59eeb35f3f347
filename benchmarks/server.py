"""A local Model Lab server that is never a benchmark's bottleneck: prebuilt bytes, bare protocol.

``with running_server(size="8.9", latency_ms=50) as server`` starts it in its own process; the
options are the fields of `Options`.
"""

from __future__ import annotations

import asyncio
import json
import math
import ssl
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs, quote, unquote

from attrs import define, evolve, field, frozen

from benchmarks import ROOT
from benchmarks.payload import Catalogue

try:
    import uvloop
except ImportError:
    uvloop = None

RUNS = b"GET /api/v2/model-lab-api/runs"
TOO_MANY = b'{"errors":["Too many requests"]}'
NOT_FOUND = b'{"errors":[{"title":"Generic Error","detail":"run not found"}]}'


@frozen
class Options:
    """How the server responds; each can be changed while it runs."""

    size: str = "8.9"
    """Kilobytes of a run: a key of `payload.SHAPES`."""
    differing: int = 100
    """Percent of the params that differ from run to run: a key of `payload.TAGS_PER_PARAM`."""
    latency_ms: float = 0
    """Milliseconds added to every response, without delaying others."""
    limit: int = 1_000_000
    """Requests per period; the default never binds, but its headers are sent."""
    period: int = 10
    """Seconds of the rate limit's period, aligned to the calendar."""
    gzip: bool = False
    """Whether responses are compressed for clients that accept it."""
    tls: bool = False
    """Whether it speaks HTTPS with a new certificate; fixed when the server starts."""


class Service:
    """Answers requests: from the head of one to the bytes of its response."""

    def __init__(self, options: Options) -> None:
        self._apply(options)

    def _apply(self, options: Options) -> None:
        self.options = options
        self.requests = self.refused = self._window = self._used = 0
        self._run = Catalogue(options.size, options.differing).run
        # By request, since compressing is too slow to do it again in each round of a benchmark.
        self._compressed: dict[bytes, bytes] = {}
        self._limit_headers = (
            f"X-RateLimit-Limit: {options.limit}\r\nX-RateLimit-Period: {options.period}\r\n"
            "X-RateLimit-Name: model_lab_runs\r\n"
            "X-RateLimit-Remaining: %d\r\nX-RateLimit-Reset: %d\r\n"
        ).encode()

    def answer(self, head: bytes) -> bytes:
        """The response to one API request, counted against the limit."""
        self.requests += 1
        granted, headers = self._admit()
        if not granted:
            self.refused += 1
            return _response(b"429 Too Many Requests", TOO_MANY, headers)
        target = head[len(RUNS) : head.index(b" ", len(RUNS))] if head.startswith(RUNS) else b""
        if not (self.options.gzip and b"gzip" in head):
            body = self._body(target)
        else:
            headers += b"Content-Encoding: gzip\r\n"
            if (body := self._compressed.get(target)) is None and (plain := self._body(target)):
                body = self._compressed[target] = zlib.compress(plain, 1, wbits=31)
        if body is None:
            return _response(b"404 Not Found", NOT_FOUND, b"")
        return _response(b"200 OK", body, headers)

    def control(self, target: str) -> bytes:
        """``/_stats``, and ``/_configure?{json}``, which also sets the counts to zero."""
        path, _, query = target.partition("?")
        stats = {"requests": self.requests, "refused": self.refused}
        if path == "/_configure":
            self._apply(evolve(self.options, **json.loads(unquote(query))))
        return _response(b"200 OK", json.dumps(stats).encode(), b"")

    def _admit(self) -> tuple[bool, bytes]:
        now, options = time.time(), self.options
        window = int(now // options.period)
        if window != self._window:
            self._window, self._used = window, 0
        granted = self._used < options.limit
        self._used += granted
        reset = math.ceil((window + 1) * options.period - now)
        return granted, self._limit_headers % (options.limit - self._used, reset)

    def _body(self, target: bytes) -> bytes | None:
        """A run, or the only page of a listing by ids; None for anything else."""
        if target[1:].isdigit():
            return b'{"data":%b}' % self._run(target[1:])
        query = parse_qs(target[1:].decode())
        if "filter[id]" not in query:
            return None
        ids = list(dict.fromkeys(query["filter[id]"][0].encode().split(b",")))
        page = {
            "type": "number_size",
            "number": 0,
            "size": 100,
            "total": len(ids),
            "first_number": 0,
            "prev_number": None,
            "next_number": None,
            "last_number": 0,
        }
        runs = b",".join(map(self._run, ids))
        return b'{"data":[%b],"meta":{"page":%b},"links":{}}' % (runs, json.dumps(page).encode())


def _response(status: bytes, body: bytes, headers: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b" % (
        status,
        headers,
        len(body),
        body,
    )


@define(eq=False)
class Connection(asyncio.Protocol):
    """Cuts what arrives into requests, which have no body, and writes the responses in order."""

    service: Service
    _rest: bytes = b""
    _transport: asyncio.Transport = field(init=False)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *heads, self._rest = (self._rest + data).split(b"\r\n\r\n")
        for head in heads:
            if head.startswith(b"GET /_"):
                self._write(self.service.control(head.split(b" ", 2)[1].decode()))
            elif latency := self.service.options.latency_ms:
                response = self.service.answer(head)
                asyncio.get_running_loop().call_later(latency / 1000, self._write, response)
            else:
                self._write(self.service.answer(head))

    def _write(self, response: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(response)


@frozen
class Server:
    """A running server, seen from the benchmark."""

    url: str
    environment: Mapping[str, str] = field(factory=dict)
    """Variables with which a client's process trusts the certificate."""

    def stats(self) -> dict[str, int]:
        """How many ``requests`` there were and how many were ``refused``."""
        return self._control("/_stats")

    def configure(self, **options: Any) -> None:
        """Change some options or none; the counts start again from zero."""
        self._control("/_configure?" + quote(json.dumps(options)))

    def _control(self, target: str) -> dict[str, int]:
        scheme, _, host = self.url.partition("://")
        if scheme == "https":
            trusted = ssl.create_default_context(cafile=self.environment["SSL_CERT_FILE"])
            connection = HTTPSConnection(host, timeout=10, context=trusted)
        else:
            connection = HTTPConnection(host, timeout=10)
        try:
            connection.request("GET", target)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


@contextmanager
def running_server(**options: Any) -> Iterator[Server]:
    """Start a server on a free loopback port, and end it on leaving, whatever happens."""
    with TemporaryDirectory() as folder:
        authority = Path(folder, "authority.pem")
        command = [sys.executable, "-m", "benchmarks.server", json.dumps(options), str(authority)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        # The pipe to its input closes when this process dies in any way, and with it the server.
        with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
            try:
                if not (port := process.stdout.readline()):
                    raise RuntimeError("the benchmark server did not start")
                address = f"127.0.0.1:{int(port)}"
                if authority.exists():
                    yield Server(f"https://{address}", {"SSL_CERT_FILE": str(authority)})
                else:
                    yield Server(f"http://{address}")
            finally:
                process.kill()


def certificate(authority: str) -> ssl.SSLContext:
    """A new certificate for loopback; that of its authority is written into a file."""
    import trustme  # noqa: PLC0415 - takes longer to import than all the rest

    signer = trustme.CA()
    signer.cert_pem.write_to_path(authority)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    signer.issue_cert("127.0.0.1").configure_cert(context)
    return context


async def main(options: Options, authority: str) -> None:
    """Serve until standard input ends."""
    loop, service = asyncio.get_running_loop(), Service(options)
    server = await loop.create_server(
        lambda: Connection(service),
        "127.0.0.1",
        0,
        backlog=1024,
        ssl=certificate(authority) if options.tls else None,
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop and uvloop.new_event_loop) as runner:
        runner.run(main(Options(**json.loads(sys.argv[1])), sys.argv[2]))
