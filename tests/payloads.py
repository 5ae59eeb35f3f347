"""Runs as the API sends them, and converters to read them with."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import cattrs
import msgspec
import pytest

from modellab_async import DecodeError, Run, make_converter
from modellab_async.documents import DecodedPage, decode_page

REQUIRED: dict[str, Any] = {
    "name": "resnet",
    "project_id": 2387,
    "status": "completed",
    "created_at": "2026-05-15T02:57:03.079Z",
}


def resource(run_id: object = "7", **attributes: Any) -> dict[str, Any]:
    """A run with its required attributes and these."""
    return {"id": run_id, "type": "runs", "attributes": REQUIRED | attributes}


def body(run_id: object = "7", **attributes: Any) -> bytes:
    """The response with such a run."""
    return json.dumps({"data": resource(run_id, **attributes)}, ensure_ascii=False).encode()


def strict(value: Any, kind: Any) -> Any:
    """A user's structure hook that takes what the package's own takes."""
    if kind is datetime and datetime.fromisoformat(str(value)).tzinfo is None:
        raise ValueError("Expected a time with a zone")
    return msgspec.convert(value, kind)


def hooked() -> cattrs.Converter:
    """A converter with a user's hook for the type of every value, so that cattrs calls them all."""
    converter = make_converter()
    for kind in (str, int, float, bool, datetime):
        converter.register_structure_hook(kind, strict)
    return converter


def failure(action: Callable[[], object]) -> DecodeError:
    """The error that an action ends in."""
    with pytest.raises(DecodeError) as caught:
        action()
    return caught.value


def open_page(raw: bytes, converter: cattrs.Converter) -> DecodedPage:
    """A page of runs, decoded in an event loop of its own."""
    return asyncio.run(decode_page(raw, Run, converter))
