"""Equal params and tags are one object, and kept runs take little memory."""

from __future__ import annotations

import gc
import json
import tracemalloc
from typing import Any

import pytest
from payloads import body, failure, open_page

from modellab_async import DecodeError, from_json, make_converter
from modellab_async.converter import INTERNED, MAX_INTERNED_BYTES, Interner, decode
from modellab_async.models import Param, Run, Tag


@pytest.fixture
def roomy_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is forgotten during a test, however full earlier tests have left the table."""
    monkeypatch.setattr("modellab_async.converter.INTERNED", 10**6)


@pytest.mark.usefixtures("roomy_table")
def test_equal_params_are_one_object() -> None:
    """Equal short params and tags of different runs are one object; long ones are equal."""
    pair, long = {"key": "lr", "value": "0.1"}, {"key": "note", "value": "x" * MAX_INTERNED_BYTES}
    raw = body(params=[pair, long, pair], tags=[pair])
    one, other = (decode(raw, Run, make_converter()) for _ in range(2))
    assert one.params[0] is one.params[2] is other.params[0]
    assert one.tags[0] is other.tags[0]
    assert one == other
    assert one.params[1] is not other.params[1]
    assert {type(param) for param in one.params} == {Param}
    assert {type(tag) for tag in one.tags} == {Tag}


@pytest.mark.usefixtures("roomy_table")
def test_params_of_a_page_and_of_a_single_run_are_one_object() -> None:
    """It does not matter how a run arrived."""
    pairs = [{"key": "optimizer", "value": "adamw"}]
    [listed] = open_page(
        b'{"data":[%s]}' % body(params=pairs)[len('{"data": ') : -1], make_converter()
    ).items
    single = decode(body(params=pairs), Run, make_converter())
    assert listed.params[0] is single.params[0]


def test_the_same_text_as_a_param_and_as_a_tag() -> None:
    """A param and a tag of the same text keep their own classes."""
    pair = [{"key": "team", "value": "ranking"}]
    run = decode(body(params=pair, tags=pair), Run, make_converter())
    assert (run.params, run.tags) == ((Param("team", "ranking"),), (Tag("team", "ranking"),))


def test_a_parser_that_runs_out_of_stack_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nesting too deep for the way through the table, though not for the parser alone, is told."""

    def overflow(_interner: Interner, _text: bytes) -> None:
        raise RecursionError("maximum recursion depth exceeded")

    monkeypatch.setattr(Interner, "__missing__", overflow)
    pairs = [{"key": "deep", "value": "never seen before"}]
    items = open_page(
        b'{"data":[%s]}' % body(params=pairs)[len('{"data": ') : -1], make_converter()
    ).items
    assert [type(item) for item in items] == [DecodeError]
    assert "at $.data[0].attributes.params" in str(items[0])


@pytest.mark.usefixtures("roomy_table")
@pytest.mark.parametrize("value", ["adamw", "a },{ b", ',{"key":"x"', "},{", "[{", "é", "</"])
def test_params_however_they_are_written(value: str) -> None:
    """Equal params are one object, with white space between them or none, whatever they hold."""
    pairs = [{"key": f"k{n}", "value": value} for n in range(3)]
    spaced = body(params=pairs)
    compact = json.dumps(json.loads(spaced), separators=(",", ":"), ensure_ascii=False).encode()
    runs = [decode(raw, Run, make_converter()) for raw in (compact, spaced, compact)]
    for run in runs:
        assert run.params == tuple(Param(**pair) for pair in pairs)
        assert all(one is other for one, other in zip(run.params, runs[0].params, strict=True))


@pytest.mark.parametrize(
    "text", ["[{},{}]", '[{"key":"a","value":"b"},7]', "[7]", "{}", "7", '"[{"']
)
def test_params_that_are_none(text: str) -> None:
    """What is no array of params is an error that says where."""
    raw = body(params="_").replace(b'"_"', text.encode())
    assert "$.data.attributes.params" in str(failure(lambda: decode(raw, Run, make_converter())))


def test_text_with_a_nul() -> None:
    """A param and a tag that hold an escaped NUL keep it, between others."""
    pairs = [{"key": f"k{n}", "value": f"a\0{n}\0"} for n in range(3)]
    run = decode(body(params=pairs, tags=pairs[:1]), Run, make_converter())
    assert run.params == tuple(Param(**pair) for pair in pairs)
    assert run.tags == (Tag("k0", "a\x000\0"),)


def test_what_is_remembered_is_bounded() -> None:
    """Params that never repeat do not pile up, and are right beyond the bound too."""
    converter = make_converter()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for start in range(0, 4 * INTERNED, 2 * INTERNED):
            pairs = [{"key": f"p{n}", "value": str(n)} for n in range(start, start + 2 * INTERNED)]
            run = decode(body(params=[*pairs, pairs[0]]), Run, converter)
            assert run.params == tuple(Param(**pair) for pair in [*pairs, pairs[0]])
            del run, pairs
            kept, _ = tracemalloc.get_traced_memory()
            assert kept - before < INTERNED * 600
    finally:
        tracemalloc.stop()


def production_run(number: int, *, repeats: bool) -> bytes:
    """A run of 113 params and 22 metrics."""
    own = "00000" if repeats else f"{number:05}"
    params = [{"key": f"model.p{n}", "value": f"value-{own}-{n}"} for n in range(113)]
    numbers = ("latest", "max", "mean", "min")
    metrics: list[dict[str, Any]] = [
        {"key": f"metric_{n}", "count": 10_000, "first_step": 0, "last_step": 9_999 + number}
        | dict.fromkeys(numbers, number + n + 0.123)
        for n in range(22)
    ]
    return body(str(number), params=params, metric_summaries=metrics)


@pytest.mark.parametrize(
    ("repeats", "most_bytes", "most_objects"), [(True, 13_000, 30), (False, 35_000, 145)]
)
def test_memory_of_kept_runs(repeats: bool, most_bytes: int, most_objects: int) -> None:
    """A kept run of production size is small, and holds few objects for the collector to visit."""
    converter, count = make_converter(), 100
    bodies = [production_run(number, repeats=repeats) for number in range(count)]
    assert 7_500 < len(bodies[0]) < 11_000
    decode(production_run(count, repeats=repeats), Run, converter)
    gc.collect()
    tracemalloc.start()
    try:
        objects, (size, _) = len(gc.get_objects()), tracemalloc.get_traced_memory()
        kept = [decode(raw, Run, converter) for raw in bodies]
        gc.collect()
        objects_after, (size_after, _) = len(gc.get_objects()), tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(kept) == count
    assert (size_after - size) / count < most_bytes
    assert (objects_after - objects) / count < most_objects


@pytest.mark.usefixtures("roomy_table")
def test_params_of_a_line_of_a_file() -> None:
    """A run that is read from JSON lines shares its params with one from a response."""
    converter = make_converter()
    pairs = [{"key": "seed", "value": "7"}]
    line = body(params=pairs)[len('{"data": ') : -1]
    assert (
        from_json(line, Run, converter=converter).params[0]
        is decode(body(params=pairs), Run, converter).params[0]
    )
