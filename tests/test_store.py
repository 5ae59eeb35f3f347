"""Syncs into a DuckDB database, against the simulator."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_type_hints

import cattrs
import duckdb
import pytest
from conftest import PATIENCE, client_for
from shells import environment

from modellab_async import (
    ModelLabClient,
    PermissionDeniedError,
    Run,
    RunFilter,
    ServerError,
    StoreError,
    from_dict,
)
from modellab_async.simulator import Fault, ManualClock, Simulator
from modellab_async.store import Store, open_store, sync

NOW = 1_800_000_000.0  # after every generated run


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
async def sim(clock: ManualClock) -> AsyncIterator[Simulator]:
    """A simulator of 650 small runs, seven pages, whose time moves by hand."""
    async with Simulator(runs=650, size="small", record=20_000, clock=clock) as simulator:
        yield simulator


@pytest.fixture
def store(tmp_path: Path, empty_database: Path) -> Iterable[Store]:
    with open_store(shutil.copy(empty_database, tmp_path)) as opened:
        yield opened


def served(sim: Simulator, ids: Iterable[int] | None = None) -> list[Run]:
    """Runs as they are served now, by id."""
    return [from_dict(sim.resource(i), Run) for i in sorted(sim.run_ids if ids is None else ids)]


def stored(store: Store, where: str = "true") -> list[Run]:
    """Runs as a database has them, by id."""
    converter = cattrs.Converter()
    converter.register_structure_hook(datetime, lambda value, _: value)
    rows = store.rows(f"SELECT * EXCLUDE (sync, vanished_at) FROM runs WHERE {where} ORDER BY id")
    return [converter.structure(row, Run) for row in rows]


def ids_in(store: Store, where: str = "true") -> set[int]:
    return set(store.column(f"SELECT id FROM runs WHERE {where}"))


def requests(sim: Simulator) -> int:
    return sim.counts.requests


# The first sync


async def test_the_first_sync_stores_every_run(store: Store):
    """Each run is one row, equal to its model, with params, tags and metrics in order."""
    async with Simulator(runs=320) as sim, client_for(sim) as lab:  # of all sizes
        done = await sync(lab, store)

    assert (done.id, done.kind, done.runs, done.failed, done.vanished) == (1, "listing", 320, 0, 0)
    assert done.finished_at
    assert done.started_at <= done.finished_at
    assert stored(store) == served(sim)


async def test_params_tags_and_metrics_are_rows(sim: Simulator, lab: ModelLabClient, store: Store):
    """The views have a row per entry, with its position; order and repeats are kept."""
    pairs = [{"key": "b", "value": "1"}, {"key": "a", "value": "2"}, {"key": "b", "value": "3"}]
    metrics = [{"key": "m", "count": 2, "min": 0.5}, {"key": "m", "count": 3, "min": 0.25}]
    odd = sim.insert_run(params=pairs, tags=pairs, metric_summaries=metrics)

    await sync(lab, store)

    for view in ("params", "tags"):
        rows = store.rows(f"FROM {view} WHERE run_id = ? ORDER BY position", [odd])
        assert rows == [{"run_id": odd, "position": i + 1} | pair for i, pair in enumerate(pairs)]
    found = store.rows("FROM metrics WHERE run_id = ? ORDER BY position", [odd])
    assert [(row["key"], row["count"], row["min"]) for row in found] == [
        ("m", 2, 0.5),
        ("m", 3, 0.25),
    ]
    (wide,) = store.rows("SELECT params, metrics FROM runs_wide WHERE id = ?", [odd])
    assert wide["params"] == {"b": "1", "a": "2"}
    ((key, summary),) = wide["metrics"].items()
    assert (key, summary["count"], summary["min"]) == ("m", 2, 0.5)
    counted = sum(len(run.params) for run in served(sim))
    assert store.value("SELECT count(*) FROM params") == counted


async def test_the_schema_of_version_1(store: Store):
    """These are the tables and views that queries rely on; another schema is another version."""
    columns = {
        name: store.column(f"SELECT column_name FROM (DESCRIBE {name})")
        for name in ("runs", "params", "tags", "metrics", "runs_wide", "failures", "syncs", "meta")
    }
    fields = list(get_type_hints(Run))
    scalars = [name for name in fields if name not in {"params", "tags", "metric_summaries"}]
    assert columns == {
        "runs": [*fields, "sync", "vanished_at"],
        "params": ["run_id", "position", "key", "value"],
        "tags": ["run_id", "position", "key", "value"],
        "metrics": [
            *("run_id", "position", "key", "count", "first_step", "last_step"),
            *("latest", "max", "mean", "min", "stddev"),
        ],
        "runs_wide": [*scalars, "sync", "vanished_at", "params", "tags", "metrics"],
        "failures": ["run_id", "error", "status", "message", "sync"],
        "syncs": [
            *("id", "kind", "filter", "started_at", "finished_at", "mark", "page"),
            *("runs", "failed", "vanished", "complete"),
        ],
        "meta": ["key", "value"],
    }
    assert store.rows("FROM meta") == [{"key": "schema_version", "value": "1"}]
    kinds = store.rows("SELECT column_name AS name, column_type AS type FROM (DESCRIBE runs)")
    assert {row["type"] for row in kinds if row["name"].endswith("_at")} == {
        "TIMESTAMP WITH TIME ZONE"
    }


def storage_version(path: Path) -> int:
    """Which versions of DuckDB can open a file: 1.0 and later for 64, 1.5 and later for 68."""
    header = path.read_bytes()[:20]
    assert header[8:12] == b"DUCK"
    return int.from_bytes(header[12:], "little")


async def test_a_new_database_has_the_storage_format_of_duckdb_1(
    lab: ModelLabClient, tmp_path: Path
):
    """Whichever DuckDB creates and fills a database, version 1.5 can open it."""
    with open_store(tmp_path / "runs.duckdb") as store:
        await sync(lab, store)
    assert storage_version(store.path) == 64


async def test_a_database_keeps_its_storage_format(
    sim: Simulator, lab: ModelLabClient, empty_database: Path, tmp_path: Path
):
    """A database in the newest format that DuckDB has can be updated, and stays in that format."""
    path = tmp_path / "newest.duckdb"
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{empty_database}' AS old (READ_ONLY)")
        connection.execute(f"ATTACH '{path}' AS newest (STORAGE_VERSION 'latest')")
        connection.execute("COPY FROM DATABASE old TO newest")
    newest = storage_version(path)
    assert newest > 64
    with open_store(path) as store:
        await sync(lab, store)
        assert stored(store) == served(sim)
    assert storage_version(path) == newest


async def test_nothing_is_downloaded(store: Store):
    """DuckDB neither installs nor loads an extension that it does not bring along."""
    for setting in ("autoinstall_known_extensions", "autoload_known_extensions"):
        assert store.value(f"SELECT current_setting('{setting}')") is False
    assert store.value("SELECT date_trunc('day', TIMESTAMPTZ '2026-05-15 02:57:03+00')") == (
        datetime(2026, 5, 15, tzinfo=UTC)
    )


async def test_a_listing_on_one_page_is_complete(sim: Simulator, lab: ModelLabClient, store: Store):
    """One page shows all runs at one moment; of several pages, nobody can know."""
    done = await sync(lab, store, filter=RunFilter(ids=sim.run_ids[:5]))
    assert (done.runs, done.complete) == (5, True)
    assert (await sync(lab, store)).complete is None


# Resuming


class SyncInterruptedError(Exception):
    """Raised by a test in the middle of a sync."""


async def test_an_interrupted_listing_resumes(sim: Simulator, lab: ModelLabClient, store: Store):
    """Pages that were read are not read again, though runs on them were deleted meanwhile."""

    def interrupt(done: int, _total: int | None) -> None:
        if done >= 500:
            raise SyncInterruptedError

    with pytest.raises(SyncInterruptedError):
        await sync(lab, store, on_progress=interrupt)
    assert len(ids_in(store)) == 500
    gone = sim.run_ids[5:45]
    for run_id in gone:
        sim.delete_run(run_id)
    before = requests(sim)

    done = await sync(lab, store)

    assert requests(sim) - before <= 5  # of 7 pages: newest, page 4, and from there on
    assert (done.id, done.runs) == (1, 650)
    assert ids_in(store) == set(sim.run_ids)
    assert store.value("SELECT count(*) FROM runs") == 650


async def test_runs_that_leave_the_listing_while_it_is_read(
    sim: Simulator, lab: ModelLabClient, store: Store
):
    """The listing is read again, so that what moved to an earlier page is found."""
    kept = sim.run_ids[40:]

    def leave(done: int, _total: int | None) -> None:
        if done == 300:
            for run_id in sim.run_ids[:40]:
                with_suppressed_not_found(sim, run_id)

    await sync(lab, store, on_progress=leave)
    assert ids_in(store) >= set(kept)


def with_suppressed_not_found(sim: Simulator, run_id: int) -> None:
    """Delete a run, unless that was done before."""
    if run_id not in DELETED.setdefault(id(sim), set()):
        DELETED[id(sim)].add(run_id)
        sim.delete_run(run_id)


DELETED: dict[int, set[int]] = {}


# Updates


def listed(sim: Simulator) -> int:
    return sum(record.operation == "list_runs" for record in sim.requests)


async def test_nothing_new_takes_one_request(sim: Simulator, lab: ModelLabClient, store: Store):
    """A sync without news asks for the newest page and writes no run."""
    await sync(lab, store)
    before = requests(sim)

    done = await sync(lab, store)

    assert requests(sim) - before == 1
    assert (done.id, done.kind, done.runs, done.failed) == (2, "update", 0, 0)
    assert stored(store) == served(sim)


async def test_new_and_changed_runs_take_two_requests(
    sim: Simulator, lab: ModelLabClient, store: Store, clock: ManualClock
):
    """A sync asks for pages until one has nothing new."""
    changing = sim.insert_run(timeline=[(0, "running"), (3600, "completed")])
    await sync(lab, store)
    assert store.value("SELECT status FROM runs WHERE id = ?", [changing]) == "running"
    clock.advance(7200)
    sim.insert_run(name="new")
    before = requests(sim)

    done = await sync(lab, store)

    assert requests(sim) - before <= 2
    assert done.runs == 2
    assert stored(store) == served(sim)


def text_of(moment: float, digits: int) -> str:
    whole = datetime.fromtimestamp(moment, UTC)
    text = whole.strftime("%Y-%m-%dT%H:%M:%S.%f")
    return (text[: 20 + digits] if digits else text[:19]) + "Z"


@pytest.mark.parametrize("digits", [0, 3, 6])
async def test_equal_and_late_times_are_not_missed(
    sim: Simulator, lab: ModelLabClient, store: Store, digits: int
):
    """A run with the very time of the newest one, however written, or a little older, is found."""
    sim.insert_run(updated_at=text_of(NOW, 6))
    await sync(lab, store)

    equal = sim.insert_run(updated_at=text_of(NOW, digits))
    late = sim.insert_run(updated_at=text_of(NOW - 30, digits))
    await sync(lab, store)

    assert {equal, late} <= ids_in(store)


@pytest.mark.parametrize("odd", ["9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00Z", None])
async def test_an_odd_time_hides_no_news(
    sim: Simulator, lab: ModelLabClient, store: Store, odd: str | None
):
    """A run of the year 9999, of the year 1 or of no time is stored, and updates go on."""
    strange = sim.insert_run(updated_at=odd)
    await sync(lab, store)
    new = sim.insert_run(name="new", updated_at=text_of(NOW + 5, 6))
    done = await sync(lab, store)
    assert done.runs <= 2
    assert {strange, new} <= ids_in(store)
    expected = from_dict(sim.resource(strange), Run).updated_at
    assert stored(store, f"id = {strange}")[0].updated_at == expected


async def test_a_change_during_a_sync_is_found_by_the_next(
    sim: Simulator, lab: ModelLabClient, store: Store, clock: ManualClock
):
    """What is read early and changes before the end counts as new afterwards."""
    early = sim.insert_run(
        created_at="2001-01-01T00:00:00Z", timeline=[(0, "running"), (60, "completed")]
    )
    late = [sim.insert_run(timeline=[(0, "running"), (7200, "failed")]) for _ in range(120)]

    def during(done: int, _total: int | None) -> None:
        if done == 100:  # then the newest runs are newer than the early one
            clock.advance(7200)

    await sync(lab, store, on_progress=during)
    assert store.value("SELECT status FROM runs WHERE id = ?", [early]) == "running"
    await sync(lab, store)
    assert store.value("SELECT status FROM runs WHERE id = ?", [early]) == "completed"
    assert len(ids_in(store) & set(late)) == 120


@pytest.mark.parametrize("end", ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"])
@pytest.mark.parametrize(
    "field", ["created_at", "updated_at", "started_at", "completed_at", "deleted_at"]
)
async def test_a_time_beyond_the_calendar(
    lab: ModelLabClient, sim: Simulator, store: Store, field: str, end: str
):
    """It is stored as the calendar's end; updates resume, also once the run is gone."""
    fields: dict[str, Any] = {field: end}
    strange = sim.insert_run(**fields)
    await sync(lab, store)
    (row,) = store.rows(f"SELECT {field} FROM runs WHERE id = ?", [strange])
    limit = datetime.max if end.startswith("9") else datetime.min  # noqa: DTZ901 - has one below
    assert row[field] == limit.replace(tzinfo=UTC)
    new = sim.insert_run(updated_at=text_of(NOW + 5, 6))
    assert (await sync(lab, store)).runs == 1
    sim.delete_run(strange)
    newer = sim.insert_run(updated_at=text_of(NOW + 6, 6))
    assert (await sync(lab, store)).runs == 1
    assert {new, newer} <= ids_in(store)


