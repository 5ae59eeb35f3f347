"""Pages with an item that no parser takes: it fails alone, in time that its size bounds."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest
from faultserver import listing, resource

from modellab_async import DecodeError, Run
from modellab_async.codec import LONGEST_SALVAGED, Codec, make_converter

DEEP = b"[" * 100_000 + b"]" * 100_000


def hooked() -> Codec:
    converter = make_converter()
    converter.register_structure_hook(list, lambda value, _: value)
    return Codec(converter)


@pytest.fixture(params=[Codec, hooked])
def codec(request: pytest.FixtureRequest) -> Codec:
    return request.param()  # type: ignore[no-any-return]


def spoilt(spoil: bytes) -> bytes:
    """A run whose new field holds what no parser takes."""
    return json.dumps(resource(42, new="_")).encode().replace(b'"_"', spoil)


@pytest.mark.parametrize(
    "bad",
    [
        spoilt(DEEP),
        spoilt(b'{"a":' * 100_000 + b"7" + b"}" * 100_000),
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
async def test_one_run_that_no_parser_takes_stands_alone(codec: Codec, bad: bytes):
    """The other 99 runs of its page, and the page's numbers, are there."""
    items: list[Any] = [resource(number) for number in range(100)]
    items[42] = bad
    page = codec.open_page(listing(*items, next_number=7, total=200), Run)
    outcomes = await page.outcomes()
    assert (page.numbers.next_number, page.numbers.total) == (7, 200)
    assert [run.id for run in outcomes if isinstance(run, Run)] == [*range(42), *range(43, 100)]
    error = outcomes[42]
    assert isinstance(error, DecodeError)
    assert error.path.startswith("$.data[42]")
    assert not error.cut_short
    assert len(str(error)) < 400


async def test_half_a_surrogate_pair_spoils_no_other_run():
    """Such text is no Unicode: its run is an error, and the others are runs."""
    half = json.dumps(resource(1, name="\ud800")).encode()
    page = Codec().open_page(listing(resource(0), half, resource(2)), Run)
    first, bad, last = await page.outcomes()
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
async def test_an_id_or_a_field_that_is_no_text_stands_alone(codec: Codec, bad: bytes):
    """A run whose id or whose field's name is no Unicode is an error of ours, and only that run."""
    opened = codec.open_page(listing(resource(0), bad, resource(2)), Run)
    first, error, last = await opened.outcomes()
    assert (first.id, last.id) == (0, 2)
    assert isinstance(error, DecodeError)
    with pytest.raises(DecodeError):
        codec.decode(b'{"data":%s}' % bad, Run)


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
def test_a_page_whose_frame_is_broken_is_one_error(codec: Codec, raw: bytes):
    """What is not a listing, or might be two, is not guessed at."""
    with pytest.raises(DecodeError):
        codec.open_page(raw, Run)


@pytest.mark.parametrize("piece", [b"[", b'"\\', b'\\"', b'{"data":[', b'"'])
def test_the_search_for_good_items_takes_linear_time(piece: bytes):
    """Half a megabyte of any text, an eighth of what is searched, is done with soon."""
    raw = b'{"data":[' + piece * (LONGEST_SALVAGED // 8 // len(piece)) + b"]}"
    began = time.process_time()
    with pytest.raises(DecodeError):
        Codec().open_page(raw, Run)
    assert time.process_time() - began < 1


def test_a_page_too_long_to_be_searched_is_one_error():
    """Only pages of a believable size are searched for their good items."""
    raw = listing(resource(1), spoilt(b"nul"), resource(2, name=" " * LONGEST_SALVAGED))
    with pytest.raises(DecodeError, match="malformed"):
        Codec().open_page(raw, Run)
