"""Every example of README, documentation and docstrings runs, against the simulator."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from documents import PAGES, ROOT, Examples, evaluate, simulator_in_a_thread
from sybil.example import SybilFailure

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


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            path,
            id=str(path.relative_to(ROOT)),
            marks=[pytest.mark.process] if "```sh\nmodellab " in path.read_text("utf-8") else [],
        )
        for path in WITH_EXAMPLES
    ],
)
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
            names = evaluate(path, Examples(runner, tmp_path), {"lab": lab, "sim": sim})
            if names["sim"] is not sim:  # the set-up block leaves both open
                runner.run(names["lab"].aclose())
                runner.run(names["sim"].close())
        finally:
            runner.run(lab.aclose())


def evaluate_text(text: str, directory: Path) -> None:
    """A page with that text, evaluated."""
    page = directory / "page.md"
    page.write_text(text, "utf-8")
    with asyncio.Runner() as runner:
        evaluate(page, Examples(runner, directory), {})


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("```python\nraise LookupError\n```\n", LookupError),
        ("```python\nimport asyncio\n\nawait asyncio.sleep(0)\n1 / 0\n```\n", ZeroDivisionError),
        ("```python\nprint(1)\n```\n\n```output\n2\n```\n", SybilFailure),
        ("```sh\nmodellab no-such-command\n```\n", SybilFailure),
    ],
    ids=["python", "await", "output", "shell"],
)
def test_a_wrong_example_is_noticed(text: str, error: type[Exception], tmp_path: Path):
    """An example that raises, prints something else or ends with an exit code fails its page."""
    with pytest.raises(error):
        evaluate_text(text, tmp_path)


def test_examples_may_be_left_out(tmp_path: Path):
    """A comment leaves the block after it out, and a shell block of other commands is not run."""
    evaluate_text("<!-- not run: why -->\n```python\n1 / 0\n```\n\n```sh\nfalse\n```\n", tmp_path)
