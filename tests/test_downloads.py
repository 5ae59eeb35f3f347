"""Files on disk: whole or not there, resumed, and never outside their directory."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import signal
import sys
import threading
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from conftest import FakeClock, client_for, eventually, settled

from modellab_async import (
    AuthenticationError,
    DownloadError,
    InvalidIdError,
    ModelLabClient,
    NotFoundError,
    RetryPolicy,
    Run,
    RunArtifacts,
    RunFile,
    RunStatus,
    TransportError,
)
from modellab_async.downloads import AT_ONCE, MAX_DEPTH, Downloads
from modellab_async.downloads.part import TAIL, Held, Part, on_disk
from modellab_async.downloads.paths import split
from modellab_async.endpoints import Call
from modellab_async.simulator import Fault, Simulator

MB = 1024 * 1024
BIG = "run-42/artifacts/model/big.bin"
CONTENT = "*/artifacts/content"
RUN = Run(
    id=42,
    name="run",
    project_id=5,
    status=RunStatus.RUNNING,
    created_at=datetime(2026, 5, 15, tzinfo=UTC),
)
CHILD = """
import asyncio, sys
from modellab_async import ModelLabClient

async def main(url, path, target):
    async with ModelLabClient(base_url=url, api_key="sim-api-key", app_key="sim-app-key") as lab:
        await lab.artifacts.download(5, path, target)

asyncio.run(main(*sys.argv[1:]))
"""


def simulator(files: dict[str, int | bytes], **options: Any) -> Simulator:
    simulator = Simulator(runs=0, record=10_000, **options)
    simulator.insert_run(42, project_id=5, artifacts=files)
    return simulator


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    files: dict[str, int | bytes] = {
        "a.txt": b"hello",
        "empty": b"",
        "model/big.bin": 3 * MB,
        "model/x y/z": b"deep",
    }
    async with simulator(files) as sim:
        yield sim


@pytest.fixture
async def lab(sim: Simulator, fake: FakeClock) -> AsyncIterator[ModelLabClient]:
    async with client_for(sim, clock=fake.clock()) as lab:
        yield lab


@asynccontextmanager
async def odd_server(
    answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], **options: Any
) -> AsyncIterator[ModelLabClient]:
    """A server that does as the test says, and a client that asks it once."""
    runner = web.ServerRunner(web.Server(answer, access_log=None))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with ModelLabClient(
            base_url=url, api_key="a", app_key="b", retry=RetryPolicy.none(), **options
        ) as lab:
            yield lab
    finally:
        await runner.cleanup()


def ranges_asked(sim: Simulator) -> list[str | None]:
    """The ``Range`` of each request for content."""
    return [
        request.headers.get("range")
        for request in sim.requests
        if request.path.endswith("/artifacts/content")
    ]


def tasks_of_ours() -> set[asyncio.Task[Any]]:
    """All tasks but those of the server."""
    return {task for task in asyncio.all_tasks() if "RequestHandler" not in repr(task.get_coro())}


def everything(directory: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
    }


def digest(target: Path) -> str:
    with target.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def left_behind(target: Path, content: bytes, etag: str | None = None) -> None:
    target.with_name(target.name + ".part").write_bytes(content)
    if etag is not None:
        target.with_name(target.name + ".part.etag").write_text(etag, encoding="ascii")


# One file


@pytest.mark.parametrize("path", [BIG, "run-42/artifacts/empty", "run-42/artifacts/model/x y/z"])
async def test_a_file_comes_whole(sim, lab, tmp_path, path):
    """Its bytes are the server's, directories are made, and nothing else stays."""
    target = tmp_path / "new" / "dir" / "name.bin"
    assert await lab.artifacts.download(5, path, target) == target
    assert target.read_bytes() == sim.content(5, path).read()
    assert list(target.parent.iterdir()) == [target]


async def test_an_older_file_is_replaced_when_the_new_one_is_whole(sim, lab, tmp_path):
    """Until then the old one stays as it was; after that nothing of it is left."""
    target = tmp_path / "big.bin"
    target.write_bytes(b"old")
    sim.faults.always(Fault.cut(after=3_000), CONTENT)
    with pytest.raises(DownloadError, match="keeps breaking off at 3000 bytes"):
        await lab.artifacts.download(5, BIG, target)
    assert target.read_bytes() == b"old"
    sim.faults.clear()
    await lab.artifacts.download(5, BIG, str(target))
    assert target.read_bytes() == sim.content(5, BIG).read()