async def test_a_database_that_holds_a_time_beyond_the_calendar(
    sim: Simulator, lab: ModelLabClient, store: Store
):
    """One that an earlier version wrote can be read and updated."""
    await sync(lab, store)
    beyond = "'10000-01-01 13:59:59+00'::TIMESTAMPTZ"
    store.connection.execute(f"UPDATE syncs SET mark = {beyond}")
    strange = sim.run_ids[0]
    store.connection.execute(f"UPDATE runs SET updated_at = {beyond} WHERE id = {strange}")
    new = sim.insert_run(updated_at=text_of(NOW + 5, 6))
    await sync(lab, store)
    assert new in ids_in(store)
    (run,) = stored(store, f"id = {strange}")
    assert run.updated_at == datetime.max.replace(tzinfo=UTC)


@pytest.mark.parametrize("year", [None, 2999, 9999])
async def test_what_other_syncs_wrote_hides_no_news(
    sim: Simulator, lab: ModelLabClient, store: Store, year: int | None
):
    """An update reads beyond a page that another sync wrote, also below a run of the future."""
    if year:
        sim.insert_run(updated_at=f"{year}-12-31T00:00:00Z")
    await sync(lab, store)
    new = [sim.insert_run(updated_at=text_of(NOW + 7200 + i, 6)) for i in range(150)]
    await sync(lab, store, run_ids=new[20:])
    await sync(lab, store)
    assert set(new) <= ids_in(store)


