"""Made-up runs and projects: each follows from the seed and its number.

The shapes follow recorded answers; without `quirks` they keep to the published reference.
"""

from __future__ import annotations

import functools
import struct
import uuid
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

import attrs

from modellab_async.simulator.fixtures import (
    RUN_DEFAULTS,
    Attributes,
    ListField,
    Pair,
    PairsField,
    Project,
    RunRow,
    pairs_of,
    project_attributes,
    to_entries,
)
from modellab_async.simulator.times import to_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Size: TypeAlias = Literal["mixed", "small", "medium", "large"]

STATUSES: Final = ("pending", "running", "completed", "failed", "killed", "unresponsive", "paused")

UNKNOWN_STATUS: Final = "queued"
"""A status that the published reference does not list."""

_STATUS_OF_THOUSAND: Final[Sequence[str]] = (
    *["completed"] * 780,
    *["failed"] * 100,
    *["killed"] * 50,
    *["running"] * 25,
    *["unresponsive"] * 20,
    *["pending"] * 12,
    *["paused"] * 10,
    *[UNKNOWN_STATUS] * 3,
)

_ENDED: Final = frozenset({"completed", "failed", "killed", UNKNOWN_STATUS})

_ADJECTIVES: Final = (
    "amber", "bold", "brisk", "calm", "clever", "crisp", "eager", "fancy", "gentle", "grand",
    "hasty", "jolly", "keen", "lively", "mellow", "nimble", "polite", "quiet", "rapid", "sunny",
)  # fmt: skip
_ANIMALS: Final = (
    "ant", "auk", "bee", "colt", "crane", "deer", "finch", "fox", "goose", "hare",
    "ibis", "koi", "lark", "lynx", "mole", "newt", "otter", "perch", "seal", "wren",
)  # fmt: skip

_DESCRIPTIONS: Final = (
    "",
    "Baseline with the default learning rate.",
    "Longer warm-up, same data as the run before; compare eval_loss after 10k steps.",
    'Re-run of "baseline" with\nseed fixed and dropout off.',
    "Größerer Batch für den A/B-Vergleich, 学習率を半分にした 🚀",
)

_TEAMS: Final = ("ranking", "search", "ads", "speech", "vision", "fraud", "forecasting", "platform")
_SUBJECTS: Final = (
    "click-model", "dense-retrieval", "query-rewrite", "churn", "speech-to-text", "layout",
    "anomaly", "embedding", "summaries", "reranker", "toxicity", "translation", "capacity",
)  # fmt: skip
_USERS: Final = tuple(f"user{number:02d}@example.com" for number in range(24))

_FLAG: Final = ("True", "False")
_FRACTION: Final = ("0.0", "0.05", "0.1", "0.2", "0.5")
_SIZE: Final = ("8", "16", "32", "64", "128", "256", "512", "1024")
_RATE: Final = ("0.1", "0.03", "0.01", "0.003", "0.001", "0.0003", "1e-05")
_SETTINGS: Final[Sequence[tuple[str, Sequence[str] | range]]] = (
    ("learning_rate", _RATE),
    ("batch_size", _SIZE),
    ("dropout", _FRACTION),
    ("seed", range(100_000)),
    ("enabled", _FLAG),
    ("name", ("adamw", "cosine", "linear", "transformer", "lion", "None")),
    ("max_steps", ("1000", "5000", "10000", "50000", "200000")),
    ("hidden_size", ("256", "512", "768", "1024", "4096")),
    ("dtype", ("bfloat16", "float16", "float32")),
    ("weight_decay", _FRACTION),
    ("path", ("s3://datasets.example/v1/train", "s3://datasets.example/v2/train", "/mnt/data")),
    ("num_workers", ("0", "2", "4", "8")),
    ("layers", ("[2, 4, 8]", "[6]", "[12, 24]")),
    ("warmup_ratio", ("0.0", "0.03", "0.06", "0.1")),
    ("use_cache", _FLAG),
    ("version", ("1.0.0", "1.2.3", "2.0.0rc1")),
)
_SECTIONS: Final = (
    "", "model.", "dataset.", "optimizer.",
    "scheduler.", "trainer.", "evaluation.", "adapter.lora.",
)  # fmt: skip

_PARAMS: Final[Sequence[tuple[str, Sequence[str] | range]]] = tuple(
    (section + setting, values) for section in _SECTIONS for setting, values in _SETTINGS
)
"""128 parameter keys, each with the values it takes."""

_PARAM_POSITIONS: Final = {key: position for position, (key, _) in enumerate(_PARAMS)}

