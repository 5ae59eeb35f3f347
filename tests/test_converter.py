"""JSON to models and back: what is accepted as the API sends it."""

from __future__ import annotations

import copy
import gc
import json
import math
import pickle
import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from payloads import REQUIRED, body, failure, hooked, open_page, resource

from modellab_async import models
from modellab_async.converter import (
    RESOURCE_TYPES,
    Converter,
    from_dict,
    from_json,
    make_converter,
    to_dict,
    to_json,
)
from modellab_async.documents import decode
from modellab_async.models import MetricSummary, Param, Project, Run, RunStatus, Tag

NOON = datetime(2026, 5, 15, 12, tzinfo=UTC)


SAMPLES = [
    Project(id=1, name="vision", created_at=NOON, tags=(Tag("a", "b"),), is_starred=True),
    models.RunArtifacts(id="1", path_in_project="7", files=(models.RunFile("a/", is_dir=True),)),
    models.ProjectArtifacts(id="1", files=(models.ProjectFile("a", "7/a", NOON, 7),)),
    models.FacetKeys(id="1", parameters=("lr",), tags=("team",)),
    models.FacetValues(
        id="1",
        facet_name="lr",
        facet_type="parameter",
        values=("0.1",),
        numeric_range=models.NumericRange(0.1, 0.2),
        metric_stat_ranges=(models.MetricStatRange("max", 0.0, 1.0),),
    ),
]


def test_null_lists(converter: Converter) -> None:
    """Lists that are null or absent are empty."""
    for attributes in ({"params": None, "tags": None, "metric_summaries": None}, {}):
        run = decode(body(**attributes), Run, converter)
        assert (run.params, run.tags, run.metric_summaries) == ((), (), ())
    data = {"data": {"id": "1", "attributes": {"metrics": None, "parameters": ["a"]}}}
    keys = decode(json.dumps(data).encode(), models.FacetKeys, converter)
    assert keys == models.FacetKeys(id="1", parameters=("a",))


@pytest.mark.parametrize("name", sorted({f.name for f in attrs.fields(Run)} - {"id", *REQUIRED}))
def test_null_stands_for_the_default(converter: Converter, name: str) -> None:
    """Null and absent mean the same for all that may be absent."""
    assert decode(body(**{name: None}), Run, converter) == decode(body(), Run, converter)


@pytest.mark.parametrize("model", RESOURCE_TYPES)
def test_nulls_of_every_resource(converter: Converter, model: Any) -> None:
    """Each field of a resource that has a default may be null, alone and together with others."""
    sample = next((sample for sample in SAMPLES if type(sample) is model), None)
    required = to_dict(sample or from_dict(resource(), Run))
    optional = [
        field.name
        for field in attrs.fields(model)
        if field.name != "id" and field.default is not attrs.NOTHING
    ]
    absent = {name: each for name, each in required["attributes"].items() if name not in optional}
    expected = from_dict(required | {"attributes": absent}, model)
    for some in (*([name] for name in optional), optional):
        nulls = required | {"attributes": absent | dict.fromkeys(some)}
        raw = json.dumps({"data": nulls}).encode()
        assert decode(raw, model, converter) == expected
        assert from_dict(nulls, model, converter=converter) == expected


@pytest.mark.parametrize("digits", range(7))
def test_fractions_of_a_second(converter: Converter, digits: int) -> None:
    """A time may have 0 to 6 fraction digits."""
    fraction = "123456"[:digits]
    text = f"2026-05-15T02:57:03{'.' * bool(digits)}{fraction}Z"
    micros = int(fraction.ljust(6, "0"))
    expected = datetime(2026, 5, 15, 2, 57, 3, micros, UTC)
    assert decode(body(created_at=text), Run, converter).created_at == expected


def test_integers_for_floats(converter: Converter) -> None:
    """A whole number in a float's place becomes a float."""
    metric = {"key": "loss", "count": 2, "latest": 0, "max": 31781629558784}
    run = decode(body(duration=7, metric_summaries=[metric]), Run, converter)
    assert run.metric_summaries == (MetricSummary("loss", 2, latest=0.0, max=31781629558784.0),)
    assert (run.duration, run.metric_summaries[0].stddev) == (7.0, None)
    assert {type(run.duration), type(run.metric_summaries[0].max)} == {float}


