"""Models as Arrow data: the one place that decides which type a field has in tables and databases.

Types follow from the models' type hints, so a new field needs no change here.
"""

from __future__ import annotations

import types
import typing
from datetime import datetime
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from modellab_async.clock import in_utc
from modellab_async.models import RunStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

_SCALARS: Final = {
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
    RunStatus: pa.string(),
    datetime: pa.timestamp("us", tz="UTC"),
}


def schema_of(model: type[Any]) -> pa.Schema:
    """A model's fields: scalars, and lists of structs for tuples of other models."""
    return pa.schema([(n, _type_of(hint)) for n, hint in typing.get_type_hints(model).items()])


def _type_of(hint: Any) -> pa.DataType:
    if typing.get_origin(hint) is tuple:
        return pa.list_(pa.struct(list(schema_of(typing.get_args(hint)[0]))))
    if isinstance(hint, types.UnionType):
        hint = typing.get_args(hint)[0]  # the other is None
    return _SCALARS[hint]


def to_arrow(items: Sequence[Any], model: type[Any]) -> pa.Table:
    """Instances of a model as one table.

    Raises:
        ValueError: for a value that the type of its column cannot hold, such as an integer beyond
            64 bits; it names the item's id and the field.
    """
    schema = schema_of(model)
    arrays = [_column(items, field) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _column(items: Sequence[Any], field: pa.Field) -> pa.Array:
    values = [getattr(item, field.name) for item in items]
    try:
        return _array(values, field.type)
    except (OverflowError, ValueError):
        pass
    for item, value in zip(items, values, strict=True):
        try:
            _array([value], field.type)
        except OverflowError:
            problem = "a number or time beyond 64 bits"
        except ValueError as error:
            problem = str(error)
        else:
            continue
        raise ValueError(f"run {item.id}: {field.name} has {problem}")
    raise AssertionError("every value is valid individually")


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if not pa.types.is_list(kind):
        if pa.types.is_timestamp(kind):  # it holds times that datetimes do not
            values = [value and in_utc(value) for value in values]
        return pa.array(values, type=kind)
    # From flat lists, many times as fast as from a list of objects for each.
    offsets = pa.array([0, *accumulate(map(len, values))], type=pa.int32())
    flat = list(chain.from_iterable(values))
    fields = list(kind.value_type)
    parts = [_array([getattr(item, field.name) for item in flat], field.type) for field in fields]
    structs = pa.StructArray.from_arrays(parts, fields=fields)
    return pa.ListArray.from_arrays(offsets, structs, type=kind)
