"""Columns as SQL: the one way from runs to rows, for tables in memory, views and exported files.

The source of every query is a relation with one row per run and one column per field of `Run`;
params, tags and metric summaries are lists of structs.
"""

from __future__ import annotations

from datetime import datetime
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import attrs

from modellab_async.extras import missing_extra
from modellab_async.frames.columns import ANY, LISTS, STATISTICS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from modellab_async.frames.columns import Column, Shape

# Only what would be written in the same way again is an integer: no 007, no +1. An integer that a
# double cannot hold exactly is no number.
_INTEGER: Final = (
    "regexp_full_match(value, '0|-?[1-9][0-9]*') AND try_cast(value AS BIGINT) IS NOT NULL"
)
_NUMBER: Final = (
    f"CASE WHEN {_INTEGER} THEN value::BIGINT BETWEEN -9007199254740992 AND 9007199254740992"
    r" ELSE regexp_full_match(value,"
    r" '[+-]?((\d+\.\d*|\.\d+)(e[+-]?\d+)?|\d+e[+-]?\d+|inf(inity)?|nan)', 'i') END"
)


def needed_by(user: str) -> Any:
    """The module ``duckdb``, if pyarrow is there, too.

    Raises:
        MissingExtraError: without one of them; it names ``user`` and the extra.
    """
    missing = [name for name in ("pyarrow", "duckdb") if find_spec(name) is None]
    if missing:
        raise missing_extra(user, "tables", *missing)
    return import_module("duckdb")


