"""Client and fault server driven together, step by step, against a model of what must hold.

One outcome for each id, attempts counted as the server saw them, every permit given back, no task
left, deadlines kept. Each id has a plan of what its requests meet, so that the model knows what
becomes of it, whatever else is going on.
"""

from __future__ import annotations

import asyncio
import gc
import gzip
import re
from collections import Counter, deque
from collections.abc import Coroutine, Sequence
from typing import Any

import attrs
from conftest import FakeClock, eventually
from faultserver import Exchange, FaultServer, http, run_body, send, well_behaved
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from modellab_async import (
    BadRequestError,
    DecodeError,
    ModelLabClient,
    ModelLabError,
    NotFoundError,
    Outcome,
    RateLimitedError,
    RetryPolicy,
    Run,
    ServerError,
    TransportError,
)
from modellab_async.bulk import Fetch
from modellab_async.limiter import AdaptiveLimiter

CAP = 6
POLICY = RetryPolicy(attempts=3, deadline=None)
DEADLINE = 20.0

GOOD = http(run_body(7))
PACKED = gzip.compress(run_body(7))

Plan = Sequence[str]

PASSING: dict[str, tuple[Any, type[ModelLabError]]] = {
    "reset": (send(b"", "reset"), TransportError),
    "reset within the headers": (send(GOOD[:40], "reset"), TransportError),
    "reset within the body": (send(GOOD[:-9], "reset"), TransportError),
    "half-close": (send(GOOD[:-9], "half_close"), TransportError),
    "not HTTP": (send(b"SSH-2.0\r\n\r\n", "half_close"), TransportError),
    "broken gzip": (
        send(http(PACKED[:-8] + b"wrongsum", 200, "Content-Encoding: gzip")),
        TransportError,
    ),
    "500": (send(http('{"errors":[{"title":"no"}]}', 500)), ServerError),
    "503": (send(http("<html>", 503)), ServerError),
    "429": (send(http('{"errors":["no"]}', 429, "Retry-After: 7")), RateLimitedError),
}
"""What may pass: asked again. The third of its kind in a row is what the call ends in."""

CUT: dict[str, tuple[Any, type[ModelLabError]]] = {
    "empty": (send(http(b"")), DecodeError),
    "cut": (send(http(GOOD[-90:-9])), DecodeError),
    "another run": (send(http(run_body(10**9))), DecodeError),
}
"""May pass too, where an answer has content."""

LASTING: dict[str, tuple[Any, type[ModelLabError]]] = {
    "404": (send(http('{"errors":[{"title":"none"}]}', 404)), NotFoundError),
    "400": (send(http("", 400)), BadRequestError),
}
WRONG: dict[str, tuple[Any, type[ModelLabError]]] = {
    "deep": (send(http(b"[" * 9_999 + b"]" * 9_999)), DecodeError),
}
"""What does not pass: the call ends in it."""

STALL = "stall"

ACTS = PASSING | CUT | LASTING | WRONG
plans = st.lists(st.sampled_from(sorted(ACTS)), max_size=4)
slow_plans = plans.map(lambda plan: [STALL, *plan])
bare_plans = st.lists(st.sampled_from(sorted(PASSING | LASTING)), max_size=4)


def foretold(plan: Plan) -> tuple[int, type[ModelLabError] | None]:
    """How many attempts a call makes, and what it ends in."""
    for attempt, name in enumerate(plan[: POLICY.attempts], start=1):
        if name in LASTING or name in WRONG or attempt == POLICY.attempts:
            return attempt, ACTS[name][1]
    return len(plan) + 1, None


@attrs.define
class Open:
    """A fetch that is under way."""

    fetch: Fetch
    plans: dict[int, Plan]
    outcomes: list[Outcome] = attrs.field(factory=list)


