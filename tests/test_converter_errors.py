"""What the API does not promise is a DecodeError that tells where."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from payloads import REQUIRED, body, failure, hooked, open_page, resource

from modellab_async import make_converter
from modellab_async.converter import Converter, from_dict, from_json
from modellab_async.documents import decode
from modellab_async.errors import DecodeError
from modellab_async.models import Run
from modellab_async.parsing import MAX_DEPTH

CONVERTERS = (make_converter(), hooked())
text = st.text(st.characters(codec="utf-8"), max_size=20)


@pytest.mark.parametrize("name", REQUIRED)
def test_required_fields(converter: Converter, name: str) -> None:
    """A required field that is null or absent is an error that names it."""
    error = failure(lambda: decode(body(**{name: None}), Run, converter))
    assert (error.path, error.kind) == (f"$.data.attributes.{name}", "final")
    absent = resource()
    del absent["attributes"][name]
    error = failure(lambda: decode(json.dumps({"data": absent}).encode(), Run, converter))
    assert name in str(error)
    assert error.path.startswith("$.data.attributes")


@pytest.mark.parametrize(
    "value", [None, True, -1, 1.5, "", "-1", "1/../2", "٣", "²", "7 ", "9" * 20, [], {}]
)
def test_wrong_ids(converter: Converter, value: object) -> None:
    """What is no id is an error at the id."""
    assert failure(lambda: decode(body(value), Run, converter)).path == "$.data.id"


def test_an_answer_about_another_id(converter: Converter) -> None:
    """A response about another resource than the one requested is refused as mismatched."""
    error = failure(lambda: decode(body("8"), Run, converter, expects=7))
    assert (error.resource_id, error.path, error.kind) == (7, "$.data.id", "mismatched")
    assert "Expected id 7, got 8" in str(error)


@pytest.mark.parametrize("found", ["projects", "run", "", 7, ["runs"]])
def test_a_resource_of_another_type(converter: Converter, found: object) -> None:
    """A resource of another type than the model's is refused as mismatched, also in a page."""
    data = resource() | {"type": found}
    error = failure(lambda: decode(json.dumps({"data": data}).encode(), Run, converter, expects=7))
    assert (error.resource_id, error.path, error.kind) == (7, "$.data.type", "mismatched")
    assert "Expected the type 'runs'" in str(error)
    wrong, right = open_page(json.dumps({"data": [data, resource("8")]}).encode(), converter).items
    assert (wrong.path, wrong.kind, right.id) == ("$.data[0].type", "mismatched", 8)


def test_a_resource_without_a_type(converter: Converter) -> None:
    """The type may be absent or null."""
    data = resource() | {"type": None}
    assert decode(json.dumps({"data": data}).encode(), Run, converter).id == 7
    del data["type"]
    assert decode(json.dumps({"data": data}).encode(), Run, converter).id == 7


@pytest.mark.parametrize(
    ("attributes", "path"),
    [
        ({"name": 7}, "name"),
        ({"status": 7}, "status"),
        ({"status": ["completed"]}, "status"),
        ({"project_id": "2387"}, "project_id"),
        ({"project_id": 1.5}, "project_id"),
        ({"project_id": True}, "project_id"),
        ({"is_pinned": "false"}, "is_pinned"),
        ({"is_pinned": 0}, "is_pinned"),
        ({"duration": "1"}, "duration"),
        ({"duration": True}, "duration"),
        ({"created_at": 1}, "created_at"),
        ({"created_at": "yesterday"}, "created_at"),
        ({"created_at": "2026-05-15T02:57:03"}, "created_at"),
        ({"params": {}}, "params"),
        ({"params": "ab"}, "params"),
        ({"params": 7}, "params"),
        ({"tags": 7}, "tags"),
        ({"params": [{"key": "a", "value": "b"}, {"key": "a", "value": 1}]}, "params[1].value"),
        ({"tags": [{"key": None, "value": "b"}]}, "tags[0].key"),
        ({"metric_summaries": [{"key": "a", "count": 1.5}]}, "metric_summaries[0].count"),
        ({"metric_summaries": [{"key": "a", "count": 1, "max": ""}]}, "metric_summaries[0].max"),
    ],
)
def test_wrong_types(converter: Converter, attributes: dict[str, Any], path: str) -> None:
    """A value of the wrong type is an error that names its place and the id asked for."""
    error = failure(lambda: decode(body(**attributes), Run, converter, expects=7))
    assert (error.path, error.resource_id) == (f"$.data.attributes.{path}", 7)
    assert f"at {error.path}" in str(error)
    assert "id 7" in str(error)
    assert error.kind == "final"


