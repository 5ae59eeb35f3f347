"""The query strings of the two list operations, read into SQL.

A parameter that is unknown, or whose value makes no sense, raises `BadParameterError`.
"""

# ruff: noqa: S608 - what is not ours in the SQL is bound as a parameter

from __future__ import annotations

import functools
import uuid
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import attrs

from modellab_async.simulator.generator import STATUSES, UNKNOWN_STATUS
from modellab_async.simulator.responses import BadParameterError

if TYPE_CHECKING:
    from modellab_async.simulator.fixtures import PairsField

Query: TypeAlias = Mapping[str, str]

MAX_PAGE_SIZE: Final = 100
_LARGEST_ID: Final = 2**63 - 1

_OF_PROJECTS: Final = (
    "filter", "filter[owner_id]", "filter[tags]", "sort", "page[size]", "page[number]",
)  # fmt: skip
_OF_RUNS: Final = (
    *_OF_PROJECTS, "filter[id]", "filter[status]", "filter[project_id]", "filter[params]",
    "filter[parent_run_id]", "pinned_first", "include_pinned", "include_descendant_matches",
)  # fmt: skip

_COMPARISONS: Final = (">=", "<=", ">", "<")


@attrs.frozen
class Condition:
    """A condition of SQL on a row; `keys` are the params and tags that it asks about."""

    sql: str
    arguments: tuple[Any, ...] = ()
    keys: tuple[tuple[PairsField, str], ...] = ()

    def __and__(self, other: Condition) -> Condition:
        return Condition(
            f"{self.sql} AND {other.sql}",
            self.arguments + other.arguments,
            self.keys + other.keys,
        )


_TRUE: Final = Condition("TRUE")


@attrs.frozen
class ListQuery:
    """What a list is filtered and sorted by; what only runs have is off for projects.

    Attributes:
        matches: all filters but that of the parent.
        parent: the filter of the parent.
        order: the terms of ORDER BY.
    """

    matches: Condition
    order: str
    parent: Condition = _TRUE
    pinned_first: bool = False
    include_pinned: bool = False
    include_descendant_matches: bool = False

    @classmethod
    def of_projects(cls, query: Query) -> ListQuery:
        """Read the query string of the list of projects."""
        refuse_unknown(query, _OF_PROJECTS)
        order = _order(query, ("name", "created_at", "updated_at"))
        return cls(_text_and_owner(query) & _tags(query, "project tags"), order)

    @classmethod
    def of_runs(cls, query: Query) -> ListQuery:
        """Read the query string of the list of runs."""
        refuse_unknown(query, _OF_RUNS)
        matches = _text_and_owner(query)
        if (ids := query.get("filter[id]")) is not None:
            wanted = tuple(integer(text, "filter[id]") for text in ids.split(","))
            matches &= Condition(f"id IN ({','.join('?' * len(wanted))})", wanted)
        if (status := query.get("filter[status]")) is not None:
            if status not in (*STATUSES, UNKNOWN_STATUS):
                raise BadParameterError("filter[status]", f"unknown status {status!r}")
            matches &= Condition("status = ?", (status,))
        if (project_id := query.get("filter[project_id]")) is not None:
            matches &= Condition("project_id = ?", (integer(project_id, "filter[project_id]"),))
        matches &= _tags(query, "tags")
        for key, value in _pairs(query, "filter[params]"):
            matches &= _param(key, value)
        return cls(
            matches,
            _order(query, ("name", "created_at", "updated_at", "duration")),
            _parent(query),
            pinned_first=_boolean(query, "pinned_first"),
            include_pinned=_boolean(query, "include_pinned"),
            include_descendant_matches=_boolean(query, "include_descendant_matches"),
        )


def read_page(query: Query, *, first: int) -> tuple[int, int]:
    """The number and the size of the page asked for, the first page being number `first`."""
    size = integer(query.get("page[size]", "25"), "page[size]")
    if not 1 <= size <= MAX_PAGE_SIZE:
        raise BadParameterError("page[size]", f"must be between 1 and {MAX_PAGE_SIZE}")
    number = integer(query.get("page[number]", str(first)), "page[number]")
    if number < first:
        raise BadParameterError("page[number]", f"the first page is number {first}")
    return number, size


