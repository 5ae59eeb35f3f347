"""What notebooks show, in a real browser; `nox -s browser` runs it, the default run does not.

With MODELLAB_SCREENSHOTS set, a picture of each theme is put into that directory.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from conftest import make_run
from nbconvert import HTMLExporter
from nbformat import v4
from playwright.async_api import Page as Tab
from playwright.async_api import async_playwright
from test_notebook import EVIL, hostile

from modellab_async import MetricSummary, ModelLabClient, Page, Param, Project, Tag, compare

THEMES = {"light": ("#ffffff", "#111111"), "dark": ("#111111", "#dddddd")}


@pytest.fixture
async def tab() -> AsyncIterator[Tab]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        yield await browser.new_page(viewport={"width": 1150, "height": 800})
        await browser.close()


async def show(tab: Tab, theme: str, *parts: object) -> None:
    background, colour = THEMES[theme]
    html = "<hr>".join(part._repr_html_() for part in parts)  # type: ignore[attr-defined]
    style = f"background:{background};color:{colour};font-family:sans-serif"
    await tab.set_content(f'<!doctype html><meta charset="utf-8"><body style="{style}">{html}')


async def show_in_jupyterlab(tab: Tab, theme: str, *values: object) -> None:
    """Values as the results of a notebook's cells, with JupyterLab's own style sheets."""
    cells = [
        v4.new_code_cell(
            "value",
            execution_count=number,
            outputs=[
                v4.new_output(
                    "execute_result",
                    execution_count=number,
                    data={"text/plain": repr(value), "text/html": value._repr_html_()},  # type: ignore[attr-defined]
                )
            ],
        )
        for number, value in enumerate(values, 1)
    ]
    exporter = HTMLExporter(template_name="lab", theme=theme)
    exporter.mathjax_url = exporter.require_js_url = exporter.mermaid_js_url = ""
    with warnings.catch_warnings(action="ignore"):
        html, _ = exporter.from_notebook_node(v4.new_notebook(cells=cells))
    await tab.route("http*://**", lambda route: route.abort())
    await tab.set_content(html, wait_until="domcontentloaded")


def contrast(one: Sequence[float], other: Sequence[float]) -> float:
    """How far two colours are apart, by WCAG 2.2; 4.5 is enough for text."""

    def luminance(colour: Sequence[float]) -> float:
        linear = [
            c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4
            for c in (value / 255 for value in colour[:3])
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", THEMES)
async def test_everything_is_readable(tab: Tab, lab: ModelLabClient, theme: str) -> None:
    """In a light and in a dark notebook all text stands out, and nothing covers anything else."""
    page = await lab.runs.list(page_size=10)
    await show(tab, theme, page, page.items[0], compare(page.items[:4]))
    if directory := os.environ.get("MODELLAB_SCREENSHOTS"):
        await tab.screenshot(path=Path(directory) / f"{theme}.png", full_page=True)

    cells = await tab.eval_on_selector_all(
        ".modellab th, .modellab td",
        """cells => cells.filter(cell => cell.innerText.trim()).map(cell => {
            const style = getComputedStyle(cell)
            return [style.color.match(/[\\d.]+/g).map(Number), Number(style.opacity)]
        })""",
    )
    background = [int(THEMES[theme][0][at : at + 2], 16) for at in (1, 3, 5)]
    assert len(cells) > 100
    for colour, opacity in cells:
        seen = [
            opacity * front + (1 - opacity) * back
            for front, back in zip(colour, background, strict=False)
        ]
        assert contrast(seen, background) >= 4.5
    assert await tab.eval_on_selector_all(
        ".modellab td.n", "cells => cells.every(cell => cell.scrollWidth <= cell.clientWidth + 1)"
    )


async def test_bars_are_as_long_as_their_values(tab: Tab) -> None:
    """Half the value is half the bar; a negative one has another colour."""
    runs = [
        make_run(metric_summaries=(MetricSummary("loss", 1, latest=value),))
        for value in (1.0, 0.5, -0.25)
    ]
    await show(tab, "light", compare(runs))

    bars = await tab.eval_on_selector_all(
        ".modellab i",
        "bars => bars.map(bar => [bar.clientWidth, getComputedStyle(bar).backgroundColor])",
    )
    widths = [width for width, _ in bars]
    assert widths[0] > 20
    assert widths[1:] == pytest.approx([widths[0] / 2, widths[0] / 4], abs=1)
    assert bars[0][1] == bars[1][1] != bars[2][1]


async def test_nothing_from_a_server_runs(tab: Tab) -> None:
    """Script in names, params and links stays text."""
    alerts: list[str] = []
    tab.on("dialog", lambda dialog: alerts.append(dialog.message))
    await show(tab, "light", hostile(), compare([hostile(), make_run()]))
    await tab.click("summary")

    assert EVIL[:25] in await tab.inner_text("body")
    assert await tab.locator("script, img").count() == 0
    assert alerts == []


async def test_params_open_on_demand(tab: Tab) -> None:
    """The params that are the same in all are folded until someone asks."""
    await show(tab, "light", compare([hostile(), hostile()]))

    assert not await tab.locator("details table").is_visible()
    await tab.click("summary")
    assert await tab.locator("details table").is_visible()


LONG = tuple(Tag(f"label-{number}", "a long value of a label " * 3) for number in range(12))


@pytest.mark.parametrize("width", [1_000, 1_300])
@pytest.mark.parametrize("theme", THEMES)
async def test_in_jupyterlab(tab: Tab, theme: str, width: int) -> None:
    """JupyterLab's style sheets leave text on the left, rows without stripes, and bars in view."""
    runs = [
        make_run(
            id=70_000 + number,
            name="a run with a name that is rather long, since it has all of its settings in it",
            tags=LONG,
            params=(Param("lr", f"0.{number}"),),
            metric_summaries=tuple(
                MetricSummary(f"validation.metric_{key}", 3, latest=number - key)
                for key in range(3)
            ),
        )
        for number in range(1, 6)
    ]
    await tab.set_viewport_size({"width": width, "height": 900})
    project = Project(id=7, name="vision", tags=LONG)
    await show_in_jupyterlab(
        tab, theme, Page(items=tuple(runs)), runs[0], compare(runs[:3]), project
    )
    if directory := os.environ.get("MODELLAB_SCREENSHOTS"):
        path = Path(directory) / f"jupyterlab-{theme}-{width}.png"
        await tab.screenshot(path=path, full_page=True)

    cells = await tab.eval_on_selector_all(
        ".modellab th, .modellab td",
        """cells => cells.map(cell => {
            const style = getComputedStyle(cell), row = getComputedStyle(cell.parentElement)
            return [cell.classList.contains("n"), style.textAlign, style.verticalAlign,
                style.backgroundColor, row.backgroundColor]
        })""",
    )
    assert len(cells) > 100
    for is_number, align, vertical, background, row_background in cells:
        assert align == ("right" if is_number else "left")
        assert vertical == "top"
        assert {background, row_background} == {"rgba(0, 0, 0, 0)"}
    bars = await tab.eval_on_selector_all(
        ".modellab .b", "bars => bars.map(bar => bar.getBoundingClientRect().right)"
    )
    assert len(bars) == 5 * 3 + 3 * 3
    assert max(bars) <= width
    overflow = await tab.eval_on_selector_all(
        ".modellab", "parts => parts.map(part => part.scrollWidth - part.clientWidth)"
    )
    assert max(overflow) <= 0
