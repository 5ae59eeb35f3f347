"""The cattrs converter: JSON to models, and models to JSON.

`configure_converter` registers a structure and an unstructure hook factory for this package's
models on any `cattrs.Converter`. Resources have the API's form: ``{"id", "type", "attributes"}``.

As in ``cattrs.preconf``, JSON is left to msgspec, which is many times faster, if no type within a
model has a hook of the user's. Otherwise the models go through the functions that cattrs
generates, and these call the user's hooks.
"""

from __future__ import annotations

import asyncio
import functools
import json
import math
import traceback
import typing
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Final, Generic, TypeAlias, TypeVar, cast

import attrs
import cattrs
import msgspec
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from modellab_async.errors import ConfigError, DecodeError, detached
from modellab_async.models import (
    FacetKeys,
    FacetValues,
    MetricStatRange,
    MetricSummary,
    NumericRange,
    Page,
    Param,
    Project,
    ProjectArtifacts,
    ProjectFile,
    Run,
    RunArtifacts,
    RunFile,
    RunStatus,
    Tag,
)
from modellab_async.parsing import (
    MAX_DEPTH,
    PARSE_ERRORS,
    check_depth,
    decode_error,
    loads,
    parse,
    split_items,
    split_path,
)

M = TypeVar("M")
T = TypeVar("T")

RESOURCE_TYPES: Final[dict[type[Any], str]] = {
    Run: "runs",
    Project: "projects",
    RunArtifacts: "artifacts",
    ProjectArtifacts: "project_files",
    FacetKeys: "facet_keys",
    FacetValues: "facet_values",
}
"""The JSON:API ``type`` of each model that is a resource."""

_RESOURCES: Final = tuple(RESOURCE_TYPES)
_PARTS: Final = (Param, Tag, MetricSummary, RunFile, ProjectFile, NumericRange, MetricStatRange)

YIELD_EVERY_BYTES: Final = 250_000
"""Structuring a page lets other tasks run after this many bytes of it."""

MAX_SPLIT_BYTES: Final = 4 * 1024 * 1024
"""A malformed page longer than this, four times a large one, is not split into its items."""

INTERNED: Final = 4_096
"""How many params, and how many tags, are remembered so that equal ones are one object."""

MAX_INTERNED_BYTES: Final = 192
"""Params and tags longer than this, in bytes of JSON, hardly repeat and are not remembered."""

_AwareDatetime: Any = Annotated[datetime, msgspec.Meta(tz=True)]
"""A time with its zone, as the API promises; a naive one could not be compared with others."""

Converter: TypeAlias = cattrs.Converter
"""`cattrs.Converter`, as the type of what `make_converter` returns."""


# Converters and their hooks


def make_converter() -> cattrs.Converter:
    """A new `cattrs.Converter` that structures and unstructures this package's models."""
    converter = cattrs.Converter()
    configure_converter(converter)
    return converter


def configure_converter(converter: cattrs.Converter) -> None:
    """Teach a converter of your own this package's models; calling it again changes nothing.

    It then structures a resource from a dict, or from JSON as ``bytes``. Hooks that you register
    for any type within a model, earlier or later, are honoured, and so are ``forbid_extra_keys``
    and ``omit_if_default``. How it treats other types does not change.
    """
    for models, structure, unstructure in (
        (_RESOURCES, ResourceHook, _unstructure_resource_factory),
        (_PARTS, _structure_part_factory, _unstructure_part_factory),
    ):
        is_model = functools.partial(_is_subclass, models)
        converter.register_structure_hook_factory(is_model, structure)
        converter.register_unstructure_hook_factory(is_model, unstructure)


def checked_converter(converter: object) -> cattrs.Converter:
    """A converter of a user's, if `configure_converter` has been called for it.

    Raises:
        ConfigError: otherwise.
    """
    if isinstance(converter, cattrs.Converter):
        try:
            hooks = [converter.get_structure_hook(model) for model in _RESOURCES]
        except cattrs.StructureHandlerNotFoundError:  # of datetime, which cattrs does not know
            hooks = []
        if any(isinstance(hook, ResourceHook) for hook in hooks):
            return converter
    raise ConfigError(
        "converter must be one that make_converter() returns, or that configure_converter() was"
        f" called for, not a {type(converter).__module__}.{type(converter).__qualname__}"
    )


