"""Bytes to models and back, through one cattrs converter.

``converter`` is the door; behind it, ``twins`` is the fast way in, and ``parsing`` deals with JSON
and with what is wrong in it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import attrs
import msgspec

from modellab_async.codec.converter import RESOURCE_TYPES, Converter, make_converter
from modellab_async.codec.parsing import PARSE_ERRORS, identity, located, parse, take_apart
from modellab_async.codec.twins import Meta, PageNumbers, twin_of
from modellab_async.errors import ConfigError, DecodeError
from modellab_async.models import Page, Run

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Codec",
    "Converter",
    "DecodedPage",
    "from_dict",
    "from_json",
    "make_converter",
    "to_dict",
    "to_json",
]

M = TypeVar("M")

BREATH: Final = 250_000
"""After so many bytes of a page, the other tasks of the event loop get their turn."""


LONGEST_SALVAGED: Final = 4 * 1024 * 1024
"""A page longer than this, four times a large one, is not searched for its good items."""


class _Listing(msgspec.Struct, gc=False):
    data: list[msgspec.Raw]
    meta: Meta | None = None


class _ParsedListing(msgspec.Struct, gc=False):
    data: list[Any]
    meta: Meta | None = None


class _Identity(msgspec.Struct, gc=False):
    id: Any = None


_decode_listing: Final = msgspec.json.Decoder(_Listing).decode
_decode_raw: Final = msgspec.json.Decoder(msgspec.Raw).decode
_decode_identity: Final = msgspec.json.Decoder(_Identity).decode


def _salvage(body: bytes) -> _Listing | None:
    """A listing that an item keeps from being parsed; None where that is not the reason."""
    if len(body) > LONGEST_SALVAGED:
        return None
    outline, items = take_apart(body)
    try:
        listing = _decode_listing(outline)
    except PARSE_ERRORS:
        return None
    if len(items) != len(listing.data):
        return None
    listing.data = [msgspec.Raw(item) for item in items]
    return listing


@attrs.frozen
class DecodedPage:
    """A page of a listing, item by item.

    Attributes:
        items: the model of each item, or the `DecodeError` that it led to.
        numbers: where the page stands in its listing.
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
        numbers = {name: getattr(self.numbers, name) for name in PageNumbers.__struct_fields__}
        return Page(items=tuple(self.items), **numbers)


async def _decoded(listing: Any, structure: Callable[[Any], Any], size: int) -> DecodedPage:
    """Structure the items of a page, letting other tasks run in between."""
    data: list[Any] = listing.data
    at_once = 1 + len(data) * BREATH // size
    results: list[Any] = []
    items = iter(data)
    while len(results) < len(data):
        if results:
            await asyncio.sleep(0)
        try:  # what comes before an error is kept
            results.extend(map(structure, itertools.islice(items, at_once)))
        except DecodeError as error:  # of the item behind those that are in the results
            item = data[len(results)]
            error.cut_short = False  # the page around it was whole
            results.append(located(error, f"$.data[{len(results)}]", _identity(item)))
    return DecodedPage(results, (listing.meta and listing.meta.page) or PageNumbers())


