"""Schemas of the models for pydantic and FastAPI; only pydantic calls them, and imports pydantic.

A model's JSON is an object of its fields, as of a dataclass; `to_json` writes the API's own form.
"""

from __future__ import annotations

import math
import typing
from types import NoneType
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable
    from enum import Enum

    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema


class PydanticModel:
    """Base of attrs classes that pydantic validates and serializes, in both directions."""

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        return _model_schema(cls, source, handler)


class PydanticEnum:
    """Base of enums of text whose values are not all known: any text is valid."""

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> Any:
        return _enum_schema(cls)  # type: ignore[arg-type]


def _model_schema(cls: type[Any], source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
    from pydantic_core import core_schema  # noqa: PLC0415 - pydantic is optional

    arguments = typing.get_args(source)  # such as Run of Page[Run]
    fields = {}
    for field in attrs.fields(cls):
        hint = typing.get_type_hints(cls)[field.name]
        if arguments and getattr(hint, "__parameters__", ()):
            hint = hint[arguments]
        schema = _field_schema(hint, handler)
        if field.default is not attrs.NOTHING:
            schema = core_schema.with_default_schema(schema, default=field.default)
        fields[field.name] = core_schema.typed_dict_field(
            schema, required=field.default is attrs.NOTHING
        )
    of = ", ".join(getattr(each, "__name__", str(each)) for each in arguments)
    name = f"{cls.__name__}[{of}]" if of else cls.__name__
    names = list(fields)
    summary = (cls.__doc__ or "").partition("\n")[0]
    mapping = core_schema.typed_dict_schema(
        fields, metadata={"pydantic_js_updates": {"title": name, "description": summary}}
    )

    def validate(value: Any, validate_mapping: Callable[[Any], dict[str, Any]]) -> Any:
        return value if isinstance(value, cls) else cls(**validate_mapping(value))

    return core_schema.no_info_wrap_validator_function(
        validate,
        mapping,
        serialization=core_schema.plain_serializer_function_ser_schema(
            lambda model: {name: getattr(model, name) for name in names}, return_schema=mapping
        ),
        ref=f"{cls.__module__}.{name}:{'.'.join(str(id(each)) for each in (cls, *arguments))}",
    )


def _field_schema(hint: Any, handler: GetCoreSchemaHandler) -> Any:
    from pydantic_core import core_schema  # noqa: PLC0415

    kinds = [kind for kind in typing.get_args(hint) or (hint,) if kind is not NoneType]
    if isinstance(kinds[0], type) and issubclass(kinds[0], Exception):
        return core_schema.nullable_schema(_error_schema(kinds[0]))
    schema: Any = handler.generate_schema(hint)
    if kinds == [float]:  # JSON has no NaN, which a response would fail on
        schema["serialization"] = core_schema.plain_serializer_function_ser_schema(
            lambda value: value if value is None or math.isfinite(value) else None,
            return_schema=core_schema.nullable_schema(core_schema.float_schema()),
            when_used="json",
        )
    return schema


def _error_schema(cls: type[Exception]) -> CoreSchema:
    """An error as its type and message; it comes back as ``cls`` with both in its message."""
    from pydantic_core import core_schema  # noqa: PLC0415

    text = core_schema.typed_dict_field(core_schema.str_schema())
    mapping = core_schema.typed_dict_schema({"type": text, "message": text})

    def validate(value: Any, validate_mapping: Callable[[Any], dict[str, str]]) -> Any:
        if isinstance(value, cls):
            return value
        return cls("{type}: {message}".format(**validate_mapping(value)))

    return core_schema.no_info_wrap_validator_function(
        validate,
        mapping,
        serialization=core_schema.plain_serializer_function_ser_schema(
            lambda error: {"type": type(error).__name__, "message": str(error)},
            return_schema=mapping,
        ),
    )


def _enum_schema(cls: type[Enum]) -> CoreSchema:
    from pydantic_core import core_schema  # noqa: PLC0415

    known = [member.value for member in cls]
    return core_schema.no_info_after_validator_function(
        cls,
        core_schema.str_schema(),
        serialization=core_schema.plain_serializer_function_ser_schema(
            lambda member: str(member.value), return_schema=core_schema.str_schema()
        ),
        metadata={"pydantic_js_updates": {"title": cls.__name__, "examples": known}},
    )
