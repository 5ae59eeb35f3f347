"""Which failures are repeated, after how long, and how often."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import Any, get_args

import attrs
import pytest
import virtual
from conftest import FakeClock, client_for

from modellab_async import (
    DecodeError,
    NotFoundError,
    RateLimitedError,
    RequestTimeoutError,
    RetryPolicy,
    ServerError,
    StatusError,
    TransportError,
    endpoints,
    retry,
)
from modellab_async.endpoints import Call
from modellab_async.errors import UNAVAILABLE_STATUSES, CallError, FailureKind
from modellab_async.retry import is_repeatable
from modellab_async.simulator import Fault, Faults, Simulator


def test_back_off_doubles_up_to_the_cap_and_is_drawn_from_zero():
    """The pause lies between 0 and base * 2 ** (n - 1), at the most cap, by the number drawn."""
    policy = RetryPolicy(base=0.5, cap=3.0)
    assert [policy.backoff(n, 1.0) for n in range(1, 6)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert [policy.backoff(n, 0.5) for n in range(1, 4)] == [0.25, 0.5, 1.0]
    assert policy.backoff(5_000, 0.0) == 0.0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"attempts": 0}, ValueError),
        ({"attempts": True}, TypeError),
        ({"attempts": 2.5}, TypeError),
        ({"base": -1}, ValueError),
        ({"cap": float("nan")}, ValueError),
        ({"deadline": "5"}, TypeError),
        ({"base": None}, TypeError),
        ({"max_rate_limit_wait": -0.1}, ValueError),
    ],
)
def test_a_policy_that_cannot_be_followed_is_refused(options, error):
    """A bad number is named at construction."""
    with pytest.raises(error, match=next(iter(options))):
        RetryPolicy(**options)


def test_a_policy_is_frozen_and_comparable():
    """Two policies of the same numbers are equal, and neither can be changed."""
    policy = RetryPolicy()
    assert policy == RetryPolicy(attempts=8)
    with pytest.raises(AttributeError):
        policy.attempts = 1  # type: ignore[misc]


IDEMPOTENT = Call("x", "PUT", "/x")
NOT_IDEMPOTENT = Call("x", "POST", "/x", idempotent=False)


def failure(kind: FailureKind) -> CallError:
    error = CallError("x")
    error.kind = kind
    return error


@pytest.mark.parametrize("kind", get_args(FailureKind))
def test_what_may_have_been_done_is_repeated_only_if_that_does_no_harm(kind: FailureKind):
    """A final failure is never repeated, one that had no effect always, others if idempotent."""
    error = failure(kind)
    had_no_effect = kind in {"not_sent", "unresolved", "rate_limited"}
    assert is_repeatable(error, IDEMPOTENT) is (kind != "final")
    assert is_repeatable(error, NOT_IDEMPOTENT) is had_no_effect


@pytest.mark.parametrize("reason", ["attempts", "deadline", "budget", "quota"])
def test_what_has_been_stopped_is_not_repeated(reason):
    """A failure that has ended its call is final, whatever it was."""
    error = failure("not_sent")
    error.stopped_by = reason
    assert not is_repeatable(error, IDEMPOTENT)


def test_other_errors_are_not_repeated():
    """A mistake or a cancellation is nobody's failure to send."""
    assert not any(is_repeatable(error, IDEMPOTENT) for error in (KeyError("x"), ValueError("x")))


ROWS = {
    "not_sent": "no connection, or none through the proxy",
    "unresolved": "host name that does not resolve",
    "rate_limited": "429",
    "unavailable": ", ".join(map(str, sorted(UNAVAILABLE_STATUSES))),
    "lost": "connection lost, timeout, body cut short",
    "unreadable": "body empty, not JSON, or JSON that looks cut",
    "mismatched": "response to another request",
    "final": "anything else",
}


def test_the_decisions_are_published_as_they_are():
    """The page on retries shows the decision on every kind of failure."""
    page = (Path(__file__).parents[1] / "docs/explanation/retries-and-limits.md").read_text("utf-8")
    rows = [
        f"| `{kind}` | {ROWS[kind]} | "
        + " | ".join(
            "repeat" if is_repeatable(failure(kind), call) else "raise"
            for call in (IDEMPOTENT, NOT_IDEMPOTENT)
        )
        + " |"
        for kind in get_args(FailureKind)
    ]
    assert "\n".join(rows) in page


FAULTS: dict[FailureKind, Fault] = {
    "rate_limited": Fault.rate_limited(reset="0"),
    "unavailable": Fault.status(500),
    "lost": Fault.lost(),
    "unreadable": Fault.status(200, body="html"),
    "final": Fault.status(409),
}


