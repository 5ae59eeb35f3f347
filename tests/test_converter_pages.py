"""Pages, item by item: one that is wrong spoils no other."""

from __future__ import annotations

import asyncio
import json
import math
import time
from typing import Any

import pytest
from faultserver import listing
from payloads import open_page, resource

from modellab_async import models
from modellab_async.converter import Converter, make_converter
from modellab_async.documents import MAX_SPLIT_BYTES, decode, decode_page, parse_page
from modellab_async.errors import DecodeError
from modellab_async.models import Run


@pytest.mark.parametrize("number", [0.5, math.nan])
def test_a_bad_run_of_a_page_stands_alone(converter: Converter, number: float) -> None:
    """One bad run of a hundred is an error that names its id and place; the others are runs."""
    items = [resource(str(n), duration=number) for n in range(100)]
    items[42]["attributes"]["params"] = [{"key": "lr", "value": 0.1}]
    items[43]["id"] = None
    items[44] = "no resource"  # type: ignore[call-overload]
    page = json.dumps({"data": items, "meta": {"page": {"next_number": 1, "total": 9}}}).encode()
    opened = open_page(page, converter)
    outcomes = opened.items
    assert (opened.numbers.next_number, opened.numbers.total) == (1, 9)
    assert [run.id for run in outcomes if isinstance(run, Run)] == [*range(42), *range(45, 100)]
    bad, nameless, foreign = outcomes[42:45]
    assert (bad.resource_id, bad.path) == (42, "$.data[42].attributes.params[0].value")
    assert "id 42" in str(bad)
    assert "at $.data[42].attributes.params[0].value" in str(bad)
    assert (nameless.resource_id, nameless.path) == (None, "$.data[43].id")
    assert foreign.path.startswith("$.data[44]")
    assert not any(error.kind == "unreadable" for error in (bad, nameless, foreign))
    with pytest.raises(DecodeError, match="id 42"):
        open_page(page, converter).page()


def test_an_ill_encoded_run_of_a_page_stands_alone() -> None:
    """Bytes that are no UTF-8 within one run spoil that run only, and cost the others nothing."""
    items = [json.dumps(resource(str(n), name="_name_")).encode() for n in range(3)]
    items[1] = items[1].replace(b"_name_", b"\xff\xfe")
    first, bad, last = open_page(b'{"data":[%s]}' % b",".join(items), make_converter()).items
    assert (first.id, last.id) == (0, 2)
    assert (bad.resource_id, bad.path, bad.kind) == (1, "$.data[1].attributes", "final")


def test_a_page(converter: Converter) -> None:
    """A page keeps order and all the server's numbers, which may be absent or null."""
    numbers = {"number": 0, "size": 25, "total": 65_614, "first_number": 0, "prev_number": None}
    numbers |= {"next_number": 1, "last_number": 2_624}
    listing = {"data": [resource("9"), resource("7")], "links": {"next": "https://x.test"}}
    meta: dict[str, Any] = {"meta": {"page": numbers | {"type": "number_size"}}}
    page = open_page(json.dumps(listing | meta).encode(), converter).page()
    assert [run.id for run in page.items] == [9, 7]
    assert {name: getattr(page, name) for name in numbers} == numbers
    for meta in ({}, {"meta": None}, {"meta": {}}, {"meta": {"page": None}}):
        opened = open_page(json.dumps({"data": [], **meta}).encode(), converter)
        assert opened.page() == models.Page()


async def test_a_page_lets_other_tasks_run(converter: Converter) -> None:
    """While a page of a hundred large runs is structured, other tasks get several turns."""
    runs = [resource(str(n), description="x" * 9_000) for n in range(100)]
    page = json.dumps({"data": runs}).encode()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(count())
    await decode_page(page, Run, converter)
    task.cancel()
    assert turns >= 3


DEEP = b"[" * 100_000 + b"]" * 100_000


def spoilt(spoil: bytes) -> bytes:
    """A run whose new field holds what no parser takes."""
    return json.dumps(resource(42, new="_")).encode().replace(b'"_"', spoil)


