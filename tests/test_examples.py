"""Every example of README, documentation and docstrings runs, against the simulator."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from examples import PAGES, ROOT, Examples, evaluate, simulator_in_a_thread

from modellab_async import Clock, ModelLabClient
from modellab_async.simulator import Simulator

MODULES = sorted((ROOT / "modellab_async").rglob("*.py"))
WITH_EXAMPLES = [
    path
    for path in [*PAGES, *MODULES]
    if re.search(r"^ *```(python|sh)$", path.read_text("utf-8"), flags=re.MULTILINE)
]


@pytest.fixture
def sim() -> Iterator[Simulator]:
    """In place of the simulator of other tests, which lives in the test's own loop."""
    with simulator_in_a_thread() as simulator:
        yield simulator


@pytest.fixture(autouse=True)
def _simulated(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys in the environment, and the simulator in place of the site where none is named."""
    monkeypatch.setenv("DD_API_KEY", sim.api_key)
    monkeypatch.setenv("DD_APP_KEY", sim.app_key)
    monkeypatch.setenv("MODELLAB_BASE_URL", sim.base_url)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    make = ModelLabClient.__init__

    def make_simulated(self: ModelLabClient, **options: Any) -> None:
        if options.get("site") is None:
            options.setdefault("base_url", sim.base_url)
        options.setdefault("clock", Clock(random=lambda: 0.0))  # full jitter: no back-off
        make(self, **options)

    monkeypatch.setattr(ModelLabClient, "__init__", make_simulated)


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_examples_run(
    path: Path,
    sim: Simulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """Each example runs as it stands, in the order of its page, and prints what the page says."""
    monkeypatch.chdir(tmp_path)
    with asyncio.Runner() as runner:
        lab = ModelLabClient()
        try:
            evaluate(path, Examples(runner, tmp_path), {"lab": lab, "sim": sim})
        finally:
            runner.run(lab.aclose())
