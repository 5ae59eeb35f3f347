"""All sixteen operations over a real socket: what is sent, and what comes back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

import attrs
import pytest
from conftest import client_for, eventually

from modellab_async import (
    ROOT_RUNS,
    FacetKeys,
    FacetValues,
    ModelLabClient,
    NotFoundError,
    Page,
    Project,
    ProjectArtifacts,
    ProjectFilter,
    RetryPolicy,
    Run,
    RunArtifacts,
    RunFilter,
    RunStatus,
)
from modellab_async.simulator import Fault, Simulator

RUN, PROJECT, FILE = 70_158, 9_080, "notes/readme.txt"
CONTENT = b"weights and biases"


@attrs.frozen
class Operation:
    """A call, the request it must make, and the type of what it gives."""

    name: str
    call: Callable[[ModelLabClient], Awaitable[Any]]
    request: str
    query: dict[str, str]
    gives: type[Any]


WANTED = RunFilter(
    ids=[RUN, "71354"],
    text="fine tune",
    owner_id="0e6a8e44-5a9c-4c38-9b6b-3f4a4b7f1a11",
    status=RunStatus.COMPLETED,
    project_id=PROJECT,
    tags={"team": "ranking", "env": "prod"},
    params={"lr": "<0.01", "epochs": 3, "lora": True},
    parent_run_id=ROOT_RUNS,
)

OPERATIONS = [
    Operation("get run", lambda lab: lab.runs.get(RUN), f"GET /runs/{RUN}", {}, Run),
    Operation(
        "list runs",
        lambda lab: _page(
            lab.runs.list(
                WANTED,
                sort="-updated_at",
                page_size=10,
                pinned_first=True,
                include_pinned=False,
                include_descendant_matches=True,
            )
        ),
        "GET /runs",
        {
            "filter[id]": f"{RUN},71354",
            "filter": "fine tune",
            "filter[owner_id]": "0e6a8e44-5a9c-4c38-9b6b-3f4a4b7f1a11",
            "filter[status]": "completed",
            "filter[project_id]": str(PROJECT),
            "filter[tags]": "team:ranking,env:prod",
            "filter[params]": "lr:<0.01,epochs:3,lora:true",
            "filter[parent_run_id]": "null",
            "pinned_first": "true",
            "include_pinned": "false",
            "include_descendant_matches": "true",
            "sort": "-updated_at",
            "page[size]": "10",
        },
        Page,
    ),
    Operation(
        "delete run", lambda lab: lab.runs.delete(RUN), f"DELETE /runs/{RUN}", {}, type(None)
    ),
    Operation("pin", lambda lab: lab.runs.pin(RUN), f"POST /runs/{RUN}/pin", {}, type(None)),
    Operation("unpin", lambda lab: lab.runs.unpin(RUN), f"DELETE /runs/{RUN}/pin", {}, type(None)),
    Operation(
        "list run artifacts",
        lambda lab: lab.runs.artifacts(5, "notes/"),
        "GET /runs/5/artifacts",
        {"path": "notes/"},
        RunArtifacts,
    ),
    Operation(
        "get project",
        lambda lab: lab.projects.get(str(PROJECT)),
        f"GET /projects/{PROJECT}",
        {},
        Project,
    ),
    Operation(
        "list projects",
        lambda lab: _page(
            lab.projects.list(ProjectFilter(text="a", tags={"team": "x"}), sort="name", page_size=5)
        ),
        "GET /projects",
        {"filter": "a", "filter[tags]": "team:x", "sort": "name", "page[size]": "5"},
        Page,
    ),
    Operation(
        "star",
        lambda lab: lab.projects.star(PROJECT),
        f"POST /projects/{PROJECT}/star",
        {},
        type(None),
    ),
    Operation(
        "unstar",
        lambda lab: lab.projects.unstar(PROJECT),
        f"DELETE /projects/{PROJECT}/star",
        {},
        type(None),
    ),
    Operation(
        "list project artifacts",
        lambda lab: lab.projects.artifacts(PROJECT),
        f"GET /projects/{PROJECT}/artifacts",
        {},
        ProjectArtifacts,
    ),
    Operation(
        "read content",
        lambda lab: lab.artifacts.read(PROJECT, FILE),
        "GET /artifacts/content",
        {"project_id": str(PROJECT), "artifact_path": FILE},
        bytes,
    ),
    Operation(
        "run facet keys",
        lambda lab: lab.runs.facet_keys(PROJECT),
        "GET /facet-keys",
        {"filter[project_id]": str(PROJECT)},
        FacetKeys,
    ),
    Operation(
        "run facet values",
        lambda lab: lab.runs.facet_values(PROJECT, "attribute", "status"),
        "GET /facet-values",
        {
            "filter[project_id]": str(PROJECT),
            "facet_type": "attribute",
            "facet_name": "status",
        },
        FacetValues,
    ),
    Operation(
        "project facet keys",
        lambda lab: lab.projects.facet_keys(),
        "GET /project-facet-keys",
        {},
        FacetKeys,
    ),
    Operation(
        "project facet values",
        lambda lab: lab.projects.facet_values("tag", "team"),
        "GET /project-facet-values",
        {"facet_type": "tag", "facet_name": "team"},
        FacetValues,
    ),
]


async def _page(pager: Any) -> Any:
    return await pager


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
async def test_each_operation_sends_what_the_api_documents(operation: Operation):
    """Method, path, query and headers are the documented ones, and the answer is typed."""
    async with Simulator(runs=100) as sim, client_for(sim) as lab:
        sim.insert_project(PROJECT, artifacts={FILE: CONTENT})
        sim.insert_run(5, project_id=PROJECT, artifacts={FILE: CONTENT})
        sim.insert_run(RUN)
        value = await operation.call(lab)
        (request,) = sim.requests
    path = request.path.removeprefix("/api/v2/model-lab-api")
    assert f"{request.method} {path}" == operation.request
    assert dict(parse_qsl(request.query, keep_blank_values=True)) == operation.query
    assert request.headers["user-agent"].startswith("modellab_async/")
    assert request.headers["accept"] == ("*/*" if operation.gives is bytes else "application/json")
    assert type(value) is operation.gives


async def test_values_are_what_the_server_holds():
    """The decoded answers say what the simulator was told."""
    async with Simulator(runs=100) as sim, client_for(sim) as lab:
        sim.insert_project(PROJECT, name="ranking", artifacts={FILE: CONTENT})
        sim.insert_run(5, project_id=PROJECT, artifacts={"a/b.bin": b"xy", "c.txt": b"z"})
        assert (await lab.projects.get(PROJECT)).name == "ranking"
        assert await lab.artifacts.read(PROJECT, FILE) == CONTENT
        async with lab.artifacts.stream(PROJECT, FILE) as body:
            assert b"".join([chunk async for chunk in body]) == CONTENT
        (file,) = (await lab.projects.artifacts(PROJECT)).files
        assert (file.artifact_path, file.file_size) == (FILE, len(CONTENT))
        top = await lab.runs.artifacts(5)
        assert {(entry.path, entry.is_dir) for entry in top.files} == {
            ("a/", True),
            ("c.txt", False),
        }
        keys = await lab.runs.facet_keys(PROJECT)
        assert keys.metrics == ()
        values = await lab.runs.facet_values(PROJECT, "attribute", "status")
        assert values.facet_name == "status"


async def test_state_is_changed_and_repeats_are_harmless():
    """Pins and stars can be set and taken twice; a deleted run is gone."""
    async with Simulator(runs=100) as sim, client_for(sim) as lab:
        sim.insert_run(RUN)
        for _ in range(2):
            await lab.runs.pin(RUN)
        assert (await lab.runs.get(RUN)).is_pinned
        for _ in range(2):
            await lab.runs.unpin(RUN)
        assert not (await lab.runs.get(RUN)).is_pinned
        project = sim.project_ids[0]
        for _ in range(2):
            await lab.projects.star(project)
        assert (await lab.projects.get(project)).is_starred
        await lab.projects.unstar(project)
        assert not (await lab.projects.get(project)).is_starred
        await lab.runs.delete(RUN)
        with pytest.raises(NotFoundError):
            await lab.runs.get(RUN)
        with pytest.raises(NotFoundError):
            await lab.runs.delete(RUN)


@pytest.mark.parametrize(
    ("fault", "gone"),
    [(Fault.lost(), True), (Fault.status(503), False), (Fault.status(429), False)],
    ids=["answer lost", "503", "429"],
)
async def test_a_404_to_a_repeated_delete_is_success_only_after_a_lost_answer(fault, gone, fake):
    """A 404 after a 503 is a 404; after a lost answer it means that the run is gone as asked."""
    async with Simulator(runs=100) as sim, client_for(sim, clock=fake.clock()) as lab:
        sim.insert_run(RUN)
        if not gone:
            sim.delete_run(RUN)
        sim.faults.next(fault)
        if gone:
            await lab.runs.delete(RUN)
        else:
            with pytest.raises(NotFoundError):
                await lab.runs.delete(RUN)
        assert sim.counts.requests == 2


async def test_a_stream_that_is_left_early_closes_its_connection():
    """The server sees the connection end, and nothing of the stream is left."""
    async with Simulator(runs=100) as sim:
        sim.insert_run(5, project_id=PROJECT, artifacts={"big.bin": 50_000_000})
        async with client_for(sim, retry=RetryPolicy.none()) as lab:
            listing = await lab.runs.artifacts(5)
            path = f"{listing.path_in_project}/big.bin"
            async with lab.artifacts.stream(PROJECT, path) as body:
                await anext(body)
            await eventually(lambda: sim.counts.connections == 0)
            with pytest.raises(NotFoundError):
                async with lab.artifacts.stream(PROJECT, "no/such/file"):
                    pytest.fail("there is no such file")
