"""Hooks and options of a user's own converter."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import attrs
import cattrs
import pytest
from cattrs.gen import make_dict_structure_fn, override
from cattrs.preconf.json import make_converter as json_converter
from cattrs.preconf.msgspec import make_converter as msgspec_converter
from payloads import REQUIRED, body, failure, open_page, resource, strict

from modellab_async import (
    Converter,
    DecodeError,
    configure_converter,
    from_dict,
    from_json,
    make_converter,
    models,
    to_dict,
)
from modellab_async.documents import decode
from modellab_async.models import MetricSummary, Param, Run, RunStatus, Tag

NOON = datetime(2026, 5, 15, 12, tzinfo=UTC)
PAIRS = [{"key": "lr", "value": "0.1"}]
METRICS = [{"key": "loss", "count": 3}]
METRIC = MetricSummary("-", 1)


def upper(value: Any, _: object) -> Any:
    return value.upper()


def append(suffix: str) -> Callable[[str, object], str]:
    return lambda value, _: value + suffix


def read_both(converter: cattrs.Converter, **attributes: Any) -> Run:
    """A run that is the same from JSON and from a dict."""
    run = decode(body(**attributes), Run, converter)
    assert run == from_dict(resource(**attributes), Run, converter=converter)
    return run


def test_the_converter_is_cattrs_own() -> None:
    """`make_converter` returns nothing but a `cattrs.Converter`, which is exported too."""
    assert type(make_converter()) is cattrs.Converter is Converter


def test_the_error_of_a_hook_is_told_and_kept() -> None:
    """A KeyError of a user's hook is not taken for a missing field, and is the error's cause."""

    def fail(_value: object, _kind: object) -> str:
        raise KeyError("mine")

    converter = make_converter()
    converter.register_structure_hook(str, fail)
    [error] = open_page(b'{"data":[%s]}' % body()[len('{"data": ') : -1], converter).items
    assert "KeyError: 'mine', at $.data[0].attributes." in str(error)
    assert error.__cause__ is not None
    with pytest.raises(DecodeError, match=r"KeyError: 'mine', at \$\.data\.attributes") as caught:
        decode(body(), Run, converter)
    assert caught.value.__cause__ is not None


def test_hooks_are_honoured() -> None:
    """A user's hook for text is called for all text, of its converter only, but not for enums."""
    converter = make_converter()
    converter.register_structure_hook(str, upper)
    run = read_both(converter, params=[{"key": "lr", "value": "a"}])
    assert (run.name, run.params, run.status) == ("RESNET", (Param("LR", "A"),), "completed")
    assert read_both(make_converter()).name == "resnet"


CLASS_HOOKS: list[Any] = [
    pytest.param(kind, hook, field, value, id=kind.__name__)
    for kind, hook, field, value in (
        (Param, lambda value, _: Param(value["key"], "-"), "params", (Param("lr", "-"),)),
        (datetime, lambda *_: NOON, "created_at", NOON),
        (float, lambda value, _: round(value, 1), "duration", 1.2),
        (int, lambda value, _: -int(value), "project_id", -2387),
        (bool, lambda value, _: not value, "is_pinned", False),
        (RunStatus, lambda *_: RunStatus.PAUSED, "status", RunStatus.PAUSED),
        (Tag, lambda value, _: Tag("-", value["value"]), "tags", (Tag("-", "0.1"),)),
        (MetricSummary, lambda *_: METRIC, "metric_summaries", (METRIC,)),
    )
]
PREDICATE_HOOKS: list[Any] = [
    *(CLASS_HOOKS[0], CLASS_HOOKS[1], CLASS_HOOKS[6], CLASS_HOOKS[7]),
    pytest.param(tuple[Param, ...], lambda *_: (), "params", (), id="params"),
    pytest.param(datetime | None, lambda *_: NOON, "started_at", NOON, id="optional"),
]
"""cattrs asks its own hooks for basic classes before any predicate."""

ATTRIBUTES: Any = {
    "params": PAIRS,
    "tags": PAIRS,
    "duration": 1.234,
    "is_pinned": True,
    "started_at": "2026-05-15T02:57:03Z",
    "metric_summaries": METRICS,
}