@pytest.mark.parametrize("slash", ["", "/"])
async def test_a_directory_takes_a_file_under_its_own_name(lab, tmp_path, slash):
    """An existing directory does, and a path that ends in a slash."""
    destination = tmp_path if not slash else f"{tmp_path}/new/"
    got = await lab.artifacts.download(5, "run-42/artifacts/a.txt", destination)
    assert got == Path(destination) / "a.txt"
    assert got.read_bytes() == b"hello"


async def test_a_file_that_is_not_there_leaves_nothing(lab, tmp_path):
    """No directory is made, and no part file, for a 404 or an id that is none."""
    with pytest.raises(NotFoundError):
        await lab.artifacts.download(5, "nothing", tmp_path / "new" / "file")
    with pytest.raises(InvalidIdError):
        await lab.artifacts.download("5/..", "nothing", tmp_path / "new" / "file")
    assert everything(tmp_path) == {}


# Breaking off and going on


@pytest.mark.parametrize("ranges", [True, False])
async def test_a_body_that_breaks_off_is_gone_on_with(fake, tmp_path, ranges):
    """With ranges each break costs little; without them it starts over; both end right."""
    async with simulator({"model/big.bin": 3 * MB}, ranges=ranges) as sim:
        async with client_for(sim, clock=fake.clock()) as lab:
            sim.faults.matching(CONTENT, *[Fault.cut(after=200_000)] * 4)
            target = await lab.artifacts.download(5, BIG, tmp_path / "big.bin")
        assert target.read_bytes() == sim.content(5, BIG).read()
        step = 200_000 - TAIL
        asked = [None, *(f"bytes={step * count}-" for count in range(1, 5))]
        assert ranges_asked(sim) == (asked if ranges else [None, *[f"bytes={step}-"] * 4])
        tags = [request.headers.get("if-range") for request in sim.requests]
        assert tags == [None, *[sim.content(5, BIG).etag if ranges else None] * 4]
    assert list(tmp_path.iterdir()) == [target]


async def test_the_progress_of_one_file(fake, tmp_path):
    """It begins with the size that the answer names, never falls, and ends with the file whole."""
    async with simulator({"weights.bin": 3 * MB}, ranges=False) as sim:
        async with client_for(sim, clock=fake.clock()) as lab:
            sim.faults.matching(CONTENT, Fault.cut(after=2 * MB))
            seen: list[tuple[int, int | None]] = []
            await lab.artifacts.download(
                5,
                "run-42/artifacts/weights.bin",
                tmp_path / "weights.bin",
                on_progress=lambda *now: seen.append(now),
            )
    assert (seen[0], seen[-1]) == ((0, 3 * MB), (3 * MB, 3 * MB))
    assert seen == sorted(set(seen))


async def test_progress_is_what_makes_another_attempt_worth_it(sim, fake, tmp_path):
    """Breaks are counted from the last progress on, and followed by the policy's back-off."""
    fake.chance = lambda: 0.5
    policy = RetryPolicy(attempts=3, base=1.0)
    async with client_for(sim, clock=fake.clock(), retry=policy) as lab:
        sim.faults.matching(CONTENT, *[Fault.cut(after=300_000)] * 6, *[Fault.cut(after=9)] * 9)
        with pytest.raises(DownloadError, match=r"big\.bin\.part is kept") as caught:
            await lab.artifacts.download(5, BIG, tmp_path / "big.bin")
    assert isinstance(caught.value.__cause__, TransportError)
    assert len(ranges_asked(sim)) == 6 + 2
    assert fake.slept == [0.5] * 6 + [1.0]
    (part,) = tmp_path.glob("*.part")
    content = sim.content(5, BIG).read()
    assert part.read_bytes() == content[: part.stat().st_size]


