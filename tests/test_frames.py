"""Runs as Arrow tables, read by the libraries that users read them with."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, get_args

import attrs
import duckdb
import polars as pl
import pyarrow as pa
import pytest
from conftest import PATIENCE, THOROUGH
from hypothesis import given, settings
from hypothesis import strategies as st

from modellab_async import (
    MetricSummary,
    ModelLabClient,
    Param,
    Run,
    RunList,
    RunStatus,
    Tag,
    frames,
    from_dict,
)
from modellab_async.simulator import Simulator

MADE = datetime(2026, 5, 15, 2, 57, 3, 79_000, tzinfo=UTC)


def make_run(number: int = 1, params: dict[str, str] | None = None, **fields: Any) -> Run:
    """A run that has what a test cares about."""
    given_fields: dict[str, Any] = {
        "name": f"run-{number}",
        "project_id": 7,
        "status": RunStatus.COMPLETED,
        "created_at": MADE,
        "params": tuple(Param(key, value) for key, value in (params or {}).items()),
    }
    return Run(id=number, **(given_fields | fields))


def test_a_list_of_runs_becomes_a_table():
    """What `get_many` returns has a shorter way to the same table."""
    runs = RunList([make_run(1, {"lr": "0.1"}), make_run(2)])
    assert runs.to_table(["name", "params.lr"]) == frames.to_table(
        runs, columns=["name", "params.lr"]
    )


async def test_get_many_returns_a_list_that_becomes_a_table(sim: Simulator, lab: ModelLabClient):
    """Its runs, or a slice of them, become a table and HTML in one step; it is a list as well."""
    runs = await lab.runs.get_many(sim.run_ids[:5])
    assert isinstance(runs, list)
    assert runs.to_table(["id"])["id"].to_pylist() == list(sim.run_ids[:5])
    assert runs[1:3].to_table(["id"])["id"].to_pylist() == list(sim.run_ids[1:3])
    html = runs._repr_html_()
    assert html is not None
    assert all(str(run.id) in html for run in runs)


def params_table(*values: str | None) -> pa.ChunkedArray:
    """The column of a param that takes these values; None for a run that has it not."""
    runs = [
        make_run(number, {} if value is None else {"p": value})
        for number, value in enumerate(values)
    ]
    return frames.to_table(runs, columns=["params.p"]).column("params.p")


async def one_by_one(runs: Iterable[Run]) -> AsyncIterator[Run]:
    for run in runs:
        yield run


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    """Some of the simulator's runs, with all their quirks."""
    sim = Simulator(runs=100)
    return [from_dict(sim.resource(run_id), Run) for run_id in sim.run_ids]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "-20", "0"], pa.int64()),
        (["9223372036854775807", None], pa.int64()),
        (["1", "2.5"], pa.float64()),
        (["1e-5", ".5", "5.", "-inf", "NaN"], pa.float64()),
        (["9223372036854775808"], pa.string()),
        (["9007199254740993", "0.5"], pa.string()),
        (["1", "x"], pa.string()),
        (["0.1", ""], pa.string()),
        (["007"], pa.string()),
        (["+1"], pa.string()),
        (["1_000"], pa.string()),
        (["١"], pa.string()),  # a digit, but no ASCII one
        ([None], pa.string()),
    ],
)
def test_a_param_is_numeric_where_every_value_parses(values: list[str | None], kind: pa.DataType):
    """A column has the narrowest type that holds every value without loss."""
    assert params_table(*values).type == kind


numbers = st.lists(st.integers(-(2**70), 2**70) | st.floats(), min_size=1, max_size=5)


@given(st.lists(numbers, min_size=1, max_size=6))
@settings(max_examples=400 if THOROUGH else 10)  # each makes a table, of several columns
def test_no_number_changes_its_value(columns: list[list[int | float]]):
    """Whatever type a column gets, its values are equal to those that the params were made from."""
    params = itertools.zip_longest(
        *([(f"p{i}", str(number)) for number in column] for i, column in enumerate(columns))
    )
    runs = [make_run(i, dict(filter(None, row))) for i, row in enumerate(params)]
    table = frames.to_table(runs, columns=[f"params.p{i}" for i in range(len(columns))])
    for i, column in enumerate(columns):
        found = table.column(f"params.p{i}").to_pylist()[: len(column)]
        assert [str(type(n)(f)) for n, f in zip(column, found, strict=True)] == [*map(str, column)]