async def test_an_interrupted_update_misses_nothing(
    sim: Simulator, lab: ModelLabClient, store: Store, clock: ManualClock
):
    """What an interrupted update wrote does not make the next one stop early."""
    await sync(lab, store)
    clock.advance(7200)
    new = {sim.insert_run(name="new", updated_at=text_of(NOW + i, 6)) for i in range(250)}
    sim.faults.matching("*/runs", None, None, *[Fault.status(501)] * 9)
    with pytest.raises(ServerError):
        await sync(lab, store)
    assert 0 < len(ids_in(store) & new) < 250
    sim.faults.clear()

    done = await sync(lab, store)

    assert (done.id, done.kind) == (2, "update")
    assert new <= ids_in(store)


async def test_each_filter_has_updates_of_its_own(
    sim: Simulator, lab: ModelLabClient, store: Store
):
    """A filter that was never synced reads its whole listing, into the same tables."""
    failed = RunFilter(status="failed")
    first = await sync(lab, store, filter=failed)
    assert first.filter == "filter[status]=failed"
    assert stored(store) == [run for run in served(sim) if run.status == "failed"]
    assert (await sync(lab, store)).kind == "listing"
    assert stored(store) == served(sim)
    assert (await sync(lab, store, filter=failed)).kind == "update"


