"""The simulator: a server on a port, and the methods that tests control and inspect it by."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from aiohttp import web

from modellab_async.simulator.artifacts import Artifacts, Content
from modellab_async.simulator.dataset import Dataset
from modellab_async.simulator.faults import Faults
from modellab_async.simulator.fixtures import (
    PROJECT_ATTRIBUTES,
    RUN_ATTRIBUTES,
    read_run,
    refuse_unknown,
)
from modellab_async.simulator.generator import Generator, Size
from modellab_async.simulator.handler import (
    BeforeRequest,
    Counts,
    Keys,
    Recorder,
    RequestHandler,
    RequestRecord,
)
from modellab_async.simulator.limits import Limits, RateLimit
from modellab_async.simulator.operations import Operations

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from modellab_async.simulator.fixtures import Files, Timeline
    from modellab_async.simulator.responses import Sleep

_SHUTDOWN_SECONDS: Final = 1.0
_BACKLOG: Final = 1024

# With this seed the ids that the documentation uses (runs 70158 and 71354, project 2387) exist.
DEFAULT_SEED: Final = 161_498


class _CountingServer(web.Server):
    connections_made = 0

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        self.connections_made += 1
        super().connection_made(handler, transport)


class Simulator:
    """A local server that speaks the Model Lab API.

    Attributes:
        api_key: the `DD-API-KEY` that is accepted.
        app_key: the `DD-APPLICATION-KEY` that is accepted.
        bearer_token: the `Authorization: Bearer` that is accepted.
        faults: what goes wrong; may be scripted while the server runs.
        limits: the rate limits; may be replaced and spent while the server runs.

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
        bearer_token: str = "sim-bearer-token",  # noqa: S107  # for the simulator only
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
            runs: number of made-up runs; a million take about ten seconds to set up.
            projects: number of made-up projects that they belong to.
            seed: another seed makes other runs.
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
            faults: random faults; none by default.
            latency: seconds that every request waits before it is processed.
            record: how many of the last requests `requests` keeps.
            first_page: number of the first page: 0 as recorded, 1 as documented.
            soft_delete: whether a deleted run can still be read, with a `deleted_at`.
            ranges: whether artifacts are served in part to requests for a range.
            before_request: called with the method and the path (query included) of every request
                before it is processed; may be a coroutine function.
            clock: seconds since the epoch; decides rate-limit windows and timelines.
            sleep: an awaitable pause, for latency and slow faults.
        """
        self.api_key: str = api_key
        self.app_key: str = app_key
        self.bearer_token: str = bearer_token
        self.faults: Faults = Faults() if faults is None else faults
        self.limits: Limits = Limits(rate_limit, clock)
        generator = Generator(seed, runs, projects, size, quirks)
        self._dataset = Dataset(generator, clock, soft_delete=soft_delete)
        self._artifacts = Artifacts(self._dataset, ranges=ranges)
        self._recorder = Recorder(record)
        self._handler = RequestHandler(
            keys=Keys(api_key, app_key, bearer_token),
            operations=Operations(self._dataset, self._artifacts, first_page=first_page),
            recorder=self._recorder,
            limits=self.limits,
            faults=self.faults,
            latency=latency,
            before_request=before_request,
            clock=clock,
            sleep=sleep,
        )
        self._host = host
        self._port = port
        self._server: _CountingServer | None = None
        self._runner: web.ServerRunner | None = None

    async def start(self) -> None:
        """Start listening.

        Raises:
            OSError: the port cannot be listened on.
            RuntimeError: it is running already.
        """
        if self._runner is not None:
            raise RuntimeError("the simulator is running already")
        # Cancellation: a client that hangs up on a stalled request ends it.
        self._server = _CountingServer(
            self._handler.handle, handler_cancellation=True, access_log=None
        )
        self._runner = web.ServerRunner(self._server, shutdown_timeout=_SHUTDOWN_SECONDS)
        try:
            await self._runner.setup()
            await web.TCPSite(self._runner, self._host, self._port, backlog=_BACKLOG).start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop listening and drop every connection, busy or not. May be called twice."""
        runner, server = self._runner, self._server
        self._runner = None
        if runner is None or server is None:
            return
        for connection in server.connections:
            if connection.transport is not None:
                connection.transport.abort()
        await runner.cleanup()

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
        if self._runner is None:
            raise RuntimeError("the simulator is not running")
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._runner.addresses[0][1]}"

    @property
    def headers(self) -> dict[str, str]:
        """Headers with the pair of keys that the server accepts."""
        return {"DD-API-KEY": self.api_key, "DD-APPLICATION-KEY": self.app_key}

    @property
    def requests(self) -> Sequence[RequestRecord]:
        """The last requests, oldest first, those still being worked on left out."""
        return tuple(self._recorder.requests)

    @property
    def counts(self) -> Counts:
        """How many requests and connections there were and are."""
        server = self._server
        return self._recorder.counts(
            connections=0 if server is None else len(server.connections),
            connections_made=0 if server is None else server.connections_made,
        )

    @property
    def run_ids(self) -> Sequence[int]:
        """The ids of all runs: made-up ones, oldest first, then inserted ones.

        Those of deleted runs stay.
        """
        return self._dataset.run_ids

    @property
    def project_ids(self) -> Sequence[int]:
        """The ids of all projects, inserted ones last."""
        return list(self._dataset.projects)

    def resource(self, run_id: int) -> dict[str, Any]:
        """A run exactly as it is served now: `{"attributes": ..., "id": ..., "type": "runs"}`.

        Raises:
            LookupError: no such run is served.
        """
        return self._dataset.run_resource(run_id)

    def project_resource(self, project_id: int) -> dict[str, Any]:
        """A project exactly as it is served now.

        Raises:
            LookupError: there is no such project.
        """
        return self._dataset.project_resource(project_id)

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
        run: int | Mapping[str, Any] | object | None = None,
        /,
        *,
        run_id: int | None = None,
        parent_run_id: int | None = None,
        timeline: Timeline = (),
        artifacts: Files | None = None,
        **attributes: Any,
    ) -> int:
        """Add a run, before the start or while the server runs.

        Args:
            run: its id; or a whole run: a `Run`, or a resource as the API writes it, with ``id``
                and ``attributes``, which are served unchanged.
            run_id: its id, in place of that of `run`; by default one above all others.
            parent_run_id: the run that it is a child of.
            timeline: the statuses it goes through, as `(seconds from now, status)`, by the
                simulator's clock; times and duration follow.
            artifacts: its files by path: their content, or a size for made-up content.
            **attributes: attributes as they are to be served, whether or not they make sense;
                `ABSENT` leaves one out. They take precedence over those of `run`. What neither has
                gets a default: a running run, created now, in the first project. A project
                that does not exist is added.

        Returns:
            Its id.

        Raises:
            ValueError: there is a run of that id already.
            TypeError: `run` is none of these, or an attribute is not one of the API's.
        """
        refuse_unknown("run", attributes, RUN_ATTRIBUTES)
        own_id, given = read_run(run)
        return self._dataset.insert_run(
            own_id if run_id is None else run_id,
            parent_run_id=parent_run_id,
            timeline=timeline,
            artifacts=artifacts or {},
            attributes=given | attributes,
        )

    def insert_project(
        self,
        project_id: int | None = None,
        *,
        artifacts: Files | None = None,
        **attributes: Any,
    ) -> int:
        """Add a project, before the start or while the server runs.

        Args:
            project_id: its id; by default one above all others.
            artifacts: its own files by path: their content, or a size for made-up content.
            **attributes: attributes as they are to be served; `ABSENT` leaves one out.

        Returns:
            Its id.

        Raises:
            ValueError: there is a project of that id already.
            TypeError: an attribute is not one of the API's.
        """
        refuse_unknown("project", attributes, PROJECT_ATTRIBUTES)
        return self._dataset.insert_project(
            project_id, artifacts=artifacts or {}, attributes=attributes
        )

    def update_run(self, run_id: int, **changes: Any) -> None:
        """Change a run, which sets its `updated_at` to the simulator's now.

        A timeline ends with it: the run stays as it is, apart from the changes.

        Args:
            run_id: the run, made up or inserted.
            **changes: attributes as they are to be served; `ABSENT` leaves one out.

        Raises:
            LookupError: there is none of that id, or it was deleted.
            TypeError: an attribute is not one of the API's.
        """
        refuse_unknown("run", changes, RUN_ATTRIBUTES)
        self._dataset.update_run(run_id, changes)

    def delete_run(self, run_id: int) -> None:
        """Delete a run, as a request would.

        Raises:
            LookupError: there is none of that id, or it was deleted before.
        """
        self._dataset.delete_run(run_id)
