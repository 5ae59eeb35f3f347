"""What users may rely on: the names that the package exports, and what importing it costs."""

from __future__ import annotations

import inspect
import json
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


@pytest.mark.process
def test_importing_is_lean() -> None:
    """Importing the package imports no edge of it, and nothing that is optional."""
    code = "import modellab_async, sys, json; print(json.dumps(sorted(sys.modules)))"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    assert NOT_IMPORTED.isdisjoint(json.loads(answer.stdout))
