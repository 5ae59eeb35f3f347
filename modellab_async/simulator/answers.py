"""What an operation answers, before it is put on the wire, and the errors in their forms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

import attrs
import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from modellab_async.simulator.resources import Attributes

JSON: Final = "application/json"
HTML: Final = "text/html"

Headers = tuple[tuple[str, str], ...]


class Body(Protocol):
    """Bytes too many to hold at once."""

    def __len__(self) -> int: ...

    def chunks(self) -> Iterator[bytes]:
        """The bytes, a piece at a time."""
        ...


@attrs.frozen
class Answer:
    """A status, a body and the headers that belong to them."""

    status: int = 200
    body: bytes | Body = b""
    content_type: str = JSON
    headers: Headers = ()


NO_CONTENT: Final = Answer(status=204)


def json_answer(content: Any, *, status: int = 200) -> Answer:
    """An answer with a JSON body."""
    return Answer(status, msgspec.json.encode(content))


def error_answer(status: int, title: str, detail: str, more: Attributes | None = None) -> Answer:
    """The error form that is a list of objects, here of one."""
    error = {"title": title, "detail": detail, **(more or {})}
    return json_answer({"errors": [error]}, status=status)


def plain_error(status: int, message: str) -> Answer:
    """The error form that is a list of strings."""
    return json_answer({"errors": [message]}, status=status)


class RequestRefusedError(Exception):
    """The request cannot be carried out; holds the answer that says so."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"status {answer.status}")
        self.answer = answer


class NotFoundError(RequestRefusedError, LookupError):
    """There is no such thing; the body is the recorded one."""

    def __init__(self, what: str) -> None:
        super().__init__(error_answer(404, "Generic Error", f"{what} not found"))


class BadParameterError(RequestRefusedError):
    """A parameter of the path or the query makes no sense."""

    def __init__(self, parameter: str, detail: str) -> None:
        more = {"status": "400", "source": {"parameter": parameter}}
        super().__init__(error_answer(400, "Bad Request", detail, more))
