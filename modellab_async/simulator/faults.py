"""The faults that can be injected, and which request meets which."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from hashlib import blake2b
from typing import Final, Literal, TypeAlias

import attrs

from modellab_async.simulator.responses import Response, error_response, plain_error

FaultKind: TypeAlias = Literal[
    "answer", "cut", "drip", "lost", "idle_close", "close", "reset", "stall"
]
Matcher: TypeAlias = Callable[[str, str], bool]
Where: TypeAlias = str | Matcher
"""Which requests: a glob for the path, or a test of the method and of the path with its query."""

_PAGE: Final = b"<!DOCTYPE html><html><body><h1>%d</h1><p>Injected</p></body></html>"


@attrs.frozen
class Fault:
    """Something that goes wrong with one request. Build it with one of the class methods.

    Attributes:
        kind: what happens; `answer` means that `answer` is sent instead of the right one.
        answer: the response of kind `answer`.
        amount: bytes before a cut (None: half of the body), seconds of a stall or
            between two bytes of a drip.
    """

    kind: FaultKind
    answer: Response | None = None
    amount: float | None = None

    @classmethod
    def status(
        cls,
        status: int,
        *,
        body: Literal["json", "strings", "html", "empty"] | bytes = "json",
        retry_after: str | float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Fault:
        """Answers with another status; the request is not carried out.

        Args:
            status: such as 500, 502, 503, 504, 512 or 429.
            body: one of the error forms, an HTML page, nothing, or exactly these bytes.
            retry_after: value of a `Retry-After` header: seconds or an HTTP date.
            headers: further headers, such as `Location`.
        """
        more = dict(headers or {})
        if retry_after is not None:
            more["Retry-After"] = str(retry_after)
        if body == "json":
            response = error_response(status, "Generic Error", "injected", status=str(status))
        elif body == "strings":
            response = plain_error(status, "injected")
        elif body == "html":
            response = Response(status, _PAGE % status, "text/html")
        else:
            response = Response(status, b"" if body == "empty" else body)
        return cls("answer", attrs.evolve(response, headers=tuple(more.items())))

    @classmethod
    def rate_limited(
        cls, *, reset: str | float | None = None, retry_after: str | float | None = None
    ) -> Fault:
        """Answers 429, as if other processes had used up the limit.

        Args:
            reset: value of `X-RateLimit-Reset`, sent with the other headers of the kind;
                None sends none of them.
            retry_after: value of a `Retry-After` header.
        """
        headers = {
            "X-RateLimit-Limit": "100",
            "X-RateLimit-Period": "10",
            "X-RateLimit-Remaining": "0",
            "X-RateLimit-Reset": str(reset),
            "X-RateLimit-Name": "model_lab_api",
        }
        body = b'{"errors":["Too many requests"]}'
        return cls.status(
            429, body=body, retry_after=retry_after, headers=None if reset is None else headers
        )

    @classmethod
    def cut(cls, after: int | None = None) -> Fault:
        """Carries the request out, sends part of the body and closes the connection.

        Args:
            after: bytes of the body to send; half of them by default.
        """
        return cls("cut", amount=after)

    @classmethod
    def drip(cls, seconds: float = 0.01) -> Fault:
        """Carries the request out and sends the body a byte at a time, so many seconds apart."""
        return cls("drip", amount=seconds)

    @classmethod
    def lost(cls) -> Fault:
        """Carries the request out, then closes the connection without answering."""
        return cls("lost")

    @classmethod
    def idle_close(cls) -> Fault:
        """Answers, then closes the kept-alive connection without having announced it."""
        return cls("idle_close")

    @classmethod
    def close(cls) -> Fault:
        """Closes the connection instead of answering; the request is not carried out.

        This is what a client meets whose request crosses the closing of an idle connection.
        """
        return cls("close")

    @classmethod
    def reset(cls) -> Fault:
        """Resets the connection (RST) instead of answering; the request is not carried out."""
        return cls("reset")

    @classmethod
    def stall(cls, seconds: float = 3600.0) -> Fault:
        """Never answers, and closes the connection after that many seconds."""
        return cls("stall", amount=seconds)


DEFAULT_FAULTS: Final = (
    Fault.status(500),
    Fault.status(502, body="html"),
    Fault.status(503, body="strings"),
    Fault.status(504, body="empty"),
    Fault.status(512),
    Fault.rate_limited(),
    Fault.cut(),
    Fault.lost(),
    Fault.idle_close(),
    Fault.close(),
    Fault.reset(),
)
"""Every kind that does not take time."""


class Faults:
    """Decides which request meets which fault: by script first, else at random.

    Chance depends on the seed, the request (method, path and query) and how many times that
    request was made before, never on the order in which different requests arrive.

    Example:
        ```python
        from modellab_async.simulator import Fault

        sim.faults.next(Fault.status(503), Fault.reset())
        sim.faults.for_run(70158, Fault.cut())
        sim.faults.always(Fault.status(512), where="*/runs")
        ```
    """

    def __init__(
        self,
        rate: float = 0.0,
        kinds: Iterable[Fault] = DEFAULT_FAULTS,
        *,
        seed: int = 0,
        max_in_a_row: int | None = None,
        where: Where = "*",
    ) -> None:
        """Set up random faults.

        Args:
            rate: share of requests that meet one, from 0 to 1.
            kinds: the faults to choose from, all as likely; one given twice is twice as likely.
            seed: another seed, other faults.
            max_in_a_row: if given, the same request is never disturbed more often than this
                without being let through once.
            where: the requests that may meet one.
        """
        if not 0 <= rate <= 1:
            raise ValueError(f"rate must be between 0 and 1, not {rate}")
        self.rate: float = rate
        self.seed = seed
        self.max_in_a_row = max_in_a_row
        self._kinds = tuple(kinds)
        self._where = _matcher(where)
        self._script: list[tuple[Matcher, Iterator[Fault | None]]] = []
        self._asked: Counter[bytes] = Counter()

    def next(self, *faults: Fault | None) -> None:
        """The next requests, whatever they are, meet these; None lets one through."""
        self.matching("*", *faults)

    def for_run(self, run_id: int, *faults: Fault | None) -> None:
        """The next `GET`s of that run meet these, one each."""
        ending = f"/runs/{run_id}"
        self.matching(lambda method, path: method == "GET" and path.endswith(ending), *faults)

    def matching(self, where: Where, *faults: Fault | None) -> None:
        """The next requests that match meet these, one each."""
        self._script.append((_matcher(where), iter(faults)))

    def always(self, fault: Fault, where: Where = "*") -> None:
        """Every request that matches meets this, until `clear`."""
        self._script.append((_matcher(where), itertools.repeat(fault)))

    def clear(self) -> None:
        """Forget the script and stop random faults."""
        self._script.clear()
        self.rate = 0.0

    def choose(self, method: str, path: str) -> Fault | None:
        """The fault that this request meets, if any; asking counts as making the request."""
        for line in tuple(self._script):
            matches, faults = line
            if matches(method, path):
                for fault in faults:
                    return fault
                self._script.remove(line)
        if not self.rate or not self._kinds or not self._where(method, path):
            return None
        request = blake2b(f"{self.seed} {method} {path}".encode(), digest_size=16).digest()
        attempt = self._asked[request]
        self._asked[request] += 1
        if self.max_in_a_row is not None and attempt % (self.max_in_a_row + 1) == self.max_in_a_row:
            return None
        dice = blake2b(request, digest_size=16, salt=attempt.to_bytes(16)).digest()
        if int.from_bytes(dice[:8]) >= self.rate * 2**64:
            return None
        return self._kinds[int.from_bytes(dice[8:]) % len(self._kinds)]


def _matcher(where: Where) -> Matcher:
    if callable(where):
        return where
    return lambda _method, path: fnmatchcase(path.partition("?")[0], where)