class Codec:
    """What a client reads answers with.

    Raises:
        ConfigError: where the converter is not one of this package's.
    """

    def __init__(self, converter: Converter | None = None) -> None:
        if converter is not None and not isinstance(converter, Converter):
            raise ConfigError(
                "converter must be what make_converter() gives, with your hooks on it,"
                f" not a {type(converter).__module__}.{type(converter).__qualname__}"
            )
        self.converter: Converter = converter or make_converter()

    def decode(
        self, body: bytes, model: type[M], *, expects: int | None = None, sharing: bool = True
    ) -> M:
        """One resource's answer as its model; see `Call` for ``expects`` and ``sharing``.

        Raises:
            DecodeError: where the body is not what the API promises, or is about another id.
        """
        try:
            result = self.converter.document(body, model, sharing=sharing)
        except DecodeError as error:
            raise located(error, "$", expects) from error.__cause__
        # A user's hook for the whole model may give something that has no id.
        if expects is not None and (found := getattr(result, "id", expects)) != expects:
            raise located(
                DecodeError(f"Expected id {expects}, got {found}", path="$.id"),
                "$.data",
                expects,
            )
        return cast("M", result)

    async def decode_page(
        self, body: bytes, model: type[Any], *, sharing: bool = True
    ) -> DecodedPage:
        """A listing's answer, one bad item spoiling no other.

        Raises:
            DecodeError: where the body is not a listing.
        """
        converter = self.converter
        listing: Any
        if not converter.customised:
            twin = twin_of(model)
            try:
                listing = twin.listing(body, sharing=sharing)
            except PARSE_ERRORS:
                pass  # perhaps for one item's sake: each is looked at by itself
            else:
                return await _decoded(listing, twin.mend, len(body))
        try:
            listing = parse(
                body, _decode_listing, lambda data: msgspec.convert(data, _ParsedListing)
            )
        except DecodeError as error:
            # One bad item must not spoil the others; what was cut is better asked for again.
            listing = None if error.cut_short else _salvage(body)
            if listing is None:
                raise located(error, "$", None) from None
        return await _decoded(listing, lambda item: converter.resource(item, model), len(body))


def to_dict(model: Any, *, converter: Converter | None = None) -> dict[str, Any]:
    """A model as the API's resource, ``{"id", "type", "attributes"}``, of JSON types only.

    Raises:
        TypeError: where it is no resource of its own, such as a single `Param`.
    """
    _check_resource(type(model))
    return cast("dict[str, Any]", (converter or _default()).unstructure(model))


def to_json(model: Any, *, converter: Converter | None = None) -> str:
    """A model as the API's resource, as JSON on one line; ``NaN`` and ``Infinity`` stay.

    Raises:
        TypeError: where it is no resource of its own, such as a single `Param`.
    """
    resource = to_dict(model, converter=converter)
    if isinstance(model, Run) and _all_finite(model):
        return msgspec.json.encode(resource).decode()
    return json.dumps(resource, ensure_ascii=False, separators=(",", ":"))


def from_dict(resource: Any, model: type[M], *, converter: Converter | None = None) -> M:
    """The model of a resource such as :func:`to_dict` gives.

    Raises:
        DecodeError: where it is not what the API promises.
        TypeError: where the model is no resource of its own, such as a single `Param`.
    """
    _check_resource(model)
    return cast("M", (converter or _default()).resource(resource, model))


def from_json(text: str | bytes, model: type[M], *, converter: Converter | None = None) -> M:
    """The model of a resource in JSON such as :func:`to_json` gives.

    Raises:
        DecodeError: where it is not what the API promises.
        TypeError: where the model is no resource of its own, such as a single `Param`.
    """
    body = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return from_dict(body, model, converter=converter)


def _check_resource(model: type[Any]) -> None:
    if model not in RESOURCE_TYPES:
        known = ", ".join(cls.__name__ for cls in RESOURCE_TYPES)
        raise TypeError(f"only {known} are resources; this is {model.__name__}")


_made: list[Converter] = []


def _default() -> Converter:
    """The functions' own converter: made when first needed, and out of anyone's reach."""
    if not _made:
        _made.append(make_converter())
    return _made[0]


def _identity(item: Any) -> int | None:
    """The id of a resource whose attributes could not be structured."""
    try:
        if isinstance(item, msgspec.Raw):
            try:
                found = _decode_identity(item)
            except PARSE_ERRORS:  # this parser takes half a surrogate pair, and NaN
                found = msgspec.convert(json.loads(bytes(item).decode()), _Identity)
        else:
            found = msgspec.convert(item, _Identity, from_attributes=True)
        return identity(found.id)
    except (*PARSE_ERRORS, ValueError, DecodeError):
        return None


def _all_finite(run: Run) -> bool:
    numbers = [run.duration]
    for metric in run.metric_summaries:
        numbers += (metric.latest, metric.max, metric.mean, metric.min, metric.stddev)
    return all(number is None or math.isfinite(number) for number in numbers)