def integer(text: str, parameter: str) -> int:
    """A non-negative 64-bit integer."""
    if text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= _LARGEST_ID:
        return int(text)
    raise BadParameterError(parameter, f"{text!r} is not an integer")


def refuse_unknown(query: Query, known: Collection[str]) -> None:
    """Refuse parameters that a real server may ignore, so that a client's mistake shows."""
    for parameter in query:
        if parameter not in known:
            raise BadParameterError(parameter, "unknown parameter")


@functools.lru_cache(maxsize=10_000)
def to_number(text: str) -> float | None:
    """What a param's value is as a number, if it is one."""
    try:
        return float(text)
    except ValueError:
        return None


def _order(query: Query, fields: tuple[str, ...]) -> str:
    text = query.get("sort", "-created_at")
    field = text.removeprefix("-")
    if field not in fields:
        raise BadParameterError("sort", f"{text!r} is not one of {', '.join(fields)}")
    # NULL, as the duration of a run that has not ended, is below all numbers.
    direction = "DESC" if text.startswith("-") else "ASC"
    return f"{field} {direction}, id {direction}"


def _boolean(query: Query, parameter: str) -> bool:
    text = query.get(parameter, "false")
    if text not in {"true", "false"}:
        raise BadParameterError(parameter, f"{text!r} is neither true nor false")
    return text == "true"


def _text_and_owner(query: Query) -> Condition:
    condition = _TRUE
    if (text := query.get("filter")) is not None:
        folded = text.casefold()
        condition &= Condition(
            "(instr(casefold(name), ?) OR instr(casefold(description), ?))", (folded, folded)
        )
    if (owner := query.get("filter[owner_id]")) is not None:
        try:
            condition &= Condition("owner_id = ?", (str(uuid.UUID(owner)),))
        except ValueError:
            raise BadParameterError("filter[owner_id]", f"{owner!r} is not a UUID") from None
    return condition


def _parent(query: Query) -> Condition:
    text = query.get("filter[parent_run_id]")
    if text is None:
        return _TRUE
    if text == "null":
        return Condition("parent_id IS NULL")
    return Condition("parent_id = ?", (integer(text, "filter[parent_run_id]"),))


def _pairs(query: Query, parameter: str) -> list[tuple[str, str]]:
    pairs = []
    text = query.get(parameter)
    for part in () if text is None else text.split(","):
        key, colon, value = part.partition(":")
        if not key or not colon:
            raise BadParameterError(parameter, f"{part!r} is not of the form key:value")
        pairs.append((key, value))
    return pairs


def _tags(query: Query, table: Literal["tags", "project tags"]) -> Condition:
    condition = _TRUE
    for key, value in _pairs(query, "filter[tags]"):
        keys: tuple[tuple[PairsField, str], ...] = (("tags", key),) if table == "tags" else ()
        condition &= Condition(_has_pair("value = ?"), (table, key, value), keys)
    return condition


def _param(key: str, value: str) -> Condition:
    """A param's value compared as a number, as a boolean, or as text or number."""
    keys: tuple[tuple[PairsField, str], ...] = (("params", key),)
    for comparison in _COMPARISONS:
        if value.startswith(comparison):
            number = to_number(value.removeprefix(comparison))
            if number is None:
                detail = f"{value.removeprefix(comparison)!r} is not a number"
                raise BadParameterError("filter[params]", detail)
            return Condition(_has_pair(f"number {comparison} ?"), ("params", key, number), keys)
    if value in {"true", "false"}:
        return Condition(_has_pair("lower(value) = ?"), ("params", key, value), keys)
    arguments = ("params", key, value, to_number(value))
    return Condition(_has_pair("(value = ? OR number = ?)"), arguments, keys)


def _has_pair(test: str) -> str:
    return (
        f"EXISTS (SELECT 1 FROM pairs WHERE kind = ? AND resource_id = id AND key = ? AND {test})"
    )
