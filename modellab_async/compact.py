"""attrs classes that the codec fills directly and the garbage collector never visits.

To whoever uses one, it is a frozen, slotted attrs class. Its instances are laid out by msgspec:
they decode in half the time, and a million kept runs cost no collection anything. What the API
sends is frozen all the way down, so that it can be no part of a circle; whoever makes a model of
what leads back to it has made garbage that stays.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_ATTRS_ASKS_FOR = {"__attrs_attrs__", "__attrs_props__"}
_MADE_BY_PYTHON = {"__annotations__", "__dict__", "__weakref__"}


def compact(cls: type[Any] | None = None, *, kw_only: bool = False, gc: bool = False) -> Any:
    """As ``attrs.frozen``, for fields with plain defaults or none; ``repr=False`` is known.

    Raises:
        TypeError: for a field with anything else, such as a validator.
    """
    if cls is None:
        return partial(compact, kw_only=kw_only, gc=gc)
    written = {name for name in vars(cls) if name not in _MADE_BY_PYTHON}
    described: Any = attrs.frozen(
        cls, slots=False, init=False, repr=False, eq=False, kw_only=kw_only
    )
    fields: tuple[attrs.Attribute[Any], ...] = attrs.fields(described)
    for field in fields:
        if field.validator or field.converter or isinstance(field.default, attrs.Factory):  # type: ignore[arg-type]
            raise TypeError(f"{cls.__name__}.{field.name} can only have a plain default")
    written -= {field.name for field in fields}
    compacted: Any = msgspec.defstruct(
        cls.__name__,
        [slot(field.name, field.type, field.default) for field in fields],
        module=cls.__module__,
        namespace={
            name: value
            for name, value in vars(described).items()
            if name in written or name in _ATTRS_ASKS_FOR
        }
        | {"__init_subclass__": _refuse_subclass}
        | ({} if all(field.repr for field in fields) else _hiding(fields)),
        frozen=True,
        gc=gc,
        kw_only=kw_only,
    )
    # msgspec's own would raise a plain AttributeError.
    compacted.__setattr__ = described.__setattr__
    compacted.__delattr__ = described.__delattr__
    return compacted


def compact_in_circles(cls: type[Any]) -> Any:
    """As `compact`, for what may hold an error: its traceback may lead back to whoever holds it."""
    return compact(cls, gc=True)


def _refuse_subclass(cls: type[Any], **_: Any) -> None:
    raise TypeError(
        f"{cls.__mro__[1].__name__} is not made for subclasses, such as {cls.__name__}:"
        " keep what you add beside it, or in a class that holds it"
    )


def _hiding(fields: Sequence[attrs.Attribute[Any]]) -> dict[str, Any]:
    """What shows only the fields that may be seen, to rich as well, which would ask msgspec."""
    shown = [field.name for field in fields if field.repr]

    def pairs(self: Any) -> Iterator[tuple[str, Any]]:
        return ((name, getattr(self, name)) for name in shown)

    def text(self: Any) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in pairs(self))
        return f"{type(self).__name__}({values})"

    return {"__repr__": text, "__rich_repr__": pairs}


def slot(name: str, kind: Any, default: Any) -> Any:
    """A field as msgspec takes it; required where the default is ``attrs.NOTHING``."""
    return (name, kind) if default is attrs.NOTHING else (name, kind, default)
