"""What the simulator needs to know of a run or project, made up or declared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

Attributes: TypeAlias = dict[str, Any]
Pair: TypeAlias = tuple[str, str]


class Resource(Protocol):
    """What runs and projects are filtered and sorted by; times in microseconds since the epoch."""

    @property
    def id(self) -> int:
        """The id."""
        ...

    @property
    def name(self) -> str:
        """The name."""
        ...

    @property
    def description(self) -> str:
        """The description."""
        ...

    @property
    def owner_id(self) -> str | None:
        """The owner, if any."""
        ...

    @property
    def created(self) -> int:
        """When it was created, in microseconds since the epoch."""
        ...

    @property
    def updated(self) -> int:
        """When it was last changed, in microseconds since the epoch."""
        ...

    @property
    def tags(self) -> list[Pair] | None:
        """The tags in order."""
        ...

    @property
    def artifacts(self) -> Mapping[str, int | bytes]:
        """Path, and size or content, of every artifact."""
        ...

    def attributes(self) -> Attributes:
        """The attributes as served, apart from what requests have changed since."""
        ...


class RunResource(Resource, Protocol):
    """What only runs have."""

    @property
    def project_id(self) -> int:
        """The project it belongs to."""
        ...

    @property
    def parent_id(self) -> int | None:
        """The run it is a child of, if any."""
        ...

    @property
    def status(self) -> str:
        """The status, as of now."""
        ...

    @property
    def duration(self) -> float | None:
        """Seconds, if it has ended."""
        ...

    @property
    def params(self) -> list[Pair] | None:
        """The params in order."""
        ...

    def param_values(self, key: str) -> list[str]:
        """The values of the params with that key."""
        ...

    @property
    def path(self) -> str:
        """Where its artifacts are, relative to the project's."""
        ...


def pairs_to_json(pairs: list[Pair] | None) -> list[dict[str, str]] | None:
    """Params or tags as the API writes them."""
    return None if pairs is None else [{"key": key, "value": value} for key, value in pairs]
