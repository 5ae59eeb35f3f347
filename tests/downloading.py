"""What the tests of downloads share: files to bring, servers that are odd, what was asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from modellab_async import ModelLabClient, RetryPolicy, Run, RunArtifacts, RunFile, RunStatus
from modellab_async.endpoints import Call, Perform
from modellab_async.simulator import Simulator

KB = 1024
MB = 1024 * KB
BIG = "run-42/artifacts/model/big.bin"
CONTENT = "*/artifacts/content"
RUN = Run(
    id=42,
    name="run",
    project_id=5,
    status=RunStatus.RUNNING,
    created_at=datetime(2026, 5, 15, tzinfo=UTC),
)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Content = Callable[[Call], Awaitable[Any]]


def simulator(files: dict[str, int | bytes], **options: Any) -> Simulator:
    """A simulator with one run, 42 of project 5, that has these files."""
    simulator = Simulator(runs=0, record=10_000, **options)
    simulator.insert_run(42, project_id=5, artifacts=files)
    return simulator


@asynccontextmanager
async def odd_server(
    handler: Handler, *, retry: RetryPolicy | None = None, **options: Any
) -> AsyncIterator[ModelLabClient]:
    """A server that does as the test says, and a client of it, which asks once by default."""
    runner = web.ServerRunner(web.Server(handler, access_log=None))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with ModelLabClient(
            base_url=url,
            api_key="sim-api-key",
            app_key="sim-app-key",
            retry=retry or RetryPolicy.none(),
            **options,
        ) as lab:
            yield lab
    finally:
        await runner.cleanup()


def listing(*files: RunFile, content: Content | None = None) -> Perform:
    """A ``perform`` that lists these files in every directory of every run."""

    async def perform(call: Call, /, **_: Any) -> Any:
        if call.operation == "runs.get":
            return RUN
        if call.operation == "runs.artifacts":
            return RunArtifacts(path_in_project="p", files=files)
        assert content is not None, "nothing may be asked for"
        return await content(call)

    return perform


def ranges_asked(sim: Simulator, name: str = "") -> list[str | None]:
    """The ``Range`` of each request for content, or for that of one file."""
    return [
        request.headers.get("range")
        for request in sim.requests
        if request.path.endswith("/artifacts/content") and request.query.endswith(name)
    ]


def content(sim: Simulator, name: str) -> bytes:
    """The bytes of one of the run's files."""
    return sim.content(5, f"run-42/artifacts/{name}").read()


def everything(directory: Path) -> dict[str, bytes | None]:
    """All that is in a directory: files with their bytes, directories with None."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
    }
