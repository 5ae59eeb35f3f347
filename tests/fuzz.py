"""Bodies and headers that no server would send, by the hundred thousand, and only ours to blame.

``python tests/fuzz.py 200000 7`` runs so many from that seed; a failure names the case, and the
same seed makes the same cases.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Final

from faultserver import listing, resource, run_body
from payloads import hooked

from modellab_async import DecodeError, StatusError, make_converter
from modellab_async.documents import decode, decode_page
from modellab_async.endpoints import Call
from modellab_async.models import (
    FacetKeys,
    FacetValues,
    Project,
    ProjectArtifacts,
    Run,
    RunArtifacts,
)
from modellab_async.ratelimit import RateLimit
from modellab_async.responses import Response, status_error

MONTH: Final = 30 * 86_400.0
LONGEST: Final = 10_000
"""Bytes of a body; that size does not matter is tested elsewhere."""

MODELS: Final = (Run, Project, RunArtifacts, ProjectArtifacts, FacetKeys, FacetValues)
METRIC = {"key": "loss", "count": 9, "first_step": 0, "latest": 0.5, "max": 1, "min": None}
FILE = {"path": "a/b", "is_dir": False, "file_size": 7, "filename": "b", "artifact_path": "a/b"}


def _one(attributes: dict[str, Any]) -> bytes:
    return json.dumps({"data": {"id": "7", "attributes": attributes}}).encode()


BODIES: Final = (
    run_body(7),
    run_body(
        7, metric_summaries=[METRIC], tags=[{"key": "a", "value": "é\n"}], duration=1.5, new=[1]
    ),
    run_body(7, updated_at="2026-05-15T02:57:03Z", duration=None, params=None, is_pinned=True),
    listing(resource(7), resource(8, metric_summaries=[METRIC]), resource(9), next_number=1),
    listing(resource(7, name="\ud800"), b'{"id":[[[nul]]]}', resource(8), total=3, number=0),
    _one({"name": "p", "created_at": "2026-05-15T02:57:03Z", "tags": [], "is_starred": False}),
    _one({"path_in_project": "runs/7", "files": [FILE | {"created_at": "2026-05-15T02:57:03Z"}]}),
    _one({"metrics": None, "parameters": ["lr"], "tags": []}),
    _one({"facet_name": "lr", "facet_type": "tag", "values": ["1"], "numeric_range": {"min": 1}}),
    b'{"errors":[{"title":"t","detail":"d","source":{"pointer":"/a"},"meta":{}},"no"]}',
    b"<html><body>502 Bad Gateway</body></html>",
)
TOKENS: Final = (
    *(b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-0", b"9" * 25, b"9" * 5_000, b"0.1"),
    *(b'""', b"[]", b"{}", b"[" * 2_000, b'{"a":' * 1_500, b"]", b"}", b",", b":", b'"', b"\\"),
    *(b"\\ud800", b"\\u0000", b"\xff", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\0", b"\n", b"\x7f"),
    *(b'"data"', b'"meta"', b'"id"', b'"attributes"', b'"page"', b'"next_number"', b'"key"'),
    *(
        b'"9999-12-31T23:59:59.9999999Z"',
        b'"0000-00-00"',
        b'"2026-05-15T02:57:03"',
        b"\xef\xbb\xbf",
    ),
)
WORDS: Final = (
    *("0", "-1", "7", "7, 7", "1e308", "-1e-308", "inf", "nan", "1_0", "0x7", "٧", "9" * 400, ""),
    *("Sun, 17 May 2026 06:40:30 GMT", "Sun, 99 May 99999 06:40:30 +9999", "Sunday", "May", "GMT"),
    *("1779000030", "-1779000030", "\0", "é", ",", ";", " ", "\t", "06:40:30", "2026", "-0000"),
)
HEADERS: Final = (
    *("x-ratelimit-limit", "x-ratelimit-period", "x-ratelimit-remaining", "x-ratelimit-reset"),
    *("x-ratelimit-name", "retry-after"),
)


CONVERTERS: Final = (make_converter(), hooked())


def spoil(body: bytes, dice: random.Random) -> bytes:
    """A body with up to eight random changes, whole tokens and single bytes alike."""
    for _ in range(dice.choice((0, 1, 1, 1, 2, 3, 8))):
        first = dice.randrange(len(body) + 1)
        last = min(len(body), first + dice.choice((0, 1, 1, 4, 40)))
        match dice.randrange(7):
            case 0:
                body = body[:first]
            case 1:
                body = body[:first] + body[last:]
            case 2:
                body = body[:first] + body[first:last] * 3 + body[last:]
            case 3:
                body = body[:first] + dice.randbytes(last - first) + body[last:]
            case 4:
                other = dice.choice(BODIES)
                body = body[:first] + other[dice.randrange(len(other)) :]
            case _:
                body = body[:first] + dice.choice(TOKENS) + body[last:]
    return body[:LONGEST]


def headers(dice: random.Random) -> dict[str, str]:
    """Rate-limit headers, any of them absent, each of a few random words."""
    return {
        name: dice.choice(("", " ", ", ")).join(dice.choices(WORDS, k=dice.choice((1, 1, 1, 2, 5))))
        for name in HEADERS
        if dice.random() < 0.7
    }


def _finished(work: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine gives that only ever lets others have their turn."""
    try:
        while True:
            work.send(None)
    except StopIteration as end:
        return end.value


