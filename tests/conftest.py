"""What several test modules need: a clock that needs no waiting, a simulator, a client on it."""

from __future__ import annotations

import asyncio
import gc
import heapq
import itertools
import os
import random
import sys
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import attrs
import cattrs
import pytest
import virtual
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from payloads import hooked

from modellab_async import Clock, MetricSummary, ModelLabClient, Run, RunStatus, make_converter
from modellab_async.client import DEFAULT_CONCURRENCY
from modellab_async.clock import Timer
from modellab_async.limiter import AdaptiveLimiter
from modellab_async.simulator import Simulator

if TYPE_CHECKING:
    from shells import Shell

EPOCH = 1_779_000_000.0

posix = pytest.mark.skipif(
    sys.platform == "win32", reason="signals, shells, terminals, links or modes of POSIX"
)

PATIENCE = 300.0
"""Seconds after which something hangs, also on a machine that is busy with other work."""

THOROUGH = bool(os.environ.get("MODELLAB_THOROUGH"))
"""Whether tests try every case instead of a sample; `nox -s thorough` sets it."""

settings.register_profile("sample", max_examples=25, deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=1_500, deadline=None)
settings.register_profile(
    "mutation",  # of a failure, only that it fails matters
    settings.get_profile("sample"),
    phases=[Phase.explicit, Phase.generate],
)
settings.load_profile("thorough" if THOROUGH else "sample")

NEED_AN_EXTRA = {
    "rich": ("test_secrets.py",),
    "duckdb": (
        "test_docs.py",
        "test_documents.py",
        "test_examples.py",
        "test_export*.py",
        "test_frames.py",
        "test_store.py",
    ),
    "typer": ("test_cli*.py", "test_doctor.py", "test_speed.py"),
    "isal": ("test_speed.py",),
    "jinja2": ("test_notebook.py",),
    "uvloop": ("test_speed.py",),
}
collect_ignore_glob = [
    pattern
    for module, patterns in NEED_AN_EXTRA.items()
    if find_spec(module) is None
    for pattern in patterns
]


def pytest_configure(config: pytest.Config) -> None:
    """Explain the marker of the next function."""
    config.addinivalue_line(
        "markers", "virtual_time: the event loop's time passes only while nothing happens"
    )


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run tests on virtual time on a loop of that kind, others on the platform's.

    A fake clock is on it too, so that its time passes only after all that happened before.
    """
    if item.get_closest_marker("virtual_time") or "fake" in getattr(item, "fixturenames", ()):
        return {"virtual": virtual.loop_with_sockets}
    return {"real": asyncio.new_event_loop}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that start programs, which half of the time goes to."""
    for item in items:
        if not {"shell", "pytester", "endurance"}.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.process)


@given(st.none())
def _start_hypothesis(_: None) -> None:
    """Make Hypothesis' random number generator, whose owner it would not find among the frozen."""


def pytest_collection_finish() -> None:
    """Leave libraries and test modules out of garbage collections, which would take 0.3 s each."""
    _start_hypothesis()
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run in which no test passed, such as one in which all were skipped."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    on_worker = hasattr(session.config, "workerinput")
    if reporter is None or on_worker or session.config.option.collectonly:
        return
    if session.exitstatus == pytest.ExitCode.OK and not reporter.stats.get("passed"):
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED


@pytest.fixture(params=[make_converter, hooked])
def converter(request: pytest.FixtureRequest) -> cattrs.Converter:
    """A converter that leaves models to msgspec, then one with hooks of a user's for every type."""
    return request.param()  # type: ignore[no-any-return]


@attrs.define
class _Alarm:
    """Something that a fake clock will do; cancelling it is as with a timer handle."""

    callback: Callable[[], object] | None

    def cancel(self) -> None:
        self.callback = None


