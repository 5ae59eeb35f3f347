"""Downloads that broke off are resumed, and two versions of a file are never mixed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from conftest import FakeClock, client_for, eventually
from downloading import (
    BIG,
    CONTENT,
    KB,
    MB,
    content,
    everything,
    odd_server,
    ranges_asked,
    simulator,
)

from modellab_async import DownloadError, ModelLabClient, RetryPolicy, TransportError
from modellab_async.downloads.part import TAIL
from modellab_async.simulator import Fault, Simulator

pytestmark = pytest.mark.usefixtures("task_factory")

FILES: dict[str, int | bytes] = {
    "empty": b"",
    "small.txt": b"hello",
    "model/a.bin": 400 * KB,
    "model/b.bin": 500 * KB,
}
CHILD = """
import asyncio, sys
from modellab_async import ModelLabClient

async def main(url, path, target):
    async with ModelLabClient(base_url=url, api_key="sim-api-key", app_key="sim-app-key") as lab:
        await lab.artifacts.download(5, path, target)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with simulator({"model/big.bin": 3 * MB}) as sim:
        yield sim


def left_behind(target: Path, content: bytes, note: object = None) -> None:
    """What an earlier download left beside its target."""
    target.with_name(target.name + ".part").write_bytes(content)
    if note is not None:
        text = note if isinstance(note, str) else json.dumps(note)
        target.with_name(target.name + ".part.json").write_text(text, encoding="ascii")


# Breaking off and resuming


@pytest.mark.parametrize("ranges", [True, False])
async def test_a_body_that_breaks_off_is_resumed(fake, tmp_path, ranges):
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
    whole = sim.content(5, BIG).read()
    assert part.read_bytes() == whole[: part.stat().st_size]


async def test_without_a_policy_a_break_is_final(sim, tmp_path):
    """``RetryPolicy.none()`` is one request, as everywhere; the next call resumes."""
    async with client_for(sim, retry=RetryPolicy.none()) as lab:
        sim.faults.next(Fault.cut(after=MB))
        with pytest.raises(DownloadError):
            await lab.artifacts.download(5, BIG, tmp_path / "big.bin")
        target = await lab.artifacts.download(5, BIG, tmp_path / "big.bin")
    assert ranges_asked(sim) == [None, f"bytes={MB - TAIL}-"]
    assert target.read_bytes() == sim.content(5, BIG).read()


async def test_what_has_come_is_on_disk_before_a_server_stalls(tmp_path):
    """A process that is killed while it waits loses nothing."""
    hung_up = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "900000"})
        await response.prepare(request)
        await response.write(b"x" * 300_000)
        await hung_up.wait()
        return response

    async with odd_server(answer) as lab:
        task = asyncio.create_task(lab.artifacts.download(5, "f", tmp_path / "f"))
        part = tmp_path / "f.part"
        await eventually(lambda: part.exists() and part.stat().st_size == 300_000)
        task.cancel()
        await asyncio.wait([task])
        hung_up.set()


@pytest.mark.process
async def test_a_killed_download_is_resumed_by_another_process(tmp_path):
    """After SIGKILL in the middle, a second process resumes and ends with the right bytes."""
    async with simulator({"model/big.bin": 128 * MB}) as sim:
        target, part = tmp_path / "big.bin", tmp_path / "big.bin.part"

        async def start() -> asyncio.subprocess.Process:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-c", CHILD, sim.base_url, BIG, str(target)
            )

        first = await start()
        await eventually(lambda: part.exists() and part.stat().st_size > 2 * MB)
        first.kill()
        assert await first.wait() in {-9, 1}  # SIGKILL, or what Windows has
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
    with target.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == whole.hexdigest()
    assert list(tmp_path.iterdir()) == [target]