def _is_subclass(models: tuple[type[Any], ...], kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, models)


def _structure_part_factory(part: type[Any], converter: cattrs.Converter) -> Callable[..., Any]:
    if _has_user_hook_within(part, converter):
        return _generate_structure(part, converter)
    return _convert_strictly


def _unstructure_part_factory(part: type[Any], converter: cattrs.Converter) -> Callable[[Any], Any]:
    # cattrs would leave times as they are; to_builtins writes UTC as Z.
    overrides: dict[str, Any] = {
        name: override(unstruct_hook=msgspec.to_builtins)
        for name, hint in typing.get_type_hints(part).items()
        if hint in (datetime, datetime | None, RunStatus)
        and not _has_user_hook(hint, converter.get_unstructure_hook)
    }
    return make_dict_unstructure_fn(
        part, converter, _cattrs_omit_if_default=converter.omit_if_default, **overrides
    )


def _unstructure_resource_factory(
    model: type[Any], converter: cattrs.Converter
) -> Callable[[Any], dict[str, Any]]:
    to_fields = _unstructure_part_factory(model, converter)
    resource_type = _resource_type(model)

    def unstructure_resource(resource: Any) -> dict[str, Any]:
        # JSON has no tuples; a model's own are all on this level.
        attributes = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in to_fields(resource).items()
            if name != "id"
        }
        return {"id": str(resource.id), "type": resource_type, "attributes": attributes}

    return unstructure_resource


def _generate_structure(model: type[M], converter: cattrs.Converter) -> Callable[[Any, Any], M]:
    """The function that cattrs generates; fields without a user's hook are converted strictly."""
    overrides: dict[str, Any] = {
        name: override(struct_hook=_convert_strictly)
        for name, hint in typing.get_type_hints(model).items()
        if hint in _field_types() and not _has_user_hook(hint, converter.get_structure_hook)
    }
    return make_dict_structure_fn(model, converter, **overrides)


def _convert_strictly(value: Any, kind: Any) -> Any:
    """The structure hook of every type within a model that has no hook of the user's.

    cattrs' own would turn None into ``"None"`` and ``"false"`` into True.
    """
    if type(value) is kind:
        return value
    try:
        return msgspec.convert(value, _aware(kind))
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None


def _has_user_hook_within(model: type[Any], converter: cattrs.Converter) -> bool:
    """Whether a user's hook or option concerns a model, or the model is a user's subclass."""
    if converter.forbid_extra_keys or model not in (*_RESOURCES, *_PARTS):
        return True
    hints = typing.get_type_hints(model).values()
    return any(_has_user_hook(hint, converter.get_structure_hook) for hint in hints)


def _has_user_hook(kind: Any, get_hook: Callable[[Any], Any]) -> bool:
    """Whether the hook of a type, or of one within it, is neither cattrs' nor this module's."""
    try:
        hook = get_hook(kind)
    except cattrs.StructureHandlerNotFoundError:
        return False
    if _is_subclass(_PARTS, kind):
        return hook is not _convert_strictly
    if kind is RunStatus and hook is get_hook(str):
        return False  # cattrs calls a hook for str for enums of text, too
    if not (getattr(hook, "__module__", None) or "").startswith("cattrs."):
        return True
    within = [inner for inner in typing.get_args(kind) if inner not in (..., type(None))]
    return any(_has_user_hook(inner, get_hook) for inner in within)


@functools.cache
def _field_types() -> set[Any]:
    hints = [typing.get_type_hints(model).values() for model in (*_RESOURCES, *_PARTS)]
    return {hint for own in hints for hint in own}


class Resource(msgspec.Struct, Generic[T], gc=False):
    """A resource in JSON; its attributes are an `_attributes_struct`, or JSON themselves."""

    attributes: T
    id: Any = None
    type: Any = None


class _Identity(msgspec.Struct, gc=False):
    id: Any = None
    type: Any = None


_decode_identity: Final = msgspec.json.Decoder(_Identity).decode


