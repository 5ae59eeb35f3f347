"""Calls as spans and metrics, as OpenTelemetry's own SDK records them."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from conftest import EPOCH, PATIENCE, FakeClock, client_for, eventually
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from modellab_async import (
    ModelLabClient,
    ModelLabError,
    NotFoundError,
    RequestTimeoutError,
    RetryPolicy,
    RunFilter,
)
from modellab_async.otel import OpenTelemetryHooks
from modellab_async.simulator import DEFAULT_FAULTS, Fault, Simulator

PAGE = Path(__file__).parents[1] / "docs/how-to/tracing.md"
RUN = "/api/v2/model-lab-api/runs/{id}"


class OpenSpans(SpanProcessor):
    """Counts the spans that have not ended."""

    count = 0

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.count += 1

    def on_end(self, span: Any) -> None:
        self.count -= 1


@attrs.frozen
class Telemetry:
    """Hooks, and what OpenTelemetry has recorded of them."""

    open_spans: OpenSpans = attrs.field(factory=OpenSpans)
    exporter: InMemorySpanExporter = attrs.field(factory=InMemorySpanExporter)
    reader: InMemoryMetricReader = attrs.field(factory=InMemoryMetricReader)
    traces: TracerProvider = attrs.field(factory=TracerProvider)
    meters: MeterProvider = attrs.field()
    hooks: OpenTelemetryHooks = attrs.field()

    @meters.default
    def _meters(self) -> MeterProvider:
        self.traces.add_span_processor(self.open_spans)
        self.traces.add_span_processor(SimpleSpanProcessor(self.exporter))
        return MeterProvider([self.reader])

    @hooks.default
    def _hooks(self) -> OpenTelemetryHooks:
        return OpenTelemetryHooks(self.traces, self.meters)

    @property
    def spans(self) -> list[Any]:
        return list(self.exporter.get_finished_spans())

    @property
    def calls(self) -> list[Any]:
        return [span for span in self.spans if "modellab.operation" in span.attributes]

    @property
    def attempts(self) -> list[Any]:
        return [span for span in self.spans if "url.full" in span.attributes]

    def points(self, metric: str) -> list[Any]:
        data = self.reader.get_metrics_data()
        found = [
            metric
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]
        return [point for one in found if one.name == metric for point in one.data.data_points]


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    recorded = Telemetry()
    yield recorded
    assert recorded.open_spans.count == 0
    recorded.traces.shutdown()
    recorded.meters.shutdown()


class TestSpans:
    async def test_a_call_and_its_attempt(self, sim: Simulator, telemetry: Telemetry):
        """The call's span is named by the operation, the attempt's by the conventions for HTTP."""
        async with client_for(sim, hooks=telemetry.hooks) as lab:
            await lab.runs.get(sim.run_ids[0])
        (call,), (attempt,) = telemetry.calls, telemetry.attempts
        port = int(sim.base_url.rpartition(":")[2])
        server = {"server.address": "127.0.0.1", "server.port": port}
        assert (call.name, call.kind, call.parent) == ("runs.get", SpanKind.CLIENT, None)
        assert dict(call.attributes) == {
            **server,
            "modellab.operation": "runs.get",
            "modellab.attempts": 1,
        }
        assert (attempt.name, attempt.kind) == (f"GET {RUN}", SpanKind.CLIENT)
        assert attempt.parent == call.context
        assert dict(attempt.attributes) == {
            **server,
            "http.request.method": "GET",
            "http.response.status_code": 200,
            "url.full": f"{sim.base_url}/api/v2/model-lab-api/runs/{sim.run_ids[0]}",
            "url.template": RUN,
        }
        assert call.status.status_code == attempt.status.status_code == StatusCode.UNSET
        assert call.start_time <= attempt.start_time <= attempt.end_time <= call.end_time

    async def test_long_lists_of_ids_are_shortened(self, sim: Simulator, telemetry: Telemetry):
        """The address of a request for 100 runs shows two of their ids."""
        async with client_for(sim, hooks=telemetry.hooks) as lab:
            await lab.runs.get_many(sim.run_ids[:100])
        (attempt,) = telemetry.attempts
        first, second = sim.run_ids[:2]
        assert f"filter%5Bid%5D={first},{second},…(100 ids)&" in attempt.attributes["url.full"]

    async def test_retries(self, sim: Simulator, telemetry: Telemetry, fake: FakeClock):
        """Each attempt has a span, and each retry is an event that names reason and pause."""
        sim.faults.next(Fault.status(503), Fault.reset())
        async with client_for(sim, hooks=telemetry.hooks, clock=fake.clock()) as lab:
            await lab.runs.get(sim.run_ids[0])
        (call,) = telemetry.calls
        failures = ["503", "modellab_async.errors.TransportError", None]
        assert [span.attributes.get("error.type") for span in telemetry.attempts] == failures
        resent = [span.attributes.get("http.request.resend_count") for span in telemetry.attempts]
        assert resent == [None, 1, 2]
        codes = [span.status.status_code for span in telemetry.attempts]
        assert codes == [StatusCode.ERROR, StatusCode.ERROR, StatusCode.UNSET]
        assert [event.name for event in call.events] == ["modellab.retry"] * 2
        assert [dict(event.attributes) for event in call.events] == [
            {"error.type": why, "modellab.attempt": number, "modellab.pause": pause}
            for number, (why, pause) in enumerate(zip(failures, fake.slept, strict=False), start=1)
        ]
        assert call.status.status_code == StatusCode.UNSET
        assert (call.end_time - call.start_time) / 1e9 == pytest.approx(sum(fake.slept))
        assert call.start_time == int(EPOCH * 1e9)

    async def test_a_wait_for_quota(self, sim: Simulator, telemetry: Telemetry, fake: FakeClock):
        """It is an event at its beginning, with the limit's name and the seconds it took."""
        sim.faults.next(Fault.rate_limited(reset=7))
        async with client_for(sim, hooks=telemetry.hooks, clock=fake.clock()) as lab:
            await lab.runs.get(sim.run_ids[0])
        retry, wait = telemetry.calls[0].events
        assert (retry.name, wait.name) == ("modellab.retry", "modellab.rate_limit.wait")
        attributes = dict(wait.attributes)
        assert attributes.pop("modellab.wait") == pytest.approx(7, abs=0.1)
        assert attributes == {
            "modellab.rate_limit.name": "model_lab_api",
            "modellab.rate_limit.limit": 100,
            "modellab.rate_limit.period": 10,
        }

    async def test_a_wait_for_a_place(self, sim: Simulator, telemetry: Telemetry):
        """It is an event of another name, and not measured as a wait for quota."""
        async with client_for(sim, hooks=telemetry.hooks, max_concurrency=1) as lab:
            await asyncio.gather(*(lab.runs.get(run_id) for run_id in sim.run_ids[:2]))
        events = [event.name for call in telemetry.calls for event in call.events]
        assert events == ["modellab.queue.wait"]
        assert telemetry.points("modellab.client.rate_limit.wait") == []

    async def test_a_failure(self, sim: Simulator, telemetry: Telemetry):
        """Both spans say so; the call's also says what the error does."""
        async with client_for(sim, hooks=telemetry.hooks) as lab:
            with pytest.raises(NotFoundError) as caught:
                await lab.runs.get(1)
        (call,), (attempt,) = telemetry.calls, telemetry.attempts
        assert call.attributes["error.type"] == attempt.attributes["error.type"] == "404"
        assert call.status.status_code == attempt.status.status_code == StatusCode.ERROR
        assert (call.status.description, attempt.status.description) == (str(caught.value), None)

    @pytest.mark.virtual_time
    async def test_a_time_out(self, sim: Simulator, telemetry: Telemetry):
        """An attempt without an answer has its error's class, and no status code."""
        sim.faults.next(Fault.stall())
        once = RetryPolicy.none()
        async with client_for(sim, hooks=telemetry.hooks, retry=once, timeout=0.1) as lab:
            with pytest.raises(RequestTimeoutError):
                await lab.runs.get(sim.run_ids[0])
        attributes = telemetry.attempts[0].attributes
        assert attributes["error.type"] == "modellab_async.errors.RequestTimeoutError"
        assert "http.response.status_code" not in attributes

    async def test_a_cancellation(self, sim: Simulator, telemetry: Telemetry):
        """It ends both spans, and makes neither a failure."""
        sim.faults.always(Fault.stall())
        async with client_for(sim, hooks=telemetry.hooks) as lab:
            task = asyncio.create_task(lab.runs.get(sim.run_ids[0]))
            await eventually(lambda: lab.stats.attempts == 1)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        assert len(telemetry.spans) == 2
        for span in telemetry.spans:
            assert span.attributes["error.type"] == "asyncio.exceptions.CancelledError"
            assert span.status.status_code == StatusCode.UNSET

    async def test_a_download(self, sim: Simulator, telemetry: Telemetry, tmp_path: Path):
        """A stream that breaks off and is gone on with is two calls, the first of them failed."""
        run_id = sim.insert_run(project_id=5, artifacts={"model.bin": bytes(300_000)})
        async with client_for(sim, hooks=telemetry.hooks, retry=RetryPolicy(base=0)) as lab:
            listing = await lab.runs.artifacts(run_id)
            sim.faults.next(Fault.cut(100_000))
            await lab.artifacts.download(5, f"{listing.path_in_project}/model.bin", tmp_path / "m")
        assert (tmp_path / "m").stat().st_size == 300_000
        calls = telemetry.calls[1:]
        assert {call.name for call in calls} == {"artifacts.content"}
        assert [call.status.status_code for call in calls] == [StatusCode.ERROR, StatusCode.UNSET]
        names = {span.name for span in telemetry.attempts[1:]}
        assert names == {"GET /api/v2/model-lab-api/artifacts/content"}

    async def test_a_dropped_stream(self, sim: Simulator, telemetry: Telemetry):
        """Leaving a stream early ends its spans, which is no failure."""
        run_id = sim.insert_run(project_id=5, artifacts={"model.bin": bytes(300_000)})
        async with client_for(sim, hooks=telemetry.hooks) as lab:
            listing = await lab.runs.artifacts(run_id)
            async with lab.artifacts.stream(5, f"{listing.path_in_project}/model.bin") as body:
                await anext(body)
        assert all(span.status.status_code == StatusCode.UNSET for span in telemetry.spans)
        assert len(telemetry.spans) == 4

    async def test_hundreds_of_calls_at_once(self, sim: Simulator, telemetry: Telemetry):
        """Every span has the parent that was current in its own task, and none is left open."""
        tracer = telemetry.traces.get_tracer("test")
        sim.faults.next(*[Fault.status(503), None, None] * 20)

        async def one(run_id: int) -> None:
            with tracer.start_as_current_span(f"task {run_id}"):
                await lab.runs.get(run_id)
                current = trace.get_current_span()
                assert isinstance(current, ReadableSpan)
                assert current.name == f"task {run_id}"

        quick = RetryPolicy(base=0.001)
        async with client_for(sim, hooks=telemetry.hooks, retry=quick) as lab:
            async with asyncio.TaskGroup() as group:
                for run_id in sim.run_ids[:250]:
                    group.create_task(one(run_id))
            attempts = lab.stats.attempts
        by_id = {span.context.span_id: span for span in telemetry.spans}
        assert (len(telemetry.calls), len(telemetry.attempts)) == (250, attempts)
        for attempt in telemetry.attempts:
            call = by_id[attempt.parent.span_id]
            run_id = attempt.attributes["url.full"].rpartition("/")[2]
            assert by_id[call.parent.span_id].name == f"task {run_id}"

    async def test_a_fetch_is_below_its_caller(self, sim: Simulator, telemetry: Telemetry):
        """Calls that tasks of the client make belong to who asked for them."""
        sim.insert_run(project_id=5)
        async with client_for(sim, hooks=telemetry.hooks) as lab:
            with telemetry.traces.get_tracer("test").start_as_current_span("mine") as mine:
                await lab.runs.get_many(sim.run_ids[:200])
                assert [run async for run in lab.runs.list(RunFilter(project_id=5))]
        parents = {call.parent.span_id for call in telemetry.calls}
        assert parents == {mine.get_span_context().span_id}

    async def test_names_hold_no_ids(self, sim: Simulator, telemetry: Telemetry):
        """Neither those of calls and attempts, nor templates; a gateway's path stays."""
        async with client_for(sim, hooks=telemetry.hooks, retry=RetryPolicy.none()) as lab:
            run = await lab.runs.get(sim.run_ids[0])
            await lab.runs.pin(run.id)
            await lab.runs.artifacts(run.id)
            await lab.projects.get(run.project_id)
            await lab.runs.list(RunFilter(project_id=5))
        async with ModelLabClient(
            base_url=f"{sim.base_url}/v7/lab", bearer_token="api", hooks=telemetry.hooks
        ) as lab:
            with pytest.raises(ModelLabError):
                await lab.projects.star(5)
        root = "/api/v2/model-lab-api"
        assert [span.name for span in telemetry.attempts] == [
            f"GET {root}/runs/{{id}}",
            f"POST {root}/runs/{{id}}/pin",
            f"GET {root}/runs/{{id}}/artifacts",
            f"GET {root}/projects/{{id}}",
            f"GET {root}/runs",
            f"POST /v7/lab{root}/projects/{{id}}/star",
        ]
        for span in telemetry.attempts:
            assert span.name.endswith(span.attributes["url.template"])


