"""Docstrings as they are written here, made into what Sphinx reads.

They have fenced examples and single backticks, as on any page of these docs. Single backticks
become a link if they hold a public name, and plain code otherwise.
"""

from __future__ import annotations

import re
import sys
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

_RECEIVED = {
    "modellab_async." + name
    for name in (
        *("AttemptInfo", "CallInfo", "DoneInfo", "Fetch", "Pager", "PauseInfo", "RetryInfo"),
        *("Stats", "WaitInfo"),
    )
}
"""Public classes that users receive and never create: their signatures say nothing."""

_CREATED = {
    "modellab_async.endpoints.Call",
    "modellab_async.limiter.AdaptiveLimiter",
    "modellab_async.limiter.PermitRequest",
}
"""Classes outside the public packages that users create."""

_ALIASES = {
    "RateLimit": "modellab_async.RateLimit",
    "Token": "modellab_async.config.Token",
    "bulk.Progress": "modellab_async.bulk.Progress",
    "bulk.Route": "modellab_async.bulk.Route",
    "endpoints.FacetType": "modellab_async.endpoints.FacetType",
}
"""Names in signatures that Sphinx does not resolve, and what they mean, but in the simulator."""

_ALIAS = re.compile(rf"(?<![\w.])({'|'.join(map(re.escape, _ALIASES))})(?!\w)")
_CONSTANT = re.compile(r"(?<== )([A-Z][A-Z_]+)\b")
_LONGEST_DEFAULT = 24

_OVERRIDE = re.compile(r"(?:~?typing\.)?Annotated\[(.+?), ~?[\w.]*AttributeOverride\(.*?\)\]")
"""A type with an instruction for cattrs."""

_SINGLE = re.compile(r"(?<![`:\w])`([^`\n]+)`(?!`)")
_ATTRIBUTES = {"attribute", "data", "property"}

_COLON = "\N{MODIFIER LETTER COLON} "
"""Replaces a colon in an attribute's summary: napoleon takes what precedes it for a type."""

_DEFAULT = re.compile(r"attr_dict\['(\w+)'\]\.default")
"""How attrs writes a default in the signature that it makes."""

_FENCE = re.compile(r"^(\s*)```(\w*)$")


def _linked(match: re.Match[str]) -> str:
    name = match[1]
    owner, dot, attribute = name.partition(".")
    for package in _PACKAGES:
        if owner not in package.__all__:
            continue
        target = f"{package.__name__}.{name}"
        if dot and not hasattr(getattr(package, owner), attribute):  # described in its class
            return f":py:obj:`{name} <{package.__name__}.{owner}>`"
        return f":py:obj:`~{target}`"
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
    _app: Sphinx, what: str, _name: str, object_: Any, _options: Any, lines: list[str]
) -> None:
    if what == "data" and lines and lines[0] in (type(object_).__doc__ or ""):
        lines.clear()  # the docstring of `str` or `int`
    lines[:] = to_rest(lines)
    if what in _ATTRIBUTES and lines:
        lines[0] = lines[0].replace(": ", _COLON)


def _after(
    _app: Sphinx, what: str, name: str, _object: Any, _options: Any, lines: list[str]
) -> None:
    if what in _ATTRIBUTES:
        lines[:] = [line.replace(_COLON, ": ") for line in lines]
    lines[:] = [_resolve(line, name) if ":vartype " in line else line for line in lines]


def _resolve(text: str, name: str) -> str:
    """Annotations with the full names of what Sphinx does not find."""
    if name.startswith("modellab_async.simulator"):
        return text
    return _ALIAS.sub(lambda match: _ALIASES[match[1]], text)


def _shown(default: Any) -> str:
    """A default as the reference shows it."""
    if callable(default):
        name = getattr(default, "__qualname__", "_")
        return "..." if name.startswith("_") else f"{default.__module__ or 'random'}.{name}"
    return repr(default)


def _signature(
    _app: Sphinx, what: str, name: str, object_: Any, _options: Any, signature: str, returns: str
) -> tuple[str | None, str | None]:
    """Show values of defaults, link type aliases, and leave out what users never create."""
    public = {f"{package.__name__}.{each}" for package in _PACKAGES for each in package.__all__}
    if not signature:
        return signature, returns
    if what == "exception" or (
        what == "class" and (name in _RECEIVED or name not in public | _CREATED)
    ):
        return "", None
    if what == "class" and attrs.has(object_):
        defaults = {field.name: field.default for field in attrs.fields(object_)}
        signature = _DEFAULT.sub(lambda match: _shown(defaults[match[1]]), signature)
    constants = vars(sys.modules.get(getattr(object_, "__module__", None) or "", object_))

    def value(match: re.Match[str]) -> str:
        shown = repr(constants.get(match[1], match[1]))
        return shown if match[1] in constants and len(shown) < _LONGEST_DEFAULT else match[1]

    signature = _OVERRIDE.sub(r"\1", _CONSTANT.sub(value, signature))
    return _resolve(signature, name), returns


def setup(app: Sphinx) -> dict[str, bool]:
    """Listen before and after napoleon, which has the default priority."""
    app.connect("autodoc-process-docstring", _before, priority=100)
    app.connect("autodoc-process-docstring", _after, priority=900)
    app.connect("autodoc-process-signature", _signature)
    return {"parallel_read_safe": True}
