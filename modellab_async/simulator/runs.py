"""A made-up run: every attribute follows from its dice, and only what is asked for is worked out.

The shapes follow recorded production answers; `World.quirks` turns their oddities off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from modellab_async.simulator import vocabulary as words
from modellab_async.simulator.resources import Attributes, Pair, pairs_to_json
from modellab_async.simulator.times import to_text

if TYPE_CHECKING:
    from modellab_async.simulator.world import World

_FIRST_RUN: Final = 1_730_419_200_000_000  # 2024-11-01, in microseconds
_SECOND: Final = 1_000_000
_SPAN: Final = 560 * 86_400 * _SECOND
_FAMILY: Final = 16

# Number of params and of metric summaries in every run of that size.
_UNIFORM: Final = {"small": (5, 1), "medium": (18, 5), "large": (110, 22)}


def scatter(draw: int, position: int) -> int:
    """A 32-bit number for one of many choices that hang on the same draw."""
    mixed = (draw ^ (position * 0x9E3779B1)) & 0xFFFFFFFF
    mixed = (mixed ^ mixed >> 16) * 0x7FEB352D & 0xFFFFFFFF
    mixed = (mixed ^ mixed >> 15) * 0x846CA68B & 0xFFFFFFFF
    return mixed ^ mixed >> 16


class GeneratedRun:
    """One made-up run: what can be filtered and sorted by is cheap, the rest is built last."""

    __slots__ = ("_draws", "_head", "_head_draws", "_index", "_world", "id")

    def __init__(self, world: World, index: int) -> None:
        self._world = world
        self._index = index
        self._draws = draws = world.run_ids.draws(index)
        self.id: int = world.run_ids.id_of(index, draws[0])
        self._head = index - index % _FAMILY
        self._head_draws = draws if self._head == index else world.run_ids.draws(self._head)

    @property
    def _children_of_head(self) -> int:
        draw = self._head_draws[3]
        if draw % 100 >= 30:
            return 0
        return min(1 + draw // 100 % 8, len(self._world.run_ids) - 1 - self._head)

    @property
    def has_children(self) -> bool:
        """Whether it heads a family that has other members."""
        return self._index == self._head and self._children_of_head > 0

    @property
    def parent_id(self) -> int | None:
        """The head of its family, if it is one of the other members."""
        if 0 < self._index - self._head <= self._children_of_head:
            return self._world.run_ids.id_of(self._head, self._head_draws[0])
        return None

    @property
    def project_id(self) -> int:
        """Its project; a family stays in one."""
        draws = self._draws if self.parent_id is None else self._head_draws
        ids = self._world.project_ids
        # Squared, so that a few projects hold many runs and many hold a few.
        return ids[int(len(ids) * (draws[13] / 2**32) ** 2)]

    @property
    def name(self) -> str:
        """Two words and a number; other runs may have the same."""
        draw = self._draws[10]
        adjective = words.ADJECTIVES[draw % 20]
        return f"{adjective}-{words.ANIMALS[draw // 20 % 20]}-{draw // 400 % 1000}"

    @property
    def description(self) -> str:
        """Mostly empty; some with quotes, line breaks or characters beyond ASCII."""
        draw = self._draws[12]
        return words.DESCRIPTIONS[draw // 8 % 5] if draw % 2 else ""

    @property
    def status(self) -> str:
        """Mostly completed; with quirks, rarely one that no reference lists."""
        status = words.STATUS_OF_THOUSAND[self._draws[2] % 1000]
        return "completed" if status == words.UNKNOWN_STATUS and not self._world.quirks else status

    @property
    def owner_id(self) -> str | None:
        """One of forty owners; rarely None."""
        draw = self._draws[4]
        return None if draw % 33 == 0 else self._world.owners[draw // 33 % len(self._world.owners)]

    @property
    def created(self) -> int:
        """Microseconds since the epoch; grows with the index."""
        # Rounding takes less than a second, so that later runs are always created later.
        step = max(2 * _SECOND, _SPAN // len(self._world.run_ids))
        jitter = _SECOND + self._draws[1] * 1024 % (step - _SECOND)
        return self._rounded(_FIRST_RUN + self._index * step + jitter)

    @property
    def _started(self) -> int | None:
        return None if self.status == "pending" else self.created + self._draws[5] % 90_000

    @property
    def _duration(self) -> int | None:
        if self.status not in {"completed", "failed", "killed", words.UNKNOWN_STATUS}:
            return None
        draw = self._draws[5]
        seconds = 10 ** (draw % 5000 / 1000)
        return int(seconds) * 1_000_000 if draw % 4 == 0 else int(seconds * 1_000_000)

    @property
    def _completed(self) -> int | None:
        started, duration = self._started, self._duration
        return None if started is None or duration is None else started + duration

    @property
    def updated(self) -> int:
        """Microseconds since the epoch."""
        completed = self._completed
        if completed is not None:
            return completed
        return self.created + self._draws[14] % 3_600_000_000

    @property
    def duration(self) -> float | None:
        """Seconds; None for a run that has not ended."""
        microseconds = self._duration
        return None if microseconds is None else microseconds / 1_000_000

    def _rounded(self, microseconds: int) -> int:
        unit: int = 10 ** (self._draws[12] // 64 % 7)
        return microseconds - microseconds % unit

    def _number(self, value: float) -> float:
        if self._world.quirks and value == int(value):
            return int(value)
        return round(float(value), 9)

    @property
    def _extent(self) -> tuple[int | None, int]:
        """How many params and metric summaries there are; None for params that are null."""
        if self._world.size != "mixed":
            return _UNIFORM[self._world.size]
        draw = self._draws[6]
        share, more = draw % 1000, draw // 1000
        if share < 400:
            return None if self._world.quirks else 0, 1 + more % 5
        if share < 850:
            return 6 + more % 12, 2 + more % 5
        if share < 935:
            return 30 + more % 40, 6 + more % 9
        return 104 + more % 12, 20 + more % 5

    @property
    def _first_param(self) -> int:
        # Neighbours in a project share most of their keys.
        return self.project_id % 4

    def _param(self, position: int) -> Pair:
        key, values = words.PARAMS[position]
        return key, str(values[scatter(self._draws[7], position) % len(values)])

    @property
    def params(self) -> list[Pair] | None:
        """Its params in order; with quirks None in two runs of five, and rarely with a repeat."""
        count, _ = self._extent
        if count is None:
            return None
        start = self._first_param
        pairs = [self._param(position) for position in range(start, start + count)]
        draw = self._draws[7]
        if self._world.quirks and self._world.size == "mixed" and count > 8:
            if draw % 25 == 0:
                pairs.append((words.LONG_KEY, words.LONG_VALUE % self.name))
            if draw % 50 == 1:
                pairs.append(pairs[0])
        return pairs

    def param_values(self, key: str) -> list[str]:
        """The values under one key, without building all params where that can be helped."""
        position = words.PARAM_POSITIONS.get(key)
        count, _ = self._extent
        if position is None:
            return [value for name, value in self.params or () if name == key]
        if count is None or not 0 <= position - self._first_param < count:
            return []
        return [self._param(position)[1]]

    @property
    def tags(self) -> list[Pair] | None:
        """Its tags in order; with quirks None in one run of twenty."""
        draw = self._draws[9]
        if self._world.quirks and draw % 20 == 0:
            return None
        tags = [
            ("team", words.TEAMS[self.project_id % len(words.TEAMS)]),
            ("mlflow.runName", self.name),
            ("mlflow.user", words.USERS[self._draws[4] % len(words.USERS)]),
        ]
        if draw % 3 == 0:
            tags.append(("env", ("prod", "staging", "dev")[draw // 3 % 3]))
        return tags

    def _metrics(self) -> list[Attributes] | None:
        _, count = self._extent
        draw = self._draws[8]
        quirks = self._world.quirks
        if quirks and self._world.size == "mixed" and draw % 25 == 0:
            return None
        return [self._metric(scatter(draw, position), position) for position in range(count)]

    def _metric(self, draw: int, position: int) -> Attributes:
        key = words.METRICS[position % len(words.METRICS)]
        count = 1 + draw % 5000
        low, latest, high = sorted(scatter(draw, n) % 1_000_000_000 for n in range(3))
        if draw % 40 == 0:
            low = latest = high = 0
        unit = 31_781 if key in words.BYTE_METRICS else 1e-9
        metric: Attributes = {
            "count": count,
            "first_step": 0,
            "key": key,
            "last_step": None if draw % 60 == 1 else (count - 1) * 10,
            "latest": None if draw % 60 == 2 else self._number(latest * unit),
            "max": self._number(high * unit),
            "mean": self._number((low + high) // 2 * unit),
            "min": self._number(low * unit),
        }
        if not self._world.quirks:
            metric["stddev"] = (high - low) * unit / 4
        return metric

    def attributes(self) -> Attributes:
        """The attributes as served, apart from what requests have changed since."""
        draws, completed, started = self._draws, self._completed, self._started
        duration = self.duration
        attributes: Attributes = {
            "completed_at": None if completed is None else to_text(completed),
            "created_at": to_text(self.created),
            "deleted_at": None,
            "descendant_match": False,
            "description": self.description,
            "duration": None if duration is None else self._number(duration),
            "external_url": None
            if draws[11] % 3
            else f"https://ci.example.com/pipelines/{draws[11] % 900_000}/jobs/{draws[14]}",
            "has_children": self.has_children,
            "is_pinned": False,
            "metric_summaries": self._metrics(),
            "mlflow_artifact_location": f"mlflow-artifacts:/{self.project_id}/{self.path}",
            "name": self.name,
            "owner_id": self.owner_id,
            "params": pairs_to_json(self.params),
            "project_id": self.project_id,
            "started_at": None if started is None else to_text(started),
            "status": self.status,
            "tags": pairs_to_json(self.tags),
            "updated_at": to_text(self.updated),
        }
        if self._world.quirks:
            if completed is None:
                del attributes["completed_at"]
            if draws[11] % 50 == 0:
                attributes["compute"] = {
                    "accelerators": [{"kind": "h100", "count": 8}],
                    "spot": None,
                }
        return attributes

    @property
    def path(self) -> str:
        """Where its artifacts are, relative to the project's."""
        return f"{self._draws[14]:08x}{self._draws[15]:08x}{self.id:016x}/artifacts"

    @property
    def artifacts(self) -> dict[str, int]:
        """Path and size of every artifact; about one run in eight has none."""
        draw = self._draws[15]
        return {
            path: size and size + scatter(draw, position) % 1000
            for position, (path, size) in enumerate(words.FILES)
            if draw % 8 and (position == 0 or scatter(draw, position) % 3)
        }