@pytest.mark.parametrize("call", [IDEMPOTENT, NOT_IDEMPOTENT], ids=["idempotent", "not"])
@pytest.mark.parametrize("kind", FAULTS)
async def test_each_decision_is_kept_over_a_socket(
    sim: Simulator, fake: FakeClock, kind: FailureKind, call: Call
):
    """A fault of each kind is repeated, or not, by the rule; the server sees as much."""
    sim.faults.next(FAULTS[kind])
    repeated = is_repeatable(failure(kind), call)
    reading = attrs.evolve(endpoints.get_run(sim.run_ids[0]), idempotent=call.idempotent)
    async with client_for(sim, clock=fake.clock()) as lab:
        if repeated:
            assert (await lab.perform(reading)).id == sim.run_ids[0]
        else:
            with pytest.raises(CallError) as caught:
                await lab.perform(reading)
            assert (caught.value.kind, caught.value.stopped_by) == (kind, None)
        assert lab.stats.attempts == sim.counts.requests == 1 + repeated


async def test_each_failure_is_decided_on_once(
    sim: Simulator, fake: FakeClock, monkeypatch: pytest.MonkeyPatch
):
    """The rule is asked once for each failed attempt, the first and the last included."""
    decided: list[BaseException] = []

    def decide(error: BaseException, call: Call) -> bool:
        decided.append(error)
        return is_repeatable(error, call)

    monkeypatch.setattr(retry, "is_repeatable", decide)
    sim.faults.next(Fault.status(503), Fault.reset(), Fault.status(404))
    async with client_for(sim, clock=fake.clock()) as lab:
        with pytest.raises(NotFoundError):
            await lab.runs.get(sim.run_ids[0])
    assert [error.kind for error in decided if isinstance(error, CallError)] == [
        "unavailable",
        "lost",
        "final",
    ]


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (RetryPolicy(attempts=2), "attempts"),
        (RetryPolicy(attempts=2, deadline=0.1), "deadline"),
        (RetryPolicy.none(), "attempts"),
    ],
)
async def test_an_error_says_why_its_call_was_not_repeated(
    sim: Simulator, fake: FakeClock, policy: RetryPolicy, reason: str
):
    """A failure that may pass names what ended the call; a final one names nothing."""
    fake.chance = lambda: 0.5
    sim.faults.always(Fault.status(503))
    async with client_for(sim, clock=fake.clock(), retry=policy) as lab:
        with pytest.raises(ServerError) as caught:
            await lab.runs.get(sim.run_ids[0])
        assert (caught.value.kind, caught.value.stopped_by) == ("unavailable", reason)
        sim.faults.clear()
        with pytest.raises(NotFoundError) as missing:
            await lab.runs.get(1)
        assert (missing.value.kind, missing.value.stopped_by) == ("final", None)


async def test_a_removal_whose_answer_was_lost_is_done(sim: Simulator, fake: FakeClock):
    """The 404 to its repeat is no error; after a 503 it is, as then nothing had been done."""
    sim.faults.next(Fault.lost())
    async with client_for(sim, clock=fake.clock()) as lab:
        await lab.runs.delete(sim.run_ids[0])
        assert sim.counts.requests == 2
        sim.faults.next(Fault.status(503))
        with pytest.raises(NotFoundError):
            await lab.runs.delete(1)


async def test_the_schedule_is_exact_under_an_injected_clock(sim: Simulator, fake: FakeClock):
    """Five failures in a row are followed by five pauses, drawn as the policy says."""
    fake.chance = itertools.cycle([1.0, 0.5]).__next__
    sim.faults.next(*[Fault.status(500)] * 5)
    async with client_for(
        sim, clock=fake.clock(), retry=RetryPolicy(base=1.0, cap=5.0, deadline=None)
    ) as lab:
        run = await lab.runs.get(sim.run_ids[0])
        assert fake.slept == pytest.approx([1.0, 1.0, 4.0, 2.5, 5.0])
        assert run.id == sim.run_ids[0]
        assert (lab.stats.attempts, lab.stats.retries, lab.stats.calls) == (6, 5, 1)
        assert lab.stats.backoff_wait_s == pytest.approx(13.5)