@pytest.mark.parametrize(("kind", "hook", "field", "value"), CLASS_HOOKS)
def test_a_hook_for_any_class(kind: Any, hook: Any, field: str, value: object) -> None:
    """A hook for a field's class, a part's or a basic one, decides about that field.

    It does not matter whether the converter is configured before or afterwards.
    """
    assert getattr(read_both(make_converter(), **ATTRIBUTES), field) != value
    converter = make_converter()
    converter.register_structure_hook(kind, hook)
    assert getattr(read_both(converter, **ATTRIBUTES), field) == value
    converter = cattrs.Converter()
    converter.register_structure_hook(kind, hook)
    configure_converter(converter)
    assert getattr(read_both(converter, **ATTRIBUTES), field) == value


@pytest.mark.parametrize(("kind", "hook", "field", "value"), PREDICATE_HOOKS)
def test_a_hook_by_predicate(kind: Any, hook: Any, field: str, value: object) -> None:
    """A hook, or a hook factory, whose predicate holds for a field's type decides about it."""
    converter = make_converter()
    converter.register_structure_hook_func(lambda each: each == kind, hook)
    assert getattr(read_both(converter, **ATTRIBUTES), field) == value
    converter = make_converter()
    converter.register_structure_hook_factory(lambda each: each == kind, lambda _: hook)
    assert getattr(read_both(converter, **ATTRIBUTES), field) == value


def test_a_hook_registered_late_counts() -> None:
    """A hook counts also after the converter has been used."""
    converter = make_converter()
    assert read_both(converter).name == "resnet"
    for suffix in ("!", "?"):
        converter.register_structure_hook(str, append(suffix))
        assert read_both(converter).name == "resnet" + suffix


def test_a_hook_that_cattrs_generates() -> None:
    """A part can be renamed or restricted by cattrs' own generators."""
    converter = make_converter()
    converter.register_structure_hook(
        Param, make_dict_structure_fn(Param, converter, key=override(rename="name"))
    )
    data = resource(params=[{"name": "lr", "value": "0.1"}])
    assert from_dict(data, Run, converter=converter).params == (Param("lr", "0.1"),)
    failure(lambda: from_dict(resource(params=PAIRS), Run, converter=converter))


def test_hooks_for_writing_are_honoured() -> None:
    """A user's hook for writing a type is called; what has none is written as before."""
    converter = make_converter()
    converter.register_unstructure_hook(datetime, lambda moment: moment.year)
    run = from_dict(resource(started_at="2025-05-15T02:57:03Z"), Run)
    attributes = to_dict(run, converter=converter)["attributes"]
    assert (attributes["created_at"], attributes["started_at"]) == (2026, 2025)
    assert attributes["status"] == "completed"
    assert to_dict(run)["attributes"]["created_at"].startswith("2026-05-15T02:57:03.079")
    converter.register_unstructure_hook(Param, lambda param: [param.key, param.value])
    run = attrs.evolve(run, params=(Param("lr", "0.1"),))
    assert to_dict(run, converter=converter)["attributes"]["params"] == [["lr", "0.1"]]


def test_a_hook_that_raises() -> None:
    """What a user's hook raises becomes a DecodeError that names the place and the cause."""

    def refuse(value: object, _: object) -> float:
        raise ZeroDivisionError("no such number")

    converter = make_converter()
    converter.register_structure_hook(float, refuse)
    error = failure(lambda: decode(body(duration=1.5), Run, converter, expects=7))
    assert (error.path, error.resource_id) == ("$.data.attributes.duration", 7)
    assert error.__cause__ is not None
    metric = METRICS[0] | {"max": 1.5}
    error = failure(lambda: decode(body(metric_summaries=[metric]), Run, converter))
    assert error.path == "$.data.attributes.metric_summaries[0].max"


