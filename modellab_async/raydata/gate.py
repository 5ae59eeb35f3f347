"""One quota for all workers: an actor that knows what the server's headers say, and is asked first.

A worker bounds by itself what it has in flight, and asks the actor for leave to send only. Nobody
waits in the actor, so that a worker that dies leaves nothing behind but the leaves it was given,
and these lapse.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import TYPE_CHECKING, Any, Final, cast

import attrs
import ray  # pyright: ignore[reportMissingImports]

from modellab_async.client import ModelLabClient
from modellab_async.clock import Clock
from modellab_async.limiter import STAGGER, Limiter, QuotaWaitError
from modellab_async.quota import Quota

if TYPE_CHECKING:
    from collections.abc import Callable

    from modellab_async.ratelimit import RateLimit

LEASE: Final = 60.0
"""Seconds after which a request is taken to be over: longer than an attempt has by default."""

LOOK_AGAIN: Final = 0.05
"""Seconds until a worker asks again, where only the answer to another's request is awaited."""


class Gate:
    """The actor."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        self._quotas: dict[str, Quota] = {}
        self._leaves: dict[int, tuple[Quota, float]] = {}
        self._numbers = itertools.count()

    @staticmethod
    def start() -> Any:
        """A handle of a new one, which lives as long as somebody holds it."""
        options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
        return ray.remote(Gate).options(**options).remote()

    def ask(self, operation: str) -> tuple[int | None, float, RateLimit | None]:
        """Leave to send a request, or how long to wait before asking again.

        Returns:
            The leave's number, or None; seconds to wait; what was last heard of the limit.
        """
        now = self._clock.monotonic()
        self._lapse(now)
        quota = self._quota(operation)
        if quota.admits(now):
            quota.in_flight += 1
            number = next(self._numbers)
            self._leaves[number] = quota, now + LEASE
            return number, 0.0, quota.last
        pause = quota.opens_at - now if quota.closed(now) else 0.0
        return None, max(LOOK_AGAIN, pause), quota.last

    def learn(self, operation: str, status: int, rate_limit: RateLimit | None) -> None:
        """Take in an answer's status and headers, before its leave is given back."""
        quota = self._quota(operation, rate_limit.name if rate_limit is not None else None)
        quota.learn(status, rate_limit, now=self._clock.monotonic(), jitter=self._clock.random)

    def give_back(self, number: int) -> None:
        """A request is over, whatever came of it."""
        quota, _ = self._leaves.pop(number, (None, 0.0))
        if quota is not None:
            quota.in_flight -= 1

    def _quota(self, operation: str, name: str | None = None) -> Quota:
        """The quota of an operation; those that turn out to share a name share it from then on."""
        quota = self._quotas.setdefault(operation, Quota(name))
        if name is None or quota.name == name:
            return quota
        shared = next((known for known in self._quotas.values() if known.name == name), None)
        if shared is None and quota.name is None:
            quota.name = name
            return quota
        self._quotas[operation] = shared or Quota(name)
        return self._quotas[operation]

    def _lapse(self, now: float) -> None:
        while self._leaves:
            number, (_, until) = next(iter(self._leaves.items()))
            if until > now:
                return
            self.give_back(number)


@attrs.frozen(eq=False)
class _Place:
    """A place in a worker's own limiter, with leave to send."""

    quota: Quota
    leave: int


class _GatedLimiter(Limiter):
    """Bounds what its worker has in flight; what the server allows, the gate knows."""

    def __init__(self, cap: int, clock: Clock, gate: Any) -> None:
        super().__init__(cap, clock)
        self._gate = gate

    def enter_at_once(self, operation: str) -> None:  # noqa: ARG002
        return None

    async def enter(
        self,
        operation: str,
        *,
        again: bool = False,
        give_up_at: float = math.inf,
        longest_pause: float = math.inf,
    ) -> Quota:
        quota = super().enter_at_once(operation) or await super().enter(
            operation, again=again, give_up_at=give_up_at, longest_pause=longest_pause
        )
        try:
            leave = await self._ask(operation, give_up_at, longest_pause)
        except BaseException:
            super().leave(quota)
            raise
        return cast("Quota", _Place(quota, leave))

    async def _ask(self, operation: str, give_up_at: float, longest_pause: float) -> int:
        """Ask the gate until it gives leave."""
        while True:
            number, pause, rate_limit = await self._gate.ask.remote(operation)
            if number is not None:
                return cast("int", number)
            now = self._clock.monotonic()
            if now + pause > give_up_at or pause > longest_pause:
                raise QuotaWaitError(rate_limit, pause)
            await self._clock.sleep(pause + self._clock.random() * STAGGER)
            self.paused_for += self._clock.monotonic() - now

    def leave(self, quota: Quota, *, overloaded: bool | None = None) -> None:
        if isinstance(quota, _Place):
            self._gate.give_back.remote(quota.leave)
            quota = quota.quota
        super().leave(quota, overloaded=overloaded)

    def learn(self, operation: str, status: int, rate_limit: RateLimit | None) -> None:
        self._gate.learn.remote(operation, status, rate_limit)
        super().learn(operation, 200 if status == 429 else status, None)


class _GatedClient(ModelLabClient):
    """A client that asks a gate before it sends."""

    def __init__(self, gate: Any, **options: Any) -> None:
        super().__init__(**options)
        self._limiter = _GatedLimiter(self._limiter.max_concurrency, self._clock, gate)


def client_of(gate: Any) -> Callable[..., ModelLabClient]:
    """What opens a client that shares the gate's quota."""
    return functools.partial(_GatedClient, gate)
