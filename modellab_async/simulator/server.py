"""The server itself: keys, limits, faults and records around the operations."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from modellab_async.simulator.artifacts import Artifacts, Content
from modellab_async.simulator.faults import Faults
from modellab_async.simulator.front import BeforeRequest, Front, Keys
from modellab_async.simulator.limits import Limits, RateLimit
from modellab_async.simulator.listener import Listener
from modellab_async.simulator.operations import Operations
from modellab_async.simulator.records import Counts, Recorder, RequestRecord
from modellab_async.simulator.store import Store
from modellab_async.simulator.world import Size, World

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from modellab_async.simulator.declared import Timeline
    from modellab_async.simulator.wire import Sleep

# With this seed the ids that the documentation uses (runs 70158 and 71354, project 2387) exist.
DEFAULT_SEED: Final = 161_498


class Simulator:
    """A local server that speaks the Model Lab API.

    Example:
        ```python
        from modellab_async.simulator import Faults, Simulator

        async with Simulator(faults=Faults(rate=0.3)) as sim:
            run_id = sim.insert_run(name="mine", status="running")
            ...  # requests to sim.base_url with sim.api_key and sim.app_key
            assert sim.resource(run_id)["attributes"]["name"] == "mine"
        ```
    """

    def __init__(
        self,
        *,
        runs: int = 65_614,
        projects: int = 403,
        seed: int = DEFAULT_SEED,
        size: Size = "mixed",
        quirks: bool = True,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str = "sim-api-key",
        app_key: str = "sim-app-key",
        bearer_token: str = "sim-bearer-token",  # noqa: S107  # opens nothing but the simulator
        rate_limit: RateLimit | Mapping[str, RateLimit] | None = None,
        faults: Faults | None = None,
        latency: float = 0.0,
        record: int = 1_000,
        first_page: Literal[0, 1] = 0,
        soft_delete: bool = False,
        ranges: bool = True,
        before_request: BeforeRequest | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """Set up the simulator; nothing is listening before `start`.

        Args:
            runs: number of made-up runs; they cost nothing until they are asked for.
            projects: number of made-up projects that they belong to.
            seed: another seed, other runs.
            size: `mixed` as in production (median 1.6 KB, mean 2.2 KB of JSON), or every run
                `small` (1.1 KB), `medium` (2.2 KB) or `large` (8.9 KB).
            quirks: whether answers deviate from the published reference as recorded ones do:
                null lists, integers for floats, absent and unknown fields.
            host: address to listen on.
            port: port to listen on; 0 for a free one.
            api_key: accepted `DD-API-KEY`.
            app_key: accepted `DD-APPLICATION-KEY`.
            bearer_token: accepted `Authorization: Bearer`; it wins over a pair of keys.
            rate_limit: one limit for all operations, or one for each operation's name (`get_run`,
                `list_runs`, ...; `*` for all others). None sends no rate-limit headers.
            faults: what goes wrong by chance; by default nothing does.
            latency: seconds that every request waits before it is looked at.
            record: how many of the last requests `requests` keeps.
            first_page: number of the first page: 0 as recorded, 1 as documented.
            soft_delete: whether a deleted run can still be read, with a `deleted_at`.
            ranges: whether artifacts are served in part to those who ask for a range.
            before_request: called with the method and the path (query included) of every request
                before it is looked at; may be a coroutine function.
            clock: seconds since the epoch; decides rate-limit windows and timelines.
            sleep: an awaitable pause, for latency and slow faults.
        """
        world = World(seed=seed, runs=runs, projects=projects, size=size, quirks=quirks)
        self._keys = Keys(api_key, app_key, bearer_token)
        self._store = Store(world, clock, soft_delete=soft_delete)
        self._artifacts = Artifacts(self._store, ranges=ranges)
        self._recorder = Recorder(record)
        self._front = Front(
            keys=self._keys,
            operations=Operations(self._store, self._artifacts, first_page=first_page),
            recorder=self._recorder,
            limits=Limits(rate_limit, clock),
            faults=Faults() if faults is None else faults,
            latency=latency,
            before_request=before_request,
            clock=clock,
            sleep=sleep,
        )
        self._listener = Listener(self._front.handle, host, port)

    async def start(self) -> None:
        """Start listening.

        Raises:
            OSError: the port cannot be listened on.
            RuntimeError: it is running already.
        """
        await self._listener.start()

    async def close(self) -> None:
        """Stop listening and drop every connection, busy or not. May be called twice."""
        await self._listener.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def base_url(self) -> str:
        """Where it listens, such as `http://127.0.0.1:40123`.

        Raises:
            RuntimeError: it is not running.
        """
        return self._listener.base_url

    @property
    def api_key(self) -> str:
        """The `DD-API-KEY` that is accepted."""
        return self._keys.api_key

    @property
    def app_key(self) -> str:
        """The `DD-APPLICATION-KEY` that is accepted."""
        return self._keys.app_key

    @property
    def bearer_token(self) -> str:
        """The `Authorization: Bearer` that is accepted."""
        return self._keys.bearer_token

    @property
    def headers(self) -> dict[str, str]:
        """Headers with the pair of keys that the server accepts."""
        return {"DD-API-KEY": self.api_key, "DD-APPLICATION-KEY": self.app_key}

    @property
    def faults(self) -> Faults:
        """What goes wrong; may be scripted while the server runs."""
        return self._front.faults

    @property
    def limits(self) -> Limits:
        """The rate limits; may be replaced and spent while the server runs."""
        return self._front.limits

    @property
    def requests(self) -> Sequence[RequestRecord]:
        """The last requests, oldest first, those still being worked on left out."""
        return tuple(self._recorder.requests)

    @property
    def counts(self) -> Counts:
        """How many requests and connections there were and are."""
        return self._recorder.counts(
            connections=self._listener.connections,
            connections_made=self._listener.connections_made,
        )

    @property
    def run_ids(self) -> Sequence[int]:
        """Every run's id, computed on demand; oldest first, inserted ones last.

        Deleted runs keep their place.
        """
        return self._store.run_ids

    @property
    def project_ids(self) -> Sequence[int]:
        """Every project's id, computed on demand; inserted ones last."""
        return self._store.project_ids

    def resource(self, run_id: int) -> dict[str, Any]:
        """A run exactly as it is served now: `{"attributes": ..., "id": ..., "type": "runs"}`.

        Raises:
            LookupError: no such run is served.
        """
        return self._store.run_resource(run_id)

    def project_resource(self, project_id: int) -> dict[str, Any]:
        """A project exactly as it is served now.

        Raises:
            LookupError: there is no such project.
        """
        return self._store.project_resource(project_id)

    def content(self, project_id: int, artifact_path: str) -> Content:
        """An artifact's content: its `size`, and `read(start, stop)` for any part of it.

        Args:
            project_id: the project.
            artifact_path: path relative to the project's artifact root.

        Raises:
            LookupError: there is no such file.
        """
        return self._artifacts.content(project_id, artifact_path)

    def insert_run(
        self,
        run_id: int | None = None,
        *,
        parent_run_id: int | None = None,
        timeline: Timeline = (),
        artifacts: Mapping[str, int | bytes] | None = None,
        **attributes: Any,
    ) -> int:
        """Add a run, before the start or while the server runs.

        Args:
            run_id: its id; by default one above all others.
            parent_run_id: the run that it is a child of.
            timeline: the statuses it goes through, as `(seconds from now, status)`, by the
                simulator's clock; times and duration follow.
            artifacts: its files by path: their content, or a size for made-up content.
            **attributes: attributes exactly as they are to be served, whether or not they make
                sense; `ABSENT` leaves one out. By default it is a running run, created now, in the
                first project. A project that does not exist is added.

        Returns:
            Its id.

        Raises:
            ValueError: there is a run of that id already.
        """
        return self._store.insert_run(
            run_id,
            parent_run_id=parent_run_id,
            timeline=timeline,
            artifacts=artifacts or {},
            attributes=attributes,
        )

    def insert_project(
        self,
        project_id: int | None = None,
        *,
        artifacts: Mapping[str, int | bytes] | None = None,
        **attributes: Any,
    ) -> int:
        """Add a project, before the start or while the server runs.

        Args:
            project_id: its id; by default one above all others.
            artifacts: its own files by path: their content, or a size for made-up content.
            **attributes: attributes exactly as they are to be served; `ABSENT` leaves one out.

        Returns:
            Its id.

        Raises:
            ValueError: there is a project of that id already.
        """
        return self._store.insert_project(
            project_id, artifacts=artifacts or {}, attributes=attributes
        )

    def delete_run(self, run_id: int) -> None:
        """Delete a run, as a request would.

        Raises:
            LookupError: there is none of that id, or it was deleted before.
        """
        self._store.delete_run(run_id)