class ClientAndServer(RuleBasedStateMachine):
    """Calls of all kinds, one after another and across one another."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        loop = self.runner.get_loop()
        self.passed = 0.0  # seconds that the event loop's clock is ahead of real time
        real_time = loop.time
        loop.time = lambda: real_time() + self.passed  # type: ignore[method-assign]
        self.server = FaultServer()
        self.fake = FakeClock()
        self.plans: dict[int, deque[str]] = {}
        self.pages: deque[str] = deque()
        self.seen: Counter[int] = Counter()
        self.first_seen: dict[int, float] = {}
        self.opened: list[Open] = []
        self.unseen = 0  # attempts that were cancelled, perhaps before they were sent
        self.lost = 0  # of those, how many never arrived
        self.last_id = 0
        self.run(self.begin())

    def run(self, step: Coroutine[Any, Any, Any]) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(100):  # sixty of them may pass at once
                return await step

        return self.runner.run(bounded())

    def outcome(self, call: Coroutine[Any, Any, Any]) -> tuple[Any, ModelLabError | None]:
        """What a call gives, or what it raises."""
        try:
            return self.run(call), None
        except ModelLabError as error:
            return None, error

    async def begin(self) -> None:
        await self.server.__aenter__()
        self.server.default = self.answer
        clock = self.fake.clock()
        self.limiter = AdaptiveLimiter(CAP, clock)
        self.lab = ModelLabClient(
            base_url=self.server.base_url,
            api_key="ak",
            app_key="pk",
            retry=POLICY,
            clock=clock,
            limiter=self.limiter,
        )
        self.fake.busy = lambda: self.limiter.in_flight > 0

    async def answer(self, exchange: Exchange) -> None:
        """What the plan of the id asked for says; the API's own answer where it ends."""
        plan = self.pages
        if found := re.search(r"/runs/(\d+)(?:/pin)?$", exchange.seen.target):
            run_id = int(found[1])
            self.seen[run_id] += 1
            self.first_seen.setdefault(run_id, self.fake.now)
            plan = self.plans[run_id]
        act = plan.popleft() if plan else None
        if act == STALL:
            await exchange.write(GOOD[:-9])
            await asyncio.sleep(0)
            self.passed += 60.0  # longer than an attempt may take
            await exchange.end("stall")
        await (well_behaved if act is None else ACTS[act][0])(exchange)

    def plan(self, plans: Sequence[Plan]) -> dict[int, Plan]:
        """Fresh ids, with a plan for each."""
        first = self.last_id + 1
        self.last_id += len(plans)
        planned = dict(enumerate(plans, start=first))
        self.plans.update((run_id, deque(plan)) for run_id, plan in planned.items())
        return planned

    def check(self, run_id: int, plan: Plan, run: Run | None, error: ModelLabError | None) -> None:
        """What became of a run that was asked for by itself."""
        attempts, expected = foretold(plan)
        assert self.seen[run_id] == attempts
        if expected is None:
            assert run is not None
            assert run.id == run_id
        else:
            assert type(error) is expected
            assert error.attempts == attempts  # type: ignore[attr-defined]

    @precondition(lambda self: not self.opened)
    @rule(plan=slow_plans)
    def get_slowly(self, plan: Plan) -> None:
        """The same of a run whose first answer never comes to its end."""
        self.get(plan)

    @rule(plan=plans)
    def get(self, plan: Plan) -> None:
        """One run: what it ends in, and after how many attempts, is known beforehand."""
        ((run_id, _),) = self.plan([plan]).items()
        run, error = self.outcome(self.lab.runs.get(run_id))
        self.check(run_id, plan, run, error)

    @rule(plan=bare_plans)
    def delete(self, plan: Plan) -> None:
        """A 404 to a repeat is a success, but only where an earlier answer was lost."""
        ((run_id, _),) = self.plan([plan]).items()
        attempts, expected = foretold(plan)
        lost = any(issubclass(PASSING[name][1], TransportError) for name in plan[: attempts - 1])
        if expected is NotFoundError and lost:
            expected = None
        _, error = self.outcome(self.lab.runs.delete(run_id))
        assert (error and type(error)) is expected
        assert self.seen[run_id] == attempts

    @rule(several=st.lists(plans, min_size=1, max_size=6), ordered=st.booleans())
    def fetch(self, several: Sequence[Plan], ordered: bool) -> None:
        """Several runs by single requests: for each what is known beforehand, in order if asked."""
        planned = self.plan(several)
        outcomes = self.run(self.gather(planned, route="single", ordered=ordered))
        if ordered:
            assert [outcome.run_id for outcome in outcomes] == list(planned)
        for outcome in outcomes:
            self.check(outcome.run_id, planned[outcome.run_id], outcome.run, outcome.error)

    @precondition(lambda self: not self.opened)
    @rule(several=st.lists(plans, min_size=2, max_size=6), pages=plans, auto=st.booleans())
    def fetch_pages(self, several: Sequence[Plan], pages: Plan, auto: bool) -> None:
        """Several runs by listing calls, whatever these meet: each a right run or an error."""
        planned = self.plan(several)
        self.pages.extend(pages)
        outcomes = self.run(self.gather(planned, route="auto" if auto else "batch"))
        self.pages.clear()
        for outcome in outcomes:
            if outcome.run_id in self.seen:
                self.check(outcome.run_id, planned[outcome.run_id], outcome.run, outcome.error)
            elif outcome.run is not None:
                assert outcome.run.id == outcome.run_id
            else:
                assert type(outcome.error) is foretold(pages)[1]

    async def gather(self, planned: dict[int, Plan], **options: Any) -> list[Outcome]:
        """All outcomes of a fetch: exactly one for each id."""
        outcomes = [outcome async for outcome in self.lab.runs.fetch(list(planned), **options)]
        assert sorted(outcome.run_id for outcome in outcomes) == list(planned)
        return outcomes

    @rule(several=st.lists(plans, min_size=1, max_size=12), count=st.integers(0, 4))
    def open(self, several: Sequence[Plan], count: int) -> None:
        """Begin a fetch that other calls cross, and perhaps take some outcomes of it."""
        planned = self.plan(several)
        self.opened.append(Open(self.lab.runs.fetch(planned, route="single"), planned))
        self.run(self.take(self.opened[-1], count))

    @precondition(lambda self: self.opened)
    @rule(count=st.integers(1, 5), last=st.booleans())
    def advance(self, count: int, last: bool) -> None:
        """Take some outcomes of an open fetch; after the last one it has ended."""
        self.run(self.take(self.opened[-last], count))

    async def take(self, opened: Open, count: int) -> None:
        for _ in range(count):
            outcome = await anext(opened.fetch, None)
            if outcome is None:
                assert len(opened.outcomes) == len(opened.plans)
                return
            assert outcome.run_id not in {known.run_id for known in opened.outcomes}
            opened.outcomes.append(outcome)
            run_id: Any = outcome.run_id
            self.check(run_id, opened.plans[run_id], outcome.run, outcome.error)

    @precondition(lambda self: self.opened)
    @rule(how=st.sampled_from(["close", "drop", "cancel", "finish"]), steps=st.integers(0, 20))
    def leave(self, how: str, steps: int) -> None:
        """Be done with an open fetch, in any way."""
        self.run(self.part(self.opened.pop(), how, steps))

    async def part(self, opened: Open, how: str, steps: int) -> None:
        if how == "finish":
            await self.take(opened, len(opened.plans) + 1)
            return
        if how == "cancel":
            await self.cancel(anext(opened.fetch, None), steps)
        self.unseen += self.limiter.in_flight
        if how == "close":
            await opened.fetch.aclose()
        del opened
        gc.collect()

    @rule(plan=plans, steps=st.integers(0, 40))
    def cancel_get(self, plan: Plan, steps: int) -> None:
        """Cancel a call after any number of turns of the event loop."""
        ((run_id, _),) = self.plan([plan]).items()
        self.run(self.cancel(self.lab.runs.get(run_id), steps))

    async def cancel(self, call: Any, steps: int) -> None:
        task = asyncio.ensure_future(call)
        for _ in range(steps):
            await asyncio.sleep(0)
        self.unseen += self.limiter.in_flight
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    @rule(plan=st.lists(st.sampled_from(["500", "503", "reset", "429"]), min_size=1, max_size=3))
    def get_by_a_deadline(self, plan: Plan) -> None:
        """A call that never succeeds ends by its deadline, counted from its first attempt."""
        ((run_id, _),) = self.plan([list(plan) * 99]).items()
        policy = RetryPolicy(attempts=99, base=1, cap=4, deadline=DEADLINE)
        _, error = self.outcome(self.lab.with_options(retry=policy).runs.get(run_id))
        assert isinstance(error, ServerError | TransportError | RateLimitedError)
        self.unseen += 1  # the last attempt may have had too little time to be sent
        assert self.fake.now <= self.first_seen[run_id] + DEADLINE

    @invariant()
    def attempts_are_what_the_server_saw(self) -> None:
        """But for those that were cancelled, perhaps before they were sent."""
        if not self.opened:
            lost = self.lab.stats.attempts - len(self.server.seen)
            assert 0 <= lost <= self.lost + self.unseen
            self.lost, self.unseen = lost, 0

    @invariant()
    def permits_are_conserved(self) -> None:
        """All given back when nothing is under way, never more than there are before."""
        limiter = self.limiter
        assert 0 <= limiter.in_flight <= CAP
        if not self.opened:
            self.run(eventually(lambda: limiter.in_flight == 0))
            self.run(eventually(lambda: self.strays() == 0))

    def strays(self) -> int:
        """Tasks that are neither the server's nor the one that asks."""
        return len(asyncio.all_tasks() - self.server.tasks) - 1

    def teardown(self) -> None:
        self.run(self.end())
        self.runner.close()

    async def end(self) -> None:
        while self.opened:
            await self.opened.pop().fetch.aclose()
        await self.lab.aclose()
        await eventually(lambda: self.server.open == 0)
        await self.server.__aexit__()


TestClientAndServer = ClientAndServer.TestCase
TestClientAndServer.settings = settings(
    derandomize=True,
    max_examples=12,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
