"""What notebooks show, parsed as a browser would."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import pytest
from conftest import make_run

from modellab_async import (
    MetricSummary,
    NotFoundError,
    Outcome,
    Page,
    Param,
    Project,
    ProjectArtifacts,
    ProjectFile,
    RunArtifacts,
    RunFile,
    RunStatus,
    Tag,
    compare,
)
from modellab_async.notebook import render
from modellab_async.run_list import RunList
from modellab_async.simulator import Simulator

NOON = datetime(2026, 5, 15, 12, tzinfo=UTC)
VOID = {"br", "hr", "img", "input", "link", "meta"}
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;\x1b[2J\u202e"


class Parsed(HTMLParser):
    """The elements of some HTML; fails where tags are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def bars(self) -> list[str | None]:
        return [attributes["style"] for tag, attributes in self.tags if tag == "i"]


def shown(value: Any) -> Parsed:
    html = value._repr_html_()
    assert "\x1b" not in html
    return Parsed(html)


def test_a_run() -> None:
    """Facts, metrics and params are tables; a missing time is left out."""
    run = make_run(
        params=(Param("lr", "0.1"), Param("lr", "0.2")),
        tags=(Tag("team", "ranking"),),
        external_url="https://example.com/?a=1&b=2",
    )
    page = shown(run)
    facts, metrics, params = page.tables

    assert dict(facts)["tags"] == "team:ranking"
    assert "completed" not in dict(facts)
    assert metrics == [
        ["metric", "values", "latest", "min", "max", "mean"],
        ["eval_loss", "3", "0.1235", "-", "-", "-"],
    ]
    assert params == [["param", "value"], ["lr", "0.1"], ["lr", "0.2"]]
    assert "70158 calm-otter-7" in page.text
    assert [a["href"] for tag, a in page.tags if tag == "a"] == ["https://example.com/?a=1&b=2"]


def test_a_bare_run() -> None:
    """A run without params, metrics and tags is its facts."""
    [facts] = shown(make_run(metric_summaries=(), duration=None)).tables
    assert [name for name, _ in facts] == ["project", "created"]


def hostile() -> Any:
    return make_run(
        name=EVIL,
        status=RunStatus(EVIL),
        description=EVIL,
        owner_id=EVIL,
        external_url=f"https://{EVIL}",
        tags=(Tag(EVIL, EVIL),),
        params=(Param(EVIL, EVIL), Param("other", EVIL * 1_000)),
        metric_summaries=(MetricSummary(EVIL, 1, latest=1.0),),
    )


@pytest.mark.parametrize(
    "value",
    [
        hostile(),
        Page(items=(hostile(),)),
        Page(items=(Project(id=1, name=EVIL, tags=(Tag(EVIL, EVIL),)),)),
        compare([hostile(), make_run()]),
        compare([hostile(), hostile()]),
        RunList([hostile()]),
        Project(id=1, name=EVIL, tags=(Tag(EVIL, EVIL),), description=EVIL),
        RunArtifacts(path_in_project=EVIL, files=(RunFile(EVIL),)),
    ],
    ids=["run", "page", "projects", "comparison", "same", "runs", "project", "artifacts"],
)
def test_nothing_from_a_server_is_markup(value: object) -> None:
    """What the server says is text wherever it stands, and long text is cut short."""
    page = shown(value)

    assert {tag for tag, _ in page.tags} <= {
        "style", "div", "p", "strong", "span", "table", "thead", "tbody", "tr", "th", "td",
        "details", "summary", "a", "i",
    }  # fmt: skip
    assert not [name for _, attributes in page.tags for name in attributes if name[:2] == "on"]
    assert "<script>alert(1)</script>" in page.text
    assert "&amp;" in page.text
    assert "\u202e" not in page.text
    assert max(len(cell) for table in page.tables for row in table for cell in row) < 1_000


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "//example.com"])
def test_only_web_addresses_are_links(url: str) -> None:
    """Another address is shown as text."""
    page = shown(make_run(external_url=url))
    assert url in page.text
    assert "a" not in {tag for tag, _ in page.tags}


