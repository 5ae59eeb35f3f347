"""Models in pydantic and FastAPI, in both directions."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Annotated, Any

import attrs
import pytest
from conftest import make_run
from fastapi import Body, FastAPI
from httpx import ASGITransport, AsyncClient
from pydantic import BaseModel, TypeAdapter, ValidationError
from test_models import FILTERS, SAMPLES

from modellab_async import (
    ROOT_RUNS,
    MetricSummary,
    ModelLabError,
    NotFoundError,
    Outcome,
    Page,
    Project,
    Run,
    RunFilter,
    RunList,
    RunStatus,
)

VALUES = [
    *(sample for sample in SAMPLES if not isinstance(sample, Page)),
    *FILTERS,
    Outcome(7, run=make_run()),
    RunFilter(ids=(1, "2"), params={"lr": 0.5, "amp": True, "seed": "<7"}),
    RunFilter(parent_run_id=ROOT_RUNS),
]


def of(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_every_model_is_validated_and_serialized(value: Any) -> None:
    """What pydantic writes of a model, as JSON or as Python values, it reads as an equal one."""
    adapter = of(type(value))
    assert adapter.validate_json(adapter.dump_json(value)) == value
    assert adapter.validate_python(adapter.dump_python(value)) == value
    assert adapter.validate_python(adapter.dump_python(value, mode="json")) == value
    assert adapter.validate_python(value) is value


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("mode", ["validation", "serialization"])
def test_json_schemas(value: Any, mode: Any) -> None:
    """A model's JSON schema has its name and its fields; those without a default are required."""
    schema = of(type(value)).json_schema(mode=mode)
    fields = attrs.fields(type(value))
    assert schema["title"] == type(value).__name__
    assert list(schema["properties"]) == [field.name for field in fields]
    required = {field.name for field in fields if field.default is attrs.NOTHING}
    assert required <= set(schema.get("required", []))
    if mode == "validation":
        assert required == set(schema.get("required", []))


@pytest.mark.parametrize(
    ("kind", "item"), [(Page[Run], make_run()), (Page[Project], Project(id=7, name="vision"))]
)
def test_pages_of_either_kind(kind: Any, item: Any) -> None:
    """A page has the schema of its items, and comes back with models as its items."""
    page = Page(items=(item,), total=9, next_number=1)
    adapter = of(kind)
    assert adapter.validate_json(adapter.dump_json(page)) == page
    assert type(item).__name__ in adapter.json_schema()["$defs"]
    with pytest.raises(ValidationError):
        adapter.validate_json('{"items": [{"id": "seven"}]}')


def test_unknown_statuses() -> None:
    """A status that this version does not know survives; the schema names those that it does."""
    run = make_run(status=RunStatus("resting"))
    adapter = of(Run)
    assert adapter.validate_json(adapter.dump_json(run)).status == "resting"
    assert "completed" in adapter.json_schema()["properties"]["status"]["examples"]
    with pytest.raises(ValidationError):
        of(RunStatus).validate_python(7)


def test_numbers_that_json_does_not_know() -> None:
    """NaN and Infinity are null in JSON, and stay in Python."""
    metric = MetricSummary("loss", 1, latest=math.inf)
    run = make_run(duration=math.nan, metric_summaries=(metric,))
    adapter = of(Run)
    written = adapter.dump_python(run, mode="json")
    assert (written["duration"], written["metric_summaries"][0]["latest"]) == (None, None)
    assert adapter.dump_python(run)["metric_summaries"][0]["latest"] == math.inf


def test_errors_of_outcomes() -> None:
    """An error is its type and message, and comes back as an error with both."""
    lost = Outcome("7", error=NotFoundError("no such run", status=404, method="GET", url="/"))
    adapter = of(Outcome)
    assert adapter.dump_python(lost)["error"] == {"type": "NotFoundError", "message": "no such run"}
    back = adapter.validate_json(adapter.dump_json(lost))
    assert isinstance(back.error, ModelLabError)
    assert "NotFoundError: no such run" in str(back.error)


def test_what_a_filter_refuses() -> None:
    """What a filter refuses is a validation error that says why."""
    with pytest.raises(ValidationError, match="commas and colons"):
        of(RunFilter).validate_python({"tags": {"a": "b:c"}})
    with pytest.raises(ValidationError, match="ids is empty"):
        of(RunFilter).validate_json('{"ids": []}')


def test_models_as_fields() -> None:
    """Pydantic models have runs, pages, outcomes and lists of runs as fields."""

    class Report(BaseModel):
        best: Run
        page: Page[Run]
        outcomes: list[Outcome]
        runs: RunList

    run = make_run()
    report = Report(
        best=run, page=Page(items=(run,)), outcomes=[Outcome(7, run=run)], runs=RunList([run])
    )
    assert Report.model_validate_json(report.model_dump_json()) == report
    assert {"Run", "Page_Run_", "Outcome"} <= set(Report.model_json_schema()["$defs"])


app = FastAPI()


@app.get("/run")
async def run_with_odd_numbers() -> Run:
    return make_run(duration=math.nan, status=RunStatus("resting"))


@app.get("/page")
async def page_of_runs() -> Page[Run]:
    return Page(items=(make_run(),), total=1)


@app.get("/projects", response_model=list[Project])
async def projects() -> Any:
    return [Project(id=7, name="vision")]


@app.get("/runs")
async def runs() -> RunList:
    return RunList([make_run(), make_run()])


@app.post("/echo")
async def echo(
    run: Annotated[Run, Body()], only: Annotated[RunFilter, Body()]
) -> tuple[Run, RunFilter]:
    assert type(run) is Run
    return run, only


@pytest.fixture
async def client() -> AsyncIterator[AsyncClient]:
    async with AsyncClient(transport=ASGITransport(app), base_url="http://app") as client:
        yield client


async def test_return_annotations(client: AsyncClient) -> None:
    """What a path operation returns is sent as JSON, whatever numbers and statuses it holds."""
    run = (await client.get("/run")).json()
    assert (run["id"], run["status"], run["duration"]) == (70158, "resting", None)
    page = (await client.get("/page")).json()
    assert (page["total"], page["items"][0]["name"]) == (1, "calm-otter-7")
    assert (await client.get("/projects")).json()[0]["name"] == "vision"
    assert len((await client.get("/runs")).json()) == 2


async def test_request_bodies(client: AsyncClient) -> None:
    """Models arrive as models; what is none is refused with the place of the fault."""
    run = TypeAdapter(Run).dump_python(make_run(), mode="json")
    sent = {"run": run, "only": {"tags": {"team": "ranking"}}}
    echoed = (await client.post("/echo", json=sent)).json()
    assert echoed[0] == run
    assert echoed[1]["tags"] == {"team": "ranking"}
    refused = await client.post("/echo", json={"run": run | {"id": "x"}, "only": {}})
    assert refused.status_code == 422
    assert "id" in refused.json()["detail"][0]["loc"]


async def test_the_schema_of_an_application(client: AsyncClient) -> None:
    """OpenAPI names the models, with their fields."""
    schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]
    assert {"Run", "Project", "Page_Run_", "RunFilter", "Param"} <= set(schemas)
    assert "metric_summaries" in schemas["Run"]["properties"]