def test_a_wide_table_has_all_of_a_run():
    """Fields are typed columns, params, tags and metrics maps; the first of a key counts."""
    loss = MetricSummary("loss", 3, latest=0.5, min=0.25)
    run = make_run(
        9,
        params=None,
        duration=2.5,
        tags=(Tag("team", "ranking"), Tag("team", "other")),
        metric_summaries=(loss, attrs.evolve(loss, count=4)),
    )

    (row,) = frames.to_table([run]).to_pylist()

    assert row["id"] == 9
    assert (row["status"], row["created_at"], row["duration"]) == ("completed", MADE, 2.5)
    assert (row["params"], row["tags"]) == ([], [("team", "ranking")])
    ((key, summary),) = row["metrics"]
    assert key == "loss"
    assert summary == {name: value for name, value in attrs.asdict(loss).items() if name != "key"}


def test_named_columns():
    """A name says field, param, tag or metric and statistic; a dot in a key is no matter."""
    run = make_run(
        params={"optim.lr": "0.1"},
        tags=(Tag("team", "ads"),),
        metric_summaries=(
            MetricSummary("eval.loss", 5, latest=1.0, min=0.5),
            MetricSummary("best.min", 7, latest=3.0),
        ),
    )
    names = [
        "name", "params.optim.lr", "tags.team", "metrics.eval.loss", "metrics.eval.loss.min",
        "metrics.best.min.count", "params.none", "metrics.none.count",
    ]  # fmt: skip

    (row,) = frames.to_table([run], columns=names).to_pylist()

    expected = ["run-1", 0.1, "ads", 1.0, 0.5, 7, None, None]
    assert row == {"id": 1} | dict(zip(names, expected, strict=True))


def test_the_statistic_can_be_chosen_for_all():
    """Metrics that name no statistic give the chosen one."""
    run = make_run(metric_summaries=(MetricSummary("loss", 5, latest=1.0, mean=0.75),))
    table = frames.to_table([run], columns=["name", "metrics.loss"], statistic="mean")
    assert table.to_pylist() == [{"id": 1, "name": "run-1", "metrics.loss": 0.75}]


def test_a_star_gives_a_column_for_each_key():
    """Keys come sorted, those named by themselves keep their place."""
    first = make_run(1, {"b": "x", "a": "1"}, metric_summaries=(MetricSummary("m", 1, max=2.0),))
    second = make_run(2, {"c": "2"})
    table = frames.to_table(
        [first, second], columns=["name", "params.c", "params.*", "metrics.*.max"]
    )
    assert table.column_names == ["id", "name", "params.c", "params.a", "params.b", "metrics.m.max"]
    assert table.to_pylist()[0] == {
        "id": 1, "name": "run-1", "params.c": None, "params.a": 1, "params.b": "x",
        "metrics.m.max": 2.0,
    }  # fmt: skip


def test_keys_that_differ_only_in_case():
    """Each has a column and values of its own, in tables and batches."""
    run = make_run(params={"lr": "1", "LR": "x"}, tags=(Tag("LR", "y"),))
    columns = ["params.lr", "params.LR", "tags.LR"]
    expected = {"params.lr": 1, "params.LR": "x", "tags.LR": "y"}
    (row,) = frames.to_table([run], columns=columns).select(columns).to_pylist()
    assert row == expected
    (batch,) = frames.to_batches([run], columns=columns)
    assert batch.select(columns).to_pylist() == [expected | {"params.lr": "1"}]


def test_fields_come_unless_some_are_named():
    """Columns of params alone leave all fields of the run in place."""
    names = frames.to_table([make_run()], columns=["params.p"]).column_names
    assert names[:2] == ["id", "name"]
    assert names[-1] == "params.p"
    assert "params" not in names


