"""Artifacts: trees, contents of any size, ranges; and facets."""

from __future__ import annotations

import hashlib

import aiohttp
import pytest
from simulator_client import PREFIX, Reply, asking

from modellab_async.simulator import Fault, Simulator

FILES: dict[str, int | bytes] = {
    "a.txt": b"hello",
    "empty": b"",
    "model/big.bin": 300_000,
    "model/deep/er/x y+z%.txt": b"spaces",
    "modelling.txt": b"not in model/",
}


@pytest.fixture
def simulator() -> Simulator:
    simulator = Simulator(runs=0)
    simulator.insert_project(5, artifacts={"README.md": b"# mine", "data/words.txt": 10})
    simulator.insert_run(42, project_id=5, artifacts=FILES)
    simulator.insert_project(7)
    return simulator


def content_of(path: str, project: int | str = 5) -> dict[str, str]:
    return {"project_id": str(project), "artifact_path": path}


def listed(reply: Reply) -> list[tuple[str, bool, int | None]]:
    return [
        (entry["path"], entry["is_dir"], entry["file_size"]) for entry in reply.attributes["files"]
    ]


async def test_a_tree_is_listed_directory_by_directory(simulator: Simulator) -> None:
    """A listing shows one directory; directories end in a slash and have no size."""
    async with asking(simulator) as ask:
        root = await ask("/runs/42/artifacts")
        assert (root.json["data"]["id"], root.json["data"]["type"]) == ("42", "artifacts")
        assert root.attributes["path_in_project"] == "run-42/artifacts"
        assert listed(root) == [
            ("a.txt", False, 5),
            ("empty", False, 0),
            ("model/", True, None),
            ("modelling.txt", False, 13),
        ]
        model = [("model/big.bin", False, 300_000), ("model/deep/", True, None)]
        assert listed(await ask("/runs/42/artifacts", {"path": "model/"})) == model
        assert listed(await ask("/runs/42/artifacts", {"path": "model"})) == model
        assert (await ask("/runs/42/artifacts", {"path": "mod"})).status == 404


async def test_paths_that_climb_are_shown_as_declared() -> None:
    """A path that would leave its directory is listed whole, to put clients to the test."""
    simulator = Simulator(runs=0)
    hostile: dict[str, int | bytes] = {
        "../../evil": b"x",
        "/etc/passwd": b"x",
        "ok/../../evil": b"x",
    }
    run_id = simulator.insert_run(artifacts=hostile)
    async with asking(simulator) as ask:
        root = listed(await ask(f"/runs/{run_id}/artifacts"))
        inner = listed(await ask(f"/runs/{run_id}/artifacts", {"path": "ok/"}))
    assert root == [("../../evil", False, 1), ("/etc/passwd", False, 1), ("ok/", True, None)]
    assert inner == [("ok/../../evil", False, 1)]


async def test_every_listed_file_can_be_read() -> None:
    """Following the trees of made-up runs leads to files of the sizes listed."""
    simulator = Simulator(runs=40, projects=3)
    read = 0
    async with asking(simulator) as ask:
        for run_id in simulator.run_ids[:12]:
            project = simulator.resource(run_id)["attributes"]["project_id"]
            directories = [""]
            while directories:
                directory = directories.pop()
                reply = await ask(f"/runs/{run_id}/artifacts", {"path": directory})
                root = reply.attributes["path_in_project"]
                for path, is_dir, size in listed(reply):
                    if is_dir:
                        directories.append(path)
                    elif size is not None and size < 100_000:
                        got = await ask("/artifacts/content", content_of(f"{root}/{path}", project))
                        assert (got.status, len(got.body)) == (200, size)
                        read += 1
    assert read > 10


async def test_content_is_what_was_declared(simulator: Simulator) -> None:
    """Declared bytes come back as they are, as a stream of octets, from a project as from a run."""
    async with asking(simulator) as ask:
        for path in ("a.txt", "empty", "model/deep/er/x y+z%.txt"):
            reply = await ask("/artifacts/content", content_of(f"run-42/artifacts/{path}"))
            assert (reply.status, reply.body) == (200, FILES[path])
            assert reply.headers["Content-Type"] == "application/octet-stream"
        assert (await ask("/artifacts/content", content_of("README.md"))).body == b"# mine"


async def test_project_files(simulator: Simulator) -> None:
    """A project lists its own files with their paths, sizes and times."""
    async with asking(simulator) as ask:
        reply = await ask("/projects/5/artifacts")
    assert (reply.json["data"]["id"], reply.json["data"]["type"]) == ("5", "project_files")
    entries = reply.attributes["files"]
    assert [(e["filename"], e["artifact_path"], e["file_size"]) for e in entries] == [
        ("README.md", "README.md", 6),
        ("words.txt", "data/words.txt", 10),
    ]
    assert all(entry["created_at"].endswith("Z") for entry in entries)