_BYTE_METRICS: Final = frozenset({"system/gpu_0_memory_bytes", "system/network_bytes"})
_METRICS: Final = (
    "train/loss", "eval_loss", "eval_accuracy", "train/grad_norm", "train/learning_rate",
    "system/gpu_0_memory_bytes", "eval_f1", "eval_auc", "train/epoch", "eval/ndcg@10",
    "train/tokens_per_second", "system/cpu_percent", "system/gpu_0_percent", "eval_recall",
    "eval_precision", "system/network_bytes", "train/perplexity", "eval/perplexity",
    "train/global_step", "eval/mrr", "train/step_seconds", "eval_runtime_seconds",
    "train/clip_fraction", "eval_samples_per_second",
)  # fmt: skip

_LONG_KEY: Final = "config"
_LONG_VALUE: Final = (
    "{'experiment': {'name': \"%s\", 'resume': None, 'strict': True},\n"
    " 'note': 'don\\'t \"quote\" me,\\tplease',\n"
    + "".join(
        f" 'stage_{stage:02d}': {{'kind': \"dense\", 'units': ({2 ** (stage % 9)}, 3.5e-05),"
        f" 'flags': [True, False, None], 'path': r'C:\\data\\stage{stage}'}},\n"
        for stage in range(17)
    )
    + "}\n"
)
"""About 2 KB of Python literal: quotes, newlines, backslashes. `%s` takes the run's name."""

_FILES: Final = (
    ("config.yaml", 2_048),
    ("metrics.json", 16_384),
    ("model/MLmodel", 700),
    ("model/weights.safetensors", 4_194_304),
    ("model/tokenizer/vocab.json", 120_000),
    ("checkpoints/step-1000/optimizer.pt", 1_048_576),
    ("checkpoints/step-2000/optimizer.pt", 1_048_576),
    ("plots/confusion matrix.png", 45_000),
    ("plots/größe.svg", 9_000),
    ("logs/stdout.txt", 0),
)
"""Artifacts that runs have, with about their sizes in bytes."""

_FAMILY: Final = 16
_FIRST_PROJECT: Final = 1_727_740_800_000_000  # 2024-10-01, in microseconds
_FIRST_RUN: Final = 1_730_419_200_000_000  # 2024-11-01, in microseconds
_SECOND: Final = 1_000_000
_DAY: Final = 86_400 * _SECOND
_SPAN: Final = 560 * _DAY

# Number of params and of metric summaries in every run of that size.
_UNIFORM: Final = {"small": (5, 1), "medium": (18, 5), "large": (110, 22)}

_DRAWS: Final = struct.Struct("<16I")