def test_a_page_of_runs() -> None:
    """A row per run, the metrics that most have with bars, and how many there are in all."""
    loss = [MetricSummary("loss", 1, latest=value) for value in (0.5, -1.0)]
    runs = (
        make_run(id=1, metric_summaries=(loss[0],)),
        make_run(id=2, metric_summaries=(loss[1],)),
        make_run(id=3, metric_summaries=()),
    )
    page = shown(Page(items=runs, total=65_614))
    [[heads, *rows]] = page.tables

    assert "3 of 65,614" in page.text
    assert heads[:5] == ["id", "name", "status", "project", "duration"]
    assert [(row[0], row[-2]) for row in rows] == [("1", "0.5"), ("2", "-1"), ("3", "-")]
    assert page.bars() == ["width:50%", "width:100%"]


def test_a_page_of_projects() -> None:
    """Projects have no metrics; their columns are what they have."""
    [[heads, row]] = shown(Page(items=(Project(id=7, name="ranking"),))).tables
    assert heads == ["id", "name", "created", "tags"]
    assert row == ["7", "ranking", "-", ""]


def test_a_project() -> None:
    """A project is its facts."""
    project = Project(id=7, name="ranking", created_at=NOON, external_url="https://example.com")
    page = shown(project)
    assert "7 ranking" in page.text
    [facts] = page.tables
    assert facts == [["created", "2026-05-15 12:00Z"], ["link", "https://example.com"]]


def test_artifacts() -> None:
    """Artifacts are a table of paths and sizes, in bytes."""
    files = (RunFile("model/", is_dir=True), RunFile("a.bin", file_size=70_000))
    page = shown(RunArtifacts(path_in_project="70158", files=files))
    assert "2 files in 70158" in page.text
    assert page.tables == [[["path", "bytes"], ["model/", "-"], ["a.bin", "70,000"]]]
    listed = ProjectArtifacts(files=(ProjectFile("a.bin", "70158/a.bin", file_size=7),))
    assert shown(listed).tables == [[["path", "bytes"], ["70158/a.bin", "7"]]]


def test_outcomes() -> None:
    """An outcome is its run, or the id and the error."""
    found = Parsed(render("outcome", outcome=Outcome(7, run=make_run())) or "")
    assert "70158 calm-otter-7" in found.text
    lost = Outcome("7", error=NotFoundError(EVIL, status=404, method="GET", url="/"))
    page = Parsed(render("outcome", outcome=lost) or "")
    [[[kind, said]]] = page.tables
    assert kind == "NotFoundError"
    assert "<script>alert(1)</script>" in said


def test_a_list_of_runs() -> None:
    """A list of runs is a table like a page, of its first hundred at most."""
    page = shown(RunList([make_run(id=number) for number in range(1, 131)]))
    [[_, *rows]] = page.tables
    assert "130 runs" in page.text
    assert [row[0] for row in rows] == [str(number) for number in range(1, 101)]


def test_without_jinja(monkeypatch: pytest.MonkeyPatch) -> None:
    """If Jinja is not installed, there is no HTML, and a notebook shows the repr."""
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert make_run()._repr_html_() is None


def test_an_empty_page() -> None:
    """No item, no table."""
    page = shown(Page(items=(), total=0))
    assert (page.tables, page.text.strip()) == ([], "0 of 0")


def test_a_comparison() -> None:
    """Runs are columns; metrics have bars, then come the params that differ."""
    one = make_run(
        id=1,
        name="one",
        params=(Param("lr", "0.1"), Param("seed", "7")),
        metric_summaries=(MetricSummary("loss", 1, latest=0.5),),
    )
    two = make_run(
        id=2,
        name="two",
        params=(Param("seed", "7"),),
        metric_summaries=(MetricSummary("loss", 1, latest=0.25),),
    )
    page = shown(compare([one, two]))
    table, same = page.tables

    assert table == [
        ["run", "1 one", "2 two"],
        ["status", "completed", "completed"],
        ["created", "2026-05-15 02:57Z", "2026-05-15 02:57Z"],
        ["duration", "1 h 02 m", "1 h 02 m"],
        ["metrics, latest"],
        ["loss", "0.5", "0.25"],
        ["params that differ"],
        ["lr", "0.1", "-"],
    ]
    assert same == [["param", "value"], ["seed", "7"]]
    assert page.bars() == ["width:100%", "width:50%"]


async def test_what_a_server_serves_can_be_shown(sim: Simulator, lab: Any) -> None:
    """Production-like runs, pages of them and of projects, and their comparison are whole HTML."""
    page = await lab.runs.list(page_size=100)
    projects = await lab.projects.list(page_size=100)
    for value in (page, projects, compare(page.items), *page.items):
        shown(value)
