"""The public surface as a user writes it: type-checked by mypy and pyright, never run.

Where a user would get ``Any``, one of the two fails: mypy allows no expression of that type here,
pyright in strict mode none of a type that it does not know.
"""

# mypy: disallow-any-expr
# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from pathlib import Path
from typing import Literal, assert_type

import aiohttp

import modellab_async
from modellab_async import (
    ROOT_RUNS,
    AttemptInfo,
    AuthenticationError,
    BadRequestError,
    BulkError,
    CallInfo,
    ClientClosedError,
    Clock,
    Comparison,
    ConfigError,
    Converter,
    DecodeError,
    DoneInfo,
    DownloadError,
    ErrorDetail,
    ErrorSource,
    ExportError,
    FacetKeys,
    FacetValues,
    Fetch,
    Hooks,
    InvalidIdError,
    MetricStatRange,
    MetricSummary,
    MissingExtraError,
    ModelLabClient,
    ModelLabError,
    NotFoundError,
    NumericRange,
    Outcome,
    Page,
    Pager,
    Param,
    PauseInfo,
    PermissionDeniedError,
    Project,
    ProjectArtifacts,
    ProjectFile,
    ProjectFilter,
    RateLimit,
    RateLimitedError,
    RequestTimeoutError,
    RetryInfo,
    RetryPolicy,
    Run,
    RunArtifacts,
    RunFile,
    RunFilter,
    RunList,
    RunStatus,
    ServerError,
    Stats,
    StatusError,
    Tag,
    TransportError,
    WaitInfo,
    WaitTimeoutError,
    compare,
    configure_converter,
    frames,
    from_dict,
    from_json,
    large_results,
    make_converter,
    speed,
    to_dict,
    to_json,
)
from modellab_async.export import Exported, export_runs, export_store
from modellab_async.limiter import (
    AdaptiveLimiter,
    Limiter,
    Permit,
    PermitRequest,
    QuotaExhaustedError,
)
from modellab_async.otel import OpenTelemetryHooks
from modellab_async.simulator import (
    ABSENT,
    DEFAULT_FAULTS,
    DEFAULT_SEED,
    Counts,
    Fault,
    Faults,
    ManualClock,
    RequestRecord,
    Simulator,
)
from modellab_async.simulator import RateLimit as SimulatedLimit
from modellab_async.store import Store, Sync, open_store, sync


async def fetch_token() -> str:
    return "token"


async def typed_client(session: aiohttp.ClientSession, context: ssl.SSLContext) -> None:
    async with ModelLabClient() as lab:
        assert_type(lab, ModelLabClient)
    ModelLabClient(api_key="a", app_key="b", site="eu", proxy="", ssl=False, allow_http=True)
    ModelLabClient(bearer_token="c", base_url="http://localhost:8000", session=session)
    ModelLabClient(bearer_token=lambda: "c", ssl=context, max_body_bytes=1_000_000)
    ModelLabClient(bearer_token=fetch_token, max_concurrency=20, clock=Clock(random=lambda: 0.5))
    ModelLabClient("a")  # type: ignore[call-arg]
    ModelLabClient(timeout="3")  # type: ignore[arg-type]
    lab = ModelLabClient(retry=RetryPolicy(attempts=3, deadline=None), converter=make_converter())
    assert_type(lab.with_options(retry=RetryPolicy.none(), timeout=5), ModelLabClient)
    stats = lab.stats
    assert_type(stats, Stats)
    assert_type(stats.calls + stats.attempts + stats.retries + stats.rate_limited, int)
    assert_type(stats.bytes_received, int)
    assert_type(stats.rate_limit_wait_s + stats.backoff_wait_s, float)
    stats.calls = 3  # type: ignore[misc]
    await lab.aclose()


class Spaced(AdaptiveLimiter):
    """A limiter may be derived from."""

    async def acquire(self, request: PermitRequest) -> Permit:
        assert_type((request.operation, request.is_retry), tuple[str, bool])
        assert_type(request.accepts(now=0.0, pause=1.0), bool)
        return await super().acquire(request)


async def typed_limiter(rate_limit: RateLimit) -> None:
    limiter: Limiter = Spaced(100, Clock())
    ModelLabClient(limiter=limiter)
    try:
        permit = await limiter.acquire(PermitRequest("runs.get"))
        permit.update(200, rate_limit)
        permit.release(overloaded=False)
    except QuotaExhaustedError as error:
        assert_type((error.rate_limit, error.seconds), tuple[RateLimit | None, float])
    assert_type((limiter.max_concurrency, limiter.paused_seconds), tuple[int, float])


