"""What hooks are told, in which order, and that they cannot harm a call."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any

import attrs
import pytest
from conftest import EPOCH, FakeClock, client_for, eventually, settled

from modellab_async import (
    AttemptInfo,
    CallInfo,
    ConfigError,
    DoneInfo,
    Hooks,
    ModelLabClient,
    NotFoundError,
    RateLimitedError,
    RequestTimeoutError,
    RetryInfo,
    RetryPolicy,
    RunFilter,
    ServerError,
    TransportError,
    WaitInfo,
)
from modellab_async.endpoints import Call
from modellab_async.hooks import EVENTS
from modellab_async.retry import CallState
from modellab_async.simulator import Fault, Simulator


class Record(Hooks):
    """Keeps every event under its name."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def on_call(self, call: CallInfo) -> None:
        self.events.append(("call", call))

    def on_attempt(self, attempt: AttemptInfo) -> None:
        self.events.append(("attempt", attempt))

    def on_retry(self, retry: RetryInfo) -> None:
        self.events.append(("retry", retry))

    def on_wait(self, wait: WaitInfo) -> None:
        self.events.append(("wait", wait))

    def on_done(self, done: DoneInfo) -> None:
        self.events.append(("done", done))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.events]

    def of(self, name: str) -> list[Any]:
        return [info for kind, info in self.events if kind == name]


@pytest.fixture
def record() -> Record:
    return Record()


def told(infos: list[AttemptInfo]) -> list[tuple[int, int | None, type | None]]:
    return [
        (info.number, info.status, None if info.error is None else type(info.error))
        for info in infos
    ]


