"""The fast way from JSON to a frozen model.

msgspec decodes into a private twin of each model: an attrs class with the same slots, but mutable
and with nullable fields. Nulls are then replaced by the model's defaults, equal params and tags
become one object, and the twin becomes the model by changing its class: a frozen ``__init__`` of
twenty fields would cost more than all the rest.
"""

from __future__ import annotations

import typing
from datetime import datetime
from typing import Annotated, Any, Final, Generic, TypeVar, cast

import attrs
import msgspec

from modellab_async import models
from modellab_async.codec.parsing import PARSE_ERRORS, decode_error, identity, parse
from modellab_async.errors import DecodeError
from modellab_async.models import Param, Tag

M = TypeVar("M")

SHARED_PAIRS: Final = 8_192
"""How many params and how many tags are remembered, so that equal ones are one object."""

LONGEST_SHARED: Final = 128
"""Values longer than this many characters hardly repeat, and are not remembered."""

AwareDatetime: Any = Annotated[datetime, msgspec.Meta(tz=True)]
"""A time with its zone, as the API promises; a naive one could not be compared with others."""


class _Pair(msgspec.Struct, frozen=True, gc=False):
    """A param or a tag on the wire; unlike the models, it hashes and compares in C."""

    key: str
    value: str


class Twin(Generic[M]):
    """One model's typed decoders.

    Attributes:
        model: the frozen model that comes out.
        defaults: what its fields hold where the wire has null, by name.
    """

    def __init__(self, model: type[M]) -> None:
        fields: tuple[attrs.Attribute[Any], ...] = attrs.fields(cast("type[Any]", model))
        hints = typing.get_type_hints(model, vars(models) | {"datetime": datetime})
        self.model = model
        self.defaults = {
            field.name: field.default
            for field in fields
            if field.default not in (attrs.NOTHING, None) and field.name != "id"
        }
        self._identity = hints["id"]
        self._pairs = [
            (field.name, _SharedPairs(pair))
            for field in fields
            for pair, many in ((Param, tuple[Param, ...]), (Tag, tuple[Tag, ...]))
            if hints[field.name] == many
        ]
        twin = attrs.make_class(
            f"_{model.__name__}Twin",
            {field.name: _twin_field(field, hints[field.name]) for field in fields},
            slots=True,
            weakref_slot=False,
            kw_only=True,
            eq=False,
        )
        self._resource = msgspec.defstruct(
            f"_{model.__name__}Resource", [("attributes", twin), ("id", Any, None)], gc=False
        )
        document = msgspec.defstruct(
            f"_{model.__name__}Document", [("data", self._resource)], gc=False
        )
        self._document = document
        self._decode_document = msgspec.json.Decoder(document).decode
        self._decode_resource = msgspec.json.Decoder(self._resource).decode

    def document(self, body: bytes) -> M:
        """The model in a whole answer, ``{"data": resource}``.

        Raises:
            DecodeError: with a path from the answer's root.
        """
        found: Any = parse(
            body, self._decode_document, lambda data: msgspec.convert(data, self._document)
        )
        return self._mend(found.data, "$.data.id")

    def resource(self, value: Any) -> M:
        """The model of one resource: JSON bytes, a raw slice of them, or a dict.

        Raises:
            DecodeError: with a path from the resource's root.
        """
        if isinstance(value, bytes | msgspec.Raw):
            found = parse(bytes(value), self._decode_resource, self._convert)
        else:
            try:
                found = self._convert(value)
            except PARSE_ERRORS as error:
                raise decode_error(error) from None
        return self._mend(found, "$.id")

    def own_id(self, value: object, path: str = "$.id") -> int | str:
        """A resource's own id as the model holds it; only runs and projects depend on theirs.

        Raises:
            DecodeError: where it is no id.
        """
        if self._identity is int:
            return identity(value, path)
        if value is None:
            return ""
        if isinstance(value, str | int):
            return str(value)
        raise DecodeError(f"Expected an id, got {value!r:.60}", path=path)

    def _convert(self, data: Any) -> Any:
        return msgspec.convert(data, self._resource)

    def _mend(self, resource: Any, id_path: str) -> M:
        """Turn a decoded twin into the model."""
        twin = resource.attributes
        twin.id = self.own_id(resource.id, id_path)
        for name, pairs in self._pairs:
            found = getattr(twin, name)
            if found:
                setattr(twin, name, pairs.share(found))
        for name, default in self.defaults.items():
            if getattr(twin, name) is None:
                setattr(twin, name, default)
        twin.__class__ = self.model
        return twin  # type: ignore[no-any-return]


class _SharedPairs:
    """Params or tags as models, equal ones as one object, within bounds."""

    def __init__(self, model: type[Param | Tag]) -> None:
        self._model = model
        self._known: dict[_Pair, Param | Tag] = {}

    def share(self, pairs: tuple[_Pair, ...]) -> tuple[Param | Tag, ...]:
        known = self._known
        try:
            return tuple([known[pair] for pair in pairs])
        except KeyError:
            return tuple([known.get(pair) or self._remember(pair) for pair in pairs])

    def _remember(self, pair: _Pair) -> Param | Tag:
        model = self._model(pair.key, pair.value)
        if len(pair.value) <= LONGEST_SHARED:
            if len(self._known) >= SHARED_PAIRS:
                self._known.clear()
            self._known[pair] = model
        return model


_WIRE_TYPES: Final[dict[Any, Any]] = {
    datetime: AwareDatetime,
    datetime | None: AwareDatetime | None,  # pyright: ignore[reportOperatorIssue]
    tuple[Param, ...]: tuple[_Pair, ...],
    tuple[Tag, ...]: tuple[_Pair, ...],
}


def _twin_field(field: attrs.Attribute[Any], hint: Any) -> Any:
    """The field of a twin: what the wire may hold in this place."""
    if field.name == "id":
        return attrs.field(type=object, default=None)  # the resource's, never the attributes'
    wire: Any = _WIRE_TYPES.get(hint, hint)
    if field.default is attrs.NOTHING:
        return attrs.field(type=wire)
    return attrs.field(type=wire | None, default=None)
