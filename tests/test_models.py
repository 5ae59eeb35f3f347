"""The models: plain, frozen, slotted values; and a status that may be new to this version."""

from __future__ import annotations

import collections.abc
import contextlib
import copy
import functools
import gc
import inspect
import json
import pickle
import pydoc
import weakref
from datetime import UTC, datetime
from typing import Any, Generic, get_type_hints
from unittest import mock

import attrs
import cattrs
import pytest

from modellab_async import Comparison, NotFoundError, Outcome, models
from modellab_async.models import (
    ROOT_RUNS,
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
    ProjectFilter,
    Run,
    RunArtifacts,
    RunFile,
    RunFilter,
    RunStatus,
    Tag,
)
from modellab_async.pydantic_schema import PydanticModel
from modellab_async.run_list import RunList

NOON = datetime(2026, 5, 15, 12, tzinfo=UTC)
REQUIRED: dict[str, Any] = {
    "id": 70158,
    "name": "resnet",
    "project_id": 2387,
    "status": RunStatus.COMPLETED,
    "created_at": NOON,
}
RUN = Run(
    **REQUIRED,
    params=(Param("lr", "0.1"), Param("seed", "1"), Param("lr", "0.2")),
    tags=(Tag("team", "ranking"), Tag("team", "search")),
    metric_summaries=(MetricSummary("loss", 3, latest=0.5), MetricSummary("loss", 4)),
)
SAMPLES = [
    Param("lr", "0.1"),
    Tag("team", "ranking"),
    MetricSummary("loss", 3, 0, 2, 0.1, 0.3, 0.2, 0.1, 0.05),
    RUN,
    attrs.evolve(RUN, status=RunStatus("resting")),
    Project(id=2387, name="vision", created_at=NOON, tags=(Tag("a", "b"),)),
    RunFile("model/", is_dir=True),
    RunArtifacts(id="1", path_in_project="70158", files=(RunFile("a.bin", file_size=7),)),
    ProjectFile("a.bin", "70158/a.bin", NOON, 7),
    ProjectArtifacts(id="1", files=(ProjectFile("a.bin", "70158/a.bin"),)),
    FacetKeys(id="1", metrics=("loss",), parameters=("lr",), tags=("team",)),
    NumericRange(0.0, 1.0),
    MetricStatRange("max", 0.0, 1.0),
    FacetValues(
        id="1",
        facet_name="lr",
        facet_type="parameter",
        values=("0.1",),
        numeric_range=NumericRange(0.1, 0.1),
        metric_stat_ranges=(MetricStatRange("max"),),
    ),
    Page(items=(RUN,), total=1, number=0),
]
FILTERS = [
    RunFilter(ids=(1, "2"), tags={"team": "ranking"}, params={"lr": "<0.1"}, parent_run_id=7),
    RunFilter(parent_run_id=ROOT_RUNS, status="resting"),
    ProjectFilter(text="vision", tags={"team": "ranking"}),
]


def name(value: object) -> str:
    return type(value).__name__


def test_every_model_is_sampled() -> None:
    """The tests below cover each class that the module defines."""
    known: set[Any] = {
        cls for cls in vars(models).values() if isinstance(cls, type) and attrs.has(cls)
    }
    assert known == {type(sample) for sample in [*SAMPLES, *FILTERS]}


@pytest.mark.parametrize("sample", SAMPLES, ids=name)
def test_models_are_frozen_and_slotted(sample: Any) -> None:
    """No field can be changed or added, and an instance has no dict."""
    for field in attrs.fields(type(sample)):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(sample, field.name, None)
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            delattr(sample, field.name)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        sample.extra = 1
    assert not hasattr(sample, "__dict__")


@pytest.mark.parametrize("sample", SAMPLES, ids=name)
def test_models_are_plain_attrs_classes(sample: Any) -> None:
    """Attrs tells the fields of a model with their types, and it has no base but its own."""
    model = type(sample)
    standard = {*collections.abc.Sequence.__mro__, Generic, PydanticModel}
    assert [base for base in model.__mro__ if base not in {model, *standard}] == []
    hints = get_type_hints(model)
    assert {field.name: field.type for field in attrs.fields(model)} == hints
    assert list(inspect.signature(model).parameters) == [f.name for f in attrs.fields(model)]
    assert [field.name for field in attrs.fields(model) if field.name not in dir(model)] == []