class ResourceHook(Generic[M]):
    """The structure hook of a model that is a resource.

    Attributes:
        attributes: the struct that a resource's attributes are decoded to; None if that is left to
            cattrs and to user's hooks.
        type: the JSON:API ``type`` of the resources.
    """

    def __init__(self, model: type[M], converter: cattrs.Converter) -> None:
        self.attributes: Any = (
            None
            if _has_user_hook_within(model, converter)
            else _attributes_struct(cast("Any", model))
        )
        self._model = model
        self._converter = converter
        self.type: str = _resource_type(model)
        hints = typing.get_type_hints(model)
        self._parse_id = _int_id if hints["id"] is int else _text_id
        self._arrays = {name for name, hint in hints.items() if typing.get_origin(hint) is tuple}
        self._interners = [
            (name, _interners[hint]) for name, hint in hints.items() if hint in _interners
        ]
        self._with_default = [
            field.name
            for field in attrs.fields(cast("Any", model))
            if field.default not in (None, attrs.NOTHING) and field.name != "id"
        ]

    def __call__(self, value: Any, _: object = None) -> M:
        """The model of a resource.

        Args:
            value: a dict, JSON as bytes, or a `Resource`.

        Raises:
            DecodeError: with a path from the resource's root.
        """
        if isinstance(value, Resource):
            if self.attributes is not None:
                return self._from_struct(value)
            value = _as_dict(value)  # it was parsed before the user registered a hook
        if isinstance(value, bytes | msgspec.Raw):
            value = self._parse(bytes(value))
        return self._from_struct(value) if isinstance(value, Resource) else self._from_dict(value)

    def _parse(self, body: bytes) -> Any:
        if self.attributes is None:
            return loads(body)
        try:
            return parse(body, _resource_decoder(self.attributes), lambda value: value)
        except DecodeError:
            _, found = _identity_of(msgspec.Raw(body))
            self._check_type(found)  # a wrong type explains all the rest
            raise

    def _from_struct(self, resource: Resource[Any]) -> M:
        self._check_type(resource.type)
        attributes, path = resource.attributes, "$.attributes"
        try:
            if isinstance(attributes, msgspec.Raw):
                check_depth(bytes(attributes))
                attributes = _attributes_decoder(self.attributes)(attributes)
            fields = msgspec.structs.asdict(attributes)
            for name in self._with_default:
                if fields[name] is None:
                    del fields[name]
            for name, interner in self._interners:
                if name in fields:
                    path = f"$.attributes.{name}"
                    fields[name] = interner.decode(fields[name])
        except PARSE_ERRORS as error:
            wrong = decode_error(error)
        else:
            fields["id"] = self._parse_id(resource.id)
            return self._model(**fields)
        wrong.path = path + wrong.path.removeprefix("$")
        raise wrong

    def _from_dict(self, resource: Any) -> M:
        attributes = resource.get("attributes") if isinstance(resource, dict) else None
        if not isinstance(attributes, dict):
            raise DecodeError("Expected `object`", path="$.attributes")
        self._check_type(resource.get("type"))
        fields = {
            name: value
            for name, value in attributes.items()
            if value is not None or name not in self._with_default
        }
        fields["id"] = self._parse_id(resource.get("id"))
        for name in self._arrays & fields.keys():
            if not isinstance(fields[name], list | tuple):
                # cattrs takes anything that can be iterated.
                raise DecodeError("Expected `array`", path=f"$.attributes.{name}")
        try:
            return self._generated(fields, self._model)
        except Exception as error:  # a user's hook may raise anything
            [said, *_] = cattrs.transform_error(error, "$.attributes", format_exception=_message_of)
            said, _, path = said.rpartition(" @ ")
            said, below = split_path(said)
            raise DecodeError(said, path=path + below.removeprefix("$")) from error

    @functools.cached_property
    def _generated(self) -> Callable[[Any, Any], M]:
        return _generate_structure(self._model, self._converter)

    def _check_type(self, found: object) -> None:
        if found is not None and found != self.type:
            said = f"Expected the type {self.type!r}, got {found!r:.60}"
            raise DecodeError(said, path="$.type", kind="mismatched")


