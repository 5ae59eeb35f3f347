"""Time that jumps: event loops that do not wait, and a server that is only a function.

With that server, the client is the real one, on a double of the aiohttp session, so that minutes
of retries and quotas take as long as computing them does.
"""

from __future__ import annotations

import asyncio
import math
import random
import selectors
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Mapping
from concurrent.futures import Executor
from typing import Any, TypeVar
from unittest import mock

import aiohttp
import attrs
from multidict import CIMultiDict

from modellab_async import Clock, ModelLabClient
from modellab_async.simulator import RateLimit
from modellab_async.simulator.limits import Limits

T = TypeVar("T")
EPOCH = 1_779_000_000.0
RUN = (
    b'{"data":{"id":"%s","type":"runs","attributes":{"name":"r","project_id":1,'
    b'"status":"completed","created_at":"2026-01-01T00:00:00Z"}}}'
)
_PROTOCOL: Any = mock.NonCallableMock(_reading_paused=False)
"""What a stream reader tells to pause; there is nothing to pause."""


class _Selector(selectors.SelectSelector):
    """Lets time pass instead of waiting, if nothing happens for ``settle`` seconds of real time."""

    def __init__(self, settle: float) -> None:
        super().__init__()
        self.now = 0.0
        self.settle = settle
        self.threads = 0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or self.threads:
            return super().select(timeout)  # a thread wakes the loop up when it is done
        ready = super().select(min(timeout, self.settle))
        if not ready:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on which waiting takes no time: its time passes only while nothing happens.

    A server on the same loop has answered before a timeout expires, however busy the machine is,
    unless it waits itself. Time stands still while a thread works.

    Args:
        settle: seconds of real time without any event after which time passes; for sockets.
    """

    def __init__(self, settle: float = 0.0) -> None:
        self._virtual = _Selector(settle)
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        work = super().run_in_executor(executor, func, *args)
        self._virtual.threads += 1
        work.add_done_callback(self._thread_is_done)
        return work

    def _thread_is_done(self, _work: object) -> None:
        self._virtual.threads -= 1

    async def shutdown_default_executor(self, *timeout: float | None) -> None:
        self._virtual.threads += 1  # the one that joins the others
        try:
            await super().shutdown_default_executor(*timeout)
        finally:
            self._virtual.threads -= 1


def loop_with_sockets() -> VirtualLoop:
    """A loop that servers and clients share; see the marker ``virtual_time``."""
    return VirtualLoop(settle=0.002)


def run(main: Coroutine[Any, Any, T]) -> T:
    """As ``asyncio.run``, in virtual time; not in debug mode, which takes five times as long."""
    with asyncio.Runner(debug=False, loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def now() -> float:
    return asyncio.get_running_loop().time()


def clock() -> Clock:
    """The loop's own time, for a client."""
    return Clock(monotonic=now, time=lambda: EPOCH + now())


@attrs.define
class _Response:
    """As much of an `aiohttp.ClientResponse` as a client reads."""

    status: int
    headers: CIMultiDict[str]
    content: aiohttp.StreamReader

    @classmethod
    def of(cls, status: int, headers: Any, body: bytes) -> _Response:
        content = aiohttp.StreamReader(_PROTOCOL, 65_536, loop=asyncio.get_running_loop())
        content.feed_data(body)
        content.feed_eof()
        return cls(status, CIMultiDict(headers), content)

    async def read(self) -> bytes:
        return await self.content.read()

    def release(self) -> None:
        """Nothing to release."""

    close = release


@attrs.define
class Server:
    """Returns a run after a while, or fails by chance, by quota, by rule or during an outage.

    Requests for the runs in ``broken`` always fail.
    """

    rate: float = 0.0
    limit: RateLimit | None = None
    latency: float = 0.05
    jitter: float = 0.0
    seed: int = 1
    rule: Callable[[float], tuple[int, Mapping[str, str]]] | None = None
    down: bool = False
    broken: Collection[int] = ()
    log: list[tuple[float, int]] = attrs.field(factory=list)
    by_status: Counter[int] = attrs.field(factory=Counter)
    _random: random.Random = attrs.field(init=False)
    _limits: Limits = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._limits = Limits(self.limit, lambda: EPOCH + now())

    def client(self) -> ModelLabClient:
        """A client of this server, with a clock and chance of its own."""
        chance = random.Random(self._random.random())
        clock = Clock(monotonic=now, time=lambda: EPOCH + now(), random=chance.random)
        session = mock.NonCallableMock(
            aiohttp.ClientSession, auth=None, closed=False, connector=None, request=self._answer
        )
        return ModelLabClient(api_key="key", app_key="key", clock=clock, session=session)

    async def _answer(self, method: str, url: object, **options: object) -> _Response:
        half = self.latency / 2
        await asyncio.sleep(half + self.jitter * self._random.random())
        status: int = 200
        headers: Any = ()
        if self.limit is not None:
            headers, refusal = self._limits.admit("get_run")
            status = 429 if refusal is not None else 200
        if self.down or (status == 200 and self._random.random() < self.rate):
            status, headers = self._random.choice((500, 502, 504, 512, 0, 0)), ()
        if self.rule is not None:
            status, headers = self.rule(EPOCH + now())
        run_id = str(url).rpartition("/")[2]
        if self.broken and int(run_id) in self.broken:
            status = 503
        self.log.append((now(), status))
        self.by_status[status] += 1
        await asyncio.sleep(half + self.jitter * self._random.random())
        if status == 0:
            raise aiohttp.ServerDisconnectedError
        return _Response.of(status, headers, RUN % run_id.encode())


class Limit:
    """A server-side limit with calendar-aligned periods."""

    def __init__(self, limit: int, period: float, *, name: str = "x", rounding: str = "ceil"):
        self.limit, self.period, self.name, self.rounding = limit, period, name, rounding
        self.used = 0
        self._number = 0.0

    def allows(self, now: float) -> bool:
        number = now // self.period
        if number != self._number:
            self._number, self.used = number, 0
        return self.used < self.limit

    def headers(self, now: float) -> dict[str, str]:
        left = (self._number + 1) * self.period - now
        reset = {"ceil": math.ceil(left), "floor": math.floor(left), "exact": f"{left:.3f}"}
        return {
            "x-ratelimit-limit": str(self.limit),
            "x-ratelimit-period": str(self.period),
            "x-ratelimit-remaining": str(self.limit - self.used),
            "x-ratelimit-reset": str(reset[self.rounding]),
            "x-ratelimit-name": self.name,
        }