def typed_policy(policy: RetryPolicy) -> None:
    assert_type(policy.attempts, int)
    assert_type(policy.base + policy.cap, float)
    assert_type(policy.deadline, float | None)
    assert_type(policy.max_rate_limit_wait, float | None)
    assert_type(policy.backoff(1, 0.5), float)


async def typed_one_run(lab: ModelLabClient) -> None:
    assert_type(await lab.runs.get("70158"), Run)
    assert_type(await lab.runs.wait(70158, timeout=3600), Run)
    assert_type(await lab.runs.artifacts(70158, "model/"), RunArtifacts)
    assert_type(await lab.runs.facet_keys(2387), FacetKeys)
    assert_type(await lab.runs.facet_values(2387, "metric", "loss"), FacetValues)
    await lab.runs.pin(70158)
    await lab.runs.unpin(70158)
    await lab.runs.delete(70158)
    await lab.runs.get(7.5)  # type: ignore[arg-type]
    async for run in lab.runs.watch([70158, "71354"]):
        assert_type(run, Run)


async def typed_many_runs(lab: ModelLabClient, later: AsyncIterator[int]) -> None:
    def on_progress(done: int, total: int | None) -> None: ...

    with large_results():
        assert_type(await lab.runs.get_many([70158, "71354"], route="batch"), RunList)
    fetch = lab.runs.fetch(range(1_000), ordered=True, on_progress=on_progress)
    assert_type(fetch, Fetch)
    async with fetch as outcomes:
        assert_type(outcomes, Fetch)
        async for outcome in outcomes:
            assert_type(outcome, Outcome)
            assert_type(outcome.run_id, int | str)
            assert_type(outcome.ok, bool)
            assert_type(outcome.unwrap(), Run)
            assert_type(outcome.run, Run | None)
            assert_type(outcome.error, ModelLabError | None)
    async for outcome in lab.runs.fetch(later):
        assert_type(outcome, Outcome)
    await fetch.aclose()
    lab.runs.fetch([1], route="fast")  # type: ignore[arg-type]


async def typed_listings(lab: ModelLabClient) -> None:
    chosen = RunFilter(
        ids=[70158, "71354"],
        text="ranking",
        owner_id="b0d4",
        status=RunStatus.COMPLETED,
        project_id=2387,
        tags={"team": "ranking"},
        params={"learning_rate": "<0.01", "epochs": 3, "frozen": True},
        parent_run_id=ROOT_RUNS,
    )
    pager = lab.runs.list(
        chosen,
        sort="-updated_at",
        page_size=50,
        pinned_first=True,
        include_pinned=False,
        include_descendant_matches=True,
    )
    assert_type(pager, Pager[Run])
    page = await pager
    assert_type(page, Page[Run])
    assert_type(page.items, tuple[Run, ...])
    for number in (
        *(page.total, page.number, page.size, page.next_number),
        *(page.prev_number, page.first_number, page.last_number),
    ):
        assert_type(number, int | None)
    async for run in pager:
        assert_type(run, Run)
    async for some in pager.pages():
        assert_type(some, Page[Run])
    assert_type(lab.projects.list(verify=True), Pager[Project])
    verified = lab.runs.list(verify=True)
    assert_type(verified, Pager[Run])
    async with pager.pages() as pages:
        assert_type(await anext(pages), Page[Run])
    assert_type(pager.complete, bool | None)
    assert_type([run.name async for run in lab.runs.list()], list[str])
    lab.runs.list(ProjectFilter())  # type: ignore[arg-type]


async def typed_projects(lab: ModelLabClient) -> None:
    chosen = ProjectFilter(text="ranking", owner_id="b0d4", tags={"team": "ranking"})
    assert_type(lab.projects.list(chosen, sort="name", page_size=5), Pager[Project])
    assert_type(await lab.projects.list(), Page[Project])
    project = await lab.projects.get("2387")
    assert_type(project, Project)
    assert_type((project.id, project.is_starred), tuple[int, bool])
    assert_type(project.name + project.description + project.artifact_storage_location, str)
    assert_type(project.tag("team"), str | None)
    assert_type(project.tags, tuple[Tag, ...])
    for moment in (project.created_at, project.updated_at, project.deleted_at):
        assert_type(moment, datetime | None)
    for text in (project.external_url, project.owner_id):
        assert_type(text, str | None)
    assert_type(await lab.projects.artifacts(2387), ProjectArtifacts)
    assert_type(await lab.projects.facet_keys(), FacetKeys)
    assert_type(await lab.projects.facet_values("tag", "team"), FacetValues)
    await lab.projects.star(2387)
    await lab.projects.unstar(2387)