def test_a_hook_for_a_whole_model() -> None:
    """A hook for a model replaces the package's, and receives the resource as a dict."""

    def only_id(value: Any, _: object) -> Any:
        return {"9": None, "8": 1 // 0 if value["id"] == "8" else 0}.get(value["id"], value["id"])

    converter: Any = make_converter()
    converter.register_structure_hook(Run, only_id)
    assert from_dict(resource(), Run, converter=converter) == "7"  # type: ignore[comparison-overlap]
    assert from_json(json.dumps(resource()), Run, converter=converter) == "7"  # type: ignore[comparison-overlap]
    assert decode(body(), Run, converter, expects=7) == "7"  # type: ignore[comparison-overlap]
    page = json.dumps({"data": [resource("7"), resource("8"), resource("6")]}).encode()
    first, bad, last = open_page(page, converter).items
    assert (first, last) == ("7", "6")
    assert (bad.resource_id, bad.path) == (8, "$.data[1]")
    assert failure(lambda: decode(body("8"), Run, converter)).path == "$.data"


class Own(cattrs.Converter):
    """A converter class of a user's own."""


@pytest.mark.parametrize(
    "make",
    [cattrs.Converter, Own, json_converter, msgspec_converter],
    ids=["plain", "subclass", "json", "msgspec"],
)
def test_any_converter_can_be_configured(make: Callable[[], cattrs.Converter]) -> None:
    """Converters of cattrs, preconfigured ones too, read and write models; twice is as once."""
    converter = make()
    for _ in range(2):
        configure_converter(converter)
        run = read_both(converter, params=PAIRS, metric_summaries=METRICS, tags=None)
        assert run == from_dict(resource(params=PAIRS, metric_summaries=METRICS), Run)
        assert to_dict(run, converter=converter) == to_dict(run)
        failure(lambda: from_dict(resource(name=7), Run, converter=converter))
        failure(lambda: decode(body(created_at="2026-05-15T02:57:03"), Run, converter))


def test_other_classes_are_left_alone() -> None:
    """Classes of the user's own are structured as without this package; models within them, too."""

    @attrs.frozen
    class Trial:
        score: int
        run: Run

    converter = make_converter()
    trial = converter.structure({"score": "7", "run": resource()}, Trial)
    assert (trial.score, trial.run.name) == (7, "resnet")
    assert converter.structure(converter.unstructure(trial), Trial) == trial


def test_converters_structure_json_and_dicts() -> None:
    """A converter by itself reads a resource as JSON, or as a dict."""
    converter = make_converter()
    run = converter.structure(resource(), Run)
    assert converter.structure(json.dumps(resource()).encode(), Run) == run
    converter.register_structure_hook(str, strict)
    assert converter.structure(json.dumps(resource()).encode(), Run) == run


def test_a_subclass_of_a_model() -> None:
    """A user's subclass is read with the fields that it adds, and written as the same resource."""

    @attrs.frozen(kw_only=True)
    class Graded(Run):
        grade: str = attrs.field(default="-", validator=attrs.validators.max_len(3))
        notes: list[str] = attrs.field(factory=list)

    converter = make_converter()
    run = from_dict(resource(grade="A", params=PAIRS), Graded, converter=converter)
    assert (type(run), run.grade, run.notes, run.param("lr")) == (Graded, "A", [], "0.1")
    assert decode(body(grade="A", params=PAIRS), Graded, converter) == run
    assert from_dict(resource(notes=None, grade=None), Graded).notes == []
    [listed] = open_page(b'{"data":[%s]}' % json.dumps(resource()).encode(), converter).items
    assert type(listed) is Run
    written = to_dict(run, converter=converter)
    assert (written["type"], written["attributes"]["grade"]) == ("runs", "A")
    assert from_dict(written, Graded, converter=converter) == run
    assert "grade" in str(failure(lambda: from_dict(resource(grade="long"), Graded)))


def test_options_of_cattrs() -> None:
    """Options that cattrs takes are taken."""
    brief = cattrs.Converter(detailed_validation=False)
    configure_converter(brief)
    assert read_both(brief) == from_dict(resource(), Run)
    failure(lambda: from_dict(resource(name=7), Run, converter=brief))
    no_more = make_converter().copy(forbid_extra_keys=True)
    assert "new" in str(failure(lambda: from_dict(resource(new=1), Run, converter=no_more)))
    assert "new" in str(failure(lambda: decode(body(new=1), Run, no_more)))
    short = cattrs.Converter(omit_if_default=True)
    configure_converter(short)
    written = to_dict(from_dict(resource(), Run), converter=short)
    assert set(written["attributes"]) == set(REQUIRED)
    assert from_dict(written, Run) == from_dict(resource(), Run)
    assert to_dict(models.FacetKeys(), converter=short)["id"] == ""


def test_copies_go_their_own_way() -> None:
    """A copy has the hooks of its original, and what is registered on one is not on the other."""
    original = make_converter()
    original.register_structure_hook(str, upper)
    twin = original.copy()
    assert read_both(twin).name == "RESNET"
    twin.register_structure_hook(str, lambda value, _: value + "!")
    assert read_both(twin).name == "resnet!"
    assert read_both(original).name == "RESNET"
    plain = make_converter()
    plain.copy().register_structure_hook(str, upper)
    assert read_both(plain).name == "resnet"