def _decode(body: bytes, dice: random.Random) -> str:
    converter, model = dice.choice(CONVERTERS), dice.choice((Run, *MODELS))
    expects = dice.choice((None, 7)) if model in {Run, Project} else None
    try:
        result = decode(body, model, converter, expects=expects)
    except DecodeError as error:
        return _sound(error)
    assert isinstance(result, model)
    hash(result)
    return "decoded"


def _page(body: bytes, dice: random.Random) -> str:
    try:
        page = _finished(decode_page(body, dice.choice((Run, Project)), dice.choice(CONVERTERS)))
    except DecodeError as error:
        return _sound(error)
    for item in page.items:
        assert isinstance(item, Run | Project | DecodeError)
        if isinstance(item, DecodeError):
            _sound(item)
    return "page"


def _sound(error: DecodeError) -> str:
    assert error.path.startswith("$")
    assert len(str(error)) < 5_000  # a path may be deep
    return "cut short" if error.kind == "unreadable" else "refused"


def _limits(_body: bytes, dice: random.Random) -> str:
    found = RateLimit.from_headers(headers(dice), now=lambda: 1_779_000_000.0)
    if found is None:
        return "no limit"
    assert found.limit is None or found.limit >= 0
    assert found.remaining is None or found.remaining >= 0
    assert found.period is None or 0 < found.period <= MONTH
    assert found.reset is None or 0 <= found.reset <= MONTH
    return "limit"


def _status(body: bytes, dice: random.Random) -> str:
    told = headers(dice)
    reply = Response(dice.choice((301, 400, 401, 403, 404, 429, 500, 503, 799)), told, body)
    call = Call("runs.get", "GET", "/runs/7")
    error = status_error(call, "https://h/runs/7", reply, RateLimit.from_headers(told), str)
    assert isinstance(error, StatusError)
    assert len(str(error)) < 1_000
    assert len(error.body.encode()) <= 2_048
    assert error.retry_after is None or 0 <= error.retry_after <= MONTH
    return "status"


CHECKS: Final[tuple[Callable[[bytes, random.Random], str], ...]] = (
    *(_decode, _decode, _page, _limits, _status),
)


def fuzz(count: int, seed: int) -> Counter[str]:
    """Make so many cases, each a body or a set of headers, and check what becomes of them.

    Args:
        count: how many.
        seed: another seed, other cases.

    Returns:
        How many ended how.

    Raises:
        AssertionError: for the first case that raised something undocumented, or gave something
            unsound; names seed and case.
    """
    ends: Counter[str] = Counter()
    for case in range(count):
        dice = random.Random(f"{seed} {case}")
        body = spoil(dice.choice(BODIES), dice)
        check = dice.choice(CHECKS)
        try:
            ends[check(body, dice)] += 1
        except Exception as error:
            raise AssertionError(
                f"case {case} of seed {seed}, {check.__name__}: {body[:300]!r}"
            ) from error
    return ends


if __name__ == "__main__":
    began = time.perf_counter()
    ended = fuzz(int(sys.argv[1]), int(sys.argv[2]))
    seconds = time.perf_counter() - began
    print(f"{sys.argv[1]} cases in {seconds:.1f} s: {dict(ended)}")  # noqa: T201
