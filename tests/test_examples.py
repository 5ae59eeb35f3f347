"""The examples, run against the simulator."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer
from conftest import PATIENCE, eventually

from modellab_async import RetryPolicy
from modellab_async.simulator import Fault, RateLimit, Simulator

ROOT = Path(__file__).parents[1]


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"examples/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def losses(**values: float | None) -> list[dict[str, Any]]:
    return [{"key": key, "count": 3, "min": value} for key, value in values.items()]


# Pick the best run


@pytest.fixture
async def trained() -> AsyncIterator[Simulator]:
    """A project with 150 runs, the best of which is on the second page of its listing."""
    async with Simulator(runs=50) as sim:
        for number in range(150):
            sim.insert_run(
                900_000 + number,
                project_id=7,
                status="completed",
                metric_summaries=losses(eval_loss=0.1 if number == 120 else 0.5 + number),
                artifacts={
                    "adapter/adapter_config.json": b"{}",
                    "adapter/adapter_model.safetensors": b"%d" % number,
                    "checkpoints/1.bin": 5_000,
                },
            )
        sim.insert_run(910_000, project_id=7, status="failed", metric_summaries=losses(eval_loss=0))
        sim.insert_run(
            910_001, project_id=7, status="completed", metric_summaries=losses(eval_loss=None)
        )
        yield sim


async def start_example(name: str, *arguments: object, sim: Simulator, **more: str) -> Process:
    """Run an example as a person would."""
    environment = {
        "PATH": os.defpath,
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "MODELLAB_BASE_URL": sim.base_url,
        "DD_API_KEY": sim.api_key,
        "DD_APP_KEY": sim.app_key,
        **more,
    }
    return await asyncio.create_subprocess_exec(
        *(sys.executable, str(ROOT / f"examples/{name}.py"), *map(str, arguments)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )


async def result_of(process: Process) -> tuple[int | None, str, str]:
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


BestAdapter = Callable[..., Awaitable[str]]


@pytest.fixture
def best_adapter(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> BestAdapter:
    """Runs the example inside this process, with these arguments; returns what it prints."""

    async def run(sim: Simulator, *arguments: object) -> str:
        monkeypatch.setenv("MODELLAB_BASE_URL", sim.base_url)
        monkeypatch.setenv("DD_API_KEY", sim.api_key)
        monkeypatch.setenv("DD_APP_KEY", sim.app_key)
        monkeypatch.setattr(sys, "argv", ["best_adapter.py", *map(str, arguments)])
        await example("best_adapter").main()
        return capsys.readouterr().out

    return run


async def test_the_best_run_and_its_adapter(
    trained: Simulator, best_adapter: BestAdapter, tmp_path: Path
) -> None:
    """The lowest metric among the completed runs wins, and only its adapter comes to disk."""
    out = await best_adapter(trained, 7, "eval_loss", tmp_path / "out")
    assert out.startswith("run 900120 ")
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert files == {"adapter_config.json": b"{}", "adapter_model.safetensors": b"120"}


@pytest.mark.process
async def test_no_run_has_the_metric(trained: Simulator, tmp_path: Path) -> None:
    """It says so, and fails."""
    process = await start_example("best_adapter", 7, "nonsense", tmp_path, sim=trained)
    code, out, err = await result_of(process)
    assert (code, out) == (1, "")
    assert err == "no completed run of project 7 has nonsense and one of adapter/, model/\n"


async def test_the_next_best_run_if_the_best_kept_nothing(
    sim: Simulator, best_adapter: BestAdapter, tmp_path: Path
) -> None:
    """A run without an adapter or a model is passed over; a model will do."""
    for run_id, loss, files in (
        (910_000, 0.1, {"checkpoints/1.bin": 10}),
        (910_001, 0.2, {"model/weights.bin": b"learned"}),
        (910_002, 0.3, {"adapter/weights.bin": b"worse"}),
    ):
        metrics = losses(eval_loss=loss)
        sim.insert_run(
            run_id, project_id=7, status="completed", metric_summaries=metrics, artifacts=files
        )
    out = await best_adapter(sim, 7, "eval_loss", tmp_path)
    assert out.startswith("run 910001 ")
    assert (tmp_path / "weights.bin").read_bytes() == b"learned"


@pytest.mark.process
async def test_the_documented_arguments(tmp_path: Path) -> None:
    """What its docstring says to type ends well on a simulator as it comes."""
    async with Simulator() as sim:
        process = await start_example("best_adapter", 2387, "eval_loss", tmp_path, sim=sim)
        code, out, err = await result_of(process)
    assert (code, err) == (0, "")
    [first, *paths] = out.splitlines()
    assert first.startswith("run ")
    assert paths


@pytest.mark.process
async def test_no_keys(sim: Simulator, tmp_path: Path) -> None:
    """What is not set is told in one line."""
    process = await start_example("best_adapter", 7, "eval_loss", tmp_path, sim=sim, DD_API_KEY="")
    code, _, err = await result_of(process)
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("not finished: ")
    assert "DD_API_KEY" in err


# Serve runs


@pytest.fixture
async def service(sim: Simulator) -> AsyncIterator[TestClient[Any, Any]]:
    app = example("serve_runs").make_app(
        base_url=sim.base_url,
        api_key=sim.api_key,
        app_key=sim.app_key,
        retry=RetryPolicy(attempts=2, base=0.001, max_rate_limit_wait=0.1),
    )
    async with TestClient(TestServer(app)) as client:
        yield client
    await eventually(lambda: sim.counts.connections == 0)


async def test_the_service_serves_runs(sim: Simulator, service: TestClient[Any, Any]) -> None:
    """One, or several in the order asked, all through one client."""
    first, second = sim.run_ids[:2]
    async with service.get(f"/runs/{first}") as answer:
        assert (answer.status, answer.content_type) == (200, "application/json")
        assert (await answer.json())["id"] == str(first)
    async with service.get("/runs", params={"ids": f"{second},1,{first},x"}) as answer:
        got = await answer.json()
    assert [item["id"] for item in got] == [str(second), "1", str(first), "x"]
    assert [item.get("error") for item in got] == [None, "NotFoundError", None, "InvalidIdError"]


async def test_many_requests_share_one_client(
    sim: Simulator, service: TestClient[Any, Any]
) -> None:
    """Its connections are kept for the next request."""

    async def ask(run_id: int) -> int:
        async with service.get(f"/runs/{run_id}") as answer:
            return answer.status

    for _ in range(5):
        assert set(await asyncio.gather(*map(ask, sim.run_ids[:10]))) == {200}
    assert sim.counts.requests == 50
    assert sim.counts.connections_made <= 10


async def test_errors_in_the_terms_of_the_service(
    sim: Simulator, service: TestClient[Any, Any]
) -> None:
    """A bad id is 400, no such run 404, an upstream failure 502, a used-up quota 503."""
    statuses = []
    for run_id, fault in (("x", None), (1, None), (sim.run_ids[0], Fault.status(500))):
        if fault is not None:
            sim.faults.always(fault)
        async with service.get(f"/runs/{run_id}") as answer:
            statuses.append(answer.status)
            assert (await answer.json())["error"]
    sim.faults.clear()
    sim.limits.replace(RateLimit(limit=1, period=1000))
    sim.limits.spend(1)
    async with service.get(f"/runs/{sim.run_ids[0]}") as answer:
        statuses.append(answer.status)
        assert 0 < int(answer.headers["Retry-After"]) <= 1000
    assert statuses == [400, 404, 502, 503]


async def test_a_caller_that_hangs_up_stops_the_work(
    sim: Simulator, service: TestClient[Any, Any]
) -> None:
    """Its request is cancelled, and what that had asked for."""
    sim.faults.always(Fault.stall())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await service.get("/runs", params={"ids": ",".join(map(str, sim.run_ids[:50]))})
    await eventually(lambda: sim.counts.in_flight == 0)


@pytest.mark.process
async def test_the_service_starts_and_stops(sim: Simulator) -> None:
    """As a process: it answers, and SIGTERM ends it with its client closed."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = await start_example("serve_runs", sim=sim, PORT=str(port), PYTHONDEVMODE="1")
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE), aiohttp.ClientSession() as session:
            await process.stdout.readuntil(b"Running on")
            async with session.get(f"http://127.0.0.1:{port}/runs/{sim.run_ids[0]}") as answer:
                assert answer.status == 200
    finally:
        process.terminate()
        code, _, err = await result_of(process)
    assert code == 0
    assert not [word for word in ("Warning", "Error", "Unclosed") if word in err]
