"""Reads by a local Ray cluster of two workers, from a simulator in a process of its own.

Not collected by default: ``nox -s ray``.
"""

from __future__ import annotations

import asyncio
import collections
import functools
import multiprocessing
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pyarrow as pa
import pytest
import ray
import ray.cloudpickle
from conftest import FakeClock, client_for, posix

import modellab_async
from modellab_async import ModelLabClient, RetryPolicy, RunFilter, frames, raydata
from modellab_async.raydata._datasource import RunsDatasource
from modellab_async.raydata.reading import ListingPages
from modellab_async.simulator import Fault, RateLimit, Simulator

pytestmark = pytest.mark.filterwarnings("default")  # Ray's own are no errors of ours

RUNS = 10_000
PAGE = Path(__file__).parents[1] / "docs/how-to/ray.md"
COMPLETED = {"project_id": 2387, "status": "completed"}
KEYS = {"DD_API_KEY": "sim-api-key", "DD_APP_KEY": "sim-app-key"}


# A simulator in another process: it calls the functions that it is sent


def _serve(pipe: Any) -> None:
    async def serve() -> None:
        loop = asyncio.get_running_loop()
        async with Simulator(runs=RUNS, record=100_000) as sim:
            pipe.send((sim.base_url, list(sim.run_ids)))
            while task := await loop.run_in_executor(None, pipe.recv):
                function, arguments = task
                pipe.send(function(sim, *arguments))

    asyncio.run(serve())


@attrs.define
class RemoteSimulator:
    pipe: Any
    base_url: str
    ids: list[int]
    earlier: int = 0

    def do(self, function: Callable[..., Any], *arguments: Any) -> Any:
        self.pipe.send((function, arguments))
        return self.pipe.recv()

    def begin(self, limit: RateLimit | None = None) -> None:
        """Set the rate limit, end faults, and forget earlier requests."""
        self.earlier = self.do(begin, limit)

    def statuses(self) -> collections.Counter[int | None]:
        """How often each status was answered."""
        return self.do(statuses, self.earlier)  # type: ignore[no-any-return]

    @property
    def read(self) -> Callable[..., ray.data.Dataset]:
        return functools.partial(raydata.read_runs, base_url=self.base_url)


def statuses(sim: Simulator, earlier: int) -> collections.Counter[int | None]:
    return collections.Counter(request.status for request in sim.requests[earlier:])


def begin(sim: Simulator, limit: RateLimit | None) -> int:
    sim.limits.replace(limit)
    sim.faults.clear()
    return len(sim.requests)


def refuse(sim: Simulator) -> None:
    sim.faults.always(Fault.status(403))


def insert(sim: Simulator, count: int, attributes: dict[str, Any]) -> list[int]:
    return [sim.insert_run(**attributes) for _ in range(count)]


def delete(sim: Simulator, run_id: int) -> None:
    sim.delete_run(run_id)


@pytest.fixture(scope="session")
def simulator() -> Iterator[RemoteSimulator]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    yield RemoteSimulator(ours, *ours.recv())
    ours.send(None)
    process.join(10)


@pytest.fixture(scope="session")
def logs() -> Iterator[Path]:
    """A cluster of two workers; yields the directory of its logs."""
    os.environ.update(KEYS, RAY_USAGE_STATS_ENABLED="0")
    context = ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield Path(context.address_info["session_dir"]) / "logs"
    ray.shutdown()
    for name in KEYS:
        del os.environ[name]


@pytest.fixture
def sim(simulator: RemoteSimulator, logs: Path, monkeypatch: pytest.MonkeyPatch) -> RemoteSimulator:
    simulator.begin()
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    return simulator


def ids_in(ds: ray.data.Dataset) -> list[int]:
    tables = ray.get(ds.to_arrow_refs())
    return [run_id for table in tables for run_id in table["id"].to_pylist()]


