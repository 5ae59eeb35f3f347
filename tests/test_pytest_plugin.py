"""The fixtures for the users' own tests, found by pytest through their entry point."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import PATIENCE

pytest_plugins = ["pytester"]

AUTO, STRICT = (
    ("-o", f"asyncio_mode={mode}", "-o", "asyncio_default_fixture_loop_scope=function")
    for mode in ("auto", "strict")
)
ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/how-to/testing-your-own-code.md"


@pytest.fixture
def installed(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A directory in which pytest finds the package installed, with its entry points."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    info = pytester.mkdir("modellab_async-0.dist-info")
    (info / "METADATA").write_text("Name: modellab_async\nVersion: 0\n", "utf-8")
    (info / "entry_points.txt").write_text(
        "[pytest11]\n"
        + "".join(f"{name} = {at}\n" for name, at in project["entry-points"]["pytest11"].items()),
        "utf-8",
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(pytester.path)]))
    pytester.makeini("[pytest]\nfilterwarnings = error\n")
    return pytester


def test_the_examples_of_the_docs_run(installed: pytest.Pytester) -> None:
    """As they stand: what is declared there is served, and mocks and canned answers work."""
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)
    installed.makepyfile("\n".join(examples))
    result = installed.runpytest_subprocess(*AUTO)
    result.assert_outcomes(passed="".join(examples).count("async def test_"))


def test_strict_mode(installed: pytest.Pytester) -> None:
    """The fixtures suit pytest-asyncio's strict mode, too."""
    installed.makepyfile("""
        import pytest

        @pytest.mark.asyncio
        async def test_a_client(modellab, modellab_sim):
            assert (await modellab.runs.list()).items == ()
            assert modellab_sim.insert_run(70158) == 70158
            assert (await modellab.runs.get(70158)).id == 70158
    """)
    result = installed.runpytest_subprocess(*STRICT)
    result.assert_outcomes(passed=1)


def test_faults_and_retries(installed: pytest.Pytester) -> None:
    """Every word for a fault is understood, also where the client may not wait at all."""
    installed.makepyfile("""
        import pytest
        from modellab_async import ModelLabError, RetryPolicy

        @pytest.fixture
        def modellab_runs():
            return [{"run_id": 1}]

        @pytest.mark.parametrize(
            "fault", [408, 429, 500, 503, 512, "close", "cut", "lost", "reset"]
        )
        async def test_once(modellab, modellab_fail, modellab_sim, fault):
            modellab_fail(fault)
            assert (await modellab.runs.get(1)).id == 1
            assert modellab.stats.retries == 1
            assert modellab_sim.counts.requests == 2
            assert modellab.stats.backoff_wait_s == 0
            assert modellab.stats.rate_limit_wait_s < 1  # as long as after a reset of 0

        @pytest.mark.parametrize("fault", ["stall", "drip"])
        async def test_slow(modellab, modellab_fail, fault):
            modellab_fail(fault)
            impatient = modellab.with_options(timeout=0.05, retry=RetryPolicy.none())
            with pytest.raises(TimeoutError):
                await impatient.runs.get(1)

        async def test_a_drip_alone_fails_nothing(modellab, modellab_fail):
            modellab_fail("drip")
            assert (await modellab.runs.get(1)).id == 1
            assert modellab.stats.retries == 0

        def test_an_unknown_word(modellab_fail):
            with pytest.raises(ValueError, match="cut, drip, .*, not 'nonsense'"):
                modellab_fail("nonsense")

        def test_back_off_is_there_again():
            assert RetryPolicy().backoff(1, 1.0) > 0
    """)
    result = installed.runpytest_subprocess(*AUTO)
    result.assert_outcomes(passed=14)


def test_it_costs_those_nothing_who_do_not_use_it(installed: pytest.Pytester) -> None:
    """Neither the package nor aiohttp is imported, and no test is touched."""
    installed.makepyfile("""
        import sys

        def test_nothing(request):
            assert request.config.pluginmanager.has_plugin("modellab_async")
            assert {"modellab_async", "aiohttp"}.isdisjoint(sys.modules)
            assert [name for name in request.fixturenames if "modellab" in name] == []
    """)
    result = installed.runpytest_subprocess("-p", "no:asyncio")
    result.assert_outcomes(passed=1)


@pytest.mark.process
def test_it_needs_no_pytest_asyncio() -> None:
    """It can be loaded where that is not installed."""
    code = "import sys; sys.modules['pytest_asyncio'] = None; import _modellab_async_pytest"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE, cwd=ROOT)