@pytest.mark.parametrize(
    "raw",
    [
        b"[]",
        b"{}",
        b'{"data":7}',
        b'{"data":{}}',
        b'{"data":{"id":"7","attributes":null}}',
        b'{"data":{"id":"7","attributes":[]}}',
        b'{"errors":["no"]}',
        body().replace(b"resnet", b"res\xffnet"),
        body().replace(b"resnet", b"res\xed\xa0\x80net"),
        body().decode().encode("utf-16"),
        b"\xef\xbb\xbf" + body(),
        body() + body(),
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"data":' * 20_000 + b"}" * 20_000,
        body(new=0).replace(b'"new": 0', b'"new": ' + b"[" * 20_000 + b"]" * 20_000),
        body(new=0).replace(b'"new": 0', b'"new": [NaN, ' + b"[" * 20_000 + b"]" * 20_001),
        body(project_id=0).replace(b'"project_id": 0', b'"project_id": ' + b"9" * 5_000),
    ],
    ids=lambda raw: raw[:20].decode("latin-1"),
)
def test_what_the_api_never_promised(converter: Converter, raw: bytes) -> None:
    """Foreign, ill-encoded, huge and deeply nested answers are one kind of error, told briefly."""
    for action in (lambda: decode(raw, Run, converter), lambda: open_page(raw, converter)):
        error = failure(action)
        assert error.path.startswith("$")
        assert len(str(error)) < 400


def nested(depth: int) -> bytes:
    """JSON of that many levels, half of them objects, with brackets in its strings."""
    return b'["]",{"}":' * (depth // 2) + b"0" + b"}]" * (depth // 2)


@pytest.mark.parametrize("place", ["attributes", "resource", "document"])
@pytest.mark.parametrize(("depth", "decodes"), [(400, True), (MAX_DEPTH + 2, False)])
def test_depth_of_what_is_new(converter: Converter, place: str, depth: int, decodes: bool) -> None:
    """Fields that this version does not know may be nested, up to a limit; all strings are text."""
    data: dict[str, Any] = resource("7", params=[{"key": "[", "value": "{[" * 11_000}] * 2)
    one, page = {"data": data}, {"data": [data]}
    for part in {"attributes": [data["attributes"]], "resource": [data]}.get(place, [one, page]):
        part["new"] = "_"
    for document, read in ((one, partial(decode, model=Run)), (page, open_page)):
        raw = json.dumps(document).encode().replace(b'"_"', nested(depth))
        result = attempt(partial(read, raw, converter=converter))
        if read is open_page and place != "document":
            [result] = result.items
        assert isinstance(result, DecodeError | None) is not decodes


def test_many_shallow_brackets(converter: Converter) -> None:
    """Breadth is no depth."""
    pairs = [{"key": "lr", "value": '"]}'}] * (MAX_DEPTH + 1)
    assert len(decode(body(params=pairs), Run, converter).params) == MAX_DEPTH + 1


@pytest.mark.parametrize(
    "raw", [b"", b" \n", b"<html>502</html>", b"upstream error", b"\x1f\x8b\x08"]
)
def test_what_is_not_from_the_api(converter: Converter, raw: bytes) -> None:
    """An empty or HTML body looks cut short, so that another attempt is worth it."""
    assert failure(lambda: decode(raw, Run, converter)).kind == "unreadable"
    assert failure(lambda: open_page(raw, converter)).kind == "unreadable"


@pytest.mark.parametrize("raw", [b"null", b"7", b'"x"', b"[]", b"{}", b'{"data":null}'])
def test_both_ways_agree_on_what_looks_cut(raw: bytes) -> None:
    """Whether an answer is asked for again does not depend on the converter."""
    by_either = {
        failure(partial(decode, raw, Run, converter)).kind == "unreadable"
        for converter in CONVERTERS
    }
    assert by_either == {not raw.endswith((b"}", b"]"))}


@pytest.mark.parametrize("duration", [1.5, math.nan])
def test_a_body_cut_anywhere(converter: Converter, duration: float) -> None:
    """Each beginning of a body, of a resource or a page, is known to be cut short."""
    whole = body(
        duration=duration,
        name="é}]",
        params=[{"key": "a", "value": 'q"\\n'}],
        metric_summaries=[{"key": "loss", "count": 1, "max": None}],
    )
    page = b'{"data": [' + whole[len('{"data": ') : -1] + b'], "meta": {"page": {"number": 0}}}'
    assert decode(whole, Run, converter).name == "é}]"
    assert open_page(page, converter).numbers.number == 0
    for cut in range(len(whole)):
        assert failure(partial(decode, whole[:cut], Run, converter)).kind == "unreadable", whole[
            :cut
        ]
    for cut in range(len(page)):
        assert failure(partial(open_page, page[:cut], converter)).kind == "unreadable", page[:cut]


def test_text_that_is_no_unicode(converter: Converter) -> None:
    """Text that UTF-8 cannot carry is a DecodeError too."""
    written = json.dumps(resource(name="\ud800"), ensure_ascii=False)
    failure(lambda: from_json(written, Run, converter=converter))


@pytest.mark.parametrize("value", [None, 7, "text", [], {}, {"attributes": None}, resource(None)])
def test_from_dict_of_something_else(converter: Converter, value: Any) -> None:
    """What is no resource is a DecodeError, whatever it is."""
    failure(lambda: from_dict(value, Run, converter=converter))


@given(
    st.binary(max_size=60)
    | st.recursive(st.none() | text, st.lists).map(json.dumps).map(str.encode)
)
def test_no_body_breaks_a_client(raw: bytes) -> None:
    """Whatever a body holds, decoding it raises nothing but a DecodeError."""
    for converter in CONVERTERS:
        failure(partial(decode, raw, Run, converter))


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["7", "completed", "2026-05-15T02:57:03Z", "\ud800"])
    | text,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["key", "value", "count", "id", "max"]), inner)
    ),
    max_leaves=6,
)


