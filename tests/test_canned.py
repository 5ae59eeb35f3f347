"""Requests and responses where a canned answer is enough: aioresponses in place of a server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aioresponses import aioresponses
from conftest import make_run

from modellab_async import (
    AuthenticationError,
    BadRequestError,
    DecodeError,
    ModelLabClient,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    RetryPolicy,
    RunStatus,
    ServerError,
    StatusError,
    TransportError,
    to_dict,
)

API = "https://api.us5.datadoghq.com/api/v2/model-lab-api"
RUN = f"{API}/runs/7"
KEYS: dict[str, Any] = {"api_key": "an-api-key", "app_key": "an-app-key"}


@pytest.fixture
def canned(modellab_aioresponses: aioresponses) -> aioresponses:
    """The fixture that users have, by a shorter name."""
    return modellab_aioresponses


@pytest.fixture
async def lab() -> AsyncIterator[ModelLabClient]:
    """A client that asks once."""
    async with ModelLabClient(site="us5", retry=RetryPolicy.none(), **KEYS) as client:
        yield client


def sent(canned: aioresponses) -> list[dict[str, str]]:
    """The headers of each request."""
    return [call.kwargs["headers"] for calls in canned.requests.values() for call in calls]


async def test_a_run(canned: aioresponses, lab: ModelLabClient):
    """The documented address is asked, with keys, and its answer becomes a run."""
    run = make_run(id=7)
    canned.get(RUN, payload={"data": to_dict(run)})
    assert await lab.runs.get(7) == run
    (headers,) = sent(canned)
    assert headers["DD-API-KEY"] == "an-api-key"
    assert headers["DD-APPLICATION-KEY"] == "an-app-key"
    assert headers["User-Agent"].startswith("modellab_async/")
    assert "Authorization" not in headers


async def test_a_token(canned: aioresponses):
    """A bearer token is sent alone, and a function's next one with the next request."""
    canned.get(RUN, payload={"data": to_dict(make_run(id=7))}, repeat=True)
    tokens = iter(["first", "second"])
    async with ModelLabClient(site="us5", bearer_token=lambda: next(tokens)) as lab:
        await lab.runs.get(7)
        await lab.runs.get(7)
    assert [headers["Authorization"] for headers in sent(canned)] == [
        "Bearer first",
        "Bearer second",
    ]
    assert all("DD-API-KEY" not in headers for headers in sent(canned))


async def test_a_listing(canned: aioresponses, lab: ModelLabClient):
    """A page has the items and the numbers of its answer."""
    meta = {"page": {"total": 3, "number": 0, "next_number": 1, "size": 2}}
    runs = [make_run(id=7), make_run(id=8)]
    canned.get(f"{API}/runs?page[size]=2", payload={"data": [*map(to_dict, runs)], "meta": meta})
    page = await lab.runs.list(page_size=2)
    assert list(page) == runs
    assert (page.total, page.number, page.next_number, page.size) == (3, 0, 1, 2)


async def test_what_is_absent_or_null(canned: aioresponses, lab: ModelLabClient):
    """Optional fields get their defaults; a status that is not known survives."""
    attributes = {
        "name": "r",
        "project_id": 1,
        "status": "hibernating",
        "created_at": "2026-01-01T00:00:00Z",
        "params": None,
        "description": None,
    }
    canned.get(RUN, payload={"data": {"id": "7", "type": "runs", "attributes": attributes}})
    run = await lab.runs.get(7)
    assert (run.params, run.tags, run.description, run.duration) == ((), (), "", None)
    assert run.status == RunStatus("hibernating") == "hibernating"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, BadRequestError),
        (401, AuthenticationError),
        (403, PermissionDeniedError),
        (404, NotFoundError),
        (409, StatusError),
        (429, RateLimitedError),
        (500, ServerError),
        (503, ServerError),
        (599, ServerError),
    ],
)
@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"errors": [{"title": "Generic Error", "detail": "out of order"}]}),
        json.dumps({"errors": ["out of order"]}),
        "<html><h1>out of reach</h1></html>",
        "",
        '{"errors": [',
        b"\xff{",
        "x" * 5_000,
    ],
    ids=["objects", "strings", "html", "empty", "cut", "not text", "long"],
)
async def test_each_status_has_its_error_whatever_the_body(
    canned: aioresponses,
    lab: ModelLabClient,
    status: int,
    error: type[StatusError],
    body: str | bytes,
):
    """Both wire forms are parsed; HTML, empty and cut bodies leave the status to speak."""
    canned.get(RUN, status=status, body=body)
    with pytest.raises(error, match=f"^{status} from GET {RUN}: ") as caught:
        await lab.runs.get(7)
    assert type(caught.value) is error
    assert (caught.value.status, caught.value.method, caught.value.url) == (status, "GET", RUN)
    assert caught.value.attempts == lab.stats.attempts == 1
    assert len(caught.value.body.encode()) <= 2048
    if "order" in str(body):
        assert "out of order" in str(caught.value.errors[0])
        assert "out of order" in str(caught.value)
    else:
        assert caught.value.errors == ()


async def test_a_rate_limit(canned: aioresponses, lab: ModelLabClient):
    """A 429 names the limit that its headers describe."""
    headers = {
        "X-RateLimit-Name": "model_lab_api",
        "X-RateLimit-Limit": "100",
        "X-RateLimit-Period": "10",
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": "7",
    }
    canned.get(RUN, status=429, headers=headers)
    with pytest.raises(RateLimitedError) as caught:
        await lab.runs.get(7)
    limit = caught.value
    assert (limit.name, limit.limit, limit.period) == ("model_lab_api", 100, 10.0)
    assert (limit.remaining, limit.reset, limit.stopped_by) == (0, 7.0, "attempts")
    assert lab.stats.rate_limited == 1


async def test_no_content_where_there_must_be_some(canned: aioresponses):
    """A 204 is said on purpose: an error about that id, which no repeat would help."""
    canned.get(RUN, status=204)
    async with ModelLabClient(site="us5", **KEYS) as lab:
        with pytest.raises(DecodeError, match="204 No Content") as caught:
            await lab.runs.get(7)
        assert lab.stats.attempts == 1
    assert caught.value.resource_id == 7


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ("[]", "$"),
        (
            '{"data": {"id": "7", "type": "runs", "attributes": {"name": 3}}}',
            "$.data.attributes.name",
        ),
        ('{"data": {"id": "8", "type": "runs", "attributes": {}}}', "$.data.id"),
        ("<html></html>", "$"),
    ],
    ids=["no object", "wrong type", "another run", "html"],
)
async def test_a_success_of_the_wrong_form(
    canned: aioresponses, lab: ModelLabClient, body: str, path: str
):
    """A 200 that is no such run is a `DecodeError`, which says where it differs."""
    canned.get(RUN, body=body)
    with pytest.raises(DecodeError) as caught:
        await lab.runs.get(7)
    assert caught.value.path == path


async def test_what_has_no_answer(canned: aioresponses, lab: ModelLabClient):
    """A request that is not canned fails as one that found no server."""
    with pytest.raises(TransportError, match=r"api\.us5\.datadoghq\.com"):
        await lab.runs.get(7)
