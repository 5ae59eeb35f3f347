"""What users may rely on: the names that the package exports, and what importing it costs."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys

import pytest
from conftest import PATIENCE

import modellab_async

EXPORTED = [
    "AttemptInfo",
    "AuthenticationError",
    "BadRequestError",
    "BulkError",
    "CallError",
    "CallInfo",
    "ClientClosedError",
    "Clock",
    "Comparison",
    "ConfigError",
    "Converter",
    "DecodeError",
    "DoneInfo",
    "DownloadError",
    "ErrorDetail",
    "ErrorSource",
    "ExportError",
    "FacetKeys",
    "FacetValues",
    "Fetch",
    "Hooks",
    "InvalidIdError",
    "MetricStatRange",
    "MetricSummary",
    "MissingExtraError",
    "ModelLabClient",
    "ModelLabError",
    "NotFoundError",
    "NumericRange",
    "Outcome",
    "Page",
    "Pager",
    "Param",
    "PauseInfo",
    "PermissionDeniedError",
    "Project",
    "ProjectArtifacts",
    "ProjectFile",
    "ProjectFilter",
    "ROOT_RUNS",
    "RateLimit",
    "RateLimitedError",
    "RequestTimeoutError",
    "RetryInfo",
    "RetryPolicy",
    "Run",
    "RunArtifacts",
    "RunFile",
    "RunFilter",
    "RunList",
    "RunStatus",
    "ServerError",
    "Stats",
    "StatusError",
    "StoreError",
    "Tag",
    "TransportError",
    "WaitInfo",
    "WaitTimeoutError",
    "__version__",
    "compare",
    "configure_converter",
    "from_dict",
    "from_json",
    "large_results",
    "make_converter",
    "to_dict",
    "to_json",
]
LIBRARIES = {"aiohttp", "attrs", "cattrs", "msgspec", "tenacity"}
NOT_IMPORTED = {
    "isal",
    "modellab_async.cli",
    "modellab_async.comparison",
    "modellab_async.export",
    "modellab_async.frames",
    "modellab_async.otel",
    "modellab_async.raydata",
    "modellab_async.simulator",
    "modellab_async.speed",
    "fastapi",
    "jinja2",
    "modellab_async.store",
    "duckdb",
    "opentelemetry",
    "orjson",
    "pyarrow",
    "pydantic",
    "ray",
    "rich",
    "typer",
    "uvloop",
}


def test_exported_names() -> None:
    """The package exports these names; taking one away breaks someone."""
    assert sorted(modellab_async.__all__) == EXPORTED


@pytest.mark.parametrize("name", EXPORTED)
def test_each_name_exists_and_is_documented(name: str) -> None:
    """Each exported name is there, and each class and function has a docstring of its own."""
    value = getattr(modellab_async, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert (value.__doc__ or "").strip()  # a class does not inherit it


def test_star_import() -> None:
    """A star import gives the exported names and nothing else."""
    names: dict[str, object] = {}
    exec("from modellab_async import *", names)
    assert set(names) - {"__builtins__"} == set(EXPORTED)


def test_each_name_is_listed_by_dir() -> None:
    """Completion offers every exported name, whether or not it has been imported yet."""
    assert set(EXPORTED) <= set(dir(modellab_async))


@pytest.mark.process
@pytest.mark.parametrize("module", ["errors", "models", "endpoints", "limiter"])
def test_modules_need_no_import_of_their_own(module: str) -> None:
    """``import modellab_async`` is enough to use a documented module by its full name."""
    code = f"import modellab_async; print(modellab_async.{module}.__name__)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert done.stdout == f"modellab_async.{module}\n"


def test_a_name_that_does_not_exist() -> None:
    """It is an AttributeError, as of any module."""
    with pytest.raises(AttributeError, match="module 'modellab_async' has no attribute 'Rune'"):
        _ = modellab_async.Rune  # type: ignore[attr-defined]


def imported(*arguments: str) -> set[str]:
    """The modules that Python imports when started with these arguments."""
    command = [sys.executable, "-v", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE)
    return set(re.findall(r"^import '([\w.]+)' #", done.stderr, re.MULTILINE))


@pytest.mark.process
@pytest.mark.parametrize(
    "arguments", [["-c", "import modellab_async"], ["-m", "modellab_async", "--version"]]
)
def test_little_is_imported_at_first(arguments: list[str]) -> None:
    """Importing the package, or showing its version, imports no other module of it, no library."""
    modules = imported(*arguments)
    assert {name for name in modules if name.startswith("modellab_async")} == {
        "modellab_async",
        "modellab_async._version",
    }
    assert modules.isdisjoint({*LIBRARIES, *NOT_IMPORTED})


@pytest.mark.process
def test_one_name_imports_what_defines_it() -> None:
    """A name is imported without those of other modules, such as a client and its libraries."""
    modules = imported("-c", "from modellab_async import RateLimit")
    assert "modellab_async.ratelimit" in modules
    assert modules.isdisjoint({"modellab_async.client", "aiohttp", "tenacity"})


@pytest.mark.process
def test_help_is_shown_without_a_client() -> None:
    """The command's help imports nothing that only requests need."""
    pytest.importorskip("typer")
    modules = imported("-m", "modellab_async", "--help")
    assert "modellab_async.cli" in modules
    assert modules.isdisjoint({"modellab_async.client", "aiohttp", "tenacity", "duckdb", "pyarrow"})


@pytest.mark.process
def test_a_client_is_imported_without_the_edges() -> None:
    """Importing the client imports no edge of the package, and nothing that is optional."""
    modules = imported("-c", "from modellab_async import ModelLabClient")
    assert modules >= LIBRARIES
    assert NOT_IMPORTED.isdisjoint(modules)
