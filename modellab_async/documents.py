"""JSON:API: the documents that responses hold, and the pages and items in them.

A document is parsed at once, but for the ``attributes`` of its resources: these stay JSON until a
resource is taken, and are then structured by the hook of `modellab_async.converter`. So a page that
waits holds few objects for the garbage collector to visit, and one bad item spoils no other.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import attrs
import cattrs
import msgspec

from modellab_async.converter import ResourceHook, structure
from modellab_async.errors import DecodeError, detached
from modellab_async.models import Page
from modellab_async.parsing import (
    MAX_DEPTH,
    PARSE_ERRORS,
    Resource,
    check_depth,
    decode_resource,
    int_id,
    parse,
    split_items,
)

M = TypeVar("M")
T = TypeVar("T")

YIELD_EVERY_BYTES: Final = 250_000
"""Structuring a page lets other tasks run after this many bytes of it."""

MAX_SPLIT_BYTES: Final = 4 * 1024 * 1024
"""A malformed page longer than this, four times a large one, is not split into its items."""


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


_decode_document: Final = msgspec.json.Decoder(Document[Resource]).decode
_decode_listing: Final = msgspec.json.Decoder(Listing[Resource]).decode

# Whole resources stay JSON, or are plain data if there is a NaN.
_decode_raw_document: Final = msgspec.json.Decoder(Document[msgspec.Raw]).decode
_convert_document: Final = functools.partial(msgspec.convert, type=Document[Any])
_decode_raw_listing: Final = msgspec.json.Decoder(Listing[msgspec.Raw]).decode
_convert_listing: Final = functools.partial(msgspec.convert, type=Listing[Any])


@attrs.frozen(kw_only=True)
class LazyPage(Generic[M]):
    """The resources of a response, which are structured one by one, when they are needed.

    Attributes:
        items: each is a `Resource`; whole JSON or plain data if that is what the hook takes, or if
            msgspec cannot parse all of the response.
        numbers: the position of the page in its listing.
        item_size: bytes of JSON per item, on average.
        path: of an item in the response, to be formatted with its index.
        model: the model of the items.
        hook: structures them; the one that the converter had when the response was parsed.
        expects: the id that a single resource must have.
    """

    items: list[Any] = attrs.field(repr=False)
    numbers: PageNumbers = attrs.field(factory=PageNumbers)
    item_size: float
    path: str
    model: type[M]
    hook: Callable[[Any, Any], M]
    expects: int | None = None

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
            result: M = structure(self.hook, item, self.model)
            if not isinstance(self.hook, ResourceHook):  # a user's hook may have changed the id
                _check_id(getattr(result, "id", None), self._id_of(item))
        except DecodeError as error:
            failure = _located(error, self.path.format(index), self._id_of(item))
        else:
            return result
        raise failure from failure.__cause__

    def _id_of(self, item: object) -> int | None:
        return _id_of(item) if self.expects is None else self.expects


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
    """The model in a response with one resource; see `parse_document`."""
    return parse_document(body, model, converter, expects=expects).structure(0)


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


def parse_document(
    body: bytes, model: type[M], converter: cattrs.Converter, *, expects: int | None = None
) -> LazyPage[M]:
    """Parse a response with one resource, which is structured later.

    Args:
        body: ``{"data": resource}`` as JSON.
        model: the resource's model.
        converter: structures it.
        expects: the id that the resource must have.

    Raises:
        DecodeError: if the body is not a document, or has another id or type.
    """
    hook = converter.get_structure_hook(model)
    path = "$"
    try:
        resource = _parse_document(body, hook)
        path = "$.data"
        if isinstance(hook, ResourceHook):
            hook.check_type(_identity_of(resource)[1])
        if expects is not None:
            _check_id(_id_of(resource), expects)
    except DecodeError as error:
        failure = _located(error, path, expects)
    else:
        return LazyPage(
            items=[resource],
            item_size=len(body),
            path=path,
            model=model,
            hook=hook,
            expects=expects,
        )
    raise failure from failure.__cause__


def parse_page(body: bytes, model: type[M], converter: cattrs.Converter) -> LazyPage[M]:
    """Parse a response with a page of resources, which are structured later.

    Args:
        body: the response.
        model: the model of its items.
        converter: structures them.

    Raises:
        DecodeError: if the body is not a listing, or all its items are of another type.
    """
    hook = converter.get_structure_hook(model)
    listing = _parse_listing(body, hook)
    items, meta = listing.data, listing.meta or Meta()
    if isinstance(hook, ResourceHook) and items:
        types = (resource_type for _, resource_type in map(_identity_of, items))
        if not any(each in (None, hook.type) for each in types):
            message = f"Expected the type {hook.type!r} in a page of others"
            raise DecodeError(message, path="$.data", kind="mismatched")
    return LazyPage(
        items=items,
        numbers=meta.page or PageNumbers(),
        item_size=len(body) / max(1, len(items)),
        path="$.data[{}]",
        model=model,
        hook=hook,
    )


def _parse_document(body: bytes, hook: object) -> Any:
    if isinstance(hook, ResourceHook):
        try:
            check_depth(body)
            return _decode_document(body).data
        except PARSE_ERRORS:
            pass  # parsing the resource individually tells what is wrong
    return parse(body, _decode_raw_document, _convert_document).data


def _parse_listing(body: bytes, hook: object) -> Any:
    if isinstance(hook, ResourceHook):
        try:
            listing: Any = _decode_listing(body)
            attributes = sum(memoryview(item.attributes).nbytes for item in listing.data)
            if len(body) - attributes > 2 * MAX_DEPTH:  # they are checked when they are structured
                check_depth(body)
        except PARSE_ERRORS:
            pass  # perhaps because of one item: each is parsed individually
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


def _identity_of(item: object) -> tuple[object, object]:
    """The id and the type of an item of a page, which may be anything; None if it has none."""
    if isinstance(item, msgspec.Raw):
        text = bytes(item)
        try:
            item = decode_resource(text)
        except PARSE_ERRORS:  # msgspec takes no NaN, and no half of a surrogate pair
            try:
                item = json.loads(text.decode(errors="replace"))
            except (ValueError, RecursionError):
                return None, None
    if isinstance(item, Resource):
        return item.id, item.type
    return (item.get("id"), item.get("type")) if isinstance(item, dict) else (None, None)


def _id_of(item: object) -> int | None:
    try:
        return int_id(item.id if isinstance(item, Resource) else _identity_of(item)[0])
    except DecodeError:
        return None


def _check_id(resource_id: object, expected: int | None) -> None:
    """Raise a DecodeError if both ids are known and differ."""
    if resource_id is not None and expected is not None and resource_id != expected:
        message = f"Expected id {expected}, got {resource_id}"
        raise DecodeError(message, path="$.id", kind="mismatched")


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