async def typed_artifacts(lab: ModelLabClient) -> None:
    def on_progress(done: int, total: int | None) -> None: ...

    content = lab.artifacts
    assert_type(await content.read(2387, "model/adapter.bin"), bytes)
    async with content.stream(2387, "model/adapter.bin") as chunks:
        async for chunk in chunks:
            assert_type(chunk, bytes)
    written = await content.download(2387, "model/adapter.bin", "out/", on_progress=on_progress)
    assert_type(written, Path)
    assert_type(await content.download_run(70158, Path("out")), list[Path])


def typed_run(run: Run) -> None:
    assert_type((run.id, run.project_id), tuple[int, int])
    assert_type(run.name + run.description + run.mlflow_artifact_location, str)
    assert_type(run.status, RunStatus)
    assert_type(run.status.is_terminal, bool)
    assert_type(run.status == "pending", bool)
    assert_type(RunStatus("unresponsive"), RunStatus)
    assert_type(run.created_at, datetime)
    for moment in (run.updated_at, run.started_at, run.completed_at, run.deleted_at):
        assert_type(moment, datetime | None)
    assert_type(run.duration, float | None)
    for text in (run.owner_id, run.external_url, run.param("learning_rate"), run.tag("team")):
        assert_type(text, str | None)
    for flag in (run.has_children, run.is_pinned, run.descendant_match):
        assert_type(flag, bool)
    assert_type(run.params, tuple[Param, ...])
    assert_type(run.tags, tuple[Tag, ...])
    assert_type(run.metric_summaries, tuple[MetricSummary, ...])
    for param, tag in zip(run.params, run.tags, strict=True):
        assert_type(param.key + param.value + tag.key + tag.value, str)
    metric = run.metric("eval_loss")
    assert_type(metric, MetricSummary | None)
    if metric is not None:
        assert_type((metric.key, metric.count), tuple[str, int])
        assert_type((metric.first_step, metric.last_step), tuple[int | None, int | None])
        for value in (metric.latest, metric.max, metric.mean, metric.min, metric.stddev):
            assert_type(value, float | None)
    run.name = "other"  # type: ignore[misc]
    Run(id=1, name="one")  # type: ignore[call-arg]


def typed_files(of_run: RunArtifacts, of_project: ProjectArtifacts) -> None:
    assert_type(of_run.id + of_run.path_in_project + of_project.id, str)
    assert_type(of_run.files, tuple[RunFile, ...])
    assert_type(of_project.files, tuple[ProjectFile, ...])
    for file in of_run.files:
        assert_type((file.path, file.is_dir, file.file_size), tuple[str, bool, int | None])
    for known in of_project.files:
        assert_type(known.filename + known.artifact_path, str)
        assert_type((known.created_at, known.file_size), tuple[datetime | None, int | None])


def typed_facets(keys: FacetKeys, values: FacetValues) -> None:
    for names in (keys.metrics, keys.parameters, keys.tags, values.values):
        assert_type(names, tuple[str, ...])
    assert_type(keys.id + values.id + values.facet_name + values.facet_type, str)
    assert_type(values.numeric_range, NumericRange | None)
    assert_type(values.metric_stat_ranges, tuple[MetricStatRange, ...])
    for found in values.metric_stat_ranges:
        assert_type((found.stat, found.min, found.max), tuple[str, float | None, float | None])


async def typed_errors(lab: ModelLabClient) -> None:
    try:
        await lab.runs.get_many([70158])
    except BulkError as error:
        assert_type(error.runs, dict[int | str, Run])
        assert_type(error.errors, dict[int | str, ModelLabError])
    except RateLimitedError as error:
        assert_type(
            (error.name, error.limit, error.remaining), tuple[str | None, int | None, int | None]
        )
        assert_type((error.period, error.reset), tuple[float | None, float | None])
        assert_type(error.rate_limit, RateLimit | None)
        assert_type(error.stopped_by, Literal["attempts", "deadline", "budget", "quota"] | None)
    except (BadRequestError, AuthenticationError, PermissionDeniedError) as error:
        assert_type(error.errors, tuple[ErrorDetail, ...])
        for detail in error.errors:
            assert_type((detail.title, detail.detail), tuple[str | None, str | None])
            assert_type(detail.status, str | None)
            assert_type(detail.source, ErrorSource | None)
            if detail.source is not None:
                assert_type(detail.source.header, str | None)
                assert_type(detail.source.parameter or detail.source.pointer, str | None)
    except (NotFoundError, ServerError) as error:
        assert_type((error.status, error.attempts), tuple[int, int])
        assert_type((error.method, error.url, error.body), tuple[str, str, str])
        assert_type(error.retry_after, float | None)
    except DecodeError as error:
        assert_type((error.path, error.resource_id), tuple[str, int | None])
    except WaitTimeoutError as error:
        assert_type(error.run, Run | None)
    except (RequestTimeoutError, TimeoutError) as error:
        assert_type(error, RequestTimeoutError | TimeoutError)
    except (TransportError, StatusError, InvalidIdError, ClientClosedError, ConfigError) as error:
        lines: str = str(error)
        print(lines)
    except (DownloadError, ExportError, MissingExtraError):
        pass