@pytest.mark.parametrize(
    "fault",
    [
        *[Fault.status(status) for status in sorted(UNAVAILABLE_STATUSES)],
        Fault.rate_limited(),
        Fault.rate_limited(reset="0"),
        Fault.status(502, body="html"),
        Fault.status(503, body="strings"),
        Fault.status(200, body="html"),
        Fault.status(200, body="empty"),
        Fault.cut(),
        Fault.close(),
        Fault.reset(),
        Fault.lost(),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.answer.status if fault.answer else ''}",
)
async def test_a_passing_fault_is_overcome(sim: Simulator, fake: FakeClock, fault: Fault):
    """Two faults of any kind in a row cost two attempts, and the run arrives."""
    sim.faults.next(fault, fault)
    async with client_for(sim, clock=fake.clock()) as lab:
        run = await lab.runs.get(sim.run_ids[3])
        assert run.id == sim.run_ids[3]
        assert lab.stats.attempts == 3 == sim.counts.requests


@pytest.mark.virtual_time
async def test_a_stall_is_cut_off_and_repeated(sim: Simulator):
    """An attempt that gets no answer in time is given up, and the next one succeeds."""
    sim.faults.next(Fault.stall())
    async with client_for(sim, timeout=0.2, retry=RetryPolicy(base=0.001)) as lab:
        assert (await lab.runs.get(sim.run_ids[0])).id == sim.run_ids[0]
        assert lab.stats.attempts == 2


@pytest.mark.virtual_time
async def test_a_slow_drip_does_not_outlast_the_timeout(sim: Simulator):
    """The time-out covers the whole answer, not the silence between two of its bytes."""
    sim.faults.always(Fault.drip(0.01))
    async with client_for(sim, timeout=0.2, retry=RetryPolicy.none()) as lab:
        with pytest.raises(RequestTimeoutError, match=r"within 0\.2 s"):
            await lab.runs.get(sim.run_ids[0])


async def test_the_last_error_says_how_often_was_tried(sim: Simulator, fake: FakeClock):
    """When all attempts are spent, the last failure is raised, with their number."""
    sim.faults.always(Fault.status(503))
    async with client_for(sim, clock=fake.clock(), retry=RetryPolicy(attempts=4)) as lab:
        with pytest.raises(ServerError, match="after 4 attempts") as caught:
            await lab.runs.get(sim.run_ids[0])
        assert caught.value.attempts == 4 == sim.counts.requests


async def test_no_policy_means_one_request(sim: Simulator):
    """With RetryPolicy.none() every failure surfaces at once, and nothing sends again."""
    faults = (Fault.status(500), Fault.reset(), Fault.close(), Fault.cut(), Fault.rate_limited())
    async with client_for(sim, retry=RetryPolicy.none()) as lab:
        await lab.runs.get(sim.run_ids[0])  # leaves a kept-alive connection
        for fault in faults:
            sim.faults.next(fault)
            with pytest.raises((StatusError, TransportError)):
                await lab.with_options(retry=RetryPolicy.none()).runs.get(sim.run_ids[0])
        assert lab.stats.attempts == 1 + len(faults) == sim.counts.requests
        assert lab.stats.retries == 0


async def test_attempts_counted_are_attempts_seen_when_kept_connections_die():
    """A dead keep-alive connection is one attempt: aiohttp does not silently send again."""
    async with (
        Simulator(runs=100, faults=Faults(rate=0.5, kinds=(Fault.close(), Fault.lost()))) as sim,
        client_for(sim, retry=RetryPolicy(base=0.001, attempts=30)) as lab,
    ):
        runs = await lab.runs.get_many(sim.run_ids[:60], route="single")
        assert len(runs) == 60
        assert lab.stats.attempts == sim.counts.requests > 60


async def test_a_missing_run_is_not_asked_for_twice(sim: Simulator):
    """404 is an answer."""
    async with client_for(sim) as lab:
        with pytest.raises(NotFoundError, match="run not found") as caught:
            await lab.runs.get(1)
        assert caught.value.attempts == 1 == sim.counts.requests


async def test_a_body_of_another_form_is_not_asked_for_twice(sim: Simulator):
    """JSON that is whole but not a run would only come again."""
    run_id = sim.run_ids[0]
    body = b'{"data": {"id": "%d", "attributes": {}}}' % run_id
    sim.faults.next(Fault.status(200, body=body))
    async with client_for(sim) as lab:
        with pytest.raises(DecodeError, match="name"):
            await lab.runs.get(run_id)
        assert sim.counts.requests == 1


async def test_retry_after_of_a_503_is_waited_out(sim: Simulator, fake: FakeClock):
    """No attempt is made before the time that the server named."""
    sim.faults.next(Fault.status(503, retry_after=11))
    async with client_for(sim, clock=fake.clock()) as lab:
        await lab.runs.get(sim.run_ids[0])
        assert 11 <= fake.now < 12