@functools.cache
def _attributes_struct(model: type[Any]) -> Any:
    """A msgspec struct with a model's fields, for the ``attributes`` of its JSON.

    A field with a default may be null, too. Params and tags stay JSON, since an `Interner` finds
    most of them without decoding.
    """
    hints = typing.get_type_hints(model)
    fields: list[Any] = []
    for field in attrs.fields(model):
        hint = hints[field.name]
        if field.name == "id":
            continue
        if hint in _interners:
            fields.append((field.name, msgspec.Raw, None))
        elif field.default is attrs.NOTHING:
            fields.append((field.name, _aware(hint)))
        else:
            fields.append((field.name, _aware(hint) | None, field.default))
    return msgspec.defstruct(f"{model.__name__}Attributes", fields, kw_only=True, gc=False)


@functools.cache
def _attributes_decoder(attributes: Any) -> Callable[[Any], Any]:
    return msgspec.json.Decoder(attributes).decode


@functools.cache
def _resource_decoder(attributes: Any) -> Callable[[Any], Any]:
    kind: Any = Resource[attributes]
    return msgspec.json.Decoder(kind).decode


def _aware(kind: Any) -> Any:
    if kind is datetime:
        return _AwareDatetime
    return _AwareDatetime | None if kind == datetime | None else kind


class Interner(dict[bytes, Any]):
    """A bounded table of params or tags, by their JSON without its first brace.

    With it, equal ones are one object if they are written alike, which a server's are.
    """

    def __init__(self, model: type[Param | Tag]) -> None:
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(model).decode
        array: Any = tuple[model, ...] | None  # type: ignore[valid-type]
        self._decode_array: Callable[[bytes], Any] = msgspec.json.Decoder(array).decode

    def __missing__(self, text: bytes) -> Any:
        model = self._decode(b"{" + text)
        if len(text) <= MAX_INTERNED_BYTES:
            if len(self) >= INTERNED:
                self.clear()
            self[text] = model
        return model

    def decode(self, array: msgspec.Raw) -> tuple[Any, ...]:
        """The models in an array; raises `PARSE_ERRORS`."""
        text = bytes(array)
        if text[:2] == b"[{":
            try:
                # If each piece is an object in JSON, these are the items of the array.
                return tuple(map(self.__getitem__, text[2:-1].split(b",{")))
            except PARSE_ERRORS:
                pass  # there is white space, or a string that holds ",{", or an error
        models = self._decode_array(text) or ()
        return tuple([self[msgspec.json.encode(model)[1:]] for model in models])


_interners: Final[dict[Any, Interner]] = {
    tuple[Param, ...]: Interner(Param),
    tuple[Tag, ...]: Interner(Tag),
}


def _resource_type(model: type[Any]) -> str:
    """A model's JSON:API ``type``.

    Raises:
        TypeError: if the model is not a resource.
    """
    for cls in model.__mro__:
        if cls in RESOURCE_TYPES:
            return RESOURCE_TYPES[cls]
    known = ", ".join(cls.__name__ for cls in RESOURCE_TYPES)
    raise TypeError(f"only {known} are resources; this is {model.__name__}")