class Traced(Converter):
    """A converter may be derived from."""


def typed_page(page: Page[Run]) -> None:
    assert_type(page[0], Run)
    assert_type(page[1:], tuple[Run, ...])
    assert_type(list(page), list[Run])
    assert_type(len(page), int)


def typed_run_list(runs: RunList) -> None:
    assert_type(runs[0], Run)
    assert_type(runs[:10], RunList)
    runs.to_table(["name", "params.lr"])


def typed_converter(run: Run, body: bytes) -> None:
    converter = make_converter()
    assert_type(converter, Converter)
    assert_type(to_json(run, converter=converter), str)
    assert_type(from_json(to_json(run), Run), Run)
    assert_type(from_json(body, Project, converter=Traced()), Project)
    configure_converter(Traced())
    resource: dict[str, object] = to_dict(run)
    assert_type(from_dict(resource, Run), Run)


def typed_comparison(runs: Sequence[Run]) -> None:
    comparison = compare(runs, statistic="min")
    assert_type(comparison, Comparison)
    assert_type(comparison.runs, tuple[Run, ...])
    assert_type(comparison.statistic, Literal["latest", "min", "max", "mean", "stddev"])
    for row in comparison.params + comparison.same_params:
        assert_type((row.key, row.differs), tuple[str, bool])
        assert_type(row.values, tuple[str | None, ...])
    for metric in comparison.metrics:
        assert_type((metric.key, metric.values), tuple[str, tuple[float | None, ...]])
    plain: Mapping[str, object] = comparison.to_dict()
    print(plain)
    compare(runs, statistic="median")  # type: ignore[arg-type]


async def typed_exports(lab: ModelLabClient) -> None:
    def on_progress(phase: Literal["fetch", "write"], done: int, total: int | None) -> None: ...

    exported = await export_runs(
        lab,
        path="runs.parquet",
        filter=RunFilter(project_id=2387),
        format="parquet",
        shape="long",
        columns=["name", "params.learning_rate"],
        statistic="min",
        resume=True,
        safe_cells=False,
        on_progress=on_progress,
    )
    assert_type(exported, Exported)
    assert_type((exported.path, exported.failures), tuple[Path, Path])
    assert_type((exported.runs, exported.fetched, exported.failed), tuple[int, int, int])
    assert_type(exported.complete, bool | None)
    await export_runs(lab, [70158, "71354"], path=Path("runs.csv"))
    await export_runs(lab, path="a", format="xlsx")  # type: ignore[arg-type]


async def typed_stores(lab: ModelLabClient) -> None:
    def on_progress(done: int, total: int | None) -> None: ...

    with open_store("runs.duckdb") as store:
        assert_type(store, Store)
        assert_type(store.path, Path)
        done = await sync(lab, store, filter=RunFilter(project_id=2387), full=True)
        assert_type(done, Sync)
        assert_type((done.kind, done.filter), tuple[str, str | None])
        assert_type((done.runs, done.failed, done.vanished), tuple[int, int, int])
        assert_type((done.finished_at, done.complete), tuple[datetime | None, bool | None])
        await sync(lab, store, run_ids=[70158, "71354"], on_progress=on_progress)
        store.connection.execute("SELECT 1")
    with open_store(Path("runs.duckdb"), read_only=True) as store:
        assert_type(export_store(store, path="runs.csv", columns=["name"]), Exported)


async def typed_frames(lab: ModelLabClient, runs: Sequence[Run]) -> None:
    # What comes out is pyarrow's, which brings no types; what goes in is checked.
    frames.to_table(runs, columns=["name"], statistic="min", shape="long")  # pyright: ignore[reportUnknownMemberType]
    frames.to_batches(runs, rows=frames.ROWS)  # pyright: ignore[reportUnknownMemberType]
    await frames.to_table_async(lab.runs.list())  # type: ignore[misc]
    frames.to_batches_async(lab.runs.list(), rows=100)  # pyright: ignore[reportUnknownMemberType]
    frames.to_table(runs, shape="tall")  # type: ignore[arg-type]