def test_what_is_new_is_dropped(converter: Converter) -> None:
    """Fields that this version does not know change nothing, wherever they stand."""
    data = resource(new={"a": [1]}, params=[{"key": "a", "value": "b", "new": 1}])
    data["relationships"] = {}
    whole = json.dumps({"data": data, "included": [], "jsonapi": None}).encode()
    assert decode(whole, Run, converter).params == (Param("a", "b"),)


def test_an_id_within_the_attributes_is_not_the_id(converter: Converter) -> None:
    """Only the resource's own id counts."""
    assert decode(body("7", id="9"), Run, converter, expects=7).id == 7
    without = {"data": {"attributes": REQUIRED | {"id": 9}}}
    assert failure(lambda: decode(json.dumps(without).encode(), Run, converter)).path == "$.data.id"


def test_unknown_statuses_survive(converter: Converter) -> None:
    """A status of tomorrow is decoded, copied, pickled and sent on as itself."""
    run = decode(body(status="resting"), Run, converter)
    assert run.status == "resting"
    assert isinstance(run.status, RunStatus)
    for twin in (pickle.loads(pickle.dumps(run)), copy.deepcopy(run), copy.copy(run)):
        assert twin == run
    assert to_dict(run)["attributes"]["status"] == "resting"
    assert from_json(to_json(run), Run) == run


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_know(converter: Converter, text: str) -> None:
    """NaN and Infinity are taken as floats, alone and in a page, and written again."""
    number = float(text)
    metric = {"key": "loss", "count": 1, "latest": number}
    raw = body(metric_summaries=[metric], duration=number)
    page = b'{"data":[' + raw[len('{"data": ') : -1] + b"]}"
    runs = [decode(raw, Run, converter), *open_page(page, converter).items]
    runs.append(from_json(to_json(runs[0]), Run))
    for run in runs:
        for found in (run.duration, run.metric_summaries[0].latest):
            assert found == number or (math.isnan(found) and math.isnan(number))


def test_text_of_any_kind(converter: Converter) -> None:
    """Dotted keys, quotes, newlines and NaN within text arrive untouched."""
    value = "{'a': \"b\\n\", 'c': NaN}\n\0é😀" * 60
    run = decode(body(params=[{"key": "mlflow.runName", "value": value}]), Run, converter)
    assert run.param("mlflow.runName") == value
    assert from_json(to_json(run), Run) == run


@pytest.mark.parametrize(
    "value", ["adamw", "a },{ b", ',{"key":"x"', "},{", "[{", "é", "</", "a\0b"]
)
def test_params_however_they_are_written(converter: Converter, value: str) -> None:
    """Params and tags are the same with white space between them or none, whatever they hold."""
    pairs = [{"key": f"k{n}", "value": value} for n in range(3)]
    spaced = body(params=pairs, tags=pairs)
    compact = json.dumps(json.loads(spaced), separators=(",", ":"), ensure_ascii=False).encode()
    for raw in (compact, spaced):
        run = decode(raw, Run, converter)
        assert run.params == tuple(Param(**pair) for pair in pairs)
        assert run.tags == tuple(Tag(**pair) for pair in pairs)


@pytest.mark.parametrize("value", ["7", 7, "007"])
def test_own_ids(converter: Converter, value: object) -> None:
    """A resource's id is digits in a string, and a plain number is taken too."""
    assert decode(body(value), Run, converter, expects=7).id == 7


@pytest.mark.parametrize(("value", "own_id"), [(None, ""), ("a/b", "a/b"), (7, "7")])
def test_ids_that_nothing_depends_on(converter: Converter, value: object, own_id: str) -> None:
    """The id of a facet or of artifacts is any text, and may be null or absent."""
    data = {"id": value, "attributes": {}}
    assert decode(json.dumps({"data": data}).encode(), models.FacetKeys, converter).id == own_id
    if value is None:
        assert from_dict({"attributes": {}}, models.FacetKeys, converter=converter).id == ""
    wrong = json.dumps({"data": {"id": [7], "attributes": {}}}).encode()
    assert failure(lambda: decode(wrong, models.FacetKeys, converter)).path == "$.data.id"