class TestMetrics:
    async def test_durations_and_retries(
        self, sim: Simulator, telemetry: Telemetry, fake: FakeClock
    ):
        """Each attempt and each call is measured once; retries are counted by their reason."""
        sim.faults.next(Fault.status(503), Fault.status(503), Fault.rate_limited(reset=7))
        async with client_for(sim, hooks=telemetry.hooks, clock=fake.clock()) as lab:
            await lab.runs.get(sim.run_ids[0])
            with pytest.raises(NotFoundError):
                await lab.runs.get(1)
            retries = lab.stats.retries
        requests = telemetry.points("http.client.request.duration")
        counts = {point.attributes["http.response.status_code"]: point.count for point in requests}
        assert counts == {503: 2, 429: 1, 200: 1, 404: 1}
        assert requests[0].explicit_bounds[:3] == (0.005, 0.01, 0.025)
        assert "url.full" not in requests[0].attributes
        calls = telemetry.points("modellab.client.call.duration")
        assert [(dict(point.attributes), point.count) for point in calls] == [
            ({"modellab.operation": "runs.get"}, 1),
            ({"modellab.operation": "runs.get", "error.type": "404"}, 1),
        ]
        assert calls[0].sum == pytest.approx(sum(fake.slept) + 7, abs=0.1)
        counted = telemetry.points("modellab.client.retries")
        assert {point.attributes["error.type"]: point.value for point in counted} == {
            "503": 2,
            "429": 1,
        }
        assert sum(point.value for point in counted) == retries
        (wait,) = telemetry.points("modellab.client.rate_limit.wait")
        assert (wait.count, wait.sum) == (1, pytest.approx(7, abs=0.1))


