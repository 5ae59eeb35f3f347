"""What notebooks show, in a real browser; `nox -s browser` runs it, the default run does not.

With MODELLAB_SCREENSHOTS set, a picture of each theme is put into that directory.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from conftest import make_run
from playwright.async_api import Page as Tab
from playwright.async_api import async_playwright
from test_notebook import EVIL, hostile

from modellab_async import MetricSummary, ModelLabClient, compare

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
