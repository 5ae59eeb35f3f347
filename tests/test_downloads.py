"""Files come to disk whole, in bounded memory, a few at a time; or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gzip
import hashlib
import os
import threading
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from aiohttp import web
from conftest import PATIENCE, FakeClock, client_for, eventually, settled
from downloading import BIG, CONTENT, MB, everything, listing, odd_server, ranges_asked, simulator

from modellab_async import (
    AuthenticationError,
    DecodeError,
    DownloadError,
    InvalidIdError,
    ModelLabClient,
    NotFoundError,
    RetryPolicy,
    RunFile,
)
from modellab_async.client import MAX_DOWNLOADS
from modellab_async.downloads import Downloads
from modellab_async.downloads.part import PartFile, Version, lock, on_disk
from modellab_async.simulator import Fault, Simulator

pytestmark = pytest.mark.usefixtures("task_factory")


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


def tasks_of_ours() -> set[asyncio.Task[Any]]:
    """All tasks but those of the server."""
    return {task for task in asyncio.all_tasks() if "RequestHandler" not in repr(task.get_coro())}


def digest(target: Path) -> str:
    with target.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


# Answers that are no whole file


@pytest.mark.parametrize("status", [202, 203, 204, 205, 206])
async def test_an_answer_that_is_no_whole_file_is_refused(tmp_path, status):
    """It is neither written, nor read, nor streamed."""

    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(status=status)

    async with odd_server(answer) as lab:
        with pytest.raises(DownloadError, match=f"unexpected status {status}"):
            await lab.artifacts.download(5, "f", tmp_path / "f")
        with pytest.raises(DecodeError, match=f"{status} for artifacts.content"):
            await lab.artifacts.read(5, "f")
        with pytest.raises(DecodeError, match=f"{status} for artifacts.content"):
            async with lab.artifacts.stream(5, "f"):
                pass
    assert everything(tmp_path) == {}


@pytest.mark.parametrize("cut", [0, 1, 300])
async def test_a_compressed_answer(tmp_path, cut):
    """Though nobody asked for it, it is decompressed; one that ends early is not the file."""
    whole = bytes(range(256)) * 40
    packed = gzip.compress(whole)

    async def answer(request: web.BaseRequest) -> web.Response:
        assert request.headers["Accept-Encoding"] == "identity"
        body = packed[: len(packed) - cut]
        return web.Response(body=body, headers={"Content-Encoding": "gzip"})

    async with odd_server(answer) as lab:
        if not cut:
            target = await lab.artifacts.download(5, "f", tmp_path / "f")
            assert target.read_bytes() == whole
            return
        with pytest.raises(DownloadError, match="keeps breaking off") as caught:
            await lab.artifacts.download(5, "f", tmp_path / "f")
    assert "ends early" in str(caught.value.__cause__)
    assert not (tmp_path / "f").exists()


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
    assert everything(tmp_path)["f.part"] == b"x" * 9_000
    assert not (tmp_path / "f").exists()


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
        downloads = Downloads(perform, RetryPolicy(), fake.clock(), asyncio.Semaphore(8))
        with pytest.raises(DownloadError, match="bytes; "):
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
        downloads = Downloads(perform, RetryPolicy(), fake.clock(), asyncio.Semaphore(8))
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(DownloadError, match="more than 1000000 bytes"):
                await downloads.run(42, tmp_path, None)
    assert everything(tmp_path) == {}


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
        assert (tmp_path / name).read_bytes() == sim.content(5, f"run-42/artifacts/{name}").read()
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
    """A run's files come a few at a time."""
    files: dict[str, int | bytes] = {f"d{number % 20}/{number}": 1_000 for number in range(60)}
    async with simulator(files, latency=0.01) as sim, client_for(sim) as lab:
        assert len(await lab.artifacts.download_run(42, tmp_path)) == 60
        assert 2 < sim.counts.peak_in_flight <= MAX_DOWNLOADS


