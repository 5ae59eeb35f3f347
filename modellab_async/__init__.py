"""An asyncio-first client for Datadog's Model Lab API.

Example:
    ```python
    from modellab_async import ModelLabClient

    async with ModelLabClient() as lab:
        run = await lab.runs.get(70158)
    ```
"""

from importlib import import_module
from typing import TYPE_CHECKING

from modellab_async._version import __version__

if TYPE_CHECKING:
    from modellab_async.bulk import Fetch, Outcome
    from modellab_async.client import ModelLabClient
    from modellab_async.clock import Clock
    from modellab_async.collector import large_results
    from modellab_async.comparison import Comparison, compare
    from modellab_async.converter import (
        Converter,
        configure_converter,
        from_dict,
        from_json,
        make_converter,
        to_dict,
        to_json,
    )
    from modellab_async.errors import (
        AuthenticationError,
        BadRequestError,
        BulkError,
        CallError,
        ClientClosedError,
        ConfigError,
        DecodeError,
        DownloadError,
        ErrorDetail,
        ErrorSource,
        ExportError,
        InvalidIdError,
        MissingExtraError,
        ModelLabError,
        NotFoundError,
        PermissionDeniedError,
        RateLimitedError,
        RequestTimeoutError,
        ServerError,
        StatusError,
        StoreError,
        TransportError,
        WaitTimeoutError,
    )
    from modellab_async.hooks import (
        AttemptInfo,
        CallInfo,
        DoneInfo,
        Hooks,
        PauseInfo,
        RetryInfo,
        WaitInfo,
    )
    from modellab_async.models import (
        ROOT_RUNS,
        FacetKeys,
        FacetValues,
        MetricStatRange,
        MetricSummary,
        NumericRange,
        Page,
        Param,
        Project,
        ProjectArtifacts,
        ProjectFile,
        ProjectFilter,
        Run,
        RunArtifacts,
        RunFile,
        RunFilter,
        RunStatus,
        Tag,
    )
    from modellab_async.pagination import Pager
    from modellab_async.ratelimit import RateLimit
    from modellab_async.retry import RetryPolicy
    from modellab_async.run_list import RunList
    from modellab_async.stats import Stats

__all__ = [
    "ROOT_RUNS",
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

_MODULES = {
    "bulk": ("Fetch", "Outcome"),
    "client": ("ModelLabClient",),
    "clock": ("Clock",),
    "collector": ("large_results",),
    "comparison": ("Comparison", "compare"),
    "converter": (
        "Converter",
        "configure_converter",
        "from_dict",
        "from_json",
        "make_converter",
        "to_dict",
        "to_json",
    ),
    "errors": (
        "AuthenticationError",
        "BadRequestError",
        "BulkError",
        "CallError",
        "ClientClosedError",
        "ConfigError",
        "DecodeError",
        "DownloadError",
        "ErrorDetail",
        "ErrorSource",
        "ExportError",
        "InvalidIdError",
        "MissingExtraError",
        "ModelLabError",
        "NotFoundError",
        "PermissionDeniedError",
        "RateLimitedError",
        "RequestTimeoutError",
        "ServerError",
        "StatusError",
        "StoreError",
        "TransportError",
        "WaitTimeoutError",
    ),
    "hooks": ("AttemptInfo", "CallInfo", "DoneInfo", "Hooks", "PauseInfo", "RetryInfo", "WaitInfo"),
    "models": (
        "ROOT_RUNS",
        "FacetKeys",
        "FacetValues",
        "MetricStatRange",
        "MetricSummary",
        "NumericRange",
        "Page",
        "Param",
        "Project",
        "ProjectArtifacts",
        "ProjectFile",
        "ProjectFilter",
        "Run",
        "RunArtifacts",
        "RunFile",
        "RunFilter",
        "RunStatus",
        "Tag",
    ),
    "pagination": ("Pager",),
    "ratelimit": ("RateLimit",),
    "retry": ("RetryPolicy",),
    "run_list": ("RunList",),
    "stats": ("Stats",),
}
"""Where each public name is defined."""

_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

if not TYPE_CHECKING:  # a type checker would take any name for one that this function knows

    def __getattr__(name: str) -> object:
        """Import a public name or module at its first use (PEP 562): all take a while."""
        if name in _MODULES or name in {"endpoints", "limiter"}:
            return import_module(f"{__name__}.{name}")
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