@pytest.mark.parametrize("sample", SAMPLES, ids=name)
def test_models_can_be_subclassed(sample: Any) -> None:
    """A subclass may add fields, which count for equality."""
    subclass: Any = attrs.frozen(kw_only=True)(
        type("Own", (type(sample),), {"__annotations__": {"note": str}, "note": ""})
    )
    fields = attrs.asdict(sample, recurse=False)
    assert subclass(**fields, note="a") == subclass(**fields, note="a") != subclass(**fields)
    assert isinstance(subclass(**fields), type(sample))


@pytest.mark.parametrize("sample", SAMPLES, ids=name)
def test_models_can_be_mocked_and_dispatched_on(sample: Any) -> None:
    """`create_autospec` knows the fields, and `singledispatch` the class."""
    double = mock.create_autospec(type(sample), instance=True)
    assert [f.name for f in attrs.fields(type(sample)) if not hasattr(double, f.name)] == []
    with pytest.raises(AttributeError):
        double.no_such_field  # noqa: B018

    @functools.singledispatch
    def kind(_: object) -> str:
        return "object"

    kind.register(type(sample), lambda _: "model")
    assert (kind(sample), kind(7)) == ("model", "object")


@pytest.mark.parametrize("sample", SAMPLES, ids=name)
def test_models_are_documented(sample: Any) -> None:
    """`help` shows a model's fields and what they mean."""
    text = pydoc.plain(pydoc.render_doc(type(sample)))
    assert f"class {name(sample)}" in text
    assert str(type(sample).__doc__).splitlines()[0] in text


def test_a_runs_repr_is_short() -> None:
    """It tells a run from others, however much the run holds; a project's and a page's too."""
    params = tuple(Param(f"p{number}", "x" * 1_000) for number in range(100))
    run = attrs.evolve(RUN, params=params, description="x" * 10_000)
    assert repr(run) == (
        "Run(id=70158, name='resnet', project_id=2387, status='completed',"
        " created_at=2026-05-15 12:00:00+00:00)"
    )
    page = Page(items=(run,) * 100, total=65_614, number=0)
    assert repr(page).startswith("Page(items=<100 items>, total=65614, number=0, ")
    assert len(repr(page)) < 200
    assert repr(Project(id=2387, name="vision", description="x" * 1_000)) == (
        "Project(id=2387, name='vision')"
    )


def test_a_page_is_a_sequence() -> None:
    """A page can be iterated, indexed, searched and measured as its items; it is not a tuple."""
    runs = tuple(attrs.evolve(RUN, id=number) for number in range(3))
    page = Page(items=runs, total=9)
    assert isinstance(page, collections.abc.Sequence)
    assert (len(page), [*page], [*reversed(page)]) == (3, [*runs], [*reversed(runs)])
    assert (page[0], page[-1], page[1:]) == (runs[0], runs[2], runs[1:])
    assert (runs[1] in page, RUN in page) == (True, False)
    assert (page.index(runs[2]), page.count(runs[0])) == (2, 1)
    assert (bool(page), bool(Page())) == (True, False)
    assert page != runs  # type: ignore[comparison-overlap]
    with pytest.raises(IndexError):
        page[3]


def test_filters_of_a_configuration_file() -> None:
    """Cattrs makes a filter of what JSON or TOML can hold, and the filter checks it."""
    settings: Any = {
        "ids": [1, "2"],
        "status": "completed",
        "project_id": 2387,
        "tags": {"team": "ranking"},
        "params": {"lr": 0.1, "amp": True, "seed": "<7"},
    }
    assert cattrs.structure(settings, RunFilter) == RunFilter(**settings)
    assert cattrs.structure({"parent_run_id": "null"}, RunFilter).parent_run_id is ROOT_RUNS
    assert cattrs.structure({"parent_run_id": 7}, RunFilter) == RunFilter(parent_run_id=7)
    assert cattrs.structure({"text": "vision"}, ProjectFilter) == ProjectFilter(text="vision")
    with pytest.raises(cattrs.ClassValidationError):
        cattrs.structure({"tags": {"a": "b:c"}}, RunFilter)