async def test_downloads_of_one_client_share_the_limit_of_streams(tmp_path):
    """Downloads of a client and of its views together receive no more than eight files at once."""
    open_now = peak = 0

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal open_now, peak
        open_now += 1
        peak = max(peak, open_now)
        response = web.StreamResponse(headers={"Content-Length": "2"})
        await response.prepare(request)
        await response.write(b"a")
        await asyncio.sleep(0.1)
        await response.write(b"b")
        open_now -= 1
        return response

    async with odd_server(answer) as lab, asyncio.TaskGroup() as group:
        view = lab.with_options(timeout=20)
        for number in range(4 * MAX_DOWNLOADS):
            artifacts = (lab, view)[number % 2].artifacts
            group.create_task(artifacts.download(5, "f", tmp_path / str(number)))
    assert 1 < peak <= MAX_DOWNLOADS
    assert everything(tmp_path) == {str(number): b"ab" for number in range(4 * MAX_DOWNLOADS)}


async def test_one_request_at_a_time_is_enough(sim, tmp_path):
    """A client that may have one request in flight downloads a run, breaks included."""
    async with client_for(sim, max_concurrency=1, retry=RetryPolicy(base=0.001)) as lab:
        sim.faults.matching(CONTENT, *[Fault.cut()] * 5)
        async with asyncio.timeout(PATIENCE):
            assert len(await lab.artifacts.download_run(42, tmp_path)) == 4


async def test_a_file_that_is_gone_does_not_keep_the_others(sim, lab, tmp_path):
    """They are downloaded first; then the error counts and names what failed."""
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
    assert len(ranges_asked(sim)) <= 2 * MAX_DOWNLOADS
    with pytest.raises(NotFoundError):
        await lab.artifacts.download_run(44, tmp_path)
    assert everything(tmp_path) == {}


# Cost and cancellation


async def test_memory_stays_flat(tmp_path):
    """A file of 48 MB takes a few batches of memory, whatever its size."""
    async with simulator({"model/big.bin": 48 * MB}) as sim, client_for(sim) as lab:
        await lab.artifacts.download(5, "run-42/artifacts/model/big.bin", tmp_path / "warm")
        tracemalloc.start()
        try:
            target = await lab.artifacts.download(5, BIG, tmp_path / "big.bin")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert target.stat().st_size == 48 * MB
    assert peak < 12 * MB


@pytest.mark.parametrize("files", [1, 3])
async def test_cancellation_leaves_the_part_file_and_nothing_else(tmp_path, files):
    """No task and no request in flight; what was written is kept, and resumed."""
    names = [f"{number}.bin" for number in range(files)]
    async with simulator(dict.fromkeys(names, 32 * MB)) as sim, client_for(sim) as lab:
        before = tasks_of_ours()
        task = asyncio.create_task(lab.artifacts.download_run(42, tmp_path))
        await eventually(lambda: lab.stats.bytes_received > 16 * MB)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert tasks_of_ours() == before
        await eventually(lambda: sim.counts.in_flight == 0)
        parts = {path.name: path.stat().st_size for path in tmp_path.glob("*.part")}
        assert sum(parts.values()) > 8 * MB
        for target in await lab.artifacts.download_run(42, tmp_path):
            content = sim.content(5, f"run-42/artifacts/{target.name}").read()
            assert digest(target) == hashlib.sha256(content).hexdigest()
        assert len([asked for asked in ranges_asked(sim) if asked]) == len(parts)


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


async def test_two_downloads_to_one_place(tmp_path):
    """Only one writes, and the other says so."""
    stalled = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "10000"})
        await response.prepare(request)
        await response.write(b"x" * 9_000)
        await stalled.wait()
        await response.write(b"x" * 1_000)
        return response

    part = tmp_path / "f.part"
    async with odd_server(answer) as lab:
        first = asyncio.create_task(lab.artifacts.download(5, "f", tmp_path / "f"))
        await eventually(lambda: part.exists() and part.stat().st_size == 9_000)
        with pytest.raises(DownloadError, match=f"another download is writing.*{os.getpid()} on"):
            await lab.artifacts.download(5, "f", tmp_path / "f")
        stalled.set()
        await first
    assert everything(tmp_path) == {"f": b"x" * 10_000}