# Full syncs


async def test_a_full_sync_finds_what_vanished(sim: Simulator, lab: ModelLabClient, store: Store):
    """A deleted run keeps its row, with the time at which the sync found it gone."""
    await sync(lab, store)
    gone = set(sim.run_ids[:3])
    for run_id in gone:
        sim.delete_run(run_id)
    assert (await sync(lab, store)).vanished == 0

    done = await sync(lab, store, full=True)

    assert (done.kind, done.runs, done.vanished, done.failed) == ("listing", 647, 3, 0)
    assert done.complete is True
    assert ids_in(store, "vanished_at IS NOT NULL") == gone
    assert ids_in(store) == set(sim.run_ids)
    again = await sync(lab, store, full=True)
    assert (again.runs, again.vanished) == (647, 0)


async def test_a_full_sync_misses_no_run_while_others_come_and_go(
    sim: Simulator, lab: ModelLabClient, store: Store
):
    """For each run that is deleted, another is created, so that the count tells nothing."""
    gone = iter(sim.run_ids[:40])
    kept = set(sim.run_ids[40:])

    def come_and_go(_done: int, _total: int | None) -> None:
        if (run_id := next(gone, None)) is not None:
            sim.delete_run(run_id)
            sim.insert_run(name="new")

    done = await sync(lab, store, full=True, on_progress=come_and_go)

    assert done.complete is True
    assert ids_in(store) >= kept