# Versions


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize(
    "kind", ["other", "longer", "same tail", "other tag", "empty note", "bad note", "whole", "tiny"]
)
async def test_what_an_earlier_download_left(tmp_path, kind, ranges):
    """Whatever the part file holds, the right bytes come; only the right beginning is kept."""
    async with simulator({"model/big.bin": MB}, ranges=ranges) as sim, client_for(sim) as lab:
        right = sim.content(5, BIG)
        start = right.read(0, 500_000)
        other = b"x" * 400_000 + start[400_000:]
        note = {"etag": right.etag, "modified": None, "size": MB}
        left: tuple[bytes, object] = {
            "other": (b"x" * 500_000, note),
            "longer": (right.read() + b"x" * 2 * TAIL, note),
            "same tail": (other, note | {"etag": '"frozen-layers-older-head"'}),
            "other tag": (start, note | {"etag": '"older"'}),
            "empty note": (start, ""),
            "bad note": (start, '{"etag": 1, "modified": [], "size": "\\r\\nHost: elsewhere"}'),
            "whole": (right.read(), note),
            "tiny": (start[:9], note),
        }[kind]
        left_behind(tmp_path / "big.bin", *left)
        target = await lab.artifacts.download(5, BIG, tmp_path / "big.bin")
        assert target.read_bytes() == right.read()
        assert list(tmp_path.iterdir()) == [target]
        restarts = {"other", "longer"} if ranges else set()
        assert len(ranges_asked(sim)) == (2 if kind in restarts else 1)
        assert (lab.stats.bytes_received < MB) is (ranges and kind == "whole")


@pytest.mark.parametrize(
    "files",
    [
        {"big.bin.part": b"x" * 500_000},
        {"big.bin.part": b""},
        {"big.bin.part.json": b'{"size": 5, "mine": true}'},
        {"big.bin.part.json": b"[1]"},
        {"big.bin.part.json": b"{}"},
        {"big.bin.part.json": b"[" * 100_000},
        {"big.bin.part.json": b"text", "big.bin.part": b"x" * 9_000},
    ],
)
async def test_files_that_no_download_left(sim, tmp_path, files):
    """They are not touched: the download of that file fails, and those of others do not."""
    sim.insert_run(43, project_id=5, artifacts={"big.bin": MB, "other.bin": MB})
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    async with client_for(sim) as lab:
        with pytest.raises(DownloadError, match="is in the way: no download left it"):
            await lab.artifacts.download(5, BIG, tmp_path / "big.bin")
        assert everything(tmp_path) == files
        assert ranges_asked(sim) == []
        with pytest.raises(DownloadError, match=r"1 of 2 files.*in the way"):
            await lab.artifacts.download_run(43, tmp_path)
    assert {**everything(tmp_path), "other.bin": None} == {**files, "other.bin": None}


class Replaced:
    """A server whose file is replaced after the first answer, which breaks off.

    Both versions have the same bytes around the break, so that these cannot tell them apart.
    """

    def __init__(self, first: dict[str, str], second: dict[str, str], grows: int = 0) -> None:
        shared = b"s" * 10_000
        self.old = b"1" * 10_000 + shared + b"1" * 10_000
        self.new = b"2" * 10_000 + shared + b"2" * (10_000 + grows)
        self._headers = [first, second]
        self.asked: list[tuple[str | None, str | None]] = []

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        wanted = request.headers.get("Range")
        self.asked.append((wanted, request.headers.get("If-Range")))
        if len(self.asked) == 1:
            headers = self._headers[0] | {"Content-Length": str(len(self.old))}
            response = web.StreamResponse(headers=headers)
            await response.prepare(request)
            await response.write(self.old[:20_000])
            assert request.transport is not None
            request.transport.close()
            return response
        if wanted is None:
            return web.Response(body=self.new, headers=self._headers[1])
        start = int(wanted[len("bytes=") : -1])
        told = {"Content-Range": f"bytes {start}-{len(self.new) - 1}/{len(self.new)}"}
        headers = self._headers[1] | told
        return web.Response(status=206, body=self.new[start:], headers=headers)


MONDAY = {"Last-Modified": "Mon, 04 May 2026 10:00:00 GMT"}
FRIDAY = {"Last-Modified": "Fri, 08 May 2026 10:00:00 GMT"}