class _Ids:
    """Ascending ids with gaps, each with sixteen random 32-bit numbers."""

    def __init__(self, seed: int, kind: str, *, count: int, lowest: int, highest: int) -> None:
        self._hash = blake2b(digest_size=64, key=f"{seed}/{kind}".encode()[:64])
        self._lowest = lowest
        self._stride = max(2, (highest - lowest) // max(1, count))

    def draw(self, number: int) -> tuple[int, tuple[int, ...]]:
        """The id of that number, and its random numbers."""
        digest = self._hash.copy()
        digest.update(number.to_bytes(8, "little"))
        draws = _DRAWS.unpack(digest.digest())
        return self._lowest + number * self._stride + draws[0] % self._stride, draws


@attrs.frozen(slots=False)
class Generator:
    """Makes up an organization of `runs` runs in `projects` projects."""

    seed: int
    runs: int
    projects: int
    size: Size
    quirks: bool

    def __attrs_post_init__(self) -> None:
        if self.runs < 0 or self.projects < 0:
            raise ValueError("the numbers of runs and projects must not be negative")
        if self.runs and not self.projects:
            raise ValueError("runs need at least one project")
        if self.size not in get_args(Size):
            raise ValueError(f"size must be mixed, small, medium or large, not {self.size!r}")

    @functools.cached_property
    def owners(self) -> tuple[str, ...]:
        """The users who own runs and projects."""
        names = (f"{self.seed}/{number}".encode() for number in range(40))
        return tuple(str(uuid.UUID(bytes=blake2b(n, digest_size=16).digest())) for n in names)

    @functools.cached_property
    def _run_draws(self) -> _Ids:
        return _Ids(self.seed, "run", count=self.runs, lowest=10_000, highest=999_999)

    @functools.cached_property
    def _project_draws(self) -> Sequence[tuple[int, tuple[int, ...]]]:
        ids = _Ids(self.seed, "project", count=self.projects, lowest=1_000, highest=9_999)
        return [ids.draw(number) for number in range(self.projects)]

    def make_projects(self) -> Iterator[Project]:
        """All projects, by ascending id."""
        for project_id, draws in self._project_draws:
            team = _TEAMS[project_id % len(_TEAMS)]
            created = _FIRST_PROJECT + draws[4] % 30 * _DAY + draws[5] * 10
            tags = to_entries([("team", team), ("tier", str(1 + draws[7] // 20 % 3))])
            attributes = {
                "description": "" if draws[2] % 2 else f"Experiments of the {team} team.",
                "name": f"{_SUBJECTS[draws[1] % len(_SUBJECTS)]}-{project_id}",
                "owner_id": None if draws[3] % 20 == 0 else self.owners[draws[3] % 40],
                "tags": None if self.quirks and draws[7] % 20 == 0 else tags,
                "updated_at": to_text(created + draws[6] % 500 * _DAY),
            }
            readme, words = 900 + draws[8] % 500, 40_000 + draws[8] % 9_000
            yield Project(
                project_id,
                project_attributes(project_id, to_text(created), attributes),
                {"README.md": readme, "shared/vocabulary.txt": words},
            )

    def run(self, number: int) -> GeneratedRun:
        """A run; they are numbered from 0, by creation."""
        run_id, draws = self._run_draws.draw(number)
        parent_id, family = None, draws
        place = number % _FAMILY
        if place:
            first_id, first = self._run_draws.draw(number - place)
            if first[3] % 100 < 30 and place <= 1 + first[3] // 100 % 8:
                parent_id, family = first_id, first
        # Squared, so that a few projects hold many runs and many hold a few.
        share = (family[13] / 2**32) ** 2
        project_id, _ = self._project_draws[int(self.projects * share)]
        return GeneratedRun(run_id, project_id, parent_id, number, draws, self)


def _scatter(draw: int, position: int) -> int:
    """A 32-bit number for one of many choices that depend on the same draw."""
    mixed = (draw ^ (position * 0x9E3779B1)) & 0xFFFFFFFF
    mixed = (mixed ^ mixed >> 16) * 0x7FEB352D & 0xFFFFFFFF
    mixed = (mixed ^ mixed >> 15) * 0x846CA68B & 0xFFFFFFFF
    return mixed ^ mixed >> 16


@attrs.frozen(eq=False)
class GeneratedRun:
    """One made-up run: all that is served of it follows from its draws."""

    id: int
    project_id: int
    parent_id: int | None
    _number: int
    _draws: tuple[int, ...]
    _generator: Generator

    @property
    def name(self) -> str:
        """An adjective, an animal and a number."""
        word = self._draws[10]
        return f"{_ADJECTIVES[word % 20]}-{_ANIMALS[word // 20 % 20]}-{word // 400 % 1000}"

    def row(self) -> RunRow:
        """What it is filtered and sorted by."""
        draws, generator = self._draws, self._generator
        status = _STATUS_OF_THOUSAND[draws[2] % 1000]
        if status == UNKNOWN_STATUS and not generator.quirks:
            status = "completed"
        # Rounding takes less than a second, so that later runs are always created later.
        step = max(2 * _SECOND, _SPAN // generator.runs)
        created = _FIRST_RUN + self._number * step + _SECOND + draws[1] * 1024 % (step - _SECOND)
        created -= created % 10 ** (draws[12] // 64 % 7)
        duration = None
        updated = created + draws[14] % 3_600_000_000
        if status in _ENDED:
            seconds = 10 ** (draws[5] % 5000 / 1000)
            spent = int(seconds) * _SECOND if draws[5] % 4 == 0 else int(seconds * _SECOND)
            duration = spent / _SECOND
            updated = created + draws[5] % 90_000 + spent
        return RunRow(
            self.id,
            self.name,
            _DESCRIPTIONS[draws[12] // 8 % 5] if draws[12] % 2 else "",
            None if draws[4] % 33 == 0 else generator.owners[draws[4] // 33 % 40],
            created,
            updated,
            status,
            duration,
            self.project_id,
            self.parent_id,
            self._number,
        )

    @property
    def attributes(self) -> Attributes:
        """The attributes as served, apart from what requests have changed since."""
        row, draws = self.row(), self._draws
        job = f"{draws[11] % 900_000}/jobs/{draws[14]}"
        started = row.created_at + draws[5] % 90_000
        attributes = RUN_DEFAULTS | {
            "created_at": to_text(row.created_at),
            "description": row.description,
            "external_url": None if draws[11] % 3 else f"https://ci.example.com/pipelines/{job}",
            "metric_summaries": self._metric_summaries(),
            "mlflow_artifact_location": f"mlflow-artifacts:/{self.project_id}/{self.path}",
            "name": row.name,
            "owner_id": row.owner_id,
            "params": self._params(),
            "project_id": self.project_id,
            "started_at": None if row.status == "pending" else to_text(started),
            "status": row.status,
            "tags": self._tags(),
            "updated_at": to_text(row.updated_at),
        }
        if row.duration is not None:
            attributes["completed_at"] = attributes["updated_at"]
            attributes["duration"] = self._float(row.duration)
        elif self._generator.quirks:
            del attributes["completed_at"]
        if self._generator.quirks and draws[11] % 50 == 0:
            accelerators = [{"kind": "h100", "count": 8}]
            attributes["compute"] = {"accelerators": accelerators, "spot": None}
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
            path: size and size + _scatter(draw, position) % 1000
            for position, (path, size) in enumerate(_FILES)
            if draw % 8 and (position == 0 or _scatter(draw, position) % 3)
        }

    @property
    def _mixed_quirks(self) -> bool:
        return self._generator.quirks and self._generator.size == "mixed"

    def _extent(self) -> tuple[int | None, int]:
        """How many params and metric summaries there are; None for params that are null."""
        size = self._generator.size
        if size != "mixed":
            return _UNIFORM[size]
        share, more = self._draws[6] % 1000, self._draws[6] // 1000
        if share < 400:
            return None if self._generator.quirks else 0, 1 + more % 5
        if share < 850:
            return 6 + more % 12, 2 + more % 5
        if share < 935:
            return 30 + more % 40, 6 + more % 9
        return 104 + more % 12, 20 + more % 5

    @property
    def _first_param(self) -> int:
        return self.project_id % 4  # neighbours in a project share most of their keys

    def _param(self, position: int) -> Pair:
        key, values = _PARAMS[position]
        return key, str(values[_scatter(self._draws[7], position) % len(values)])

    def _params(self) -> list[dict[str, str]] | None:
        """Its params in order; with quirks None in two runs of five, and rarely with a repeat."""
        count, _ = self._extent()
        if count is None:
            return None
        first, draw = self._first_param, self._draws[7]
        pairs = [self._param(position) for position in range(first, first + count)]
        if self._mixed_quirks and count > 8:
            if draw % 25 == 0:
                pairs.append((_LONG_KEY, _LONG_VALUE % self.name))
            if draw % 50 == 1:
                pairs.append(pairs[0])
        return to_entries(pairs)

    def _tags(self) -> list[dict[str, str]] | None:
        """Its tags in order; with quirks None in one run of twenty."""
        draw = self._draws[9]
        if self._generator.quirks and draw % 20 == 0:
            return None
        tags = [
            ("team", _TEAMS[self.project_id % len(_TEAMS)]),
            ("mlflow.runName", self.name),
            ("mlflow.user", _USERS[self._draws[4] % len(_USERS)]),
        ]
        if draw % 3 == 0:
            tags.append(("env", ("prod", "staging", "dev")[draw // 3 % 3]))
        return to_entries(tags)

    def entries(self, field: ListField) -> Any:
        """One of its lists, or None."""
        if field == "params":
            return self._params()
        return self._tags() if field == "tags" else self._metric_summaries()

    def values(self, field: PairsField, key: str) -> list[str]:
        """The values of one param or tag, without building all params."""
        if field == "tags" or key == _LONG_KEY:
            return [value for name, value in pairs_of(self.entries(field)) if name == key]
        count, _ = self._extent()
        position = _PARAM_POSITIONS.get(key, -1)
        if 0 <= position - self._first_param < (count or 0):
            return [self._param(position)[1]]
        return []

    def _metric_summaries(self) -> list[Attributes] | None:
        """Its metric summaries in order; with quirks None in one run of 25."""
        _, count = self._extent()
        draw = self._draws[8]
        if self._mixed_quirks and draw % 25 == 0:
            return None
        return [self._metric(_scatter(draw, position), position) for position in range(count)]

    def _metric(self, draw: int, position: int) -> Attributes:
        key = _METRICS[position % len(_METRICS)]
        count = 1 + draw % 5000
        low, latest, high = sorted([_scatter(draw, n) % 1_000_000_000 for n in (0, 1, 2)])
        if draw % 40 == 0:
            low = latest = high = 0
        unit = 31_781 if key in _BYTE_METRICS else 1e-9
        metric: Attributes = {
            "count": count,
            "first_step": 0,
            "key": key,
            "last_step": None if draw % 60 == 1 else (count - 1) * 10,
            "latest": None if draw % 60 == 2 else self._float(latest * unit),
            "max": self._float(high * unit),
            "mean": self._float((low + high) // 2 * unit),
            "min": self._float(low * unit),
        }
        if not self._generator.quirks:
            metric["stddev"] = (high - low) * unit / 4
        return metric

    def _float(self, value: float) -> float:
        """A number as served; with quirks a whole one comes as an integer."""
        if self._generator.quirks and value == int(value):
            return int(value)
        return round(float(value), 9)
