"""A local Model Lab server that is never a benchmark's bottleneck: prebuilt bytes, bare protocol.

In a program, ``with running_server(size="8.9", latency_ms=50) as server`` starts it in a process of
its own. By hand, ``python benchmarks/server.py '{"size": "8.9", "latency_ms": 50}'`` prints its
port and serves until its standard input ends. The options are the fields of ``Options``; with TLS,
the authority's certificate is written into ``authority.pem``, for clients' ``SSL_CERT_FILE``.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import ssl
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs, quote, unquote

from attrs import define, evolve, field, frozen
from payload import Catalogue

try:
    import uvloop
except ImportError:
    uvloop = None

RUNS = b"GET /api/v2/model-lab-api/runs"
COUNTS = ("requests", "rate_limited", "peak_in_flight", "connections", "bytes")
CONTENT_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
TOO_MANY = b'{"errors":["Too many requests"]}'
NOT_FOUND = b'{"errors":[{"title":"Generic Error","detail":"run not found"}]}'
BAD_REQUEST = b'{"errors":[{"title":"Bad Request","detail":"filter[id] is required here"}]}'


@frozen
class Options:
    """How the server answers; each can be changed while it runs."""

    size: str = "8.9"
    """Kilobytes of a run: ``"1.1"``, ``"2.2"`` or ``"8.9"``."""
    distinct: bool = False
    """Whether every value differs from run to run, instead of many repeating."""
    latency_ms: float = 0
    """Milliseconds added to every answer, without holding up others."""
    limit: int = 1_000_000
    """Requests granted per period; the default never binds, yet its headers are sent as in life."""
    period: int = 10
    """Seconds of a rate limit's window, aligned to the calendar."""
    reset: str = "ceil"
    """How ``X-RateLimit-Reset`` is rounded to whole seconds: ``"ceil"`` or ``"floor"``."""
    gzip: bool = False
    """Whether answers are compressed for clients that accept it."""
    tls: bool = False
    """Whether it speaks HTTPS, by a certificate for loopback; fixed when the server starts."""


