"""The simulator: a dataset that is served on a port."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Final, Literal, Self

import attrs
from aiohttp import web

from modellab_async.simulator.dataset import Dataset
from modellab_async.simulator.faults import Faults
from modellab_async.simulator.generator import Generator, Size
from modellab_async.simulator.handler import (
    BeforeRequest,
    Counts,
    RequestHandler,
    RequestRecord,
    Sleep,
)
from modellab_async.simulator.limits import Limits, RateLimit

_SHUTDOWN_SECONDS: Final = 1.0
_BACKLOG: Final = 1024

# With this seed the ids that the documentation uses (runs 70158 and 71354, project 2387) exist.
DEFAULT_SEED: Final = 161_498


class _CountingServer(web.Server):
    counts: Counts

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        self.counts.connections_made += 1
        super().connection_made(handler, transport)


class Simulator(Dataset):
    """A local server that speaks the Model Lab API.

    Attributes:
        api_key: the `DD-API-KEY` that is accepted.
        app_key: the `DD-APPLICATION-KEY` that is accepted.
        bearer_token: the `Authorization: Bearer` that is accepted.
        faults: what goes wrong; may be scripted while the server runs.
        limits: the rate limits; may be replaced and spent while the server runs.

    Example:
        ```python
        from modellab_async.simulator import Faults, Simulator

        async with Simulator(faults=Faults(rate=0.3)) as sim:
            run_id = sim.insert_run(name="mine", status="running")
            ...  # requests to sim.base_url with sim.api_key and sim.app_key
            assert sim.resource(run_id)["attributes"]["name"] == "mine"
        ```
    """

    def __init__(
        self,
        *,
        runs: int = 65_614,
        projects: int = 403,
        seed: int = DEFAULT_SEED,
        size: Size = "mixed",
        quirks: bool = True,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str = "sim-api-key",
        app_key: str = "sim-app-key",
        bearer_token: str = "sim-bearer-token",  # noqa: S107  # for the simulator only
        rate_limit: RateLimit | Mapping[str, RateLimit] | None = None,
        faults: Faults | None = None,
        latency: float = 0.0,
        record: int = 1_000,
        first_page: Literal[0, 1] = 0,
        soft_delete: bool = False,
        ranges: bool = True,
        before_request: BeforeRequest | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """Set up the simulator; nothing is listening before `start`.

        Args:
            runs: number of made-up runs; a million take about ten seconds to set up.
            projects: number of made-up projects that they belong to.
            seed: another seed makes other runs.
            size: `mixed` as in production (median 1.6 KB, mean 2.2 KB of JSON), or every run
                `small` (1.1 KB), `medium` (2.2 KB) or `large` (8.9 KB).
            quirks: whether answers deviate from the published reference as recorded ones do:
                null lists, integers for floats, absent and unknown fields.
            host: address to listen on.
            port: port to listen on; 0 for a free one.
            api_key: accepted `DD-API-KEY`.
            app_key: accepted `DD-APPLICATION-KEY`.
            bearer_token: accepted `Authorization: Bearer`; it wins over a pair of keys.
            rate_limit: one limit for all operations, or one for each operation's name (`get_run`,
                `list_runs`, ...; `*` for all others). None sends no rate-limit headers.
            faults: random faults; none by default.
            latency: seconds that every request waits before it is processed.
            record: how many of the last requests `requests` keeps.
            first_page: number of the first page: 0 as recorded, 1 as documented.
            soft_delete: whether a deleted run can still be read, with a `deleted_at`.
            ranges: whether artifacts are served in part to requests for a range.
            before_request: called with the method and the path (query included) of every request
                before it is processed; may be a coroutine function.
            clock: seconds since the epoch; decides rate-limit windows and timelines.
            sleep: an awaitable pause, for latency and slow faults.
        """
        self.api_key: str = api_key
        self.app_key: str = app_key
        self.bearer_token: str = bearer_token
        self.faults: Faults = Faults() if faults is None else faults
        self.limits: Limits = Limits(rate_limit, clock)
        generator = Generator(seed, runs, projects, size, quirks)
        super().__init__(generator, clock, soft_delete=soft_delete)
        self._handler = RequestHandler(
            keys=self.headers,
            bearer_token=bearer_token,
            limits=self.limits,
            faults=self.faults,
            latency=latency,
            first_page=first_page,
            ranges=ranges,
            before_request=before_request,
            clock=clock,
            sleep=sleep,
            requests=deque(maxlen=record),
        )
        self._host = host
        self._port = port
        self._http: _CountingServer | None = None
        self._listener: asyncio.Server | None = None

    async def start(self) -> None:
        """Start listening.

        Raises:
            OSError: the port cannot be listened on.
            RuntimeError: it is running already.
        """
        if self._http is not None:
            raise RuntimeError("the simulator is running already")
        # The handler gets the dataset here, so that one that is never started is in no cycle.
        self._http = _CountingServer(
            functools.partial(self._handler.handle, self),
            handler_cancellation=True,  # a client that hangs up on a stalled request ends it
            access_log=None,
        )
        self._http.counts = self._handler.counts
        try:
            self._listener = await asyncio.get_running_loop().create_server(
                self._http, self._host, self._port, backlog=_BACKLOG
            )
        except BaseException:
            self._http = None
            raise

    async def close(self) -> None:
        """Stop listening and drop every connection, busy or not. May be called twice."""
        http, listener = self._http, self._listener
        if http is None or listener is None:
            return
        self._http = self._listener = None
        try:
            await _stop_accepting(listener)
        finally:  # also if the task that closes is cancelled
            listener.close()
            for connection in http.connections:
                if connection.transport is not None:
                    connection.transport.abort()
        await http.shutdown(_SHUTDOWN_SECONDS)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def base_url(self) -> str:
        """Where it listens, such as `http://127.0.0.1:40123`.

        Raises:
            RuntimeError: it is not running.
        """
        if self._listener is None:
            raise RuntimeError("the simulator is not running")
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._listener.sockets[0].getsockname()[1]}"

    @property
    def headers(self) -> dict[str, str]:
        """Headers with the pair of keys that the server accepts."""
        return {"DD-API-KEY": self.api_key, "DD-APPLICATION-KEY": self.app_key}

    @property
    def requests(self) -> Sequence[RequestRecord]:
        """The last requests, oldest first, those still being worked on left out."""
        return tuple(self._handler.requests)

    @property
    def counts(self) -> Counts:
        """How many requests and connections there were and are."""
        connections = () if self._http is None else self._http.connections
        counts = copy.deepcopy(self._handler.counts)
        return attrs.evolve(counts, connections=len(connections))


async def _stop_accepting(listener: asyncio.Server) -> None:
    """Stop accepting connections, and wait until those accepted so far have reached the protocol.

    asyncio makes a transport one step of the loop after it accepts a connection, and connects it to
    the protocol one step later. A listener that closes in between leaves the transport open for
    good: https://github.com/python/cpython/issues/109564.
    """
    loop = asyncio.get_running_loop()
    with contextlib.suppress(NotImplementedError):  # a proactor, on Windows, has no readers
        for sock in listener.sockets:
            loop.remove_reader(sock.fileno())
    for _ in range(2):
        await asyncio.sleep(0)
