"""The fast way from JSON to a frozen model.

msgspec decodes into a private twin of each model, with the same slots, but mutable and with
nullable fields. Nulls are then replaced by the model's defaults, equal params and tags become one
object, and the twin becomes the model by changing its class.
"""

from __future__ import annotations

import typing
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Final, Generic, TypeVar, cast

import attrs
import msgspec

from modellab_async import models
from modellab_async.codec.parsing import PARSE_ERRORS, decode_error, identity, parse
from modellab_async.compact import slot
from modellab_async.errors import DecodeError
from modellab_async.models import MetricSummary, Param, Tag

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Mapping

M = TypeVar("M")

SHARED: Final = 32_768
"""How many params, tags and names of metrics are remembered, so that equal ones are one object."""

LONGEST_SHARED: Final = 192
"""What is longer than this (in bytes of JSON) hardly repeats, and is not remembered."""

UNSHARED: Final = 3
"""After a run whose params were mostly new, so many are not looked up: they will be new as well."""

LARGE: Final = 4_096
"""Bytes of JSON from which on a resource's params and tags are worth looking up.

Below, sharing them costs more than it saves.
"""

_SAMPLE: Final = 32_768
"""Bytes of a page that show how large its resources are."""

AwareDatetime: Any = Annotated[datetime, msgspec.Meta(tz=True)]
"""A time with its zone, as the API promises; a naive one could not be compared with others."""


class PageNumbers(msgspec.Struct, gc=False):
    """Where a page stands in its listing; see `Page`."""

    number: int | None = None
    size: int | None = None
    total: int | None = None
    first_number: int | None = None
    prev_number: int | None = None
    next_number: int | None = None
    last_number: int | None = None


class Meta(msgspec.Struct, gc=False):
    """What a listing says of itself."""

    page: PageNumbers | None = None


class Twin(Generic[M]):
    """One model's typed decoders.

    Attributes:
        model: the frozen model that comes out.
        defaults: what its fields hold where the wire has null, by name.
        own_id: a resource's own id as the model holds it, or a `DecodeError`.
    """

    def __init__(self, model: type[M]) -> None:
        fields: tuple[attrs.Attribute[Any], ...] = attrs.fields(cast("type[Any]", model))
        hints = typing.get_type_hints(model, vars(models) | {"datetime": datetime})
        self.model = model
        self.defaults: dict[str, Any] = {
            field.name: field.default
            for field in fields
            if field.default not in (attrs.NOTHING, None) and field.name != "id"
        }
        self.own_id: Callable[[object], int | str] = identity if hints["id"] is int else _text_id
        shared: dict[Any, Any] = {
            tuple[Param, ...]: partial(_SharedPairs, Param),
            tuple[Tag, ...]: partial(_SharedPairs, Tag),
            tuple[MetricSummary, ...]: _SharedKeys,
        }
        self._shared: list[tuple[str, _SharedPairs | _SharedKeys]] = [
            (field.name, shared[hints[field.name]](f"$.attributes.{field.name}"))
            for field in fields
            if hints[field.name] in shared
        ]
        # Generated, as attrs and cattrs do: nothing that looks fields up by name is half as fast.
        nulls = " or ".join(f"twin.{name} is None" for name in self.defaults) or "False"
        self._has_null: Callable[[Any], bool] = eval(f"lambda twin: {nulls}")  # noqa: S307
        slices = {Param: msgspec.Raw, Tag: msgspec.Raw}
        name = model.__name__
        self._plain = _Decoders(_resource_of(name, fields, hints, {}))
        # A large resource's pairs stay slices of JSON: most were seen before, and need no parsing.
        large = _resource_of(name, fields, hints, slices)
        self._large = large.__annotations__["attributes"]
        self._sliced = _Decoders(large)

    def document(self, body: bytes, *, sharing: bool) -> M:
        """The model in a whole answer, ``{"data": resource}``.

        Raises:
            DecodeError: with a path from the answer's root.
        """
        decoders = self._sliced if sharing and len(body) >= LARGE else self._plain
        found = parse(body, decoders.document, self._plain.convert_document)
        try:
            return self.mend(found.data)
        except DecodeError as error:
            error.path = "$.data" + error.path.removeprefix("$")
            raise

    def resource(self, value: Any) -> M:
        """The model of one resource: JSON bytes, a raw slice of them, or a dict.

        Raises:
            DecodeError: with a path from the resource's root.
        """
        if isinstance(value, bytes | msgspec.Raw):
            body = bytes(value)
            decoders = self._sliced if len(body) >= LARGE else self._plain
            found = parse(body, decoders.resource, self._plain.convert)
        else:
            try:
                found = self._plain.convert(value)
            except PARSE_ERRORS as error:
                raise decode_error(error) from None
        return self.mend(found)

    def listing(self, body: bytes, *, sharing: bool) -> Any:
        """A whole listing, its items to be mended one by one; fails on the first bad one."""
        if not sharing:
            return self._plain.listing(body)
        beginning = body[:_SAMPLE]  # a whole page takes half a millisecond to search
        large = len(beginning) >= LARGE * beginning.count(b'"attributes"')
        return (self._sliced if large else self._plain).listing(body)

    def mend(self, resource: Any) -> M:
        """Turn what was decoded into the model.

        Raises:
            DecodeError: with a path from the resource's root.
        """
        twin = resource.attributes
        twin.id = self.own_id(resource.id)
        if type(twin) is self._large:
            for name, pairs in self._shared:
                found = getattr(twin, name)
                if found:
                    setattr(twin, name, pairs.share(found))
        if self._has_null(twin):
            for name, default in self.defaults.items():
                if getattr(twin, name) is None:
                    setattr(twin, name, default)
        twin.__class__ = self.model
        return twin  # type: ignore[no-any-return]