@pytest.mark.parametrize(
    ("first", "second", "grows"),
    [
        ({"ETag": 'W/"1"'}, {"ETag": 'W/"2"'}, 0),
        ({"ETag": '"1"'}, {"ETag": '"2"'}, 0),
        ({"ETag": '"1"'}, {}, 0),
        ({}, {"ETag": '"2"'}, 0),
        (MONDAY, FRIDAY, 0),
        (MONDAY, {}, 0),
        ({"ETag": '"1"'} | MONDAY, {"ETag": '"1"'} | FRIDAY, 0),
        ({"ETag": 'W/"1"'} | MONDAY, {"ETag": 'W/"1"'}, 0),
        ({}, {}, 1),
        ({"ETag": '"1"'}, {"ETag": '"1"'}, 1),
    ],
)
async def test_a_file_that_is_replaced_meanwhile_starts_over(
    tmp_path: Path, fake: FakeClock, first: dict[str, str], second: dict[str, str], grows: int
) -> None:
    """A part whose entity tag, date or total size differs is not appended, whatever else agrees."""
    server = Replaced(first, second, grows)
    async with odd_server(server, retry=RetryPolicy(), clock=fake.clock()) as lab:
        await lab.artifacts.download(5, "f", tmp_path / "f")
    assert everything(tmp_path) == {"f": server.new}
    assert [wanted for wanted, _ in server.asked] == [None, f"bytes={20_000 - TAIL}-", None]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"ETag": '"1"'} | MONDAY, {"ETag": '"1"'}),
        ({"ETag": 'W/"1"'} | MONDAY, {"ETag": 'W/"1"'} | MONDAY),
        (MONDAY, MONDAY),
        ({}, {}),
    ],
)
async def test_a_file_that_stays_the_same_is_resumed(
    tmp_path: Path, fake: FakeClock, first: dict[str, str], second: dict[str, str]
) -> None:
    """All that the server says agrees: one more request; only a strong tag stands in If-Range."""
    server = Replaced(first, second)
    server.new = server.old
    async with odd_server(server, retry=RetryPolicy(), clock=fake.clock()) as lab:
        target = await lab.artifacts.download(5, "f", tmp_path / "f")
    assert target.read_bytes() == server.old
    tag = first.get("ETag")
    validator = tag if tag and not tag.startswith("W/") else None
    assert server.asked == [(None, None), (f"bytes={20_000 - TAIL}-", validator)]


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
    whole = bytes(range(250)) * 200
    asked = []

    async def answer(request: web.BaseRequest) -> web.Response:
        asked.append(request.headers.get("Range"))
        if "Range" not in request.headers:
            return web.Response(body=whole)
        offset = int(request.headers["Range"][6:-1])
        headers = {"ETag": etag or '"v1"'}
        if content_range is not None:
            headers["Content-Range"] = content_range.format(offset=offset)
        return web.Response(status=206, body=whole[offset:], headers=headers)

    note = {"etag": '"v1"', "modified": None, "size": 50_000}
    left_behind(tmp_path / "f", b"\xff" * 10_000 + whole[10_000:20_000], note)
    async with odd_server(answer) as lab:
        target = await lab.artifacts.download(5, "f", tmp_path / "f")
    assert target.read_bytes() == whole
    assert asked == [f"bytes={20_000 - TAIL}-", None]


# A run's files a second time


@pytest.fixture
async def run_sim() -> AsyncIterator[Simulator]:
    async with simulator(FILES) as sim:
        yield sim


@pytest.fixture
async def lab(run_sim: Simulator, fake: FakeClock) -> AsyncIterator[ModelLabClient]:
    async with client_for(run_sim, clock=fake.clock()) as lab:
        yield lab


def assert_whole(sim: Simulator, directory: Path) -> None:
    """All files are there, right, and alone."""
    found = {name: data for name, data in everything(directory).items() if data is not None}
    assert found == {name: content(sim, name) for name in FILES}


