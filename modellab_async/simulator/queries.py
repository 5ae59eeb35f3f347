"""The query strings of the two list operations: what they may hold, and what they select."""

from __future__ import annotations

import operator
import uuid
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import attrs

from modellab_async.simulator.answers import BadParameterError
from modellab_async.simulator.vocabulary import STATUSES, UNKNOWN_STATUS

if TYPE_CHECKING:
    from modellab_async.simulator.resources import Pair, Resource, RunResource

Query: TypeAlias = Mapping[str, str]
Parent: TypeAlias = int | Literal["none", "any"]

DEFAULT_PAGE_SIZE: Final = 25
MAX_PAGE_SIZE: Final = 100
_LARGEST_ID: Final = 2**63 - 1

_PAGE: Final = ("page[size]", "page[number]")
_COMMON: Final = ("filter", "filter[owner_id]", "filter[tags]", "sort", *_PAGE)
_OF_RUNS: Final = (
    *_COMMON, "filter[id]", "filter[status]", "filter[project_id]", "filter[params]",
    "filter[parent_run_id]", "pinned_first", "include_pinned", "include_descendant_matches",
)  # fmt: skip

_COMPARISONS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@attrs.frozen
class ParamTest:
    """One condition on the params: their value compared as text, as a number or as a boolean."""

    key: str
    comparison: str
    value: str

    def holds(self, found: str) -> bool:
        """Whether a param of this key with the value found satisfies the condition."""
        compare = _COMPARISONS.get(self.comparison)
        if compare is not None:
            number = _number(found)
            return number is not None and compare(number, float(self.value))
        if self.value in {"true", "false"}:
            return found.lower() == self.value
        wanted = _number(self.value)
        return found == self.value or (wanted is not None and wanted == _number(found))


@attrs.frozen
class ProjectQuery:
    """What a list of projects is filtered and sorted by."""

    text: str | None
    owner_id: str | None
    tags: tuple[Pair, ...]
    sort: str
    descending: bool

    @classmethod
    def parse(cls, query: Query) -> ProjectQuery:
        """Reads a query string.

        Raises:
            BadParameterError: a parameter is unknown or its value makes no sense.
        """
        refuse_unknown(query, _COMMON)
        sort, descending = _sort(query, ("name", "created_at", "updated_at"))
        return cls(
            text=query.get("filter"),
            owner_id=_owner(query),
            tags=_pairs(query, "filter[tags]"),
            sort=sort,
            descending=descending,
        )

    def matches(self, resource: Resource) -> bool:
        """Whether the filters let it through."""
        if self.owner_id is not None and resource.owner_id != self.owner_id:
            return False
        if self.tags:
            tags = resource.tags or ()
            if any(tag not in tags for tag in self.tags):
                return False
        if self.text is not None:
            text = self.text.lower()
            return text in resource.name.lower() or text in resource.description.lower()
        return True


@attrs.frozen
class RunQuery(ProjectQuery):
    """What a list of runs is filtered and sorted by."""

    ids: tuple[int, ...] | None
    status: str | None
    project_id: int | None
    params: tuple[ParamTest, ...]
    parent: Parent
    pinned_first: bool
    include_pinned: bool
    include_descendant_matches: bool

    @classmethod
    def parse(cls, query: Query) -> RunQuery:
        """Reads a query string.

        Raises:
            BadParameterError: a parameter is unknown or its value makes no sense.
        """
        refuse_unknown(query, _OF_RUNS)
        sort, descending = _sort(query, ("name", "created_at", "updated_at", "duration"))
        status = query.get("filter[status]")
        if status is not None and status not in (*STATUSES, UNKNOWN_STATUS):
            raise BadParameterError("filter[status]", f"unknown status {status!r}")
        ids = query.get("filter[id]")
        project_id = query.get("filter[project_id]")
        return cls(
            text=query.get("filter"),
            owner_id=_owner(query),
            tags=_pairs(query, "filter[tags]"),
            sort=sort,
            descending=descending,
            ids=None
            if ids is None
            else tuple(sorted({integer(text, "filter[id]") for text in ids.split(",")})),
            status=status,
            project_id=None if project_id is None else integer(project_id, "filter[project_id]"),
            params=tuple(_param_test(*pair) for pair in _pairs(query, "filter[params]")),
            parent=_parent(query),
            pinned_first=_boolean(query, "pinned_first"),
            include_pinned=_boolean(query, "include_pinned"),
            include_descendant_matches=_boolean(query, "include_descendant_matches"),
        )

    @property
    def base(self) -> RunQuery:
        """The part of the query whose result depends on no pin and no relative."""
        return attrs.evolve(
            self,
            descending=False,
            parent="any" if self.include_descendant_matches else self.parent,
            pinned_first=False,
            include_pinned=False,
            include_descendant_matches=False,
        )

    def matches_run(self, run: RunResource) -> bool:
        """Whether the filters, that of the parent included, let a run through."""
        return (
            (self.project_id is None or run.project_id == self.project_id)
            and (self.status is None or run.status == self.status)
            and (self.ids is None or run.id in self.ids)
            and self.right_parent(run)
            and all(any(map(t.holds, run.param_values(t.key))) for t in self.params)
            and self.matches(run)
        )

    def right_parent(self, run: RunResource) -> bool:
        """Whether the filter of the parent alone lets a run through."""
        if self.parent == "any":
            return True
        return run.parent_id == (None if self.parent == "none" else self.parent)