def _int_id(value: object) -> int:
    """A resource's ``id``; documented as a string of digits, an integer is taken too."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    if isinstance(value, int) and value >= 0 and not isinstance(value, bool):
        return value
    raise DecodeError(f"Expected an id, got `{type(value).__name__}`", path="$.id")


def _text_id(value: object) -> str:
    """The id of a directory or of a list of facets, which no request uses."""
    if value is None or isinstance(value, str | int):
        return "" if value is None else str(value)
    raise DecodeError(f"Expected an id, got `{type(value).__name__}`", path="$.id")


# Responses


class PageNumbers(msgspec.Struct, gc=False):
    """The position of a page in its listing; see `Page`."""

    number: int | None = None
    size: int | None = None
    total: int | None = None
    first_number: int | None = None
    prev_number: int | None = None
    next_number: int | None = None
    last_number: int | None = None


class Meta(msgspec.Struct, gc=False):
    """What a listing says about itself."""

    page: PageNumbers | None = None


class Document(msgspec.Struct, Generic[T], gc=False):
    """A response with one resource."""

    data: T


class Listing(msgspec.Struct, Generic[T], gc=False):
    """A response with a page of resources."""

    data: list[T]
    meta: Meta | None = None


@functools.cache
def _document_decoder(attributes: Any) -> Callable[[bytes], Any]:
    kind: Any = Document[Resource[attributes]]
    return msgspec.json.Decoder(kind).decode


@functools.cache
def _listing_decoder(attributes: Any) -> Callable[[bytes], Any]:
    kind: Any = Listing[Resource[attributes]]
    return msgspec.json.Decoder(kind).decode


# Whole resources stay JSON, or are dicts if there is a NaN.
_decode_raw_document: Final = msgspec.json.Decoder(Document[msgspec.Raw]).decode
_convert_document: Final = functools.partial(msgspec.convert, type=Document[Any])
_decode_raw_listing: Final = msgspec.json.Decoder(Listing[msgspec.Raw]).decode
_convert_listing: Final = functools.partial(msgspec.convert, type=Listing[Any])


@attrs.frozen(kw_only=True)
class LazyPage(Generic[M]):
    """A page of a listing, whose items are structured one by one, when they are needed.

    Attributes:
        items: the items: a `Resource`, JSON or a dict each.
        numbers: the position of the page in its listing.
        item_size: bytes of JSON per item, on average.
        model: the model of the items.
        converter: structures them.
    """

    items: list[Any] = attrs.field(repr=False)
    numbers: PageNumbers
    item_size: float
    model: type[M]
    converter: cattrs.Converter

    def __len__(self) -> int:
        return len(self.items)

    def ids(self) -> list[int | None]:
        """The id of each item; None if it has none that can be read."""
        return list(map(_id_of, self.items))

    def structure(self, index: int) -> M:
        """The model of an item.

        Raises:
            DecodeError: if the item is not what the API promises.
        """
        item = self.items[index]
        try:
            result = _structure(item, self.model, self.converter)
            if not isinstance(item, Resource) and (expected := _id_of(item)) is not None:
                _check_id(result, expected)  # only a user's hook may have changed it
        except DecodeError as error:
            wrong = _located(error, f"$.data[{index}]", _id_of(item))
        else:
            return result
        raise wrong from wrong.__cause__


@attrs.frozen
class DecodedPage:
    """A page of a listing, item by item.

    Attributes:
        items: the model of each item, or the `DecodeError` that it led to.
        numbers: the position of the page in its listing.
    """

    items: list[Any]
    numbers: PageNumbers

    def page(self) -> Page[Any]:
        """The page as its model.

        Raises:
            DecodeError: of the first item that is not what the API promises.
        """
        for item in self.items:
            if isinstance(item, DecodeError):
                raise item
        return Page(items=tuple(self.items), **msgspec.structs.asdict(self.numbers))


def decode(
    body: bytes, model: type[M], converter: cattrs.Converter, *, expects: int | None = None
) -> M:
    """The model in a response with one resource.

    Args:
        body: ``{"data": resource}`` as JSON.
        model: the resource's model.
        converter: structures it.
        expects: the id that the resource must have.

    Raises:
        DecodeError: if the body is not what the API promises, or has another id or type.
    """
    path = "$"
    try:
        attributes = getattr(converter.get_structure_hook(model), "attributes", None)
        resource = _decode_document(body, attributes)
        path = "$.data"
        result = _structure(resource, model, converter)
        if expects is not None:
            _check_id(result, expects)
    except DecodeError as error:
        wrong = _located(error, path, expects)
    else:
        return result
    raise wrong from wrong.__cause__


def _decode_document(body: bytes, attributes: Any) -> Any:
    """A `Resource` with such attributes, or else a resource as JSON or a dict."""
    if attributes is not None:
        try:
            check_depth(body)
            return _document_decoder(attributes)(body).data
        except PARSE_ERRORS:
            pass  # structuring the resource individually tells what is wrong
    return parse(body, _decode_raw_document, _convert_document).data


def parse_page(body: bytes, model: type[M], converter: cattrs.Converter) -> LazyPage[M]:
    """Parse a response with a page of resources, whose items are structured later.

    Args:
        body: the response.
        model: the model of its items.
        converter: structures them.

    Raises:
        DecodeError: if the body is not a listing, or all its items are of another type.
    """
    hook = converter.get_structure_hook(model)
    to_msgspec = isinstance(hook, ResourceHook) and hook.attributes is not None
    listing = _decode_listing(body, msgspec.Raw if to_msgspec else None)
    items, meta = listing.data, listing.meta or Meta()
    if isinstance(hook, ResourceHook) and items:
        types = [found for _, found in map(_identity_of, items)]
        if not any(found in (None, hook.type) for found in types):
            said = f"Expected the type {hook.type!r} in a page of others"
            raise DecodeError(said, path="$.data", kind="mismatched")
    return LazyPage(
        numbers=meta.page or PageNumbers(),
        item_size=len(body) / max(1, len(items)),
        items=items,
        model=model,
        converter=converter,
    )


async def decode_page(body: bytes, model: type[Any], converter: cattrs.Converter) -> DecodedPage:
    """The items of a response with a page of resources; one that is wrong spoils no other.

    Lets other tasks run every `YIELD_EVERY_BYTES`.

    Raises:
        DecodeError: as `parse_page`.
    """
    page = parse_page(body, model, converter)
    batch = 1 + int(YIELD_EVERY_BYTES / page.item_size)
    items: list[Any] = []
    for index in range(len(page)):
        if index and index % batch == 0:
            await asyncio.sleep(0)
        try:
            items.append(page.structure(index))
        except DecodeError as error:
            items.append(error)
    return DecodedPage(items, page.numbers)


def _decode_listing(body: bytes, attributes: Any) -> Any:
    """A page, with each item as a `Resource` with such attributes, or else as JSON or a dict."""
    if attributes is not None:
        try:
            listing = _listing_decoder(attributes)(body)
            inner = sum(memoryview(item.attributes).nbytes for item in listing.data)
            if len(body) - inner > 2 * MAX_DEPTH:  # attributes are checked as they are structured
                check_depth(body)
        except PARSE_ERRORS:
            pass  # perhaps because of one item: each is structured individually
        else:
            return listing
    try:
        return parse(body, _decode_raw_listing, _convert_listing)
    except DecodeError as error:
        failure = _located(error, "$", None)
    # What was cut short is better requested again.
    if failure.kind != "unreadable" and len(body) <= MAX_SPLIT_BYTES:
        outline, items = split_items(body)
        try:
            check_depth(outline)
            listing = _decode_raw_listing(outline)
        except PARSE_ERRORS:
            raise failure from None
        if len(items) == len(listing.data):
            listing.data = [msgspec.Raw(item) for item in items]
            return listing
    raise failure


def _structure(resource: Any, model: type[M], converter: cattrs.Converter) -> M:
    """The model of a `Resource`, JSON or a dict.

    Raises:
        DecodeError: with a path from the resource's root.
    """
    if isinstance(resource, Resource):
        try:
            return converter.structure(resource, model)
        except DecodeError:
            raise
        except Exception:  # noqa: BLE001
            # A hook for the whole model takes a dict; it was registered after a page was parsed.
            resource = _as_dict(resource)
    elif isinstance(converter.get_structure_hook(model), ResourceHook):
        return converter.structure(resource, model)
    elif isinstance(resource, bytes | msgspec.Raw):
        resource = loads(bytes(resource))
    try:
        return converter.structure(resource, model)
    except Exception as error:  # such a hook may raise anything
        raise DecodeError(_message_of(error)) from error


def _as_dict(resource: Resource[Any]) -> dict[str, Any]:
    return cast("dict[str, Any]", msgspec.json.decode(msgspec.json.encode(resource)))


def _check_id(result: object, expected: int) -> None:
    """Make sure that a model has the id expected; what a user's hook returns may have none."""
    if (found := getattr(result, "id", expected)) != expected:
        said = f"Expected id {expected}, got {found}"
        raise DecodeError(said, path="$.id", kind="mismatched")


