"""A made-up project."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from modellab_async.simulator import vocabulary as words
from modellab_async.simulator.resources import Attributes, Pair, pairs_to_json
from modellab_async.simulator.times import to_text

if TYPE_CHECKING:
    from modellab_async.simulator.world import World

_FIRST_PROJECT: Final = 1_727_740_800_000_000  # 2024-10-01, in microseconds
_DAY: Final = 86_400 * 1_000_000


class GeneratedProject:
    """One made-up project."""

    __slots__ = ("_draws", "_world", "id")

    def __init__(self, world: World, index: int) -> None:
        self._world = world
        self._draws = world.project_ids.draws(index)
        self.id: int = world.project_ids.id_of(index, self._draws[0])

    @property
    def name(self) -> str:
        """A subject and the id."""
        return f"{words.SUBJECTS[self._draws[1] % len(words.SUBJECTS)]}-{self.id}"

    @property
    def description(self) -> str:
        """Empty for every other project."""
        return "" if self._draws[2] % 2 else f"Experiments of the {self._team} team."

    @property
    def _team(self) -> str:
        return words.TEAMS[self.id % len(words.TEAMS)]

    @property
    def owner_id(self) -> str | None:
        """One of a few owners; rarely None."""
        draw = self._draws[3]
        return None if draw % 20 == 0 else self._world.owners[draw % len(self._world.owners)]

    @property
    def created(self) -> int:
        """Microseconds since the epoch, before the first run."""
        return _FIRST_PROJECT + self._draws[4] % 30 * _DAY + self._draws[5] * 10

    @property
    def updated(self) -> int:
        """Microseconds since the epoch."""
        return self.created + self._draws[6] % 500 * _DAY

    @property
    def tags(self) -> list[Pair] | None:
        """Its team and tier; with quirks sometimes None."""
        if self._world.quirks and self._draws[7] % 20 == 0:
            return None
        return [("team", self._team), ("tier", str(1 + self._draws[7] // 20 % 3))]

    @property
    def artifacts(self) -> dict[str, int]:
        """Path and size of the files that belong to the project itself."""
        draw = self._draws[8]
        return {"README.md": 900 + draw % 500, "shared/vocabulary.txt": 40_000 + draw % 9_000}

    def attributes(self) -> Attributes:
        """The attributes as served, apart from what requests have changed since."""
        return {
            "artifact_storage_location": f"s3://model-lab-artifacts.example/{self.id}",
            "created_at": to_text(self.created),
            "deleted_at": None,
            "description": self.description,
            "external_url": None,
            "is_starred": False,
            "name": self.name,
            "owner_id": self.owner_id,
            "tags": pairs_to_json(self.tags),
            "updated_at": to_text(self.updated),
        }