async def test_a_broken_run_costs_a_full_sync_its_proof(
    sim: Simulator, lab: ModelLabClient, store: Store
):
    """All other runs are stored, and whether one is missing is not known."""
    sim.insert_run(name=None)
    done = await sync(lab, store, full=True)
    assert (done.runs, done.failed, done.complete) == (650, 1, None)


async def test_a_full_sync_brings_up_to_date_what_the_listing_does_not_show(
    sim: Simulator, lab: ModelLabClient, store: Store, clock: ManualClock
):
    """A run that no longer matches the filter is asked for by id."""
    run_id = sim.insert_run(timeline=[(0, "running"), (3600, "completed")])
    running = RunFilter(status="running")
    await sync(lab, store, filter=running)
    clock.advance(7200)
    await sync(lab, store, filter=running)
    assert store.value("SELECT status FROM runs WHERE id = ?", [run_id]) == "running"
    done = await sync(lab, store, filter=running, full=True)
    assert done.vanished == 0
    assert store.value("SELECT status FROM runs WHERE id = ?", [run_id]) == "completed"


# By id, and failures


async def test_failures_are_rows_until_they_are_fetched(
    sim: Simulator, lab: ModelLabClient, store: Store
):
    """Ids that fail are rows with status and message, and the next sync asks for them again."""
    good, missing = sim.run_ids[:3], max(sim.run_ids) + 7
    done = await sync(lab, store, run_ids=[*good, str(good[0]), missing, "x"])

    assert (done.kind, done.runs, done.failed, done.complete) == ("ids", 3, 2, None)
    assert stored(store) == served(sim, good)
    rows = {row["run_id"]: row for row in store.rows("FROM failures")}
    assert (rows[str(missing)]["error"], rows[str(missing)]["status"]) == ("NotFoundError", 404)
    assert (rows["x"]["error"], rows["x"]["status"]) == ("InvalidIdError", None)
    assert all(row["message"] for row in rows.values())

    sim.insert_run(missing, name="late")
    done = await sync(lab, store)
    assert done.failed == 1
    assert store.column("SELECT run_id FROM failures") == ["x"]
    assert missing in ids_in(store)


async def test_a_fetch_by_id_finds_what_vanished(sim: Simulator, lab: ModelLabClient, store: Store):
    """A stored run that is asked for and is no longer there has vanished, and is no failure."""
    run_id = sim.run_ids[0]
    await sync(lab, store, run_ids=[run_id])
    sim.delete_run(run_id)
    done = await sync(lab, store, run_ids=[run_id])
    assert (done.runs, done.vanished, done.failed) == (0, 1, 0)


async def test_an_interrupted_fetch_resumes(sim: Simulator, lab: ModelLabClient, store: Store):
    """What was fetched is not asked for again; a finished fetch is a new one the next time."""

    async def interrupted() -> AsyncIterator[int]:
        for run_id in sim.run_ids[:400]:
            yield run_id
        raise SyncInterruptedError

    with pytest.raises(SyncInterruptedError):
        await sync(lab, store, run_ids=interrupted())
    assert len(ids_in(store)) == 400
    for expected in (3, 7):
        before = requests(sim)
        done = await sync(lab, store, run_ids=sim.run_ids)
        assert requests(sim) - before == expected  # pages of 100
        assert done.runs == 650


async def test_a_broken_run_costs_no_other(sim: Simulator, lab: ModelLabClient, store: Store):
    """A listed run that cannot be read is a failure, and all others are stored."""
    broken = [
        sim.insert_run(name=None, created_at="2001-01-01T00:00:00Z"),
        sim.insert_run(status=7, created_at="2030-01-01T00:00:00Z"),
    ]
    done = await sync(lab, store)
    assert (done.runs, done.failed) == (650, 2)
    failures = store.rows("SELECT run_id, error FROM failures ORDER BY run_id")
    assert failures == [{"run_id": str(i), "error": "DecodeError"} for i in sorted(broken)]
    assert (await sync(lab, store)).failed == 2