def _identity_of(item: object) -> tuple[object, object]:
    """The id and the type of an item of a page, which may be anything; None if it has none."""
    if isinstance(item, msgspec.Raw):
        text = bytes(item)
        try:
            item = _decode_identity(text)
        except PARSE_ERRORS:  # msgspec takes no NaN, and no half of a surrogate pair
            try:
                item = json.loads(text.decode(errors="replace"))
            except (ValueError, RecursionError):
                return None, None
    if isinstance(item, Resource | _Identity):
        return item.id, item.type
    return (item.get("id"), item.get("type")) if isinstance(item, dict) else (None, None)


def _id_of(item: object) -> int | None:
    resource_id, _ = _identity_of(item)
    try:
        return _int_id(resource_id)
    except DecodeError:
        return None


def _located(error: DecodeError, prefix: str, resource_id: int | None) -> DecodeError:
    """The same error with a path from the response's root, and the id that was requested.

    Raise it outside the handler of the first error, or ``from`` its own cause: an error that is
    kept must not keep frames.
    """
    path = prefix + error.path.removeprefix("$")
    about = "" if resource_id is None else f"in the response for id {resource_id}: "
    located = DecodeError(
        f"{about}{error.args[0]}, at {path}",
        path=path,
        resource_id=resource_id,
        # What is around a resource was whole.
        kind="final" if error.kind == "unreadable" and prefix != "$" else error.kind,
    )
    if error.__cause__ is not None:  # what a user's hook raised; errors are kept, its frames not
        located.__cause__ = detached(error.__cause__)
    return located