def test_the_long_shape_keeps_everything():
    """A row for each value that there is, as text, repeated keys included."""
    run = make_run(
        4,
        duration=0.1,
        has_children=True,
        params=None,
        tags=(Tag("t", "1"), Tag("t", "2")),
        metric_summaries=(MetricSummary("loss", 3, min=1e-7),),
    )

    rows = frames.to_table([run], shape="long").to_pylist()

    assert {row["run"] for row in rows} == {4}
    found = [(row["key"], row["value"]) for row in rows]
    assert ("duration", "0.1") in found
    assert ("has_children", "true") in found
    assert ("created_at", "2026-05-15T02:57:03.079000Z") in found
    assert [pair for pair in found if "." in pair[0]] == [
        ("tags.t", "1"),
        ("tags.t", "2"),
        ("metrics.loss.count", "3"),
        ("metrics.loss.min", "1e-07"),
    ]
    assert "owner_id" not in dict(found)


def test_the_long_shape_gives_the_keys_that_are_named():
    """Columns choose keys, a star among them."""
    run = make_run(params={"a": "1", "b": "2"}, metric_summaries=(MetricSummary("m", 3, min=0.5),))
    table = frames.to_table([run], shape="long", columns=["params.*", "metrics.m"])
    assert [(row["key"], row["value"]) for row in table.to_pylist()] == [
        ("params.a", "1"),
        ("params.b", "2"),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": ["learning_rate"]}, "no column 'learning_rate'"),
        ({"columns": ["params."]}, "no column 'params.'"),
        ({"columns": ["name.x"]}, "no column 'name.x'"),
        ({"columns": []}, "columns is empty"),
        ({"columns": ["name", "name"]}, "named twice"),
        ({"statistic": "median"}, "statistic must be one of"),
        ({"shape": "tall"}, "shape must be"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str):
    """A bad name or option is a ValueError that says what would be right."""
    with pytest.raises(ValueError, match=message):
        frames.to_table([], **options)


def test_a_lone_string_is_no_collection_of_columns():
    """A string would be taken for its letters."""
    with pytest.raises(TypeError, match="collection of names"):
        frames.to_table([], columns="name")


def test_no_runs_make_an_empty_table():
    """The columns are there all the same."""
    table = frames.to_table([])
    assert table.num_rows == 0
    assert table.column_names[-3:] == ["params", "tags", "metrics"]


def test_batches_are_made_as_they_are_asked_for(runs: list[Run]):
    """No run is read before its batch is wanted, and all batches have one schema."""
    read = 0

    def source() -> Iterator[Run]:
        nonlocal read
        for run in runs:
            read += 1
            yield run

    batches = frames.to_batches(source(), rows=100)
    assert read == 0
    first = next(batches)
    assert (read, first.num_rows) == (100, 100)
    table = pa.Table.from_batches([first, *batches])
    assert table.equals(frames.to_table(runs))


async def test_batches_of_an_async_iterator(sim: Simulator, lab: ModelLabClient, runs: list[Run]):
    """A pager's runs go into batches as they come; params are text, whatever may still come."""
    pager = lab.runs.list(sort="created_at")
    batches = [
        batch async for batch in frames.to_batches_async(pager, columns=["params.seed"], rows=900)
    ]
    assert [batch.num_rows for batch in batches] == [900, 900, 200]
    assert batches[0].schema.field("params.seed").type == pa.string()
    ids = [number for batch in batches for number in batch.column("id").to_pylist()]
    assert ids == list(sim.run_ids)


async def test_a_table_of_an_async_iterator(runs: list[Run]):
    """It is the table of the same runs in a list."""
    table = await frames.to_table_async(one_by_one(runs), columns=["params.*"])
    assert table.equals(frames.to_table(runs, columns=["params.*"]))


def test_batches_refuse_what_only_the_end_could_tell():
    """A star needs all runs to be seen first."""
    with pytest.raises(ValueError, match="name the columns"):
        frames.to_batches([], columns=["params.*"])
    with pytest.raises(ValueError, match="at least 1"):
        frames.to_batches_async(one_by_one([]), rows=0)


def test_polars_and_duckdb_read_a_table(runs: list[Run]):
    """Both see the same numbers as the runs have, without a copy of our own making."""
    table = frames.to_table(
        runs, columns=["status", "params.learning_rate", "metrics.eval_loss.min"]
    )
    expected = [
        (run.id, str(run.status), metric.min if (metric := run.metric("eval_loss")) else None)
        for run in runs
    ]

    columns = ["id", "status", "metrics.eval_loss.min"]
    assert pl.DataFrame(table).select(columns).rows() == expected
    with duckdb.connect() as connection:
        connection.register("runs", table)
        found = connection.sql('SELECT id, status, "metrics.eval_loss.min" FROM runs')
        assert found.fetchall() == expected


@pytest.mark.process
@pytest.mark.parametrize("missing", ["pyarrow", "duckdb"])
def test_without_a_library_the_error_names_the_extra(missing: str):
    """The module can be imported, and says what to install when it is used."""
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from modellab_async import MissingExtraError, frames\n"
        "try: frames.to_table([])\n"
        "except MissingExtraError as error: print(isinstance(error, ImportError), error)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert answer.stdout == (
        f"True modellab_async.frames needs {missing}:"
        " python -m pip install 'modellab_async[tables]'\n"
    )