async def test_without_a_policy_a_break_is_final(sim, tmp_path):
    """``RetryPolicy.none()`` is one request, as everywhere; the next call goes on from there."""
    async with client_for(sim, retry=RetryPolicy.none()) as lab:
        sim.faults.next(Fault.cut(after=MB))
        with pytest.raises(DownloadError):
            await lab.artifacts.download(5, BIG, tmp_path / "big.bin")
        target = await lab.artifacts.download(5, BIG, tmp_path / "big.bin")
    assert ranges_asked(sim) == [None, f"bytes={MB - TAIL}-"]
    assert target.read_bytes() == sim.content(5, BIG).read()


async def test_a_killed_download_is_resumed_by_another_process(tmp_path):
    """After SIGKILL in the middle, a second process goes on and ends with the right bytes."""
    async with simulator({"model/big.bin": 128 * MB}) as sim:
        target, part = tmp_path / "big.bin", tmp_path / "big.bin.part"

        async def start() -> asyncio.subprocess.Process:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-c", CHILD, sim.base_url, BIG, str(target)
            )

        first = await start()
        await eventually(lambda: part.exists() and part.stat().st_size > 2 * MB, seconds=15)
        first.kill()
        assert await first.wait() == -signal.SIGKILL
        size = part.stat().st_size
        assert not target.exists()
        assert 2 * MB < size < 128 * MB
        second = await start()
        assert await second.wait() == 0
        await eventually(lambda: len(sim.requests) == 2)
        assert set(ranges_asked(sim)) == {None, f"bytes={size - TAIL}-"}
        whole = hashlib.sha256()
        for chunk in sim.content(5, BIG).chunks():
            whole.update(chunk)
    assert digest(target) == whole.hexdigest()
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize(
    "kind", ["other", "longer", "same tail", "other tag", "no tag", "bad tag", "whole", "tiny"]
)
async def test_what_an_earlier_download_left(tmp_path, kind, ranges):
    """Whatever the part file holds, the right bytes come; only the right beginning is kept."""
    async with simulator({"model/big.bin": MB}, ranges=ranges) as sim, client_for(sim) as lab:
        content = sim.content(5, BIG)
        start = content.read(0, 500_000)
        other = b"x" * 400_000 + start[400_000:]
        left: tuple[bytes, str | None] = {
            "other": (b"x" * 500_000, None),
            "longer": (content.read() + b"x" * 2 * TAIL, None),
            "same tail": (other, '"frozen-layers-older-head"'),
            "other tag": (start, '"older"'),
            "no tag": (start, None),
            "bad tag": (start, 'x"\r\nHost: elsewhere'),
            "whole": (content.read(), content.etag),
            "tiny": (start[:9], content.etag),
        }[kind]
        left_behind(tmp_path / "big.bin", *left)
        target = await lab.artifacts.download(5, BIG, tmp_path / "big.bin")
        assert target.read_bytes() == content.read()
        assert list(tmp_path.iterdir()) == [target]
        restarts = {"other", "longer"} if ranges else set()
        assert len(ranges_asked(sim)) == (2 if kind in restarts else 1)
        kept = ranges and kind in {"no tag", "bad tag", "whole"}
        assert (lab.stats.bytes_received < MB) is kept


@pytest.mark.parametrize(
    ("content_range", "etag"),
    [
        ("bytes 0-49999/50000", None),
        ("bytes {offset}-49998/50000", None),
        ("bytes {offset}-49999/*", None),
        ("bytes {offset}-50000/50001", '"v2"'),
        ("lines 1-2/3", None),
        (None, None),
    ],
)
async def test_a_206_of_something_else_starts_over(tmp_path, content_range, etag):
    """A wrong start, end, version or unit, or none at all, is never pieced together."""
    content = bytes(range(250)) * 200
    asked = []

    async def answer(request: web.BaseRequest) -> web.Response:
        asked.append(request.headers.get("Range"))
        if "Range" not in request.headers:
            return web.Response(body=content)
        offset = int(request.headers["Range"][6:-1])
        headers = {"ETag": etag or '"v1"'}
        if content_range is not None:
            headers["Content-Range"] = content_range.format(offset=offset)
        return web.Response(status=206, body=content[offset:], headers=headers)

    left_behind(tmp_path / "f", b"\xff" * 10_000 + content[10_000:20_000], '"v1"')
    async with odd_server(answer) as lab:
        target = await lab.artifacts.download(5, "f", tmp_path / "f")
    assert target.read_bytes() == content
    assert asked == [f"bytes={20_000 - TAIL}-", None]