@pytest.mark.parametrize(
    "bad",
    [
        spoilt(DEEP),
        spoilt(b'{"a":' * 20_000 + b"7" + b"}" * 20_000),
        spoilt(b"nul"),
        spoilt(b'"\\x"'),
        spoilt(b'"\x01"'),
        spoilt(b'"\\"]}{[\\\\", NaN, tru'),
        b'{"id"::"42"}',
        DEEP,
        b'"\\x"',
    ],
    ids=lambda bad: bad[-30:].decode("latin-1"),
)
def test_one_run_that_no_parser_takes_stands_alone(converter: Converter, bad: bytes):
    """The other 99 runs of its page, and the page's numbers, are there."""
    items: list[Any] = [resource(number) for number in range(100)]
    items[42] = bad
    page = open_page(listing(*items, next_number=7, total=200), converter)
    outcomes = page.items
    assert (page.numbers.next_number, page.numbers.total) == (7, 200)
    assert [run.id for run in outcomes if isinstance(run, Run)] == [*range(42), *range(43, 100)]
    error = outcomes[42]
    assert isinstance(error, DecodeError)
    assert error.path.startswith("$.data[42]")
    assert error.kind == "final"
    assert len(str(error)) < 400


def test_half_a_surrogate_pair_spoils_no_other_run():
    """Such text is no Unicode: its run is an error, and the others are runs."""
    half = json.dumps(resource(1, name="\ud800")).encode()
    page = open_page(listing(resource(0), half, resource(2)), make_converter())
    first, bad, last = page.items
    assert (first.id, last.id) == (0, 2)
    assert isinstance(bad, DecodeError)


@pytest.mark.parametrize(
    "bad",
    [
        json.dumps(resource("_")).encode().replace(b'"_"', b'"\x92"'),
        json.dumps(resource(1, duration=math.nan)).encode().replace(b"name", b"\\ud800"),
    ],
    ids=["id", "field"],
)
def test_an_id_or_a_field_that_is_no_text_stands_alone(converter: Converter, bad: bytes):
    """A run whose id or whose field's name is no Unicode is an error of ours, and only that run."""
    opened = open_page(listing(resource(0), bad, resource(2)), converter)
    first, error, last = opened.items
    assert (first.id, last.id) == (0, 2)
    assert isinstance(error, DecodeError)
    with pytest.raises(DecodeError):
        decode(b'{"data":%s}' % bad, Run, converter)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"data":[{"id":nul}],"data":[]}',
        b'{"d\\u0061ta":[{"id":nul}]}',
        b'{"data":{"a":[nul]}}',
        b'{"data":[{"id":nul}]}]',
        b'{"data":[{"id":nul}],"meta":7}',
        b'{"data":[null,{"id":nul}]}',
        b'[{"data":[nul]}]',
        b'"data":[{}]}',
        b"}{]",
    ],
)
def test_a_page_whose_frame_is_broken_is_one_error(converter: Converter, raw: bytes):
    """What is not a listing, or might be two, is not guessed at."""
    with pytest.raises(DecodeError):
        open_page(raw, converter)


@pytest.mark.parametrize("piece", [b"[", b'"\\', b'\\"', b'{"data":[', b'"'])
def test_the_search_for_good_items_takes_linear_time(piece: bytes):
    """Half a megabyte of any text, an eighth of what is searched, is done with soon."""
    raw = b'{"data":[' + piece * (MAX_SPLIT_BYTES // 8 // len(piece)) + b"]}"
    began = time.process_time()
    with pytest.raises(DecodeError):
        open_page(raw, make_converter())
    assert time.process_time() - began < 10  # quadratic time would be minutes


def test_a_page_too_long_to_be_searched_is_one_error():
    """Only pages of a believable size are searched for their good items."""
    raw = listing(resource(1), spoilt(b"nul"), resource(2, name=" " * MAX_SPLIT_BYTES))
    with pytest.raises(DecodeError, match="malformed"):
        open_page(raw, make_converter())


def test_a_page_of_another_type_is_the_response_to_another_request(converter: Converter):
    """It is told as one error, which a repeat may mend; a single such item stands alone."""
    projects = [{"id": str(n), "type": "projects", "attributes": {}} for n in (1, 2)]
    with pytest.raises(DecodeError, match="type 'runs'") as caught:
        parse_page(listing(*projects), Run, converter)
    assert caught.value.kind == "mismatched"
    page = parse_page(listing(projects[0], resource(2)), Run, converter)
    assert page.ids() == [1, 2]
    assert page.structure(1).id == 2
    with pytest.raises(DecodeError, match="type 'runs'") as caught:
        page.structure(0)
    assert (caught.value.resource_id, caught.value.path) == (1, "$.data[0].type")