_twins: dict[type[Any], Twin[Any]] = {}


def twin_of(model: type[M]) -> Twin[M]:
    """A model's twin, made when first needed: that takes milliseconds."""
    twin = _twins.get(model)
    if twin is None:
        twin = _twins[model] = Twin(model)
    return twin


class _Decoders:
    """One resource type's decoders, of it alone and within the answers that it comes in."""

    def __init__(self, resource: Any) -> None:
        name = resource.__name__
        document = msgspec.defstruct(f"{name}Document", [("data", resource)], gc=False)
        parts: list[Any] = [("data", list.__class_getitem__(resource)), ("meta", Meta | None, None)]
        listing = msgspec.defstruct(f"{name}Listing", parts, gc=False)
        self.resource: Callable[[bytes], Any] = msgspec.json.Decoder(resource).decode
        self.document: Callable[[bytes], Any] = msgspec.json.Decoder(document).decode
        self.listing: Callable[[bytes], Any] = msgspec.json.Decoder(listing).decode
        self.convert: Callable[[Any], Any] = partial(msgspec.convert, type=resource)
        self.convert_document: Callable[[Any], Any] = partial(msgspec.convert, type=document)


def _text_id(value: object) -> str:
    """An id that nothing is asked by: of a directory, or a list of facets."""
    if value is None:
        return ""
    if isinstance(value, str | int):
        return str(value)
    raise DecodeError(f"Expected an id, got {value!r:.60}", path="$.id")


class _SharedPairs:
    """Params or tags as models, equal ones as one object, within bounds."""

    def __init__(self, model: type[Param | Tag], path: str) -> None:
        self._decode = msgspec.json.Decoder(model).decode
        self._path = path
        self._known: dict[bytes, Param | Tag] = {}
        self._unshared = 0

    def share(self, slices: tuple[msgspec.Raw, ...]) -> tuple[Param | Tag, ...]:
        """The models of slices of JSON.

        Raises:
            DecodeError: for the first that is none, with a path from the resource's root.
        """
        if self._unshared:
            self._unshared -= 1
            return tuple([self._read(json, at) for at, json in enumerate(slices)])
        known = self._known
        models = list(map(known.get, map(bytes, slices)))
        if not all(models):
            if len(known) + len(models) > SHARED:
                known.clear()
            before = len(known)
            for index, model in enumerate(models):
                if model is None:
                    json = bytes(slices[index])
                    new = models[index] = known.get(json) or self._read(json, index)
                    if len(json) <= LONGEST_SHARED and before + len(models) <= SHARED:
                        known[json] = new
            if len(known) - before > len(models) / 2:
                self._unshared = UNSHARED
        return cast("tuple[Param | Tag, ...]", tuple(models))

    def _read(self, json: bytes | msgspec.Raw, index: int) -> Param | Tag:
        try:
            return self._decode(json)
        except PARSE_ERRORS as error:
            wrong = decode_error(error)
            wrong.path = f"{self._path}[{index}]{wrong.path.removeprefix('$')}"
            raise wrong from None


class _SharedKeys:
    """Metrics whose names, when equal, are one string."""

    _set_key: Final = MetricSummary.__dict__["key"].__set__

    def __init__(self, _path: str) -> None:
        self._known: dict[str, str] = {}

    def share(self, metrics: tuple[MetricSummary, ...]) -> tuple[MetricSummary, ...]:
        """The same metrics, while nobody else has seen them."""
        known = self._known
        if len(known) > SHARED:
            known.clear()
        for metric in metrics:
            key = metric.key
            if len(key) <= LONGEST_SHARED:
                self._set_key(metric, known.setdefault(key, key))
        return metrics


def _resource_of(
    name: str,
    fields: tuple[attrs.Attribute[Any], ...],
    hints: Mapping[str, Any],
    items: Mapping[Any, Any],
) -> Any:
    """The type of a model's resource: its id, and its attributes as a mutable twin of the model.

    Args:
        name: the model's.
        fields: the model's.
        hints: the types of its fields.
        items: types that the items of a list have instead, by those they have in the model.
    """
    twin = msgspec.defstruct(
        f"_{name}Twin",
        [_twin_slot(field, hints[field.name], items) for field in fields],
        kw_only=True,
        gc=False,
    )
    parts: list[Any] = [("attributes", twin), ("id", Any, None)]
    return msgspec.defstruct(f"_{name}Resource", parts, gc=False)


def _twin_slot(field: attrs.Attribute[Any], hint: Any, items: Mapping[Any, Any]) -> Any:
    """The field of a twin: what the wire may hold in this place."""
    if field.name == "id":
        return slot(field.name, Any, None)  # the resource's, never the attributes'
    wire: Any = hint
    if hint in (datetime, datetime | None):
        wire = AwareDatetime | None if hint != datetime else AwareDatetime
    elif (item := typing.get_args(hint)[:1]) and item[0] in items:
        wire = tuple.__class_getitem__((items[item[0]], ...))
    if field.default is attrs.NOTHING:
        return slot(field.name, wire, attrs.NOTHING)
    return slot(field.name, wire | None, None)
