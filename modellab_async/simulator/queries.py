"""The parameters of requests: which there are, and how the text of each is read."""

from __future__ import annotations

import functools
import operator
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from modellab_async.simulator.generator import STATUSES, UNKNOWN_STATUS

Reader: TypeAlias = Callable[[str], Any]
"""Turns the text of a parameter into a value, or raises a `ValueError` that says why not."""

_LARGEST_ID: Final = 2**63 - 1
_MAX_PAGE_SIZE: Final = 100
_COMPARISONS: Final = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


def integer(text: str) -> int:
    """A non-negative 64-bit integer."""
    if text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= _LARGEST_ID:
        return int(text)
    raise ValueError(f"{text!r} is not an integer")


def not_empty(text: str) -> str:
    """Any text but the empty one."""
    if not text:
        raise ValueError("required")
    return text


def _boolean(text: str) -> bool:
    if text not in {"true", "false"}:
        raise ValueError(f"{text!r} is neither true nor false")
    return text == "true"


def _integers(text: str) -> bytes:
    """Integers as JSON, which SQL takes as one argument."""
    return msgspec.json.encode([integer(part) for part in text.split(",")])


def _integer_or_null(text: str) -> int | None:
    return None if text == "null" else integer(text)


def _uuid(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise ValueError(f"{text!r} is not a UUID") from None


def _status(text: str) -> str:
    if text not in (*STATUSES, UNKNOWN_STATUS):
        raise ValueError(f"unknown status {text!r}")
    return text


def _page_size(text: str) -> int:
    size = integer(text)
    if not 1 <= size <= _MAX_PAGE_SIZE:
        raise ValueError(f"must be between 1 and {_MAX_PAGE_SIZE}")
    return size


def _order_by(*fields: str) -> Reader:
    """A reader of what to sort by, into the terms of ORDER BY."""

    def read(text: str) -> str:
        field = text.removeprefix("-")
        if field not in fields:
            raise ValueError(f"{text!r} is not one of {', '.join(fields)}")
        # NULL, as the duration of a run that has not ended, is below all numbers.
        direction = "DESC" if text.startswith("-") else "ASC"
        return f"{field} {direction}, id {direction}"

    return read


@functools.lru_cache
def read_pairs(text: str) -> Sequence[tuple[str, str]]:
    """The tags that are asked for."""
    pairs = []
    for part in text.split(","):
        key, colon, value = part.partition(":")
        if not key or not colon:
            raise ValueError(f"{part!r} is not of the form key:value")
        pairs.append((key, value))
    return pairs


@functools.lru_cache
def read_tests(text: str) -> Sequence[tuple[str, Callable[[str], bool]]]:
    """The params that are asked for, each with the test of its value."""
    return [(key, _test(wanted)) for key, wanted in read_pairs(text)]


def _test(wanted: str) -> Callable[[str], bool]:
    """Compares a value as a number, as a boolean, or as text or number."""
    sign = next((sign for sign in _COMPARISONS if wanted.startswith(sign)), "")
    bound = _to_number(wanted.removeprefix(sign))
    if sign and bound is None:
        raise ValueError(f"{wanted.removeprefix(sign)!r} is not a number")
    if wanted in {"true", "false"}:
        return lambda value: value.lower() == wanted
    compare = _COMPARISONS.get(sign, operator.eq)

    def test(value: str) -> bool:
        if not sign and value == wanted:
            return True
        number = _to_number(value)
        return number is not None and bound is not None and compare(number, bound)

    return test


@functools.lru_cache(maxsize=10_000)
def _to_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _tags(text: str) -> str:
    read_pairs(text)
    return text


def _params(text: str) -> str:
    read_tests(text)
    return text


LIST_PROJECTS: Final[Mapping[str, Reader]] = {
    "filter": str.casefold,
    "filter[owner_id]": _uuid,
    "filter[tags]": _tags,
    "sort": _order_by("name", "created_at", "updated_at"),
    "page[size]": _page_size,
    "page[number]": integer,
}
LIST_RUNS: Final[Mapping[str, Reader]] = {
    **LIST_PROJECTS,
    "filter[id]": _integers,
    "filter[status]": _status,
    "filter[project_id]": integer,
    "filter[parent_run_id]": _integer_or_null,
    "filter[params]": _params,
    "sort": _order_by("name", "created_at", "updated_at", "duration"),
    "pinned_first": _boolean,
    "include_pinned": _boolean,
    "include_descendant_matches": _boolean,
}