async def test_a_named_time_past_the_deadline_fails_at_once(sim: Simulator, fake: FakeClock):
    """Waiting for what cannot help is refused immediately, for a 503 and for a 429."""
    policy = RetryPolicy(deadline=10)
    async with client_for(sim, clock=fake.clock(), retry=policy) as lab:
        sim.faults.next(Fault.status(503, retry_after=11))
        with pytest.raises(ServerError):
            await lab.runs.get(sim.run_ids[0])
        sim.faults.next(Fault.rate_limited(reset="11"))
        with pytest.raises(RateLimitedError, match="longer than") as caught:
            await lab.runs.get(sim.run_ids[0])
        assert caught.value.stopped_by == "quota"
        assert caught.value.name == "model_lab_api"
        assert caught.value.reset == 11
        assert fake.now == 0.0
        assert sim.counts.requests == 2


async def test_the_deadline_covers_all_attempts(sim: Simulator, fake: FakeClock):
    """No pause is begun that would end after the deadline."""
    fake.chance = lambda: 0.99
    sim.faults.always(Fault.status(500))
    policy = RetryPolicy(attempts=50, base=1.0, cap=100.0, deadline=10.0)
    async with client_for(sim, clock=fake.clock(), retry=policy) as lab:
        with pytest.raises(ServerError):
            await lab.runs.get(sim.run_ids[0])
        assert fake.slept == pytest.approx([0.99, 1.98, 3.96])  # the next would end at 14.85


@pytest.mark.virtual_time
async def test_the_deadline_cuts_an_attempt_short(sim: Simulator):
    """An attempt may not take longer than what is left of the deadline."""
    sim.faults.always(Fault.stall())
    policy = RetryPolicy(deadline=0.2)
    async with client_for(sim, timeout=30, retry=policy, clock=virtual.clock()) as lab:
        with pytest.raises(RequestTimeoutError, match=r"within 0\.2 s"):
            await lab.runs.get(sim.run_ids[0])


async def test_each_retry_is_one_log_line(
    sim: Simulator, fake: FakeClock, caplog: pytest.LogCaptureFixture
):
    """One INFO record under ``modellab_async`` for each repeat, and none for a success."""
    caplog.set_level(logging.DEBUG, logger="modellab_async")
    sim.faults.next(Fault.status(500), Fault.reset())
    async with client_for(sim, clock=fake.clock()) as lab:
        await lab.runs.get(sim.run_ids[0])
        await lab.runs.get(sim.run_ids[1])
    messages = [record.message for record in caplog.records if record.name == "modellab_async"]
    assert len(messages) == 2
    assert "attempt 1 failed" in messages[0]
    assert "attempt 2 failed" in messages[1]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"attempts": True}, TypeError, "attempts must be an integer, not True"),
        ({"attempts": 1.0}, TypeError, "attempts must be an integer, not 1.0"),
        ({"attempts": 0}, ValueError, "attempts must be 1 or more, not 0"),
        ({"base": None}, TypeError, "base must be a number of seconds, not None"),
        ({"cap": None}, TypeError, "cap must be a number of seconds, not None"),
        ({"base": True}, TypeError, "base must be a number of seconds, not True"),
        ({"base": -0.1}, ValueError, "base must be 0 or more seconds, not -0.1"),
        ({"cap": -1}, ValueError, "cap must be 0 or more seconds, not -1"),
        ({"deadline": "20"}, TypeError, "deadline must be a number of seconds, not '20'"),
        ({"deadline": 0}, ValueError, "deadline must be more than 0 seconds, not 0"),
        (
            {"deadline": None, "max_rate_limit_wait": -1},
            ValueError,
            "max_rate_limit_wait must be 0 or more seconds, not -1",
        ),
    ],
)
def test_a_policy_that_cannot_work_is_refused(
    options: dict[str, Any], error: type[Exception], said: str
):
    """The error names the option, what it must be and what it is."""
    with pytest.raises(error) as caught:
        RetryPolicy(**options)
    assert str(caught.value) == said


def test_the_extremes_of_a_policy_are_accepted():
    """One attempt, no pauses, no deadline and no wait for quota are a policy."""
    policy = RetryPolicy(attempts=1, base=0, cap=0, deadline=None, max_rate_limit_wait=0)
    assert policy.backoff(1, 1.0) == 0
    assert RetryPolicy(deadline=0.5, max_rate_limit_wait=None).deadline == 0.5