async def test_overlapping_downloads_of_one_path(sim, lab, tmp_path):
    """Whichever succeeds has the whole file; the others say who writes; nothing is left over."""
    sim.insert_run(43, project_id=5, artifacts={"f": 50_000})
    target, whole = tmp_path / "f", sim.content(5, "run-43/artifacts/f").read()
    found: list[bytes | str] = []

    async def download() -> None:
        for _ in range(10):
            try:
                await lab.artifacts.download(5, "run-43/artifacts/f", target)
                found.append(target.read_bytes())
            except DownloadError as error:
                found.append(str(error))

    await asyncio.gather(*(download() for _ in range(12)))
    contents = [content for content in found if isinstance(content, bytes)]
    assert len(contents) > 1
    assert set(contents) == {whole}
    messages = [message for message in found if isinstance(message, str)]
    assert all("another download" in message for message in messages)
    assert everything(tmp_path) == {"f": whole}


def written(part: PartFile, content: bytes) -> PartFile:
    """A part file with all of its bytes, open."""
    part.open(part.look(), 0, Version(size=len(content)))
    part.write([content])
    return part


def test_a_file_that_is_whole_is_not_truncated(tmp_path, monkeypatch):
    """Not even if it gets its name while another download is about to lock the part file."""
    target = tmp_path / "f"
    first, second = written(PartFile(target), b"x" * 9_000), PartFile(target)
    held = second.look()

    def lock_late(file: BinaryIO) -> bool:
        if not target.exists():
            first.finish()
            first.close()
        return lock(file)

    monkeypatch.setattr("modellab_async.downloads.part.lock", lock_late)
    with pytest.raises(DownloadError, match="another download was writing"):
        second.open(held, 0, Version())
    second.close()
    assert everything(tmp_path) == {"f": b"x" * 9_000}


def test_without_locks_only_the_last_download_finishes(tmp_path, monkeypatch):
    """On a file system that has none, a file that another one replaced is not renamed."""
    monkeypatch.setattr("modellab_async.downloads.part.lock", lambda _: True)
    target = tmp_path / "f"
    first = written(PartFile(target), b"x" * 9_000)
    second = written(PartFile(target), b"y" * 9_000)
    with pytest.raises(DownloadError, match="another download is writing"):
        first.finish()
    assert not target.exists()
    second.finish()
    for part in (first, second):
        part.close()
    assert everything(tmp_path) == {"f": b"y" * 9_000}


async def test_a_part_file_that_changes_meanwhile(tmp_path):
    """If somebody has been there since the part file was looked at, nothing is written."""
    part = tmp_path / "f.part"

    async def answer(request: web.BaseRequest) -> web.Response:
        part.write_bytes(b"of another")
        return web.Response(body=b"x" * 10_000)

    async with odd_server(answer) as lab:
        with pytest.raises(DownloadError, match=r"f\.part is in the way: no download left it"):
            await lab.artifacts.download(5, "f", tmp_path / "f")
    assert everything(tmp_path) == {"f.part": b"of another"}


@pytest.mark.parametrize("what", ["parent is a file", "part is a directory", "disk is full"])
async def test_a_disk_that_refuses(sim, lab, tmp_path, monkeypatch, what):
    """Its own error is the cause of ours, and no request stays in flight."""
    target = tmp_path / "big.bin"
    if what == "parent is a file":
        target.write_bytes(b"")
        target /= "inside"
    elif what == "part is a directory":
        (tmp_path / "big.bin.part").mkdir()
    else:
        full = OSError(errno.ENOSPC, "No space left on device")
        monkeypatch.setattr(PartFile, "write", lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(DownloadError) as caught:
        await lab.artifacts.download(5, BIG, target)
    assert isinstance(caught.value.__cause__, OSError) is (what != "part is a directory")
    await eventually(lambda: sim.counts.in_flight == 0)


async def test_a_disk_that_refuses_ends_a_whole_run(lab, sim, tmp_path, monkeypatch):
    """What it refuses for one file it would refuse for a thousand others."""
    sim.insert_run(43, artifacts=dict.fromkeys(map(str, range(1000)), 9))
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(PartFile, "write", lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(DownloadError, match="No space left on device"):
        await lab.artifacts.download_run(43, tmp_path)
    assert len(ranges_asked(sim)) <= 2 * MAX_DOWNLOADS
