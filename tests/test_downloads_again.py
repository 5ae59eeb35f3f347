"""A run's files brought a second time, and files whose names are long."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from conftest import FakeClock, client_for

from modellab_async import DownloadError, ModelLabClient, RetryPolicy
from modellab_async.downloads.part import LONGEST_NAME, TAIL, names_beside
from modellab_async.simulator import Fault, Simulator

KB = 1024
FILES: dict[str, int | bytes] = {
    "empty": b"",
    "small.txt": b"hello",
    "model/a.bin": 400 * KB,
    "model/b.bin": 500 * KB,
}
CONTENT = "*/artifacts/content"


def simulator(files: dict[str, int | bytes], *, ranges: bool = True) -> Simulator:
    simulator = Simulator(runs=0, record=10_000, ranges=ranges)
    simulator.insert_run(42, project_id=5, artifacts=files)
    return simulator


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with simulator(FILES) as sim:
        yield sim


@pytest.fixture
async def lab(sim: Simulator, fake: FakeClock) -> AsyncIterator[ModelLabClient]:
    async with client_for(sim, clock=fake.clock()) as lab:
        yield lab


def content(sim: Simulator, name: str) -> bytes:
    return sim.content(5, f"run-42/artifacts/{name}").read()


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def assert_whole(sim: Simulator, directory: Path, names: list[str]) -> None:
    """All files are there, right, and alone."""
    found = {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }
    assert found == {name: content(sim, name) for name in names}


def asked_for(sim: Simulator, name: str) -> list[str | None]:
    """The ``Range`` of each request for that file."""
    ending = name.rpartition("/")[2]
    return [
        request.headers.get("range") for request in sim.requests if request.query.endswith(ending)
    ]


# Again


async def test_what_is_there_is_not_fetched_again(
    sim: Simulator, lab: ModelLabClient, tmp_path: Path
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
    assert_whole(sim, tmp_path, sorted(FILES))
    assert lab.stats.bytes_received - received < 2 * TAIL + 10 * KB
    for name, size in (("model/a.bin", 400 * KB), ("model/b.bin", 500 * KB)):
        assert asked_for(sim, name) == [None, f"bytes={size - TAIL}-"]
        status = (tmp_path / name).stat()
        assert (status.st_ino, status.st_mtime_ns) == (
            before[tmp_path / name].st_ino,
            before[tmp_path / name].st_mtime_ns,
        )
    total = 900 * KB + 5
    assert (seen[0], seen[-1]) == ((0, total), (total, total))
    assert sim.counts.connections_made <= 8


@pytest.mark.parametrize("kind", ["other tail", "shorter", "longer", "gone"])
async def test_what_has_changed_is_fetched_again(
    sim: Simulator, lab: ModelLabClient, tmp_path: Path, kind: str
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
    assert_whole(sim, tmp_path, sorted(FILES))
    compared = [f"bytes={len(right) - TAIL}-"] if kind == "other tail" else []
    assert asked_for(sim, "model/a.bin") == [None, *compared, None]


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
                    lambda _, path: path.endswith("a.bin") and len(asked_for(sim, "a.bin")) == 1,
                )
            await lab.artifacts.download_run(42, tmp_path)
        assert_whole(sim, tmp_path, sorted(FILES))
        assert asked_for(sim, "a.bin") == [None, f"bytes={400 * KB - TAIL}-", None]


async def test_a_part_file_goes_before_the_target(
    sim: Simulator, lab: ModelLabClient, tmp_path: Path
) -> None:
    """An earlier download had found the target outdated: it is gone on with."""
    await lab.artifacts.download_run(42, tmp_path)
    target = tmp_path / "model/a.bin"
    target.with_name("a.bin.part").write_bytes(target.read_bytes()[: 100 * KB])
    await lab.artifacts.download_run(42, tmp_path)
    assert_whole(sim, tmp_path, sorted(FILES))
    assert asked_for(sim, "a.bin") == [None, f"bytes={100 * KB - TAIL}-"]


async def test_a_single_download_always_fetches(
    sim: Simulator, lab: ModelLabClient, tmp_path: Path
) -> None:
    """It knows no listed size, and was asked for this very file."""
    for _ in range(2):
        await lab.artifacts.download(5, "run-42/artifacts/model/a.bin", tmp_path / "a")
    assert asked_for(sim, "a.bin") == [None, None]


# Long names


LONG = ["x" * 255, "y" * 240 + ".safetensors", "日本" * 41, "é" * 127, "z" * 244, "w" * 246]


async def test_long_names(tmp_path: Path, fake: FakeClock) -> None:
    """Whatever a disk can hold comes whole, through breaks, with its part file beside it."""
    names = [*LONG, "d" * 255 + "/" + "x" * 255]
    async with simulator(dict.fromkeys(names, 50000)) as sim:
        async with client_for(sim, clock=fake.clock()) as lab:
            sim.faults.matching(CONTENT, *[Fault.cut(after=20_000)] * 8)
            await lab.artifacts.download_run(42, tmp_path)
        assert_whole(sim, tmp_path, names)


async def test_long_names_that_begin_alike(tmp_path: Path) -> None:
    """Their part files differ, as the names do."""
    names = ["x" * 250 + ending for ending in "abc"]
    async with simulator(dict.fromkeys(names, 50_000)) as sim:
        sim.faults.always(Fault.cut(after=20_000), CONTENT)
        async with client_for(sim, retry=RetryPolicy.none()) as lab:
            with pytest.raises(DownloadError, match="3 of 3 files"):
                await lab.artifacts.download_run(42, tmp_path)
            assert len(names_in(tmp_path)) == 2 * 3
            sim.faults.clear()
            await lab.artifacts.download_run(42, tmp_path)
        assert_whole(sim, tmp_path, names)


@pytest.mark.parametrize("name", ["x" * 256, "é" * 128, "ok/" + "x" * 256 + "/ok"])
async def test_a_name_that_no_disk_holds(tmp_path: Path, name: str) -> None:
    """It is refused before anything is written, like any other path that is not safe."""
    async with simulator({"good": b"x", name: b"y"}) as sim, client_for(sim) as lab:
        with pytest.raises(DownloadError, match="longer than 255 bytes"):
            await lab.artifacts.download_run(42, tmp_path / "out")
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("name", ["a", "x" * 245, *LONG, "\udcff" * 255])
def test_the_names_beside(name: str) -> None:
    """They fit, differ from the name and from each other, and are plain where that is possible."""
    part, note = names_beside(name)
    assert len({name, part, note}) == 3
    assert len(note.encode("utf-8", "surrogateescape")) <= LONGEST_NAME
    assert (part, note) == names_beside(name)
    if len(name) <= 245 and name.isascii():
        assert (part, note) == (f"{name}.part", f"{name}.part.etag")


async def test_a_part_files_name_is_taken(tmp_path: Path) -> None:
    """No other file of the run may have the name of a cut one's part file."""
    name = "X" * 250
    part, _ = names_beside(name)
    async with simulator({name: b"1", part.lower(): b"2"}) as sim, client_for(sim) as lab:
        with pytest.raises(DownloadError, match="the same on disk"):
            await lab.artifacts.download_run(42, tmp_path)
