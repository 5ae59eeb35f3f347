"""Annotations are real objects at run time, for pydantic, cattrs, FastAPI and mocks to read."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import modellab_async
from modellab_async import limiter
from modellab_async.closing import BackgroundIterator
from modellab_async.endpoints import Call
from modellab_async.resources import Artifacts, Projects, Runs
from modellab_async.transport import Stream
from modellab_async.waiting import RunWatcher

# What the public methods take and return beside the exported names.
BESIDES = [
    Artifacts,
    BackgroundIterator,
    Call,
    Projects,
    RunWatcher,
    Runs,
    Stream,
    limiter.AdaptiveLimiter,
    limiter.Limiter,
    limiter.Permit,
    limiter.PermitRequest,
    limiter.QuotaExhaustedError,
]
EXPORTED = [getattr(modellab_async, name) for name in modellab_async.__all__]
ANNOTATED = [value for value in [*EXPORTED, *BESIDES] if inspect.isclass(value) or callable(value)]


def functions_of(value: Any) -> Iterator[Callable[..., Any]]:
    """A function, or the constructor and the public methods and properties of a class."""
    if inspect.isfunction(value):
        yield value
    if not inspect.isclass(value):
        return
    for cls in value.__mro__:
        if not cls.__module__.startswith("modellab_async"):
            continue
        for name, member in vars(cls).items():
            function = getattr(member, "fget", None) or getattr(member, "__func__", member)
            public = not name.startswith("_") or name in {"__init__", "__aiter__", "__anext__"}
            ours = inspect.isfunction(function) and function.__module__ == cls.__module__
            if public and ours:
                yield inspect.unwrap(function)


@pytest.mark.parametrize("value", ANNOTATED, ids=lambda value: value.__name__)
def test_hints_can_be_evaluated(value: Any):
    """`typing.get_type_hints` knows every name in the annotations of a public name."""
    typing.get_type_hints(value)
    for function in functions_of(value):
        hints = typing.get_type_hints(function)
        assert "return" in hints, function.__qualname__


def test_the_walk_reaches_methods_properties_and_constructors():
    """The functions that are checked include those of each kind."""
    names = {function.__qualname__ for function in functions_of(modellab_async.ModelLabClient)}
    assert {
        "ModelLabClient.__init__",
        "ModelLabClient.perform",
        "ModelLabClient.stats",
        "ModelLabClient.aclose",
    } <= names