def cause_of(ds: ray.data.Dataset) -> BaseException:
    """What ended a read, below what Ray wraps it in."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - Ray's versions differ
        ds.materialize()
    error: BaseException = caught.value
    while (below := getattr(error, "cause", None) or error.__cause__) is not None:
        error = below
    return error


def leave_pids_in(directory: Path) -> Callable[[], str]:
    """A token function that tells which processes asked for a token."""

    def token() -> str:
        (directory / str(os.getpid())).touch()
        return "sim-bearer-token"

    return token


# Many runs


def test_a_listing_under_a_quota(sim: RemoteSimulator, tmp_path: Path) -> None:
    """Two workers read each run once, hardly a request is refused, and the count is known ahead."""
    sim.begin(RateLimit(limit=50, period=1))
    ds = sim.read(bearer_token=leave_pids_in(tmp_path))
    assert ds.count() == RUNS
    assert sum(sim.statuses().values()) == 1
    read = ds.materialize()

    assert read.count() == RUNS
    assert read.num_blocks() == RUNS / 5_000
    assert sorted(ids_in(read)) == sorted(sim.ids)
    seen = sim.statuses()
    assert seen[200] <= RUNS / 100 + 1
    assert seen[429] <= 0.03 * seen[200]
    assert len({*tmp_path.iterdir()} - {tmp_path / str(os.getpid())}) >= 2


@posix
def test_killed_workers_lose_nothing(sim: RemoteSimulator, tmp_path: Path) -> None:
    """What two killed workers were reading is read again, once: no run is missing or doubled."""
    sim.begin(RateLimit(limit=50, period=1))
    ds = sim.read(sim.ids, bearer_token=leave_pids_in(tmp_path), override_num_blocks=5)
    found: list[ray.data.Dataset] = []
    reader = threading.Thread(target=lambda: found.append(ds.materialize()))
    reader.start()
    killed: list[Path] = []
    for progress in (20, 50):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and sim.statuses()[200] < progress:
            time.sleep(0.05)
        workers = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        killed.append(next(path for path in workers if path not in killed))
        os.kill(int(killed[-1].name), 9)  # SIGKILL
    reader.join(120)

    assert found
    assert found[0].count() == RUNS
    assert sorted(ids_in(found[0])) == sorted(sim.ids)
    assert len([*tmp_path.iterdir()]) >= 3  # others took their place
    seen = sim.statuses()
    assert seen[429] <= 0.03 * seen[200]


def test_a_killed_coordinator_loses_nothing(sim: RemoteSimulator) -> None:
    """Another one takes its place, and learns the quota anew."""
    sim.begin(RateLimit(limit=20, period=1))
    source = RunsDatasource(sim.ids[:4_000], client={"base_url": sim.base_url})
    ds = source.dataset(concurrency=None, blocks=None)
    found: list[ray.data.Dataset] = []
    reader = threading.Thread(target=lambda: found.append(ds.materialize()))
    reader.start()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and sim.statuses()[200] < 10:
        time.sleep(0.05)
    ray.kill(source.coordinator, no_restart=False)
    reader.join(120)
    assert sorted(ids_in(found[0])) == sim.ids[:4_000]
    assert sim.statuses()[200] == 40


# The rows of a read


async def test_rows_are_those_of_tables(sim: RemoteSimulator) -> None:
    """Columns, types and values are those of `frames`, in the order asked, repeats included."""
    wanted = [*sim.ids[300:0:-2], sim.ids[300]]
    columns = ["name", "created_at", "params.learning_rate", "metrics.eval_loss.min", "tags"]
    ds = sim.read(wanted, columns=columns, override_num_blocks=2)
    async with ModelLabClient(base_url=sim.base_url) as lab:
        runs = await lab.runs.get_many(wanted)
    (expected,) = frames.to_batches(runs, columns=columns)

    assert ds.schema().names == expected.schema.names
    got = pa.concat_tables(ray.get(ds.to_arrow_refs()))
    assert got.schema.equals(expected.schema)
    assert got.to_pylist() == expected.to_pylist()


def test_a_few_rows_cost_a_few_requests(sim: RemoteSimulator) -> None:
    """A limit that Ray passes on reaches the tasks; without, one task after the other is read."""
    ds = sim.read(filter=RunFilter(), columns=["name"], concurrency=1)
    assert len(ds.map(lambda row: row).take(3)) == 3
    assert sum(sim.statuses().values()) <= 1 + 4
    assert len(ds.take(3)) == 3
    assert sum(sim.statuses().values()) <= 1 + 4 + 2 * 50


@pytest.mark.parametrize(
    ("asked", "blocks"), [(None, [750, 800]), (1, [1_550]), (7, [50, *[300] * 5])]
)
def test_the_rows_of_blocks(sim: RemoteSimulator, asked: int | None, blocks: list[int]) -> None:
    """Blocks are as large as occupies all processors, or as many as asked for, of whole pages."""
    ds = sim.read(sim.ids[:1_550], columns=["name"], override_num_blocks=asked)
    assert sorted(table.num_rows for table in ray.get(ds.to_arrow_refs())) == blocks


def test_the_address_of_the_driver_is_that_of_the_workers(
    sim: RemoteSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``MODELLAB_BASE_URL`` holds for the whole read."""
    monkeypatch.setenv("MODELLAB_BASE_URL", sim.base_url)
    assert ids_in(raydata.read_runs(sim.ids[:3])) == sim.ids[:3]


