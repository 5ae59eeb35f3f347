"""Docstrings as they are written here, made into what Sphinx reads.

They have fenced examples and single backticks, as on any page of these docs. A single backtick
becomes a link where it holds a public name, and plain code elsewhere.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import attrs

import modellab_async
import modellab_async.export
import modellab_async.frames
import modellab_async.simulator
import modellab_async.store

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_PACKAGES = (
    modellab_async,
    modellab_async.simulator,
    modellab_async.frames,
    modellab_async.export,
    modellab_async.store,
)

_GIVEN = {"modellab_async.Fetch", "modellab_async.Pager"}
"""Public classes that users are given and never make."""

_MADE = {"modellab_async.wire.Call"}
"""Classes of the rooms that users make."""

_SINGLE = re.compile(r"(?<![`:\w])`([^`\n]+)`(?!`)")
_ATTRIBUTES = {"attribute", "data", "property"}

_COLON = "\N{MODIFIER LETTER COLON} "
"""In place of a colon in an attribute's summary: napoleon would take what is before for a type."""

_DEFAULT = re.compile(r"attr_dict\['(\w+)'\]\.default")
"""Where attrs takes a default from, in the signature that it makes."""

_FENCE = re.compile(r"^(\s*)```(\w*)$")


def _linked(match: re.Match[str]) -> str:
    name = match[1]
    for package in _PACKAGES:
        if name.partition(".")[0] in package.__all__:
            return f":py:obj:`~{package.__name__}.{name}`"
    return f"``{name}``\\ "  # since a letter may follow


def to_rest(lines: list[str]) -> list[str]:
    """Lines of a docstring, as reStructuredText."""
    result: list[str] = []
    indent: str | None = None
    for line in lines:
        fence = _FENCE.match(line)
        if fence and indent is None:
            indent = fence[1]
            result += [f"{indent}.. code-block:: {fence[2] or 'text'}", ""]
        elif fence:
            indent = None
            result.append("")
        elif indent is not None:
            result.append(f"   {line}" if line.strip() else "")
        else:
            result.append(_SINGLE.sub(_linked, line))
    return result


def _before(
    _app: Sphinx, what: str, _name: str, _object: Any, _options: Any, lines: list[str]
) -> None:
    lines[:] = to_rest(lines)
    if what in _ATTRIBUTES and lines:
        lines[0] = lines[0].replace(": ", _COLON)


def _after(
    _app: Sphinx, what: str, _name: str, _object: Any, _options: Any, lines: list[str]
) -> None:
    if what in _ATTRIBUTES:
        lines[:] = [line.replace(_COLON, ": ") for line in lines]


def _signature(
    _app: Sphinx, what: str, name: str, object_: Any, _options: Any, signature: str, returns: str
) -> tuple[str | None, str | None]:
    """How to make what nobody makes by hand is no part of the reference."""
    public = {f"{package.__name__}.{each}" for package in _PACKAGES for each in package.__all__}
    if what == "class" and (name in _GIVEN or name not in public | _MADE):
        return "", None
    if what == "class" and attrs.has(object_) and signature:
        defaults = {field.name: field.default for field in attrs.fields(object_)}
        signature = _DEFAULT.sub(lambda match: repr(defaults[match[1]]), signature)
    return signature, returns


def setup(app: Sphinx) -> dict[str, bool]:
    """Around napoleon, which listens at the default priority."""
    app.connect("autodoc-process-docstring", _before, priority=100)
    app.connect("autodoc-process-docstring", _after, priority=900)
    app.connect("autodoc-process-signature", _signature)
    return {"parallel_read_safe": True}