@pytest.mark.process
def test_importing_what_makes_tables_imports_neither_pyarrow_nor_duckdb():
    """The command line stays quick to start."""
    code = (
        "import sys, modellab_async.frames, modellab_async.export, modellab_async.store\n"
        "print({'pyarrow', 'duckdb'} & sys.modules.keys())"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert answer.stdout == "set()\n"


def test_the_statistics_are_those_of_a_metric():
    """The names that can be asked for are the fields of `MetricSummary`."""
    fields = [field.name for field in attrs.fields(MetricSummary)]
    assert ["key", *get_args(frames.Statistic)] == fields


def test_times_at_both_ends_of_the_calendar():
    """The first and the last moment that a datetime can hold pass unharmed, in both shapes."""
    ends = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
    run = make_run(created_at=ends[0], updated_at=ends[1])
    (row,) = frames.to_table([run], columns=["created_at", "updated_at"]).to_pylist()
    assert (row["created_at"], row["updated_at"]) == ends
    texts = frames.to_table([run], columns=["created_at", "updated_at"], shape="long")
    assert texts.column("value").to_pylist() == [
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999999Z",
    ]


TIMES = ["created_at", "updated_at", "started_at", "completed_at", "deleted_at"]
WEST, EAST = (timezone(timedelta(hours=hours)) for hours in (-14, 14))


@pytest.mark.parametrize("column", TIMES)
def test_times_beyond_the_calendar_are_its_ends(column: str):
    """In UTC they are in the year 0 or 10000, which no `datetime` can hold."""
    first, last = datetime.min.replace(tzinfo=EAST), datetime.max.replace(tzinfo=WEST)
    fields: list[dict[str, Any]] = [{column: first}, {column: last}]
    runs = [make_run(number, **given) for number, given in enumerate(fields)]
    found = frames.to_table(runs, columns=[column]).column(column).to_pylist()
    assert found == [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]
    texts = frames.to_table(runs, columns=[column], shape="long").column("value").to_pylist()
    assert texts == ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"project_id": 2**63}, "run 1: project_id has"),
        ({"metric_summaries": (MetricSummary("m", 2**63),)}, "run 1: metric_summaries has"),
        ({"name": "\ud83d"}, "run 1: name has"),
    ],
)
def test_what_no_column_can_hold(fields: dict[str, Any], said: str):
    """An integer beyond 64 bits, or text that is no Unicode, names the run and the field."""
    with pytest.raises(ValueError, match=said):
        frames.to_table([make_run(2), make_run(1, **fields)])