@pytest.mark.parametrize(
    "cls", [*map(type, SAMPLES), RunFilter, ProjectFilter, Comparison, RunList]
)
def test_type_hints_can_be_evaluated(cls: type[Any]) -> None:
    """`typing.get_type_hints` knows a class, its construction and each of its methods."""
    methods = [
        member
        for name, member in inspect.getmembers(cls, inspect.isfunction)
        if name == "__init__" or not name.startswith("_")
    ]
    for each in (cls, *methods):
        assert isinstance(get_type_hints(each), dict)


def test_a_list_of_runs() -> None:
    """It is a list whose slices are such lists, with a short repr, that becomes a table."""
    runs = RunList(attrs.evolve(RUN, id=number) for number in range(100))
    assert isinstance(runs, list)
    assert (runs[0].id, [run.id for run in runs[-2:]]) == (0, [98, 99])
    assert type(runs[1:2]) is RunList
    assert runs == [*runs]
    assert repr(runs).startswith("RunList([Run(id=0, name='resnet', ")
    assert repr(runs).endswith("... 97 more])")
    assert len(repr(runs)) < 500
    assert "more" not in repr(runs[:3])
    assert pickle.loads(pickle.dumps(runs)) == runs


def test_weak_references() -> None:
    """Runs, projects and pages can be referred to weakly, to be keys of a cache."""
    for sample in (attrs.evolve(RUN), Project(id=1, name="vision"), Page(items=(RUN,))):
        reference = weakref.ref(sample)
        assert reference() is sample


def test_a_wrong_construction_says_so() -> None:
    """As with any class, an unknown or a missing argument is a TypeError that names it."""
    with pytest.raises(TypeError, match="unexpected keyword argument 'nmae'"):
        Run(**REQUIRED, nmae="resnet")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="positional"):
        Run(7)  # type: ignore[call-arg]


@pytest.mark.parametrize("sample", [*SAMPLES, *FILTERS], ids=name)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_models_are_picklable(sample: Any, protocol: int) -> None:
    """Each model and filter survives every pickle protocol as an equal one of the same class."""
    back = pickle.loads(pickle.dumps(sample, protocol))
    assert back == sample
    assert type(back) is type(sample)


@pytest.mark.parametrize("sample", [*SAMPLES, *FILTERS], ids=name)
def test_models_are_values(sample: Any) -> None:
    """Copies are equal, also by hash, and so is one that is built from the same fields."""
    fields = attrs.asdict(sample, recurse=False)
    for twin in (copy.copy(sample), copy.deepcopy(sample), type(sample)(**fields)):
        assert twin == sample
        assert hash(twin) == hash(sample)
    assert sample != fields


def test_a_run_needs_five_fields_only() -> None:
    """A run is made of its five required fields; lists are then empty, never None."""
    run = Run(**REQUIRED)
    assert (run.params, run.tags, run.metric_summaries) == ((), (), ())
    assert (run.description, run.mlflow_artifact_location) == ("", "")
    assert (run.has_children, run.is_pinned, run.descendant_match) == (False, False, False)
    optional = ("updated_at", "started_at", "completed_at", "deleted_at", "duration", "owner_id")
    assert {getattr(run, field) for field in (*optional, "external_url")} == {None}


@pytest.mark.parametrize("missing", REQUIRED)
def test_a_run_does_without_no_required_field(missing: str) -> None:
    """A run that lacks a required field cannot be made."""
    with pytest.raises(TypeError, match=missing):
        Run(**{field: value for field, value in REQUIRED.items() if field != missing})


def test_look_up_by_key() -> None:
    """The first of several equal keys counts, and None stands for a key that is not there."""
    assert (RUN.param("lr"), RUN.tag("team")) == ("0.1", "ranking")
    assert RUN.metric("loss") is RUN.metric_summaries[0]
    assert (RUN.param("LR"), RUN.tag(""), RUN.metric("acc")) == (None, None, None)
    project = Project(id=1, name="vision", tags=(Tag("a", "1"), Tag("a", "2")))
    assert (project.tag("a"), project.tag("b")) == ("1", None)


@pytest.mark.parametrize("status", list(RunStatus))
def test_known_statuses(status: RunStatus) -> None:
    """A known status is its own text, in every respect that a dict or a format string sees."""
    text = status.value
    assert RunStatus(text) is status
    assert status == text
    assert (str(status), f"{status:>15}") == (text, f"{text:>15}")
    assert hash(status) == hash(text)
    assert json.dumps(status) == f'"{text}"'
    assert status.is_terminal is (text in {"completed", "failed", "killed"})


