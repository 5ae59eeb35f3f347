"""JSON to plain data or raw slices, and what goes wrong on the way, told as one kind of error."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from modellab_async.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

PARSE_ERRORS: Final = (msgspec.DecodeError, UnicodeError, RecursionError)
"""What msgspec raises; a RecursionError for JSON nested too deep."""

_TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)
"""A string, whole or not, or a bracket; linear in time, whatever the text."""

_AT: Final = re.compile(r" - at `(?:key in )?(.*?)`$")


def parse(body: bytes, decode: Callable[[bytes], T], convert: Callable[[Any], T]) -> T:
    """Decode a body; one with ``NaN`` or ``Infinity`` goes through the standard library's parser.

    Args:
        body: JSON.
        decode: a typed msgspec decoder's.
        convert: the same for data that is parsed already.

    Raises:
        DecodeError: where the body is not what ``decode`` takes.
    """
    try:
        return decode(body)
    except PARSE_ERRORS as error:
        failure: Exception = error
        malformed = not isinstance(error, msgspec.ValidationError)
        if malformed and (b"NaN" in body or b"Infinity" in body):
            try:
                return convert(loads(body))
            except PARSE_ERRORS as second:
                failure = second
    raise decode_error(failure, body)


def loads(body: bytes) -> Any:
    """Plain data from JSON that may hold ``NaN`` or ``Infinity``, which the API may send.

    Raises:
        DecodeError: where it is no JSON, or has text that is no Unicode: half a surrogate pair.
    """
    try:
        value = json.loads(body.decode())  # given bytes, it would take UTF-16 and surrogates too
        if b"\\ud" in body or b"\\uD" in body:
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise decode_error(error, body) from None
    return value


def take_apart(body: bytes) -> tuple[bytes, list[bytes]]:
    """A listing's outline, with null for each item of ``data``, and the items by themselves.

    It reads brackets and strings only, so that an item that no parser takes can be told from the
    others. Neither part is known to be JSON.
    """
    outline: list[bytes] = []
    items: list[bytes] = []
    depth = begin = done = 0
    key = b""
    listed = False
    for token in _TOKEN.finditer(body):
        text = token[0]
        if depth == 2:
            begin = token.start()
        if text in b"[{":
            if depth == 1:
                listed = text == b"[" and key == b'"data"'
            depth += 1
            continue
        if text in b"]}":
            depth -= 1
        elif depth == 1:
            key = text
        if listed and depth == 2:
            outline += (body[done:begin], b"null")
            done = token.end()
            items.append(body[begin:done])
    return b"".join([*outline, body[done:]]), items


def decode_error(error: Exception, body: bytes = b"{}") -> DecodeError:
    """A parser's error as ours, with the JSON path that its message may end in."""
    text = body.strip()
    if not text:
        return DecodeError("the body is empty", cut_short=True)
    malformed = not isinstance(error, msgspec.ValidationError)
    if malformed and not text.startswith((b"{", b"[")):
        # None of its text is shown: the edge may echo a key.
        kind = "an HTML page" if text.startswith(b"<") else "not JSON"
        return DecodeError(f"the body is {kind}", cut_short=True)
    said = str(error) or type(error).__name__
    at = _AT.search(said)
    reason = said[: at.start()] if at else said
    cut_short = not text.endswith((b"}", b"]")) or _looks_cut(error)
    return DecodeError(reason, path=at.group(1) if at else "$", cut_short=cut_short)


def _looks_cut(error: Exception) -> bool:
    """Whether a parser, either one, came to the end of a body before the end of its JSON."""
    if isinstance(error, json.JSONDecodeError):
        return error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string")
    return "truncated" in str(error)


def located(error: DecodeError, prefix: str, resource_id: int | None) -> DecodeError:
    """The same error, told from the answer's root and naming what the answer was about."""
    path = prefix + error.path.removeprefix("$")
    about = "" if resource_id is None else f"in the answer for id {resource_id}: "
    return DecodeError(
        f"{about}{error.args[0]}, at {path}",
        path=path,
        resource_id=resource_id,
        cut_short=error.cut_short,
    )


def identity(value: object, path: str = "$.id") -> int:
    """A resource's ``id`` as an int; documented as a string of digits, an integer is taken too.

    Raises:
        DecodeError: for anything else.
    """
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    if isinstance(value, int) and value >= 0 and not isinstance(value, bool):
        return value
    raise DecodeError(f"Expected an id, got `{type(value).__name__}`", path=path)