@pytest.mark.parametrize("status", [204, 206])
async def test_an_answer_that_is_no_whole_file_is_refused(tmp_path, status):
    """What was not asked for is not written."""

    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(status=status)

    async with odd_server(answer) as lab:
        with pytest.raises(DownloadError, match=f"unexpected status {status}"):
            await lab.artifacts.download(5, "f", tmp_path / "f")
    assert everything(tmp_path) == {}


async def test_a_body_shorter_than_its_content_length(tmp_path):
    """It is never taken for the file."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "50000"})
        await response.prepare(request)
        await response.write(b"x" * 9_000)
        assert request.transport is not None
        request.transport.close()
        return response

    async with odd_server(answer) as lab:
        with pytest.raises(DownloadError, match="at 9000 bytes"):
            await lab.artifacts.download(5, "f", tmp_path / "f")
    assert everything(tmp_path) == {"f.part": b"x" * 9_000}


async def test_a_body_without_a_length(tmp_path):
    """The end of a chunked body is its own proof."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b"no length")
        await response.write_eof()
        return response

    async with odd_server(answer) as lab:
        target = await lab.artifacts.download(5, "f", tmp_path / "f")
    assert target.read_bytes() == b"no length"


async def test_what_has_come_is_on_disk_before_a_server_stalls(tmp_path, fake):
    """A process that is killed then loses nothing, though it is less than a batch."""
    hung_up = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "900000"})
        await response.prepare(request)
        await response.write(b"x" * 300_000)
        await hung_up.wait()
        return response

    async with odd_server(answer, clock=fake.clock()) as lab:
        task = asyncio.create_task(lab.artifacts.download(5, "f", tmp_path / "f"))
        part = tmp_path / "f.part"
        await eventually(lambda: part.exists() and part.stat().st_size == 300_000)
        task.cancel()
        await asyncio.wait([task])
        hung_up.set()


# Cost, company and cancellation


async def test_memory_stays_flat(tmp_path):
    """A file of 200 MB takes a few batches of memory, whatever its size."""
    async with simulator({"model/big.bin": 200 * MB}) as sim, client_for(sim) as lab:
        await lab.artifacts.download(5, "run-42/artifacts/model/big.bin", tmp_path / "warm")
        tracemalloc.start()
        try:
            target = await lab.artifacts.download(5, BIG, tmp_path / "big.bin")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert target.stat().st_size == 200 * MB
    assert peak < 12 * MB


@pytest.mark.parametrize("files", [1, 3])
async def test_cancellation_leaves_the_part_file_and_nothing_else(tmp_path, files):
    """No task, no permit, no request in flight; what has come is kept, and gone on with."""
    names = [f"{number}.bin" for number in range(files)]
    async with simulator(dict.fromkeys(names, 64 * MB)) as sim, client_for(sim) as lab:
        before = tasks_of_ours()
        task = asyncio.create_task(lab.artifacts.download_run(42, tmp_path))
        await eventually(lambda: lab.stats.bytes_received > 4 * MB)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert tasks_of_ours() == before
        assert lab._limiter.in_flight == 0
        await eventually(lambda: sim.counts.in_flight == 0)
        parts = {path.name: path.stat().st_size for path in tmp_path.glob("*.part")}
        assert sum(parts.values()) > 2 * MB
        for target in await lab.artifacts.download_run(42, tmp_path):
            assert (
                digest(target)
                == hashlib.sha256(
                    sim.content(5, f"run-42/artifacts/{target.name}").read()
                ).hexdigest()
            )
        assert len([asked for asked in ranges_asked(sim) if asked]) == len(parts)


async def test_two_downloads_to_one_place(sim, lab, tmp_path):
    """Only one writes, and the others say so."""
    other = Part(tmp_path / "big.bin")
    other.open(Held(), 0, None)
    try:
        with pytest.raises(DownloadError, match="another download is writing"):
            await lab.artifacts.download(5, BIG, tmp_path / "big.bin")
    finally:
        other.close()
    await lab.artifacts.download(5, BIG, tmp_path / "big.bin")