def test_times_of_other_zones(converter: Converter) -> None:
    """A time with an offset is the same moment."""
    run = decode(body(created_at="2026-05-15T14:00:00+02:00"), Run, converter)
    assert run.created_at == NOON
    assert run.created_at - NOON == timedelta(0)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_every_resource_goes_out_and_in(converter: Converter, sample: Any) -> None:
    """Each resource has the API's form and comes back equal, by either way."""
    written = to_dict(sample, converter=converter)
    assert set(written) == {"id", "type", "attributes"}
    assert written["id"] == str(sample.id)
    assert written == to_dict(sample) == json.loads(to_json(sample, converter=converter))
    assert from_dict(written, type(sample), converter=converter) == sample
    assert decode(json.dumps({"data": written}).encode(), type(sample), converter) == sample
    assert from_json(to_json(sample).encode(), type(sample), converter=converter) == sample


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_facets_keep_odd_numbers(converter: Converter, number: float) -> None:
    """Bounds of a facet that JSON does not know are written and read, as those of a run are."""
    ranges = (models.MetricStatRange("max", number, 1.0),)
    values = models.FacetValues(
        numeric_range=models.NumericRange(number, None), metric_stat_ranges=ranges
    )
    written = to_json(values, converter=converter)
    back = from_json(written, models.FacetValues, converter=converter)
    assert repr(back) == repr(values)


def test_types_of_resources() -> None:
    """Each resource is written with the API's type."""
    types = ["projects", "artifacts", "project_files", "facet_keys", "facet_values"]
    assert [to_dict(sample)["type"] for sample in SAMPLES] == types
    assert to_dict(from_dict(resource(), Run))["type"] == "runs"


def test_only_resources_are_written() -> None:
    """A part of a resource cannot be written or read by itself."""
    with pytest.raises(TypeError, match="this is Param"):
        to_dict(Param("a", "b"))
    with pytest.raises(TypeError, match="this is Param"):
        from_dict({}, Param)
    with pytest.raises(TypeError, match="this is dict"):
        to_json({})


def test_memory_of_kept_runs() -> None:
    """A kept run of production size, whose values all differ, takes four times its JSON."""
    converter, count = make_converter(), 100
    bodies = [production_run(number) for number in range(count)]
    assert 7_500 < len(bodies[0]) < 11_000
    decode(production_run(count), Run, converter)
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
    assert (size_after - size) / count < 35_000
    assert (objects_after - objects) / count < 145


def production_run(number: int) -> bytes:
    """A run of 113 params and 22 metrics."""
    params = [{"key": f"model.p{n}", "value": f"value-{number:05}-{n}"} for n in range(113)]
    numbers = ("latest", "max", "mean", "min")
    metrics: list[dict[str, Any]] = [
        {"key": f"metric_{n}", "count": 10_000, "first_step": 0, "last_step": 9_999 + number}
        | dict.fromkeys(numbers, number + n + 0.123)
        for n in range(22)
    ]
    return body(str(number), params=params, metric_summaries=metrics)


text = st.text(st.characters(codec="utf-8"), max_size=20)


maybe = st.none() | st.datetimes(
    min_value=datetime(1, 1, 2),  # noqa: DTZ001
    max_value=datetime(9999, 12, 30),  # noqa: DTZ001
    timezones=st.just(UTC),
)


number = st.none() | st.floats(allow_nan=False)


step = st.none() | st.integers(-(2**63), 2**63 - 1)


runs = st.builds(
    Run,
    id=st.integers(0, 2**63 - 1),
    name=text,
    project_id=st.integers(0, 2**63 - 1),
    status=st.sampled_from(RunStatus) | text.map(RunStatus),
    created_at=maybe.filter(bool),
    updated_at=maybe,
    completed_at=maybe,
    duration=number,
    owner_id=st.none() | text,
    is_pinned=st.booleans(),
    params=st.lists(st.builds(Param, text, text), max_size=3).map(tuple),
    tags=st.lists(st.builds(Tag, text, text), max_size=3).map(tuple),
    metric_summaries=st.lists(
        st.builds(MetricSummary, text, st.integers(0, 2**63 - 1), step, step, number, number),
        max_size=3,
    ).map(tuple),
)


HOOKED = hooked()


@given(runs)
def test_round_trip(run: Run) -> None:
    """Any run is equal to itself after JSON, by either way."""
    written = to_json(run)
    assert from_json(written, Run) == run
    assert from_json(written, Run, converter=HOOKED) == run
    assert from_json(to_json(run, converter=HOOKED), Run) == run
    assert "\n" not in written