async def test_what_is_there_is_not_fetched_again(
    run_sim: Simulator, lab: ModelLabClient, tmp_path: Path
) -> None:
    """Large files cost their last 4 KiB, stay untouched, and count as progress."""
    first = await lab.artifacts.download_run(42, tmp_path)
    before = {path: path.stat() for path in first}
    received = lab.stats.bytes_received
    seen: list[tuple[int, int | None]] = []
    again = await lab.artifacts.download_run(
        42, tmp_path, on_progress=lambda *now: seen.append(now)
    )
    assert again == first
    assert_whole(run_sim, tmp_path)
    assert lab.stats.bytes_received - received < 2 * TAIL + 10 * KB
    for name, size in (("model/a.bin", 400 * KB), ("model/b.bin", 500 * KB)):
        assert ranges_asked(run_sim, name[-5:]) == [None, f"bytes={size - TAIL}-"]
        status, old = (tmp_path / name).stat(), before[tmp_path / name]
        assert (status.st_ino, status.st_mtime_ns) == (old.st_ino, old.st_mtime_ns)
    total = 900 * KB + 5
    assert (seen[0], seen[-1]) == ((0, total), (total, total))


@pytest.mark.parametrize("kind", ["other tail", "shorter", "longer", "gone"])
async def test_what_has_changed_is_fetched_again(
    run_sim: Simulator, lab: ModelLabClient, tmp_path: Path, kind: str
) -> None:
    """Another size or other last bytes make it another file."""
    await lab.artifacts.download_run(42, tmp_path)
    target = tmp_path / "model/a.bin"
    right = target.read_bytes()
    if kind == "gone":
        target.unlink()
    else:
        target.write_bytes(
            {"other tail": right[:-1] + b"x", "shorter": right[:-1], "longer": right + b"x"}[kind]
        )
    await lab.artifacts.download_run(42, tmp_path)
    assert_whole(run_sim, tmp_path)
    compared = [f"bytes={len(right) - TAIL}-"] if kind == "other tail" else []
    assert ranges_asked(run_sim, "a.bin") == [None, *compared, None]


@pytest.mark.parametrize("ranges", [True, False])
async def test_a_comparison_that_fails_costs_a_whole_fetch(
    fake: FakeClock, tmp_path: Path, ranges: bool
) -> None:
    """Where it breaks off, or the server has no ranges."""
    async with simulator(FILES, ranges=ranges) as sim:
        async with client_for(sim, clock=fake.clock()) as lab:
            await lab.artifacts.download_run(42, tmp_path)
            if ranges:
                sim.faults.always(
                    Fault.cut(after=1_000),
                    lambda _, path: path.endswith("a.bin") and len(ranges_asked(sim, "a.bin")) == 1,
                )
            await lab.artifacts.download_run(42, tmp_path)
        assert_whole(sim, tmp_path)
        assert ranges_asked(sim, "a.bin") == [None, f"bytes={400 * KB - TAIL}-", None]


async def test_a_part_file_goes_before_the_target(
    run_sim: Simulator, lab: ModelLabClient, tmp_path: Path
) -> None:
    """An earlier download had found the target outdated: it is resumed."""
    await lab.artifacts.download_run(42, tmp_path)
    target = tmp_path / "model/a.bin"
    etag = run_sim.content(5, "run-42/artifacts/model/a.bin").etag
    note: dict[str, Any] = {"etag": etag, "modified": None, "size": 400 * KB}
    left_behind(target, target.read_bytes()[: 100 * KB], note)
    await lab.artifacts.download_run(42, tmp_path)
    assert_whole(run_sim, tmp_path)
    assert ranges_asked(run_sim, "a.bin") == [None, f"bytes={100 * KB - TAIL}-"]


async def test_a_single_download_always_fetches(
    run_sim: Simulator, lab: ModelLabClient, tmp_path: Path
) -> None:
    """It knows no listed size, and was asked for this very file."""
    for _ in range(2):
        await lab.artifacts.download(5, "run-42/artifacts/model/a.bin", tmp_path / "a")
    assert ranges_asked(run_sim, "a.bin") == [None, None]
