"""JSON from outside, which may be cut short, malformed, or hold ``NaN``, and resources in it.

It knows no models.
"""

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
"""What msgspec raises; RecursionError for JSON that is nested too deeply."""

MAX_DEPTH: Final = 10_000
"""Levels of arrays and objects that JSON may have, whatever the version of Python.

CPython has its own limit, of 1,000 to 10,000 levels before 3.14; from then on, it is the size
of the C stack.
"""


def parse(body: bytes, decode: Callable[[bytes], T], convert: Callable[[Any], T]) -> T:
    """Decode JSON; with ``NaN`` or ``Infinity`` in it, by the standard library's parser.

    Args:
        body: the JSON.
        decode: a msgspec decoder's method.
        convert: the same for data that is already parsed.

    Raises:
        DecodeError: if the body is not what ``decode`` takes.
    """
    try:
        check_depth(body)
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
        DecodeError: if it is not JSON, or has half a surrogate pair, which is not Unicode.
    """
    try:
        check_depth(body)
        value = json.loads(body.decode())  # given bytes, it would take UTF-16 and surrogates too
        if b"\\ud" in body or b"\\uD" in body:
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise decode_error(error, body) from None
    return value


_TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)
"""A string, whole or not, or a bracket; matching takes linear time, whatever the text."""


_STEPS: Final = {b"[": 1, b"{": 1, b"]": -1, b"}": -1}
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


def check_depth(body: bytes) -> None:
    """Refuse JSON that is nested more than `MAX_DEPTH` levels deep.

    Costs nothing for a run of ordinary size, since each level takes two brackets.

    Raises:
        RecursionError: as parsers do.
    """
    if len(body) <= 2 * MAX_DEPTH or len(body.translate(None, _NOT_BRACKETS)) <= 2 * MAX_DEPTH:
        return
    depth = 0
    for token in _TOKEN.finditer(body):
        depth += _STEPS.get(token[0], 0)
        if depth > MAX_DEPTH:
            raise RecursionError(f"nested more than {MAX_DEPTH:,} levels deep")


def split_items(body: bytes) -> tuple[bytes, list[bytes]]:
    """A listing with null for each item of ``data``, and the items.

    Reads only brackets and strings, so that an item that no parser accepts can be told from the
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
    """A parser's error as a `DecodeError`, with the JSON path that its message may end in."""
    text = body.strip()
    if not text:
        return DecodeError("the body is empty", kind="unreadable")
    malformed = not isinstance(error, msgspec.ValidationError)
    if malformed and not text.startswith((b"{", b"[")):
        # None of its text is shown: the edge may echo a key.
        kind = "an HTML page" if text.startswith(b"<") else "not JSON"
        return DecodeError(f"the body is {kind}", kind="unreadable")
    reason, path = split_path(str(error) or type(error).__name__)
    is_cut = not text.endswith((b"}", b"]")) or _looks_cut(error)
    return DecodeError(reason, path=path, kind="unreadable" if is_cut else "final")


def _looks_cut(error: Exception) -> bool:
    """Whether a parser, either one, came to the end of a body before the end of its JSON."""
    if isinstance(error, json.JSONDecodeError):
        return error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string")
    return "truncated" in str(error)


_PATH: Final = re.compile(r" - at `(?:key in )?(.*?)`$")


def split_path(said: str) -> tuple[str, str]:
    """The reason in a message of msgspec's, and the path."""
    at = _PATH.search(said)
    return (said[: at.start()], at.group(1)) if at else (said, "$")


class Resource(msgspec.Struct, gc=False):
    """A resource in JSON whose attributes are still JSON."""

    attributes: msgspec.Raw = msgspec.Raw(b"null")
    id: Any = None
    type: Any = None


decode_resource: Final = msgspec.json.Decoder(Resource).decode


def int_id(value: object) -> int:
    """A resource's ``id``; documented as a string of digits, an integer is taken too."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    if isinstance(value, int) and value >= 0 and not isinstance(value, bool):
        return value
    raise DecodeError(f"Expected an id, got `{type(value).__name__}`", path="$.id")


def text_id(value: object) -> str:
    """The id of a directory or of a list of facets, which no request uses."""
    if value is None or isinstance(value, str | int):
        return "" if value is None else str(value)
    raise DecodeError(f"Expected an id, got `{type(value).__name__}`", path="$.id")