class FakeClock:
    """Time that passes only while someone waits for it, in the order of what is due.

    The event loop gets a moment before each step, so that sockets can settle; no time passes while
    something is ``busy``, if a test says what.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.settle = 0.002
        self.slept: list[float] = []
        self.chance: Callable[[], float] = random.Random(7).random
        self.busy: Callable[[], bool] = lambda: False
        self._due: list[tuple[float, int, _Alarm]] = []
        self._order = itertools.count()
        self._turning = False

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return EPOCH + self.now

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        alarm = _Alarm(callback)
        heapq.heappush(self._due, (self.now + max(0.0, seconds), next(self._order), alarm))
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_later(self.settle, self._turn)
        return alarm

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        future = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not future.done():
                future.set_result(None)

        alarm = self.call_later(seconds, wake)
        try:
            await future
        finally:
            alarm.cancel()

    def _turn(self) -> None:
        while self._due and not self.busy():
            due, _, alarm = heapq.heappop(self._due)
            if alarm.callback is not None:
                self.now = max(self.now, due)
                alarm.callback()
                break
        self._turning = bool(self._due)
        if self._turning:
            asyncio.get_running_loop().call_later(self.settle, self._turn)

    @property
    def timers(self) -> int:
        """How many calls and wake-ups are due that nobody cancelled."""
        return sum(alarm.callback is not None for _, _, alarm in self._due)

    def clock(self) -> Clock:
        return Clock(
            monotonic=self.monotonic,
            time=self.time,
            sleep=self.sleep,
            call_later=self.call_later,
            random=lambda: self.chance(),  # noqa: PLW0108  # tests replace it
        )


@pytest.fixture
def fake() -> FakeClock:
    return FakeClock()


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see no credentials, site or proxy of the machine they run on, nor isal of another."""
    aiohttp.set_zlib_backend(zlib)  # `speed.run` sets another for the whole process
    for name in ("DD_API_KEY", "DD_APP_KEY", "DD_BEARER_TOKEN", "DD_SITE", "MODELLAB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


TASK_FACTORIES = {
    "lazy": None,
    "eager": getattr(asyncio, "eager_task_factory", None),  # Python 3.12
}


@pytest.fixture(params=[name for name, made in TASK_FACTORIES.items() if name == "lazy" or made])
async def task_factory(request: pytest.FixtureRequest) -> None:
    """The test runs with both kinds of tasks: those that start later, and those that start now."""
    asyncio.get_running_loop().set_task_factory(TASK_FACTORIES[request.param])


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    """A simulator of 2,000 runs, all of them small, that keeps a long record."""
    async with Simulator(runs=2_000, size="small", record=200_000) as simulator:
        yield simulator


def client_for(
    simulator: Simulator, *, fake: FakeClock | None = None, **options: Any
) -> ModelLabClient:
    """A client with the simulator's keys, if asked on fake time, which waits for its requests."""
    if fake is not None:
        options["clock"] = fake.clock()
        options["limiter"] = limiter = AdaptiveLimiter(DEFAULT_CONCURRENCY, options["clock"])
        fake.busy = lambda: limiter.in_flight > 0
    return ModelLabClient(
        base_url=simulator.base_url,
        api_key=simulator.api_key,
        app_key=simulator.app_key,
        **options,
    )


@pytest.fixture
def limiter() -> AdaptiveLimiter:
    """The limiter of ``lab``, which tells how many requests are in flight."""
    return AdaptiveLimiter(DEFAULT_CONCURRENCY, Clock())


@pytest.fixture
async def lab(sim: Simulator, limiter: AdaptiveLimiter) -> AsyncIterator[ModelLabClient]:
    """A client on ``sim``, on real time."""
    async with client_for(sim, limiter=limiter) as client:
        yield client


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without a run, to be copied, which is faster than making another."""
    from modellab_async.store import open_store  # noqa: PLC0415  # it needs an extra

    path = tmp_path_factory.mktemp("store") / "runs.duckdb"
    open_store(path).close()
    return path


@pytest.fixture
async def shell() -> AsyncIterator[Shell]:
    """Starts programs that do not outlive the test."""
    from shells import Shell  # noqa: PLC0415  # it imports from here

    started = Shell()
    yield started
    await started.close()


def make_run(**changes: object) -> Run:
    """A finished run with one metric, other than that as the arguments say."""
    values = {
        "id": 70158,
        "name": "calm-otter-7",
        "project_id": 2387,
        "status": RunStatus.COMPLETED,
        "created_at": datetime(2026, 5, 15, 2, 57, 3, tzinfo=UTC),
        "duration": 3725.0,
        "metric_summaries": (MetricSummary("eval_loss", count=3, latest=0.123456),),
    }
    return Run(**(values | changes))  # type: ignore[arg-type]


async def settled(turns: int = 20) -> None:
    """Let everything that is ready run; no time passes."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, such as the server having noticed a closed connection."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)