def _message_of(error: BaseException, kind: type[Any] | None = None) -> str:
    """An error's own message, if cattrs would only say that a value is invalid.

    A KeyError means a missing field only if the code that cattrs generates raised it.
    """
    if isinstance(error, ValueError | DecodeError) and error.args:
        return str(error)
    if isinstance(error, KeyError) and not _raised_by_cattrs(error):
        return f"{type(error).__name__}: {error}"
    return cattrs.v.format_exception(error, kind)


def _raised_by_cattrs(error: BaseException) -> bool:
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return "cattrs" in frame.f_code.co_filename


# Single resources


def to_dict(model: Any, *, converter: cattrs.Converter | None = None) -> dict[str, Any]:
    """A model as the API's resource, ``{"id", "type", "attributes"}``, of JSON types only.

    Raises:
        TypeError: if the model is not a resource, such as a single `Param`.
    """
    _resource_type(type(model))
    return cast("dict[str, Any]", (converter or _default_converter()).unstructure(model))


def to_json(model: Any, *, converter: cattrs.Converter | None = None) -> str:
    """A model as the API's resource, as JSON on one line; ``NaN`` and ``Infinity`` stay.

    Raises:
        TypeError: if the model is not a resource, such as a single `Param`.
    """
    resource = to_dict(model, converter=converter)
    if isinstance(model, Run) and _all_finite(model):
        return msgspec.json.encode(resource).decode()  # which would write null for NaN
    return json.dumps(resource, ensure_ascii=False, separators=(",", ":"))


def from_dict(resource: Any, model: type[M], *, converter: cattrs.Converter | None = None) -> M:
    """The model of a resource as :func:`to_dict` returns it.

    Raises:
        DecodeError: if the resource is not what the API promises.
        TypeError: if the model is not a resource, such as a single `Param`.
    """
    _resource_type(model)
    converter = converter or _default_converter()
    return _structure(resource, model, converter)


def from_json(text: str | bytes, model: type[M], *, converter: cattrs.Converter | None = None) -> M:
    """The model of a resource in JSON as :func:`to_json` returns it.

    Raises:
        DecodeError: if the resource is not what the API promises.
        TypeError: if the model is not a resource, such as a single `Param`.
    """
    body = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return from_dict(body, model, converter=converter)


@functools.cache
def _default_converter() -> cattrs.Converter:
    return make_converter()


def _all_finite(run: Run) -> bool:
    numbers = [getattr(run, name) for name in _float_fields(Run)]
    for metric in run.metric_summaries:
        numbers += [getattr(metric, name) for name in _float_fields(MetricSummary)]
    return all(number is None or math.isfinite(number) for number in numbers)


@functools.cache
def _float_fields(model: type[Any]) -> list[str]:
    hints = typing.get_type_hints(model)
    return [name for name, hint in hints.items() if hint in (float, float | None)]