async def test_made_up_content_is_deterministic(simulator: Simulator) -> None:
    """Content of a given size is the same every time, and another file's differs."""
    path = "run-42/artifacts/model/big.bin"
    async with asking(simulator) as ask:
        reply = await ask("/artifacts/content", content_of(path))
    content = simulator.content(5, path)
    assert len(reply.body) == content.size == 300_000
    assert reply.body == content.read()
    assert content.read(65_530, 131_080) == reply.body[65_530:131_080]
    assert len({reply.body[at : at + 65_536] for at in range(0, 196_608, 65_536)}) == 3
    assert simulator.content(5, "data/words.txt").read() != reply.body[:10]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        (content_of("run-42/artifacts/no"), 404),
        (content_of("run-42/artifacts/model/"), 404),
        (content_of("run-43/artifacts/a.txt"), 404),
        (content_of("/run-42/artifacts/a.txt"), 404),
        (content_of("run-42/artifacts/a.txt", project=6), 404),
        (content_of("run-42/artifacts/a.txt", project=7), 404),
        (content_of("run-42/artifacts/a.txt", project="x"), 400),
        ({"project_id": "5"}, 400),
        ({"artifact_path": "README.md"}, 400),
        ({**content_of("README.md"), "path": ""}, 400),
    ],
)
async def test_no_such_content(simulator: Simulator, query: dict[str, str], status: int) -> None:
    """What does not exist answers 404, and what makes no sense 400."""
    async with asking(simulator) as ask:
        assert (await ask("/artifacts/content", query)).status == status


async def ask_for_range(simulator: Simulator, wanted: str, **headers: str) -> Reply:
    async with asking(simulator) as ask:
        return await ask(
            "/artifacts/content",
            content_of("run-42/artifacts/model/big.bin"),
            headers={**simulator.headers, "Range": wanted, **headers},
        )


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=65535-65536", 65_535, 65_537),
        ("bytes=299990-", 299_990, 300_000),
        ("bytes=299990-999999", 299_990, 300_000),
        ("bytes=-7", 299_993, 300_000),
        ("bytes=-999999", 0, 300_000),
    ],
)
async def test_a_range(simulator: Simulator, wanted: str, start: int, stop: int) -> None:
    """A range answers 206 with that part of the content, and says which it is."""
    reply = await ask_for_range(simulator, wanted)
    whole = simulator.content(5, "run-42/artifacts/model/big.bin").read()
    assert (reply.status, reply.body) == (206, whole[start:stop])
    assert reply.headers["Content-Range"] == f"bytes {start}-{stop - 1}/300000"
    assert reply.headers["Content-Length"] == str(stop - start)


@pytest.mark.parametrize("wanted", ["bytes=9-3", "bytes=-", "bytes=1-2,5-6", "lines=1-2", ""])
async def test_a_range_without_meaning_is_overlooked(simulator: Simulator, wanted: str) -> None:
    """A range that cannot be read gives the whole content."""
    reply = await ask_for_range(simulator, wanted)
    assert (reply.status, len(reply.body)) == (200, 300_000)
    assert reply.headers["Accept-Ranges"] == "bytes"


@pytest.mark.parametrize("wanted", ["bytes=300000-", "bytes=300000-300001", "bytes=-0"])
async def test_a_range_after_the_end(simulator: Simulator, wanted: str) -> None:
    """A range that starts after the end answers 416 and tells the size."""
    reply = await ask_for_range(simulator, wanted)
    assert (reply.status, reply.headers["Content-Range"]) == (416, "bytes */300000")


async def test_a_range_of_another_version(simulator: Simulator) -> None:
    """With `If-Range`, the part is sent only of the version that the client has."""
    etag = (await ask_for_range(simulator, "bytes=0-0")).headers["ETag"]
    assert (await ask_for_range(simulator, "bytes=5-9", **{"If-Range": etag})).status == 206
    assert (await ask_for_range(simulator, "bytes=5-9", **{"If-Range": '"old"'})).status == 200


async def test_without_ranges() -> None:
    """A server without ranges sends everything, and promises nothing."""
    simulator = Simulator(runs=0, ranges=False)
    simulator.insert_run(42, project_id=5, artifacts=FILES)
    reply = await ask_for_range(simulator, "bytes=0-0")
    assert (reply.status, len(reply.body)) == (200, 300_000)
    assert "Accept-Ranges" not in reply.headers


async def test_huge_content_is_streamed() -> None:
    """Two gigabytes cost no memory: the head arrives at once, and any part can be computed."""
    size = 2 * 1024**3
    simulator = Simulator(runs=0)
    simulator.insert_run(42, project_id=5, artifacts={"huge": size})
    content = simulator.content(5, "run-42/artifacts/huge")
    async with asking(simulator) as ask:
        async with ask.session.get(
            f"{simulator.base_url}{PREFIX}/artifacts/content",
            params=content_of("run-42/artifacts/huge"),
            headers=simulator.headers,
        ) as response:
            assert response.headers["Content-Length"] == str(size)
            head = await response.content.readexactly(200_000)
        tail = await ask(
            "/artifacts/content",
            content_of("run-42/artifacts/huge"),
            headers={**simulator.headers, "Range": "bytes=-100000"},
        )
    assert hashlib.sha256(head).digest() == hashlib.sha256(content.read(0, 200_000)).digest()
    assert tail.body == content.read(size - 100_000)


async def test_a_cut_can_hit_a_stream(simulator: Simulator) -> None:
    """A cut download can be resumed from where it was cut."""
    simulator.faults.next(Fault.cut(after=100_000))
    got = b""
    async with asking(simulator) as ask:
        async with ask.session.get(
            f"{simulator.base_url}{PREFIX}/artifacts/content",
            params=content_of("run-42/artifacts/model/big.bin"),
            headers=simulator.headers,
        ) as response:
            with pytest.raises(aiohttp.ClientPayloadError):
                async for chunk in response.content.iter_any():
                    got += chunk
    assert len(got) == 100_000
    rest = await ask_for_range(simulator, f"bytes={len(got)}-")
    assert got + rest.body == simulator.content(5, "run-42/artifacts/model/big.bin").read()