UNKNOWN = ["resting", "Completed", "COMPLETED", "completed ", "", "über-läuft", "a" * 10_000]


@pytest.mark.parametrize("text", UNKNOWN, ids=lambda text: text[:12] or "empty")
def test_unknown_statuses_survive(text: str) -> None:
    """A status that this version does not know is equal to its text and to no known status."""
    status = RunStatus(text)
    assert isinstance(status, RunStatus)
    assert (status, status.value, status.name) == (text, text, text)
    assert status == RunStatus(text)
    assert (str(status), f"{status}", json.loads(json.dumps(status))) == (text, text, text)
    assert hash(status) == hash(text)
    assert {status, RunStatus(text), text} == {text}
    assert status not in list(RunStatus)
    assert not status.is_terminal
    assert text in repr(status)


@pytest.mark.parametrize("text", UNKNOWN, ids=lambda text: text[:12] or "empty")
def test_unknown_statuses_are_copied_and_pickled(text: str) -> None:
    """Copies and pickles of an unknown status are that status again."""
    status = RunStatus(text)
    pickles = [
        pickle.loads(pickle.dumps(status, protocol))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    ]
    for twin in (*pickles, copy.copy(status), copy.deepcopy(status)):
        assert isinstance(twin, RunStatus)
        assert twin == status
        assert not twin.is_terminal


def test_unknown_statuses_leave_no_trace() -> None:
    """Any number of unknown statuses adds no member, and none is kept."""
    gc.collect()
    before = len(gc.get_objects())
    for number in range(1_000):
        RunStatus(f"status {number}")
    gc.collect()
    assert len(gc.get_objects()) - before < 100
    assert len(RunStatus) == 7
    assert "status 1" not in RunStatus.__members__


@pytest.mark.parametrize("value", [None, 7, True, b"completed", ["completed"]])
def test_a_status_is_text(value: Any) -> None:
    """Something other than text is no status."""
    with pytest.raises(ValueError, match="not a valid RunStatus"):
        RunStatus(value)


@pytest.mark.parametrize("filter_type", [RunFilter, ProjectFilter])
@pytest.mark.parametrize(
    "pairs", [{"a,b": "c"}, {"a:b": "c"}, {"a": "b,c"}, {"a": "b:c"}, {"": "b"}, {"a": None}]
)
def test_filters_refuse_what_the_wire_cannot_carry(filter_type: Any, pairs: Any) -> None:
    """A comma or a colon would end a filter and begin another; an empty name names nothing."""
    with pytest.raises(ValueError, match=r"tags (must|cannot)"):
        filter_type(tags=pairs)


@pytest.mark.parametrize(
    ("ids", "error"), [("70158", TypeError), (b"7", TypeError), ([], ValueError), ((), ValueError)]
)
def test_a_filter_by_ids_takes_a_collection(ids: Any, error: type[Exception]) -> None:
    """A lone string would be taken for its digits, and no ids for all runs: both are refused."""
    with pytest.raises(error, match=r"ids (must|is)"):
        RunFilter(ids=ids)


def test_filters_keep_what_they_were_given() -> None:
    """A filter does not change when the list or dict that it was made from does."""
    ids, tags = [1, 2], {"team": "ranking"}
    run_filter = RunFilter(ids=ids, tags=tags)
    ids.append(3)
    tags["team"] = "search"
    assert (run_filter.ids, run_filter.tags) == ((1, 2), {"team": "ranking"})
    assert RunFilter(ids=iter([1, 2])).ids == (1, 2)


def test_raising_the_error_of_an_outcome_leaves_nothing_behind() -> None:
    """The circle of error, traceback, frame and outcome is found by the garbage collector."""

    class Kept:
        pass

    def take() -> None:
        kept = Kept()
        seen.append(weakref.ref(kept))
        outcome = Outcome(1, error=NotFoundError("404", status=404, method="GET", url="/"))
        assert outcome.error is not None
        raise outcome.error

    seen: list[weakref.ref[Kept]] = []
    with contextlib.suppress(NotFoundError):
        take()
    gc.collect()
    assert seen[0]() is None
