"""Time that jumps: an event loop that never sleeps, and a server that is only a function.

The client is the real one down to its transport, so that what is simulated here is what it does.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from attrs import define, field

from modellab_async import Clock, ModelLabClient, TransportError
from modellab_async.endpoints import Call
from modellab_async.responses import Response
from modellab_async.simulator.limits import Limits, RateLimit

T = TypeVar("T")
EPOCH = 1_779_000_000.0


class _Selector(selectors.SelectSelector):
    """Passes time instead of waiting."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.now += timeout or 0.0
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which waiting takes no time."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


def run(main: Coroutine[Any, Any, T]) -> T:
    """As ``asyncio.run``, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def now() -> float:
    return asyncio.get_running_loop().time()


@define(slots=False)
class Server:
    """Answers after a while, or fails by chance, by quota, by rule, or during an outage."""

    rate: float = 0.0
    limit: RateLimit | None = None
    latency: float = 0.05
    jitter: float = 0.0
    seed: int = 1
    answer: Callable[[float], tuple[int, Mapping[str, str]]] | None = None
    down: bool = False
    log: list[tuple[float, int]] = field(factory=list)
    by_status: Counter[int] = field(factory=Counter)

    def __attrs_post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._limits = Limits(self.limit, lambda: EPOCH + now())

    def client(self, **options: Any) -> ModelLabClient:
        chance = random.Random(self._random.random())
        clock = Clock(monotonic=now, time=lambda: EPOCH + now(), random=chance.random)
        lab = ModelLabClient(api_key="key", app_key="key", clock=clock, **options)
        lab._transport.send = self._send  # type: ignore[method-assign]
        return lab

    async def _send(self, _: Call, timeout: float) -> tuple[Response, None]:  # noqa: ARG002
        half = self.latency / 2
        await asyncio.sleep(half + self.jitter * self._random.random())
        status: int = 200
        headers: Any = ()
        if self.limit is not None:
            headers, refusal = self._limits.admit("get_run")
            status = 429 if refusal is not None else 200
        if self.down or (status == 200 and self._random.random() < self.rate):
            status, headers = self._random.choice((500, 502, 504, 512, 0, 0)), ()
        if self.answer is not None:
            status, headers = self.answer(EPOCH + now())
        self.log.append((now(), status))
        self.by_status[status] += 1
        await asyncio.sleep(half + self.jitter * self._random.random())
        if status == 0:
            raise TransportError("the connection was lost")
        told = {name.lower(): value for name, value in dict(headers).items()}
        return Response(status, told, b"{}"), None


Ask = Callable[[], Coroutine[Any, Any, Any]]


def asker(lab: ModelLabClient) -> Ask:
    """Asks for something whose answer needs no decoding."""
    call = Call("runs.get", "GET", "/runs/1", returns=bytes)
    return lambda: lab.perform(call)
