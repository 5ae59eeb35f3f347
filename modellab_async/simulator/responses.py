"""Responses, errors in both of their forms, and the exceptions that stand for a response."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import attrs
import msgspec

from modellab_async.simulator.artifacts import Content

Headers: TypeAlias = tuple[tuple[str, str], ...]


@attrs.frozen
class Response:
    """A status, a body and the headers that belong to them; may be sent many times.

    Attributes:
        part: which bytes of the body are sent, if not all.
    """

    status: int = 200
    body: bytes | Content = b""
    content_type: str = "application/json"
    headers: Headers = ()
    part: range | None = None

    def read(self, start: int, stop: int) -> bytes:
        """Some bytes of the body."""
        return (
            self.body[start:stop] if isinstance(self.body, bytes) else self.body.read(start, stop)
        )


NO_CONTENT: Final = Response(status=204)


def json_response(content: Any, *, status: int = 200) -> Response:
    """A response with a JSON body."""
    return Response(status, msgspec.json.encode(content))


def error_response(status: int, title: str, detail: str, /, **more: Any) -> Response:
    """The error form that is a list of objects, here of one."""
    return json_response({"errors": [{"title": title, "detail": detail, **more}]}, status=status)


def plain_error(status: int, message: str) -> Response:
    """The error form that is a list of strings."""
    return json_response({"errors": [message]}, status=status)


class RequestRefusedError(Exception):
    """The request cannot be carried out; holds the response that says so."""

    def __init__(self, response: Response) -> None:
        super().__init__(f"status {response.status}")
        self.response = response


class NotFoundError(RequestRefusedError, LookupError):
    """There is no such resource; the body is the recorded one."""

    def __init__(self, what: str) -> None:
        super().__init__(error_response(404, "Generic Error", f"{what} not found"))


class BadParameterError(RequestRefusedError):
    """A parameter of the path or the query makes no sense."""

    def __init__(self, parameter: str, detail: str) -> None:
        source = {"parameter": parameter}
        super().__init__(error_response(400, "Bad Request", detail, status="400", source=source))