def test_nothing_to_read(sim: RemoteSimulator) -> None:
    """No ids, or a filter that nothing matches: no rows."""
    assert sim.read([]).take_all() == []
    nothing = sim.read(filter=RunFilter(text="no run is called this"))
    assert nothing.count() == 0
    assert nothing.take_all() == []


# Failures


def test_failures_as_rows(sim: RemoteSimulator) -> None:
    """One row for each id: of those that fail, the error and the id, where it is one."""
    ds = sim.read([sim.ids[1], 1, "x", sim.ids[0]], columns=["name"], failures="rows")
    rows = ds.take_all()
    assert ds.count() == 4
    assert [row["id"] for row in rows] == [sim.ids[1], 1, None, sim.ids[0]]
    assert [row["name"] is None for row in rows] == [False, True, True, False]
    errors = [row["error"] and row["error"].split(":")[0] for row in rows]
    assert errors == [None, "NotFoundError", "InvalidIdError", None]


def test_a_broken_run_of_a_listing_is_a_row(sim: RemoteSimulator) -> None:
    """The others of its page are read."""
    (bad,) = sim.do(insert, 1, {"project_id": 7, "status": 3})
    good = sim.do(insert, 3, {"project_id": 7})
    rows = sim.read(filter=RunFilter(project_id=7), columns=["name"], failures="rows").take_all()
    assert [(row["id"], row["error"] is None) for row in rows] == [
        (bad, False),
        *((run_id, True) for run_id in good),
    ]
    assert rows[0]["error"].startswith("DecodeError")


def test_a_failure_ends_the_read(sim: RemoteSimulator) -> None:
    """By default, with the error of the run."""
    error = cause_of(sim.read([sim.ids[0], 1]))
    assert type(error).__name__ == "NotFoundError"
    assert "run not found" in str(error)


def test_refused_keys_end_the_read(sim: RemoteSimulator) -> None:
    """They are no failure of each run."""
    sim.do(refuse)
    error = cause_of(sim.read(sim.ids, failures="rows", override_num_blocks=4))
    assert type(error).__name__ == "PermissionDeniedError"


async def test_a_listing_waits_for_quota_whatever_the_deadline(fake: FakeClock) -> None:
    """A pause that is longer than a call may take is no failure of a page."""
    async with Simulator(runs=350) as sim, client_for(sim, clock=fake.clock()) as lab:
        sim.faults.next(Fault.rate_limited(reset="1000"))
        outcomes = await ListingPages(None, number=0, rows=350, total=350).fetch(lab)
    assert {outcome.run_id for outcome in outcomes} == set(sim.run_ids)
    assert fake.now >= 1000


def test_a_quota_that_is_used_up_for_too_long(sim: RemoteSimulator) -> None:
    """The read ends if the quota does not come back in the time that its requests may wait."""
    sim.begin(RateLimit(limit=5, period=60))
    error = cause_of(sim.read(sim.ids, retry=RetryPolicy(max_rate_limit_wait=1.0)))
    assert type(error).__name__ == "RateLimitedError"
    assert "max_rate_limit_wait" in str(error)


