"""Paths that a server should not name, links already there, and names that are long."""

from __future__ import annotations

from asyncio import Semaphore
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from conftest import FakeClock, client_for, posix
from downloading import BIG, CONTENT, MB, RUN, content, everything, listing, ranges_asked, simulator

from modellab_async import (
    ConfigError,
    DownloadError,
    ModelLabClient,
    RetryPolicy,
    RunArtifacts,
    RunFile,
)
from modellab_async.downloads import MAX_DEPTH, Downloads
from modellab_async.downloads.part import LONGEST_NAME, names_beside
from modellab_async.downloads.paths import split
from modellab_async.endpoints import Call
from modellab_async.simulator import Fault, Simulator


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    files: dict[str, int | bytes] = {"a.txt": b"hello", "model/big.bin": 3 * MB}
    async with simulator(files) as sim:
        yield sim


@pytest.fixture
async def lab(sim: Simulator, fake: FakeClock) -> AsyncIterator[ModelLabClient]:
    async with client_for(sim, clock=fake.clock()) as lab:
        yield lab


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
    "com0.txt",
    "what?.txt",
    "best*.bin",
    "a<b",
    "loss>0.1",
    'say "hi"',
    "loss|acc.png",
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
        await Downloads(perform, RetryPolicy(), fake.clock(), Semaphore(8)).run(42, tmp_path, None)


def test_names_that_only_look_odd_are_fine():
    """What is safe everywhere is taken as it is."""
    for path in ("console/com10/nulls.txt", ".hidden/..a", "a b/é 日本/~$x[1]'%2e%2e'", "x.part"):
        assert "/".join(split(path)) == path


async def test_a_name_from_the_server_is_checked_for_a_lone_file_too(lab, tmp_path):
    """Where a directory is to take it under its own name."""
    with pytest.raises(DownloadError, match="unsafe path"):
        await lab.artifacts.download(5, "run-42/artifacts/..", tmp_path)


@posix
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


@posix
async def test_a_link_in_place_of_the_version_is_not_written_through(lab, tmp_path):
    """It is refused, and stays."""
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    (tmp_path / "big.bin.part.json").symlink_to(precious)
    with pytest.raises(DownloadError, match="no regular file"):
        await lab.artifacts.download(5, BIG, tmp_path / "big.bin")
    assert everything(tmp_path) == dict.fromkeys(["precious", "big.bin.part.json"], b"precious")


async def test_paths_in_the_home_directory(lab, tmp_path, monkeypatch):
    """A tilde is expanded; directories are created."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))  # of Windows
    await lab.artifacts.download_run(42, "~/all")
    await lab.artifacts.download(5, BIG, "~/one/")
    assert everything(tmp_path).keys() == {
        "all", "all/a.txt", "all/model", "all/model/big.bin", "one", "one/big.bin",
    }  # fmt: skip


async def test_a_url_is_no_place_for_files(lab, tmp_path, monkeypatch):
    """It is refused before anything is requested."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="is a URL"):
        await lab.artifacts.download_run(42, "s3://bucket/out")
    with pytest.raises(ConfigError, match="is a URL"):
        await lab.artifacts.download(5, BIG, Path("gs://bucket/big.bin"))
    assert everything(tmp_path) == {}
    assert lab.stats.calls == 0


@posix
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
        ("a.part.json", "a"),
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
    assert (
        await Downloads(perform, RetryPolicy(), fake.clock(), Semaphore(8)).run(42, tmp_path, None)
        == []
    )


@pytest.mark.parametrize("width", [1, 400])
async def test_directories_that_never_end(fake, tmp_path, monkeypatch, width):
    """Depth and number are bounded."""
    monkeypatch.setattr("modellab_async.downloads.MAX_ENTRIES", 1_000)
    asked: list[Call] = []

    async def perform(call: Call, /, **_: Any) -> Any:
        if call.operation == "runs.get":
            return RUN
        asked.append(call)
        return RunArtifacts(
            files=tuple(RunFile(f"{len(asked)}/{number}/", is_dir=True) for number in range(width))
        )

    with pytest.raises(DownloadError, match="has more than"):
        await Downloads(perform, RetryPolicy(), fake.clock(), Semaphore(8)).run(42, tmp_path, None)
    assert len(asked) <= MAX_DEPTH


# Long names


LONG = ["x" * 255, "y" * 240 + ".safetensors", "日本" * 41, "é" * 127, "z" * 244, "w" * 246]


async def test_long_names(tmp_path: Path, fake: FakeClock) -> None:
    """Whatever a disk can hold comes whole, through breaks, with its part file beside it."""
    names = [*LONG, "d" * 255 + "/" + "x" * 255]
    async with simulator(dict.fromkeys(names, 50000)) as sim:
        async with client_for(sim, clock=fake.clock()) as lab:
            sim.faults.matching(CONTENT, *[Fault.cut(after=20_000)] * 8)
            await lab.artifacts.download_run(42, tmp_path)
        assert {n: d for n, d in everything(tmp_path).items() if d is not None} == {
            name: content(sim, name) for name in names
        }


async def test_long_names_that_begin_alike(tmp_path: Path) -> None:
    """Their part files differ, as the names do."""
    names = ["x" * 250 + ending for ending in "abc"]
    async with simulator(dict.fromkeys(names, 50_000)) as sim:
        sim.faults.always(Fault.cut(after=20_000), CONTENT)
        async with client_for(sim, retry=RetryPolicy.none()) as lab:
            with pytest.raises(DownloadError, match="3 of 3 files"):
                await lab.artifacts.download_run(42, tmp_path)
            assert len(everything(tmp_path)) == 2 * 3
            sim.faults.clear()
            await lab.artifacts.download_run(42, tmp_path)
        assert {n: d for n, d in everything(tmp_path).items() if d is not None} == {
            name: content(sim, name) for name in names
        }


@pytest.mark.parametrize("name", ["x" * 256, "é" * 128, "ok/" + "x" * 256 + "/ok"])
async def test_a_name_that_no_disk_holds(tmp_path: Path, name: str) -> None:
    """It is refused before anything is written, like any other path that is not safe."""
    async with simulator({"good": b"x", name: b"y"}) as sim, client_for(sim) as lab:
        with pytest.raises(DownloadError, match="longer than 255 bytes"):
            await lab.artifacts.download_run(42, tmp_path / "out")
    assert everything(tmp_path) == {}


@pytest.mark.parametrize("name", ["a", "x" * 245, *LONG, "\udcff" * 255])
def test_the_names_beside(name: str) -> None:
    """They fit, differ from the name and from each other, and are plain where that is possible."""
    part, note = names_beside(name)
    assert len({name, part, note}) == 3
    assert len(note.encode("utf-8", "surrogateescape")) <= LONGEST_NAME
    assert (part, note) == names_beside(name)
    if len(name) <= 245 and name.isascii():
        assert (part, note) == (f"{name}.part", f"{name}.part.json")


async def test_a_part_files_name_is_taken(tmp_path: Path) -> None:
    """No other file of the run may have the name of a cut one's part file."""
    name = "X" * 250
    part, _ = names_beside(name)
    async with simulator({name: b"1", part.lower(): b"2"}) as sim, client_for(sim) as lab:
        with pytest.raises(DownloadError, match="the same on disk"):
            await lab.artifacts.download_run(42, tmp_path)