async def test_integers_beyond_64_bits(sim: Simulator, lab: ModelLabClient, store: Store):
    """A run with such an integer is a failure that names the field, and all others are stored."""
    run_id = sim.insert_run(metric_summaries=[{"key": "m", "count": 10**19}])
    done = await sync(lab, store)
    assert (done.runs, done.failed) == (650, 1)
    message = store.value("SELECT message FROM failures WHERE run_id = ?", [str(run_id)])
    assert message == f"run {run_id}: metric_summaries has a number or time beyond 64 bits"


async def test_refused_keys_end_a_sync(sim: Simulator, store: Store):
    """Wrong keys are an error, not the failure of every run."""
    async with ModelLabClient(base_url=sim.base_url, api_key="x", app_key="y") as lab:
        for options in ({}, {"run_ids": sim.run_ids}, {"full": True}):
            with pytest.raises(PermissionDeniedError):
                await sync(lab, store, **options)
    assert store.rows("FROM runs") == store.rows("FROM failures") == []
    assert requests(sim) < 50


async def test_arguments_that_exclude_each_other(lab: ModelLabClient, store: Store):
    """Ids come without filter and full, and a single string is no collection of ids."""
    with pytest.raises(ValueError, match="exclude"):
        await sync(lab, store, run_ids=[1], filter=RunFilter())
    with pytest.raises(ValueError, match="exclude"):
        await sync(lab, store, run_ids=[1], full=True)
    with pytest.raises(TypeError, match="iterable of ids"):
        await sync(lab, store, run_ids="70158")


# Files that cannot be opened


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.process
def test_a_second_process(store: Store):
    """It is told in one line that the file is in use."""
    code = (
        "import sys; from modellab_async.store import open_store\n"
        "try: open_store(sys.argv[1], read_only=bool(int(sys.argv[2])))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    for read_only in (0, 1):
        answer = subprocess.run(
            [sys.executable, "-c", code, str(store.path), str(read_only)],
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
            timeout=PATIENCE,
        )
        assert answer.stdout == f"StoreError {store.path}: another process has it open\n"


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (None, "not a valid DuckDB database file"),
        (["CREATE TABLE runs (id BIGINT)"], "not one that `modellab sync` made"),
        (
            ["CREATE TABLE meta (key VARCHAR, value VARCHAR)",
             "INSERT INTO meta VALUES ('schema_version', '2')"],
            "upgrade modellab_async",
        ),
    ],
    ids=["text", "foreign", "newer"],
)  # fmt: skip
def test_another_file_is_refused(
    tmp_path: Path, statements: list[str] | None, said: str, read_only: bool
):
    """A file that is no database of runs, or one of a newer schema, is left as it is."""
    path = tmp_path / "runs.duckdb"
    if statements is None:
        path.write_text("notes\n" * 1000)
    else:
        with duckdb.connect(path) as connection:
            for statement in statements:
                connection.execute(statement)
    before = contents(tmp_path)
    with pytest.raises(StoreError, match=said) as caught:
        open_store(path, read_only=read_only)
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == before


def test_a_directory_that_cannot_be_written(tmp_path: Path):
    """The disk's reason is told, and nothing is left behind."""
    (tmp_path / "file").write_text("in the way")
    for path, said in (
        (tmp_path / "file" / "runs.duckdb", "file is not a directory"),
        (tmp_path / "none" / "runs.duckdb", "none does not exist"),
        (Path("/sys/runs.duckdb"), "/sys/runs.duckdb: "),  # read-only, even for root
        (tmp_path, "directory"),
    ):
        with pytest.raises(StoreError, match=said) as caught:
            open_store(path)
        assert "\n" not in str(caught.value)
    assert contents(tmp_path) == {"file": b"in the way"}


def test_reading_creates_nothing(tmp_path: Path):
    """A file that does not exist cannot be read, and the error names what creates it."""
    with pytest.raises(StoreError, match="modellab sync"):
        open_store(tmp_path / "runs.duckdb", read_only=True)
    assert contents(tmp_path) == {}


async def test_a_store_that_is_only_read(sim: Simulator, tmp_path: Path):
    """Several readers at once are fine, and none of them can write."""
    path = tmp_path / "runs.duckdb"
    async with client_for(sim) as lab:
        with open_store(path) as store:
            await sync(lab, store, run_ids=sim.run_ids[:2])
        with open_store(path, read_only=True) as one, open_store(path, read_only=True) as other:
            assert ids_in(one) == ids_in(other) == set(sim.run_ids[:2])
            with pytest.raises(StoreError, match="read-only"):
                await sync(lab, one)
