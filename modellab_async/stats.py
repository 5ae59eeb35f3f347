"""What a client has done so far, in numbers."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Stats:
    """A snapshot of a client's counters, all of them since it was made.

    Attributes:
        calls: operations requested, however often each was sent.
        attempts: requests sent; the server saw them all, except those that found no connection or
            one that was closing.
        retries: attempts beyond the first of their call.
        retries_refused: repeats that were not made because the client's retry budget was empty.
        rate_limited: responses with status 429.
        rate_limit_wait_s: seconds during which requests were held back for quota; many tasks
            that wait out one pause count it once.
        backoff_wait_s: seconds of back-off, summed over all calls.
        bytes_received: bytes of response bodies, after decompression.
    """

    calls: int = 0
    attempts: int = 0
    retries: int = 0
    retries_refused: int = 0
    rate_limited: int = 0
    rate_limit_wait_s: float = 0.0
    backoff_wait_s: float = 0.0
    bytes_received: int = 0


@attrs.define
class Counters:
    """The counters that the client updates."""

    calls: int = 0
    attempts: int = 0
    retries: int = 0
    rate_limited: int = 0
    backoff_wait_s: float = 0.0
    bytes_received: int = 0

    def snapshot(self, *, rate_limit_wait_s: float, retries_refused: int) -> Stats:
        """The current counters, with those that other modules keep."""
        return Stats(
            rate_limit_wait_s=rate_limit_wait_s,
            retries_refused=retries_refused,
            **attrs.asdict(self),
        )