@attrs.frozen
class PageQuery:
    """Which page of a list is asked for."""

    number: int
    size: int

    @classmethod
    def parse(cls, query: Query, *, first: int) -> PageQuery:
        """Reads a query string.

        Raises:
            BadParameterError: not a page number or size that the server grants.
        """
        size = integer(query.get("page[size]", str(DEFAULT_PAGE_SIZE)), "page[size]")
        if not 1 <= size <= MAX_PAGE_SIZE:
            raise BadParameterError("page[size]", f"must be between 1 and {MAX_PAGE_SIZE}")
        number = integer(query.get("page[number]", str(first)), "page[number]")
        if number < first:
            raise BadParameterError("page[number]", f"the first page is number {first}")
        return cls(number, size)


def integer(text: str, parameter: str) -> int:
    """A non-negative 64-bit integer.

    Raises:
        BadParameterError: the text is something else.
    """
    if text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= _LARGEST_ID:
        return int(text)
    raise BadParameterError(parameter, f"{text!r} is not an integer")


def refuse_unknown(query: Query, known: Collection[str]) -> None:
    """A real server overlooks parameters it does not know; a witness points them out.

    Raises:
        BadParameterError: the query has a parameter that is not among the known.
    """
    for parameter in query:
        if parameter not in known:
            raise BadParameterError(parameter, "unknown parameter")


def _sort(query: Query, fields: tuple[str, ...]) -> tuple[str, bool]:
    text = query.get("sort", "-created_at")
    field = text.removeprefix("-")
    if field not in fields:
        raise BadParameterError("sort", f"{text!r} is not one of {', '.join(fields)}")
    return field, text.startswith("-")


def _boolean(query: Query, parameter: str) -> bool:
    text = query.get(parameter, "false")
    if text not in {"true", "false"}:
        raise BadParameterError(parameter, f"{text!r} is neither true nor false")
    return text == "true"


def _parent(query: Query) -> Parent:
    text = query.get("filter[parent_run_id]")
    if text is None:
        return "any"
    return "none" if text == "null" else integer(text, "filter[parent_run_id]")


def _owner(query: Query) -> str | None:
    text = query.get("filter[owner_id]")
    if text is None:
        return None
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise BadParameterError("filter[owner_id]", f"{text!r} is not a UUID") from None


def _pairs(query: Query, parameter: str) -> tuple[Pair, ...]:
    text = query.get(parameter)
    if text is None:
        return ()
    pairs: list[Pair] = []
    for part in text.split(","):
        key, colon, value = part.partition(":")
        if not key or not colon:
            raise BadParameterError(parameter, f"{part!r} is not of the form key:value")
        pairs.append((key, value))
    return tuple(pairs)


def _param_test(key: str, value: str) -> ParamTest:
    for comparison in _COMPARISONS:
        if value.startswith(comparison):
            number = value.removeprefix(comparison)
            if _number(number) is None:
                raise BadParameterError("filter[params]", f"{number!r} is not a number")
            return ParamTest(key, comparison, number)
    return ParamTest(key, "", value)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
