"""What the simulator remembers of the requests it saw."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

_SECRET_HEADERS: Final = frozenset(
    {"authorization", "cookie", "dd-api-key", "dd-application-key", "proxy-authorization"}
)


def open_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """A copy, under lower-case names, without the headers that hold secrets."""
    lowered = {name.lower(): value for name, value in headers.items()}
    return {name: value for name, value in lowered.items() if name not in _SECRET_HEADERS}


@attrs.frozen
class RequestRecord:
    """One request, and what became of it.

    Attributes:
        method: the HTTP method.
        path: the path, as it was written in the request.
        query: the query string, as it was written, without the question mark.
        operation: the operation's name, such as `get_run`; empty for a path that is none.
        headers: the request's headers under lower-case names, without those that hold secrets.
        status: the status answered, or None if the connection was broken before one was.
        fault: the kind of fault injected, or None.
        time: when it arrived, in seconds by the simulator's clock.
    """

    method: str
    path: str
    query: str
    operation: str
    headers: Mapping[str, str]
    status: int | None
    fault: str | None
    time: float


@attrs.frozen
class Counts:
    """A snapshot of how many requests were seen.

    Attributes:
        requests: all that were finished or broken off, whatever became of them.
        by_status: how many were answered with each status; None: broken before a status was sent.
        by_operation: how many asked for each (method, path template).
        faults: how many met each kind of fault.
        in_flight: requests being worked on now.
        peak_in_flight: most that were ever worked on at the same time.
        connections: connections open now.
        connections_made: connections ever accepted.
    """

    requests: int
    by_status: Mapping[int | None, int]
    by_operation: Mapping[tuple[str, str], int]
    faults: Mapping[str, int]
    in_flight: int
    peak_in_flight: int
    connections: int
    connections_made: int


class Recorder:
    """Keeps the last requests and counts all of them."""

    def __init__(self, capacity: int) -> None:
        self.requests: deque[RequestRecord] = deque(maxlen=capacity)
        self._by_status: Counter[int | None] = Counter()
        self._by_operation: Counter[tuple[str, str]] = Counter()
        self._faults: Counter[str] = Counter()
        self._in_flight = 0
        self._peak = 0

    def begin(self) -> None:
        """A request arrived."""
        self._in_flight += 1
        self._peak = max(self._peak, self._in_flight)

    def end(self, template: str, record: RequestRecord) -> None:
        """A request is done with, in whatever way; its path followed the template."""
        self.requests.append(record)
        self._in_flight -= 1
        self._by_status[record.status] += 1
        self._by_operation[record.method, template] += 1
        if record.fault is not None:
            self._faults[record.fault] += 1

    def counts(self, *, connections: int, connections_made: int) -> Counts:
        """The counts so far."""
        return Counts(
            requests=self._by_status.total(),
            by_status=dict(self._by_status),
            by_operation=dict(self._by_operation),
            faults=dict(self._faults),
            in_flight=self._in_flight,
            peak_in_flight=self._peak,
            connections=connections,
            connections_made=connections_made,
        )