async def typed_simulator() -> None:
    clock = ManualClock()
    faults = Faults(0.3, DEFAULT_FAULTS, seed=1, max_in_a_row=2, where="get_run")
    limits = {"get_run": SimulatedLimit(limit=100, period=10), "*": SimulatedLimit(10, 1)}
    async with Simulator(
        runs=10, seed=DEFAULT_SEED, faults=faults, rate_limit=limits, clock=clock
    ) as sim:
        assert_type(sim, Simulator)
        assert_type((sim.base_url, sim.api_key, sim.app_key), tuple[str, str, str])
        assert_type((sim.bearer_token, sim.headers), tuple[str, dict[str, str]])
        assert_type((sim.run_ids, sim.project_ids), tuple[Sequence[int], Sequence[int]])
        assert_type(sim.counts, Counts)
        assert_type(sim.requests, Sequence[RequestRecord])
        assert_type(sim.requests[0].status, int | None)
        assert_type(sim.counts.by_status[200] + sim.counts.by_operation["GET", "/runs"], int)
        assert_type(sim.counts.faults["reset"] + sim.counts.peak_in_flight, int)
        assert_type(sim.counts.connections + sim.counts.connections_made, int)
        assert_type(sim.insert_project(name="mine"), int)
        run_id = sim.insert_run(
            timeline=[(0, "running"), (1.5, "completed")],
            artifacts={"model/adapter.bin": b"weights", "log.txt": 10_000},
            name="mine",
            description=ABSENT,
        )
        assert_type(run_id, int)
        assert_type(sim.insert_run({"id": "7"}, name="mine"), int)
        sim.update_run(run_id, status="failed", description=ABSENT)
        sim.delete_run(run_id)
        sim.limits.spend(3, "get_run")
        sim.limits.replace(None)
        sim.faults.next(Fault.status(503, retry_after=1), None, Fault.rate_limited(reset=3))
        sim.faults.for_run(run_id, Fault.cut(), Fault.drip(), Fault.reset(), Fault.stall())
        sim.faults.matching("list_runs", Fault.close(), Fault.lost(), Fault.idle_close())
        sim.faults.always(Fault.status(500, body="html"), lambda method, _path: method == "GET")
        sim.faults.clear()
        content = sim.content(2387, "model/adapter.bin")
        assert_type((content.size, content.read(0, 10)), tuple[int, bytes])
        clock.advance(3)


async def typed_with_fixtures(
    modellab: ModelLabClient,
    modellab_sim: Simulator,
    modellab_fail: Callable[..., None],
) -> None:
    modellab_fail(503, "reset", run=modellab_sim.insert_run())
    assert_type(await modellab.runs.get(1), Run)


def modellab_runs() -> Iterable[Mapping[str, object]]:
    return [{"run_id": 70158, "params": [{"key": "loss", "value": "0.3"}]}]


def typed_conformance(lab: ModelLabClient) -> None:
    manager: AbstractAsyncContextManager[ModelLabClient] = lab
    runs: AsyncIterator[Outcome] = lab.runs.fetch([])
    version: str = modellab_async.__version__
    print(manager, runs, version)


class Mine(Hooks):
    def on_call(self, call: CallInfo) -> None:
        assert_type((call.operation, call.method), tuple[str, str])

    def on_attempt(self, attempt: AttemptInfo) -> None:
        assert_type((attempt.number, attempt.seconds), tuple[int, float])
        assert_type(attempt.status, int | None)

    def on_retry(self, retry: RetryInfo) -> None:
        assert_type(retry.pause, float)

    def on_wait(self, wait: WaitInfo) -> None:
        assert_type((wait.seconds, wait.for_quota), tuple[float, bool])

    def on_pause(self, pause: PauseInfo) -> None:
        assert_type((pause.operation, pause.rate_limit), tuple[str, RateLimit | None])
        assert_type((pause.seconds, pause.until), tuple[float, float])

    def on_done(self, done: DoneInfo) -> None:
        assert_type((done.attempts, done.seconds), tuple[int, float])


def typed_hooks() -> None:
    told = Mine()
    traced: Hooks = OpenTelemetryHooks()
    hooks: list[Hooks] = [told, traced]
    for each in hooks:
        print(each.on_call, each.on_attempt, each.on_retry, each.on_wait, each.on_pause)
        print(each.on_done)
    ModelLabClient(hooks=told).with_options(hooks=hooks)


def typed_speed() -> None:
    async def main() -> Run:
        async with ModelLabClient() as lab:
            return await lab.runs.get(70158)

    assert_type(speed.run(main(), debug=True), Run)