PLACES: dict[str, Callable[[dict[str, Any], Any], object]] = {
    "field": lambda data, value: data["attributes"].update(value if type(value) is dict else {}),
    "name": lambda data, value: data["attributes"].update(name=value),
    "time": lambda data, value: data["attributes"].update(updated_at=value),
    "params": lambda data, value: data["attributes"].update(params=value),
    "tag": lambda data, value: data["attributes"].update(tags=[value]),
    "metric": lambda data, value: data["attributes"].update(
        metric_summaries=[{"key": "loss", "count": 1, "max": value}]
    ),
    "number": lambda data, value: data["attributes"].update(project_id=value),
    "id": lambda data, value: data.update(id=value),
    "attributes": lambda data, value: data.update(attributes=value),
}


def attempt(action: Callable[[], Any]) -> Any:
    """What an action gives, or None where that is a DecodeError."""
    try:
        return action()
    except DecodeError:
        return None


@given(st.sampled_from(sorted(PLACES)), anything)
def test_anything_anywhere(place: str, value: Any) -> None:
    """Whatever stands in a field's place, every way gives the same run or a DecodeError."""
    data = resource(params=[{"key": "lr", "value": "0.1"}])
    PLACES[place](data, value)
    raw = json.dumps({"data": data}).encode()
    page = json.dumps({"data": [data]}).encode()
    found = [attempt(partial(decode, raw, Run, converter)) for converter in CONVERTERS]
    for converter in CONVERTERS:
        decoded = attempt(partial(open_page, page, converter))
        listed = decoded and attempt(decoded.page)
        found.append(listed and listed.items[0])
    if b"\\ud800" not in raw:  # on half a surrogate pair, parsers differ
        assert len({run and str(attrs.asdict(run)) for run in found}) == 1


def test_an_error_keeps_no_body() -> None:
    """It refers to no error whose frames hold the response, however many are kept."""
    error = failure(lambda: decode(body(duration="long"), Run, make_converter()))
    assert error.__context__ is None
    error = failure(lambda: decode(b'{"data":7', Run, make_converter()))
    assert error.__context__ is None