def test_a_part_file_that_has_changed_since_it_was_looked_at(tmp_path):
    """Another download was there meanwhile: what was seen no longer holds."""
    left_behind(tmp_path / "f", b"x" * 10_000)
    part = Part(tmp_path / "f")
    held = part.look()
    left_behind(tmp_path / "f", b"x" * 9_000)
    with pytest.raises(DownloadError, match="another download is writing"):
        part.open(held, held.offset, None)
    part.close()


async def test_a_thread_is_waited_for_by_whoever_is_cancelled(tmp_path):
    """However often: nobody else may touch its file before."""
    started, release = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        release.wait(10)

    task = asyncio.create_task(on_disk(work))
    await eventually(started.is_set)
    for _ in range(3):
        task.cancel()
        await settled()
        assert not task.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task


# The disk


@pytest.mark.parametrize("what", ["parent is a file", "part is a directory", "disk is full"])
async def test_a_disk_that_refuses(lab, tmp_path, monkeypatch, what):
    """Its own error is the cause of ours."""
    target = tmp_path / "big.bin"
    if what == "parent is a file":
        target.write_bytes(b"")
        target /= "inside"
    elif what == "part is a directory":
        (tmp_path / "big.bin.part").mkdir()
    else:
        full = OSError(errno.ENOSPC, "No space left on device")
        monkeypatch.setattr(Part, "write", lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(DownloadError) as caught:
        await lab.artifacts.download(5, BIG, target)
    assert isinstance(caught.value.__cause__, OSError) is (what != "part is a directory")
    assert lab._limiter.in_flight == 0


async def test_a_disk_that_refuses_ends_a_whole_run(lab, sim, tmp_path, monkeypatch):
    """What it refuses for one file it would refuse for a thousand others."""
    sim.insert_run(43, artifacts=dict.fromkeys(map(str, range(1000)), 9))
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(Part, "write", lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(DownloadError, match="No space left on device"):
        await lab.artifacts.download_run(43, tmp_path)
    assert len(ranges_asked(sim)) <= 2 * AT_ONCE


# Whole runs


async def test_a_run_comes_with_all_its_directories(sim, lab, tmp_path):
    """Every file is put under its path, and progress ends at the sum of the sizes."""
    seen: list[tuple[int, int | None]] = []
    got = await lab.artifacts.download_run(
        "42", str(tmp_path), on_progress=lambda *now: seen.append(now)
    )
    names = ["a.txt", "empty", "model/big.bin", "model/x y/z"]
    assert got == [tmp_path / name for name in names]
    for name in names:
        content = sim.content(5, f"run-42/artifacts/{name}").read()
        assert (tmp_path / name).read_bytes() == content
    total = 3 * MB + 9
    assert (seen[0], seen[-1]) == ((0, total), (total, total))
    assert seen == sorted(set(seen))
    assert not list(tmp_path.rglob("*.part*"))


async def test_progress_never_falls_back(fake, tmp_path):
    """Not even where a server without ranges makes a file start over."""
    async with simulator({"model/big.bin": 3 * MB}, ranges=False) as sim:
        async with client_for(sim, clock=fake.clock()) as lab:
            sim.faults.matching(CONTENT, Fault.cut(after=2 * MB))
            seen: list[int] = []
            await lab.artifacts.download_run(
                42, tmp_path, on_progress=lambda done, _total: seen.append(done)
            )
    assert seen == sorted(set(seen))
    assert seen[-1] == 3 * MB


async def test_several_files_come_at_once_though_not_all(tmp_path):
    """As many as there are places, and no more."""
    files: dict[str, int | bytes] = {f"d{number % 20}/{number}": 1_000 for number in range(60)}
    async with simulator(files, latency=0.01) as sim, client_for(sim) as lab:
        assert len(await lab.artifacts.download_run(42, tmp_path)) == 60
        assert 2 < sim.counts.peak_in_flight <= AT_ONCE


async def test_one_place_is_enough(sim, tmp_path):
    """A client that may have one request in flight brings a run, breaks included."""
    async with client_for(sim, max_concurrency=1, retry=RetryPolicy(base=0.001)) as lab:
        sim.faults.matching(CONTENT, *[Fault.cut()] * 5)
        async with asyncio.timeout(10):
            assert len(await lab.artifacts.download_run(42, tmp_path)) == 4


async def test_a_file_that_is_gone_does_not_keep_the_others(sim, lab, tmp_path):
    """They are brought first; then the error counts and names what failed."""
    sim.insert_run(43, project_id=5, artifacts=dict.fromkeys("abcdef", b"here"))
    sim.faults.always(
        Fault.status(404), lambda _method, path: path.endswith(("artifacts/b", "artifacts%2Fb"))
    )
    with pytest.raises(DownloadError, match="1 of 6 files of run 43 failed; first 'b'") as caught:
        await lab.artifacts.download_run(43, tmp_path)
    assert isinstance(caught.value.__cause__, NotFoundError)
    assert everything(tmp_path) == dict.fromkeys("acdef", b"here")


async def test_refused_keys_end_all_at_once(sim, lab, tmp_path):
    """An error that is not about one file is raised as it is, and the rest is not asked for."""
    sim.insert_run(43, artifacts=dict.fromkeys(map(str, range(1000)), 9))
    sim.faults.always(Fault.status(401), CONTENT)
    with pytest.raises(AuthenticationError):
        await lab.artifacts.download_run(43, tmp_path)
    assert len(ranges_asked(sim)) <= 2 * AT_ONCE
    with pytest.raises(NotFoundError):
        await lab.artifacts.download_run(44, tmp_path)
    assert everything(tmp_path) == {}


@pytest.mark.parametrize("body", [b"short", b"hello, and more than was listed"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_size_other_than_listed(fake, tmp_path, body, chunked):
    """The file is not written, whether the server announces the other size or not."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        if chunked:
            response.enable_chunked_encoding()
        else:
            response.content_length = len(body)
        await response.prepare(request)
        await response.write(body)
        return response

    async with odd_server(answer) as odd:
        perform = listing(RunFile("f", file_size=11), content=odd.perform)
        downloads = Downloads(perform, RetryPolicy(), fake.clock())
        with pytest.raises(DownloadError, match="bytes where"):
            await downloads.run(42, tmp_path, None)
    assert everything(tmp_path) == {}


async def test_a_body_that_never_ends(fake, tmp_path):
    """It is read no further than the size listed."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b"x" * 65_536)
        return response

    async with odd_server(answer) as odd:
        perform = listing(RunFile("f", file_size=1_000_000), content=odd.perform)
        downloads = Downloads(perform, RetryPolicy(), fake.clock())
        async with asyncio.timeout(10):
            with pytest.raises(DownloadError, match="more than 1000000 bytes"):
                await downloads.run(42, tmp_path, None)
    assert everything(tmp_path) == {}


# Paths that a server should not name


def listing(
    *files: RunFile, content: Callable[[Call], Awaitable[Any]] | None = None
) -> Callable[[Call], Awaitable[Any]]:
    """A ``perform`` that lists these files in every directory of every run."""

    async def perform(call: Call) -> Any:
        if call.operation == "runs.get":
            return RUN
        if call.operation == "runs.artifacts":
            return RunArtifacts(path_in_project="p", files=files)
        assert content is not None, "nothing may be asked for"
        return await content(call)

    return perform


HOSTILE = [
    "../evil",
    "../../evil",
    "ok/../../evil",
    "ok/..",
    "./evil",
    "/etc/evil",
    "//host/evil",
    "a//evil",
    "C:/evil",
    "C:evil",
    "ok/c:evil",
    "file:stream",
    "..\\evil",
    "\\\\host\\evil",
    "nul\0l",
    "new\nline",
    "escape\x1b[2J",
    "CON",
    "ok/nul.txt",
    "aux .tar.gz",
    "COM1",
    "lpt\u00b9.log",
    "conin$",
    "trailing.",
    "trailing ",
    "...",
    "ok/ ",
    "",
]


@pytest.mark.parametrize("path", HOSTILE)
async def test_a_hostile_path_writes_nothing(tmp_path, path):
    """Nor do the good files of the same run, since everything is checked before."""
    (tmp_path / "in").mkdir()
    async with simulator({"a good one": b"x", path: b"evil"}) as sim, client_for(sim) as lab:
        with pytest.raises(DownloadError, match="unsafe path"):
            await lab.artifacts.download_run(42, tmp_path / "in" / "out")
        assert ranges_asked(sim) == []
    assert everything(tmp_path) == {"in": None}


@pytest.mark.parametrize("path", ["../", "/", "ok/../../", "CON/", "\ud83d/", "\udc80"])
async def test_a_hostile_directory_is_not_even_asked_for(tmp_path, path, fake):
    """Directories are held to the same rules, as are halves of characters."""
    perform = listing(RunFile(path, is_dir=path.endswith("/")))
    with pytest.raises(DownloadError, match="unsafe path"):
        await Downloads(perform, RetryPolicy(), fake.clock()).run(42, tmp_path, None)


def test_names_that_only_look_odd_are_fine():
    """What is safe everywhere is taken as it is."""
    for path in ("console/com10/nulls.txt", ".hidden/..a", "a b/é 日本/~$x[1]'%2e%2e'", "x.part"):
        assert "/".join(split(path)) == path


async def test_a_name_from_the_server_is_checked_for_a_lone_file_too(lab, tmp_path):
    """Where a directory is to take it under its own name."""
    with pytest.raises(DownloadError, match="unsafe path"):
        await lab.artifacts.download(5, "run-42/artifacts/..", tmp_path)


@pytest.mark.parametrize("link", ["model", "model/big.bin", "model/big.bin.part"])
@pytest.mark.parametrize("dangling", [True, False])
async def test_symbolic_links_already_there(lab, tmp_path, link, dangling):
    """No link below the directory is followed, whatever it points to."""
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    (inside / link).parent.mkdir(parents=True)
    if not dangling:
        outside.mkdir() if link == "model" else outside.write_bytes(b"precious")
    (inside / link).symlink_to(outside)
    before = everything(outside), outside.is_file() and outside.read_bytes()
    with pytest.raises(DownloadError):
        await lab.artifacts.download_run(42, inside)
    assert (everything(outside), outside.is_file() and outside.read_bytes()) == before
    assert (inside / link).is_symlink()
    assert outside.exists() is not dangling


async def test_a_link_in_place_of_the_version_is_not_written_through(lab, tmp_path):
    """It is replaced, like a version that an earlier download left."""
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    (tmp_path / "big.bin.part.etag").symlink_to(precious)
    await lab.artifacts.download(5, BIG, tmp_path / "big.bin")
    assert precious.read_bytes() == b"precious"


async def test_the_directory_itself_may_be_a_link(lab, tmp_path):
    """It is the caller's, not the server's."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    await lab.artifacts.download_run(42, tmp_path / "link")
    assert (tmp_path / "real" / "a.txt").read_bytes() == b"hello"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a.txt", "A.TXT"),
        ("dir/a", "DIR/a"),
        ("caf\u00e9", "cafe\u0301"),
        ("a", "a.part"),
        ("a.part.etag", "a"),
        ("a", "a/b"),
        ("A/b", "a"),
        ("a.part/b", "a"),
    ],
)
async def test_files_that_are_one_on_some_disk(tmp_path, one, other):
    """Two files of a run never share a place, on whatever file system, part files included."""
    async with simulator({one: b"1", other: b"2"}) as sim, client_for(sim) as lab:
        with pytest.raises(DownloadError, match="the same on disk"):
            await lab.artifacts.download_run(42, tmp_path)
    assert everything(tmp_path) == {}


async def test_a_directory_that_lists_itself(fake, tmp_path):
    """It is walked once."""
    perform = listing(RunFile("a/", is_dir=True), RunFile("a", is_dir=True))
    assert await Downloads(perform, RetryPolicy(), fake.clock()).run(42, tmp_path, None) == []


@pytest.mark.parametrize("width", [1, 400])
async def test_directories_that_never_end(fake, tmp_path, monkeypatch, width):
    """Depth and number are bounded."""
    monkeypatch.setattr("modellab_async.downloads.MAX_ENTRIES", 1_000)
    asked: list[Call] = []

    async def perform(call: Call) -> Any:
        if call.operation == "runs.get":
            return RUN
        asked.append(call)
        return RunArtifacts(
            files=tuple(RunFile(f"{len(asked)}/{number}/", is_dir=True) for number in range(width))
        )

    with pytest.raises(DownloadError, match="has more than"):
        await Downloads(perform, RetryPolicy(), fake.clock()).run(42, tmp_path, None)
    assert len(asked) <= MAX_DEPTH