class Service:
    """Answers requests: from the head of one to the bytes of its response."""

    def __init__(self, options: Options) -> None:
        self.counts: Counter[str] = Counter()
        self.in_flight = 0
        self._apply(options)

    def _apply(self, options: Options) -> None:
        self.options = options
        self.latency = options.latency_ms / 1000
        self._window = self._used = 0
        catalogue = Catalogue(options.size, distinct=options.distinct)
        self._run = catalogue.run
        # By request, since compressing is too slow to do anew for each round of a benchmark.
        self._compressed: dict[bytes, bytes] = {}
        self._limit_headers = (
            f"X-RateLimit-Limit: {options.limit}\r\nX-RateLimit-Period: {options.period}\r\n"
            "X-RateLimit-Name: model_lab_runs\r\n"
            "X-RateLimit-Remaining: %d\r\nX-RateLimit-Reset: %d\r\n"
        ).encode()

    def answer(self, head: bytes) -> bytes:
        """The response to one API request, counted against the limit."""
        self.counts["requests"] += 1
        granted, limits = self._admit()
        if not granted:
            self.counts["rate_limited"] += 1
            return _response(b"429 Too Many Requests", TOO_MANY, limits)
        target = head[len(RUNS) : head.index(b" ", len(RUNS))] if head.startswith(RUNS) else b""
        if self.options.gzip and b"gzip" in head:
            encoded = b"Content-Encoding: gzip\r\n" + limits
            if (body := self._compressed.get(target)) is not None:
                return _response(b"200 OK", body, encoded)
        if target[:1] == b"?":
            body = self._page(target[1:].decode())
            if body is None:
                return _response(b"400 Bad Request", BAD_REQUEST, limits)
        elif target[1:].isdigit():
            body = b'{"data":%b}' % self._run(target[1:])
        else:
            return _response(b"404 Not Found", NOT_FOUND, limits)
        if self.options.gzip and b"gzip" in head:
            body = self._compressed[target] = zlib.compress(body, 1, wbits=31)
            return _response(b"200 OK", body, encoded)
        return _response(b"200 OK", body, limits)

    def control(self, target: str) -> bytes:
        """``/_stats``, ``/_reset`` (the counts, then zero) and ``/_configure?{json}``."""
        path, _, query = target.partition("?")
        counts = {name: self.counts[name] for name in COUNTS} | {"in_flight": self.in_flight}
        if path == "/_configure":
            self._apply(evolve(self.options, **json.loads(unquote(query))))
        if path != "/_stats":
            self.counts.clear()
        return _response(b"200 OK", json.dumps(counts).encode(), b"")

    def _admit(self) -> tuple[bool, bytes]:
        now, options = time.time(), self.options
        window = int(now // options.period)
        if window != self._window:
            self._window, self._used = window, 0
        granted = self._used < options.limit
        self._used += granted
        left = (window + 1) * options.period - now
        reset = math.ceil(left) if options.reset == "ceil" else int(left)
        return granted, self._limit_headers % (options.limit - self._used, reset)

    def _page(self, query: str) -> bytes | None:
        """The page of runs with the asked ids, or ``None`` if it names none."""
        asked = parse_qs(query)
        if "filter[id]" not in asked:
            return None
        wanted = asked["filter[id]"][0].encode().split(b",")
        ids = [run_id for run_id in dict.fromkeys(wanted) if run_id.isdigit()]
        size = min(int(asked.get("page[size]", ["25"])[0]), 100)
        number = int(asked.get("page[number]", ["0"])[0])
        last = max(len(ids) - 1, 0) // size
        meta = {
            "type": "number_size",
            "number": number,
            "size": size,
            "total": len(ids),
            "first_number": 0,
            "prev_number": number - 1 if number > 0 else None,
            "next_number": number + 1 if number < last else None,
            "last_number": last,
        }
        here = ids[number * size : (number + 1) * size]
        runs = b",".join([self._run(run_id) for run_id in here])
        return b'{"data":[%b],"meta":{"page":%b},"links":{}}' % (runs, json.dumps(meta).encode())


def _response(status: bytes, body: bytes, headers: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b" % (
        status,
        headers,
        len(body),
        body,
    )


@define(eq=False)
class Connection(asyncio.Protocol):
    """Cuts what arrives into requests and writes their answers in order."""

    service: Service
    _rest: bytes = b""
    _transport: asyncio.Transport = field(init=False)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.service.counts["connections"] += 1

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        answers, start = [], 0
        while (end := data.find(b"\r\n\r\n", start)) >= 0:
            head = data[start:end]
            # Most requests have no body, and looking for its length costs more than all the rest.
            length = CONTENT_LENGTH.search(head) if b"ontent-" in head else None
            following = end + 4 + (int(length[1]) if length else 0)
            if following > len(data):
                break
            if head.startswith(b"GET /_"):
                self._transport.write(self.service.control(head.split(b" ", 2)[1].decode()))
            else:
                answers.append(self.service.answer(head))
            start = following
        self._rest = data[start:]
        if answers:
            self._send(answers)

    def _send(self, answers: list[bytes]) -> None:
        service = self.service
        service.in_flight += len(answers)
        if service.in_flight > service.counts["peak_in_flight"]:
            service.counts["peak_in_flight"] = service.in_flight
        if service.latency:
            loop = asyncio.get_running_loop()
            loop.call_later(service.latency, self._write, answers)
        else:
            self._write(answers)

    def _write(self, answers: list[bytes]) -> None:
        self.service.in_flight -= len(answers)
        payload = answers[0] if len(answers) == 1 else b"".join(answers)
        self.service.counts["bytes"] += len(payload)
        if not self._transport.is_closing():
            self._transport.write(payload)


@frozen
class Server:
    """A running server, seen from the benchmark."""

    url: str
    environment: Mapping[str, str] = field(factory=dict)
    """Variables with which a client's process trusts the certificate."""

    def stats(self) -> dict[str, int]:
        """What ``COUNTS`` names, since the last reset, and how many are ``in_flight`` now."""
        return self._control("/_stats")

    def reset(self) -> dict[str, int]:
        """The same counts, which start again from zero."""
        return self._control("/_reset")

    def configure(self, **options: Any) -> None:
        """Change some options; the counts start again from zero."""
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
        command = [sys.executable, __file__, json.dumps(options), str(authority)]
        # The pipe to its input closes when this process dies in any way, and with it the server.
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            try:
                port = process.stdout.readline()
                if not port:
                    raise RuntimeError("the benchmark server did not start")
                if authority.exists():
                    trust = {"SSL_CERT_FILE": str(authority)}
                    yield Server(f"https://127.0.0.1:{int(port)}", trust)
                else:
                    yield Server(f"http://127.0.0.1:{int(port)}")
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
    loop = asyncio.get_running_loop()
    service = Service(options)
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
    chosen = Options(**json.loads(sys.argv[1] if len(sys.argv) > 1 else "{}"))
    with asyncio.Runner(loop_factory=uvloop and uvloop.new_event_loop) as runner:
        runner.run(main(chosen, sys.argv[2] if len(sys.argv) > 2 else "authority.pem"))