def test_a_listing_that_changes(sim: RemoteSimulator) -> None:
    """New runs are left out; where runs vanish, the read fails rather than miss one."""
    (first, *_) = sim.do(insert, 150, {"project_id": 11})
    ds = sim.read(filter=RunFilter(project_id=11), columns=["name"])
    sim.do(insert, 20, {"project_id": 11})
    assert len(ds.take_all()) == ds.count() == 150
    late = sim.read(filter=RunFilter(project_id=11), columns=["name"])
    sim.do(delete, first)
    assert isinstance(cause_of(late), raydata.ListingChangedError)


# Keys


def test_keys_of_the_environment_are_in_no_task(sim: RemoteSimulator) -> None:
    """Tasks contain only the options that were passed."""
    source = RunsDatasource(sim.ids[:10], client={"base_url": sim.base_url})
    (task,) = source.get_read_tasks(1)
    pickled = ray.cloudpickle.dumps(task)
    assert not any(key.encode() in pickled for key in KEYS.values())


def test_keys_given_are_in_no_log(sim: RemoteSimulator, logs: Path) -> None:
    """Neither in what Ray writes down nor in the error of a read that they do not open."""
    keys = {"api_key": "wrong-key-1e9f", "app_key": "wrong-key-77aa"}
    ds = sim.read(sim.ids[:10], **keys)
    error = cause_of(ds)
    assert type(error).__name__ in {"AuthenticationError", "PermissionDeniedError"}
    shown = [repr(ds), str(ds), repr(error), ds.stats()]
    shown += [file.read_text("utf-8", "replace") for file in logs.rglob("*") if file.is_file()]
    assert len(shown) > 10
    assert not [text for text in shown if "wrong-key" in text]


# What is refused


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"run_ids": "70158"}, TypeError, "iterable of ids"),
        ({"run_ids": [1], "filter": RunFilter()}, ValueError, "exclude"),
        ({"run_ids": [1], "failures": "skip"}, ValueError, "'raise' or 'rows'"),
        ({"run_ids": [1], "columns": ["params.*"]}, ValueError, "name the columns"),
        ({"run_ids": [1], "columns": ["nonsense"]}, ValueError, "no column"),
        ({"run_ids": [1], "session": None}, TypeError, "'session'"),
        ({"run_ids": [1], "api_token": "x"}, TypeError, "'api_token'"),
    ],
)
def test_what_cannot_be_is_refused_at_once(
    logs: Path, arguments: dict[str, Any], error: type[Exception], says: str
) -> None:
    """Before any task starts."""
    with pytest.raises(error, match=re.escape(says)):
        raydata.read_runs(**arguments)


# The page


def test_the_page(
    sim: RemoteSimulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its code runs as it stands, in order."""
    for number in range(1, 10):
        loss = {"key": "eval_loss", "count": 1, "min": 1 / number}
        sim.do(insert, 1, {**COMPLETED, "metric_summaries": [loss]})
    sim.do(insert_unless_there, 70158)
    monkeypatch.setattr(modellab_async, "ModelLabClient", client_on(sim.base_url))
    monkeypatch.setattr(raydata, "read_runs", sim.read)
    monkeypatch.setenv("TEAM_TOKEN", "sim-bearer-token")
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL):
        exec(block, names)
    out = capsys.readouterr().out
    for line in (r"\d+ runs", r"\d+ None", "1 NotFoundError: 404 .*"):
        assert re.search(f"^{line}$", out, re.MULTILINE)  # Ray prints warnings in between
    losses = [row["metrics.eval_loss.min"] for row in names["best"]]
    assert len(losses) == 5
    assert losses == sorted(losses)
    assert names["failed"] == [1]


def insert_unless_there(sim: Simulator, run_id: int) -> None:
    if run_id not in sim.run_ids:
        sim.insert_run(run_id)


def client_on(base_url: str) -> Callable[..., ModelLabClient]:
    return functools.partial(ModelLabClient, base_url=base_url)