@pytest.mark.parametrize("given", [{}, {"bearer_token": "SECRET-token"}], ids=["keys", "token"])
async def test_no_secret_is_recorded(
    telemetry: Telemetry, fake: FakeClock, given: dict[str, Any]
) -> None:
    """Not in a name, an attribute, an event, a description or a metric, whatever a server says."""
    keys = {"api_key": "SECRET-api", "app_key": "SECRET-app"}
    secret = given.get("bearer_token", "SECRET-api")
    limit = {"X-RateLimit-Name": secret, "X-RateLimit-Reset": "5", "X-RateLimit-Remaining": "0"}
    echoes = [
        *DEFAULT_FAULTS,
        *(Fault.status(code, body=f'{{"errors": ["{secret}"]}}'.encode()) for code in (400, 500)),
        Fault.status(429, headers=limit),
    ]
    async with Simulator(runs=20, **(keys | given)) as sim:
        for fault in echoes:
            sim.faults.next(fault, fault)
            async with ModelLabClient(
                base_url=sim.base_url,
                **(given or keys),
                hooks=telemetry.hooks,
                retry=RetryPolicy(attempts=2),
                clock=fake.clock(),
            ) as lab:
                with contextlib.suppress(ModelLabError):
                    await lab.runs.get(sim.run_ids[0])
                with contextlib.suppress(ModelLabError):
                    await lab.artifacts.read(1, secret)
    everything = [span.to_json() for span in telemetry.spans]
    data = telemetry.reader.get_metrics_data()
    assert data is not None
    everything.append(data.to_json())
    assert any("***" in text for text in everything)
    assert not [text for text in everything if "SECRET" in text]


async def test_without_an_sdk(sim: Simulator) -> None:
    """The global providers are the default; while none is set up, calls are as ever."""
    async with client_for(sim, hooks=OpenTelemetryHooks()) as lab:
        assert (await lab.runs.get(sim.run_ids[0])).id == sim.run_ids[0]


@pytest.mark.process
def test_a_missing_extra_is_named() -> None:
    """Where OpenTelemetry is not installed, the error names what to install."""
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "import modellab_async, modellab_async.hooks\n"
        "try: import modellab_async.otel\n"
        "except modellab_async.MissingExtraError as error: print(error)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert "needs opentelemetry-api: python -m pip install 'modellab_async[otel]'" in answer.stdout


def test_the_page_on_tracing() -> None:
    """Its tables name every span attribute, event and metric that the hooks record."""
    text = PAGE.read_text("utf-8")
    source = (PAGE.parents[2] / "modellab_async/otel.py").read_text("utf-8")
    names = re.findall(r'"((?:modellab|http|url|server)\.[\w.]*\w)"', source)
    assert names
    assert [name for name in names if name not in text] == []