def connect(user: str, path: Path | str = ":memory:", **settings: Any) -> Any:
    """A DuckDB connection that downloads nothing, ever, and shows times in UTC.

    Raises:
        MissingExtraError: as `needed_by`.
    """
    settings |= {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
    read_only = settings.pop("read_only", False)
    connection = needed_by(user).connect(path, read_only=read_only, config=settings)
    connection.execute("SET GLOBAL TimeZone = 'UTC'")
    return connection


def quoted(text: str, mark: str = "'") -> str:
    """Text as a literal, or a name as an identifier with ``mark='"'``."""
    return mark + text.replace(mark, mark * 2) + mark


def query(
    columns: Sequence[Column],
    shape: Shape,
    source: str,
    types: dict[str, str] | None = None,
    *,
    only_finite: bool = False,
) -> str:
    """The SELECT of columns without stars from a source.

    Args:
        columns: what to select; in the long shape, the keys to include.
        shape: of the rows.
        source: a relation, which may be a subquery with a WHERE clause.
        types: SQL types of params by key; text by default.
        only_finite: have NULL for NaN and infinities in maps of metrics, for JSON.
    """
    if shape == "long":
        entries = ", ".join(map(_entries, columns))
        rows = f"SELECT id, unnest(flatten([{entries}]), max_depth := 2) FROM {source}"
        return f"SELECT id AS run, key, value FROM ({rows}) WHERE value IS NOT NULL"
    values = ((_value(c, types or {}, only_finite), quoted(c.name, '"')) for c in columns)
    return f"SELECT {', '.join(f'{value} AS {name}' for value, name in values)} FROM {source}"


def as_map(part: str, *, only_finite: bool = False) -> str:
    """Params, tags or metrics as a map; of a repeated key, the first counts."""
    field = LISTS[part]
    unique = f"list_unique(list_transform({field}, lambda x: x.key)) = len({field})"
    keys = f"list_transform({field}, lambda y: y.key)"
    first = f"list_filter({field}, lambda x, i: list_position({keys}, x.key) = i)"
    entries = f"CASE WHEN {unique} THEN {field} ELSE {first} END"
    if part == "metrics":
        statistic = (lambda name: finite(f"x.{name}")) if only_finite else "x.{}".format
        summary = ", ".join(f"{name} := {statistic(name)}" for name in STATISTICS)
        value = f"struct_pack(key := x.key, value := struct_pack({summary}))"
        entries = f"list_transform({entries}, lambda x: {value})"
    return f"map_from_entries({entries})"


def as_json(values: Mapping[str, str]) -> str:
    """Values by key as one object; unlike names of columns, keys differ if only their case does."""
    return f"json_object({', '.join(f'{quoted(key)}, {values[key]}' for key in values)})"


def resolve(
    columns: Iterable[Column], shape: Shape, source: str, connection: Any
) -> tuple[list[Column], dict[str, str]]:
    """Columns with each key's own in place of stars, and the types of params, learned from data.

    A param is an integer or a double if every value in the source is one without loss.
    """
    if shape == "long":
        return list(columns), {}
    types: dict[str, str] = {}
    found: dict[str, Column] = {}
    for column in columns:
        if column.part == "params" and column.key:
            types |= _param_types(column.key, source, connection)
        for each in _expanded(column, source, connection) if column.key == ANY else (column,):
            found.setdefault(each.name, each)
    return list(found.values()), types


def _param_types(key: str, source: str, connection: Any) -> dict[str, str]:
    chosen = "" if key == ANY else f"WHERE key = {quoted(key)}"
    rows = connection.execute(
        f"SELECT key, bool_and({_INTEGER}), bool_and({_NUMBER})"
        f" FROM (SELECT unnest(params, max_depth := 2) FROM {source}) {chosen} GROUP BY key"
    ).fetchall()
    return {
        key: "BIGINT" if integer else "DOUBLE" if number else "VARCHAR"
        for key, integer, number in rows
    }


def _expanded(column: Column, source: str, connection: Any) -> Iterator[Column]:
    rows = connection.execute(
        "SELECT DISTINCT key FROM"
        f" (SELECT unnest({LISTS[column.part]}, max_depth := 2) FROM {source})"
        f" WHERE key NOT IN ('', '{ANY}') ORDER BY key"
    ).fetchall()
    ending = f".{column.statistic}" if column.name.endswith(f"{ANY}.{column.statistic}") else ""
    for (key,) in rows:
        yield attrs.evolve(column, name=f"{column.part}.{key}{ending}", key=key)


def _value(column: Column, types: dict[str, str], only_finite: bool) -> str:  # noqa: FBT001
    if column.part == "run":
        return column.key
    if not column.key:
        return as_map(column.part, only_finite=only_finite)
    found = f"list_filter({LISTS[column.part]}, lambda x: x.key = {quoted(column.key)})[1]"
    if column.statistic:
        return f"{found}.{column.statistic}"
    kind = types.get(column.key, "VARCHAR") if column.part == "params" else "VARCHAR"
    return f"{found}.value" if kind == "VARCHAR" else f"{found}.value::{kind}"


def _entries(column: Column) -> str:
    """A column's rows in the long shape, as a list of keys and values."""
    if column.part == "run":
        is_time = column.type is datetime
        value = time_text(column.key) if is_time else f"{column.key}::VARCHAR"
        return f"[{_pair(quoted(column.name), value)}]"
    items = LISTS[column.part]
    if column.key not in {"", ANY}:
        items = f"list_filter({items}, lambda x: x.key = {quoted(column.key)})"
    prefix = quoted(f"{column.part}.")
    if column.part != "metrics":
        return f"list_transform({items}, lambda x: {_pair(f'{prefix} || x.key', 'x.value')})"
    statistics = [column.statistic] if column.statistic else STATISTICS
    pairs = ", ".join(
        _pair(f"{prefix} || x.key || {quoted('.' + name)}", f"x.{name}::VARCHAR")
        for name in statistics
    )
    return f"flatten(list_transform({items}, lambda x: [{pairs}]))"


def _pair(key: str, value: str) -> str:
    return f"struct_pack(key := {key}, value := {value})"


def time_text(time: str) -> str:
    """A time as text in ISO 8601 with a ``Z``; a fraction has six digits, unless it is zero."""
    return f"replace(strftime({time}, '%Y-%m-%dT%H:%M:%S.%fZ'), '.000000Z', 'Z')"


def finite(number: str) -> str:
    """A number, or NULL for NaN and the infinities, which JSON does not have."""
    return f"CASE WHEN isfinite({number}) THEN {number} END"