class TestWhatIsTold:
    async def test_a_call_that_succeeds(self, sim: Simulator, fake: FakeClock, record: Record):
        """It begins, has one attempt, and ends; all three share one object."""
        async with client_for(sim, hooks=record, clock=fake.clock()) as lab:
            run = await lab.runs.get(sim.run_ids[0])
        assert record.names == ["call", "attempt", "done"]
        (call,), (attempt,), (done,) = map(record.of, ["call", "attempt", "done"])
        assert attempt.call is done.call is call
        assert call.operation == attempt.operation == "runs.get"
        assert call.method == attempt.method == "GET"
        assert call.url == attempt.url == f"{sim.base_url}/api/v2/model-lab-api/runs/{run.id}"
        assert call.started == attempt.started == EPOCH
        assert told([attempt]) == [(1, 200, None)]
        assert (done.attempts, done.error) == (1, None)

    async def test_a_call_that_is_repeated(self, sim: Simulator, fake: FakeClock, record: Record):
        """Each failed attempt is told with its error, and then the pause that follows."""
        sim.faults.next(Fault.status(503), Fault.reset(), Fault.cut())
        async with client_for(sim, hooks=record, clock=fake.clock()) as lab:
            await lab.runs.get(sim.run_ids[0])
        assert record.names == ["call", *["attempt", "retry"] * 3, "attempt", "done"]
        attempts, retries, (done,) = map(record.of, ["attempt", "retry", "done"])
        assert told(attempts)[0] == (1, 503, ServerError)
        assert told(attempts)[1] == (2, None, TransportError)
        assert attempts[2].error is retries[2].error
        assert told(attempts)[3] == (4, 200, None)
        assert [retry.number for retry in retries] == [1, 2, 3]
        assert [retry.pause for retry in retries] == fake.slept
        starts = [attempt.started - EPOCH for attempt in attempts]
        assert starts == pytest.approx([sum(fake.slept[:n]) for n in range(4)], abs=1e-5)
        assert done.seconds == pytest.approx(sum(fake.slept))
        assert (done.attempts, done.error) == (4, None)

    async def test_a_call_that_fails(self, sim: Simulator, record: Record):
        """Its end carries the error that the caller gets."""
        async with client_for(sim, hooks=record) as lab:
            with pytest.raises(NotFoundError) as caught:
                await lab.runs.get(1)
        assert record.names == ["call", "attempt", "done"]
        assert record.of("done")[0].error is caught.value

    async def test_a_call_that_was_never_sent(self, sim: Simulator, record: Record):
        """It has no attempt."""
        lab = client_for(sim, hooks=record)
        await lab.aclose()
        with pytest.raises(Exception, match="closed"):
            await lab.runs.get(1)
        assert record.names == ["call", "done"]
        assert record.of("done")[0].attempts == 0

    async def test_a_call_that_is_cancelled(self, sim: Simulator, record: Record):
        """Its attempt and the call itself end by the cancellation."""
        sim.faults.always(Fault.stall())
        async with client_for(sim, hooks=record) as lab:
            task = asyncio.create_task(lab.runs.get(sim.run_ids[0]))
            await eventually(lambda: lab.stats.attempts == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert record.names == ["call", "attempt", "done"]
        assert told(record.of("attempt")) == [(1, None, asyncio.CancelledError)]
        assert isinstance(record.of("done")[0].error, asyncio.CancelledError)

    @pytest.mark.virtual_time
    async def test_an_attempt_without_an_answer_has_no_status(self, sim: Simulator, record: Record):
        """Not that of the attempt before it, either."""
        sim.faults.next(Fault.status(503), Fault.stall())
        policy = RetryPolicy(attempts=2, base=0)
        async with client_for(sim, hooks=record, retry=policy, timeout=0.1) as lab:
            with pytest.raises(RequestTimeoutError):
                await lab.runs.get(sim.run_ids[0])
        assert told(record.of("attempt")) == [(1, 503, ServerError), (2, None, RequestTimeoutError)]

    async def test_a_wait_for_quota(self, sim: Simulator, fake: FakeClock, record: Record):
        """It is told with what the server said of the limit, without secrets."""
        sim.faults.next(Fault.rate_limited(reset=7))
        async with client_for(sim, hooks=record, clock=fake.clock()) as lab:
            await lab.runs.get(sim.run_ids[0])
        assert record.names == ["call", "attempt", "retry", "wait", "attempt", "done"]
        assert record.of("retry")[0].pause == 0
        (wait,) = record.of("wait")
        assert wait.for_quota
        assert wait.seconds == pytest.approx(7, abs=0.1)
        assert wait.started == pytest.approx(record.of("retry")[0].at)
        assert (wait.rate_limit.name, wait.rate_limit.limit) == ("model_lab_api", 100)

    async def test_a_wait_for_quota_that_is_too_long(
        self, sim: Simulator, fake: FakeClock, record: Record
    ):
        """A call that is turned away instead ends with the error that says so."""
        sim.faults.next(Fault.rate_limited(reset=7))
        policy = RetryPolicy(max_rate_limit_wait=1)
        async with client_for(sim, hooks=record, retry=policy, clock=fake.clock()) as lab:
            with pytest.raises(RateLimitedError):
                await lab.runs.get(sim.run_ids[0])
        assert record.names == ["call", "attempt", "retry", "done"]
        assert record.of("done")[0].error.stopped_by == "quota"

    async def test_a_wait_that_is_cancelled(self, sim: Simulator, record: Record):
        """It is told for as long as it lasted."""
        sim.faults.next(Fault.rate_limited(reset=3600))
        policy = RetryPolicy(deadline=None)
        async with client_for(sim, hooks=record, retry=policy) as lab:
            task = asyncio.create_task(lab.runs.get(sim.run_ids[0]))
            await eventually(lambda: lab.stats.rate_limited == 1)
            await settled()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert record.names == ["call", "attempt", "retry", "wait", "done"]
        assert record.of("wait")[0].for_quota

    async def test_a_wait_for_a_place(self, sim: Simulator, record: Record):
        """Calls that wait only for each other are no waits for quota."""
        async with client_for(sim, hooks=record, max_concurrency=1) as lab:
            await asyncio.gather(*(lab.runs.get(run_id) for run_id in sim.run_ids[:3]))
        waits = record.of("wait")
        assert [(wait.for_quota, wait.rate_limit) for wait in waits] == [(False, None)] * 2
        assert all(wait.seconds > 0 for wait in waits)

    async def test_many_calls_at_once(self, sim: Simulator, record: Record):
        """The events of many calls that fail now and then add up to the client's counters."""
        sim.faults.next(*[Fault.status(503), None, None] * 20)
        async with client_for(sim, hooks=record, retry=RetryPolicy(base=0.001)) as lab:
            await asyncio.gather(*(lab.runs.get(run_id) for run_id in sim.run_ids[:250]))
            stats = lab.stats
        assert len({*record.of("call")}) == len(record.of("done")) == stats.calls == 250
        assert len(record.of("attempt")) == stats.attempts
        assert len(record.of("retry")) == stats.retries == 20
        assert sum(done.attempts for done in record.of("done")) == stats.attempts


class TestStreams:
    @pytest.fixture
    async def path(self, sim: Simulator, lab: ModelLabClient) -> str:
        """A file of 300,000 bytes in project 5."""
        run_id = sim.insert_run(project_id=5, artifacts={"model.bin": bytes(300_000)})
        listing = await lab.runs.artifacts(run_id)
        return f"{listing.path_in_project}/model.bin"

    async def test_a_stream_ends_when_it_is_closed(self, sim: Simulator, record: Record, path: str):
        """Not when its answer begins: a download takes as long as its body."""
        async with client_for(sim, hooks=record) as lab:
            async with lab.artifacts.stream(5, path) as body:
                assert record.names == ["call"]
                assert sum([len(chunk) async for chunk in body]) == 300_000
                assert record.names == ["call"]
            assert record.names == ["call", "attempt", "done"]
        assert told(record.of("attempt")) == [(1, 200, None)]

    async def test_a_stream_that_breaks_off(self, sim: Simulator, record: Record, path: str):
        """Its attempt and its call end with the error that the reader gets."""
        sim.faults.next(Fault.cut(1000))
        async with client_for(sim, hooks=record) as lab:
            with pytest.raises(TransportError) as caught:
                async with lab.artifacts.stream(5, path) as body:
                    async for _ in body:
                        pass
        assert record.names == ["call", "attempt", "done"]
        assert {info.error for _, info in record.events[1:]} == {caught.value}

    async def test_a_stream_that_is_refused(self, sim: Simulator, record: Record, path: str):
        """It ends at once."""
        async with client_for(sim, hooks=record) as lab:
            with pytest.raises(NotFoundError):
                async with lab.artifacts.stream(5, f"{path}.not"):
                    pass
        assert record.names == ["call", "attempt", "done"]


class TestWhatMayBeGiven:
    async def test_any_object_with_one_of_the_methods(self, sim: Simulator):
        """Nothing has to be inherited, nor all methods be there."""
        seconds: list[float] = []

        class Mine:
            def on_attempt(self, attempt: AttemptInfo) -> None:
                seconds.append(attempt.seconds)

        async with client_for(sim, hooks=Mine()) as lab:
            await lab.runs.get(sim.run_ids[0])
        assert len(seconds) == 1

    async def test_several(self, sim: Simulator):
        """All of a sequence are told, in its order."""
        order: list[int] = []

        @attrs.frozen
        class Mine(Hooks):
            number: int

            def on_call(self, call: CallInfo) -> None:
                order.append(self.number)

        async with client_for(sim, hooks=[Mine(1), Mine(2)]) as lab:
            await lab.runs.get(sim.run_ids[0])
        assert order == [1, 2]

    async def test_a_view_has_its_own(self, sim: Simulator, record: Record):
        """``with_options(hooks=...)`` changes them for the view alone, ``hooks=()`` to none."""
        other = Record()
        async with client_for(sim, hooks=record) as lab:
            await lab.with_options(timeout=5).runs.get(sim.run_ids[0])
            await lab.with_options(hooks=other).runs.get(sim.run_ids[0])
            await lab.with_options(hooks=()).runs.get(sim.run_ids[0])
        assert record.names == other.names == ["call", "attempt", "done"]

    def test_what_has_none_of_the_methods_is_refused(self):
        """So are classes in place of objects, and async methods, which nobody would await."""

        class Async:
            async def on_attempt(self, attempt: AttemptInfo) -> None: ...

        for wrong in (object(), print, "on_call", Record, [Record(), 3], Async()):
            with pytest.raises(ConfigError, match="on_"):
                ModelLabClient(bearer_token="x", hooks=wrong)


def states() -> int:
    """How many calls have their state in memory, those of other tests included."""
    return sum(isinstance(thing, CallState) for thing in gc.get_objects())


class TestHarm:
    @pytest.mark.parametrize("event", EVENTS)
    async def test_a_hook_that_raises(
        self,
        sim: Simulator,
        fake: FakeClock,
        record: Record,
        caplog: pytest.LogCaptureFixture,
        event: str,
    ):
        """Its call goes on, the next hook is told, and the log has one line at ERROR, not more."""

        def fail(info: object) -> None:
            raise RuntimeError("a mistake")

        broken = Hooks()
        setattr(broken, event, fail)
        async with client_for(sim, hooks=[broken, record], clock=fake.clock()) as lab:
            for _ in range(3):
                sim.faults.next(Fault.rate_limited(reset=7))
                await lab.runs.get(sim.run_ids[0])
        names = ["call", "attempt", "retry", "wait", "attempt", "done"]
        assert record.names == names * 3
        (line,) = [line for line in caplog.records if line.levelno >= logging.WARNING]
        assert line.levelno == logging.ERROR
        assert line.getMessage().startswith(f"Hooks.{event} raised")

    async def test_a_call_leaves_no_garbage(self, sim: Simulator):
        """What tells hooks of a call is gone with it, without the collector's help."""
        async with client_for(sim, hooks=Hooks()) as lab:
            call = Call("runs.get", "GET", f"/runs/{sim.run_ids[0]}", returns=bytes)
            await lab.perform(call)
            gc.collect()
            gc.disable()
            before = states()
            try:
                for _ in range(20):
                    await lab.perform(call)
                assert states() <= before
            finally:
                gc.enable()

    async def test_addresses_show_no_secret(self, record: Record):
        """A key that stands in an address by a user's mistake is taken out of it."""
        async with Simulator(runs=5) as sim, client_for(sim, hooks=record) as lab:
            with pytest.raises(NotFoundError):
                await lab.artifacts.read(1, sim.api_key)
        assert sim.api_key not in record.of("call")[0].url
        assert "***" in record.of("call")[0].url


class TestLog:
    async def test_long_lists_of_ids_are_shortened(
        self, sim: Simulator, fake: FakeClock, caplog: pytest.LogCaptureFixture
    ):
        """A request for 100 runs does not show 100 ids: not in a log line, error or event."""
        caplog.set_level(logging.INFO, "modellab_async")
        record = Record()
        ids = sim.run_ids[:100]
        sim.faults.always(Fault.status(500))
        retry = RetryPolicy(attempts=2)
        async with client_for(sim, clock=fake.clock(), hooks=record, retry=retry) as lab:
            with pytest.raises(ServerError) as caught:
                await lab.runs.list(RunFilter(ids=ids))
            with pytest.raises(ServerError, match=f"={ids[0]},{ids[1]},{ids[2]}:"):
                await lab.runs.list(RunFilter(ids=ids[:3]))
        shown = f"filter%5Bid%5D={ids[0]},{ids[1]},…(100 ids)"
        assert caught.value.url.endswith(shown)
        for text in (str(caught.value), caplog.messages[0], record.of("call")[0].url):
            assert shown in text
            assert str(ids[2]) not in text

    async def test_one_line_per_retry(
        self, sim: Simulator, fake: FakeClock, caplog: pytest.LogCaptureFixture
    ):
        """At INFO, under ``modellab_async``; DEBUG adds nothing, and success is silent."""
        caplog.set_level(logging.DEBUG, "modellab_async")
        sim.faults.next(Fault.status(503), Fault.rate_limited(reset=7), Fault.reset())
        async with client_for(sim, clock=fake.clock()) as lab:
            await lab.runs.get(sim.run_ids[0])
            await lab.runs.get(sim.run_ids[0])
        lines = [line for line in caplog.records if line.name.startswith("modellab_async")]
        assert [line.levelno for line in lines] == [logging.INFO] * 4
        assert lines[0].getMessage().startswith("runs.get: attempt 1 failed, next in ")
