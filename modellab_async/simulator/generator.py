"""Made-up runs and projects: each follows from the seed and its number.

The shapes follow recorded answers; without `quirks` they keep to the published reference.
"""

from __future__ import annotations

import functools
import struct
import uuid
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

import attrs

from modellab_async.simulator.fixtures import (
    Attributes,
    Pair,
    PairsField,
    Project,
    RunRow,
    pairs_to_json,
)
from modellab_async.simulator.times import to_text

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

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
    """Ascending ids with gaps, and sixteen random 32-bit numbers for each."""

    def __init__(self, seed: int, kind: str, *, count: int, lowest: int, highest: int) -> None:
        self._hash = blake2b(digest_size=64, key=f"{seed}/{kind}".encode()[:64])
        self._lowest = lowest
        self._stride = max(2, (highest - lowest) // max(1, count))

    def draws(self, number: int) -> tuple[int, ...]:
        digest = self._hash.copy()
        digest.update(number.to_bytes(8, "little"))
        return _DRAWS.unpack(digest.digest())

    def id_of(self, number: int, draws: tuple[int, ...]) -> int:
        return self._lowest + number * self._stride + draws[0] % self._stride


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
    def _run_ids(self) -> _Ids:
        return _Ids(self.seed, "run", count=self.runs, lowest=10_000, highest=999_999)

    @functools.cached_property
    def _project_ids(self) -> _Ids:
        return _Ids(self.seed, "project", count=self.projects, lowest=1_000, highest=9_999)

    @functools.cached_property
    def _owners(self) -> tuple[str, ...]:
        names = (f"{self.seed}/{number}".encode() for number in range(40))
        return tuple(str(uuid.UUID(bytes=blake2b(n, digest_size=16).digest())) for n in names)

    def make_projects(self) -> Iterator[Project]:
        """All projects, by ascending id."""
        for number in range(self.projects):
            draws = self._project_ids.draws(number)
            project_id = self._project_ids.id_of(number, draws)
            team = _TEAMS[project_id % len(_TEAMS)]
            created = _FIRST_PROJECT + draws[4] % 30 * _DAY + draws[5] * 10
            tags = [("team", team), ("tier", str(1 + draws[7] // 20 % 3))]
            attributes = {
                "artifact_storage_location": f"s3://model-lab-artifacts.example/{project_id}",
                "created_at": to_text(created),
                "deleted_at": None,
                "description": "" if draws[2] % 2 else f"Experiments of the {team} team.",
                "external_url": None,
                "is_starred": False,
                "name": f"{_SUBJECTS[draws[1] % len(_SUBJECTS)]}-{project_id}",
                "owner_id": None if draws[3] % 20 == 0 else self._owners[draws[3] % 40],
                "tags": None if self.quirks and draws[7] % 20 == 0 else pairs_to_json(tags),
                "updated_at": to_text(created + draws[6] % 500 * _DAY),
            }
            readme, words = 900 + draws[8] % 500, 40_000 + draws[8] % 9_000
            files = {"README.md": readme, "shared/vocabulary.txt": words}
            yield Project(project_id, attributes, files)

    def make_rows(self, project_ids: Sequence[int]) -> Iterator[RunRow]:
        """What all runs are filtered and sorted by, by ascending id."""
        draws_of, id_of, owners = self._run_ids.draws, self._run_ids.id_of, self._owners
        step = max(2 * _SECOND, _SPAN // max(1, self.runs))
        head, head_id, children = draws_of(0), 0, 0
        for number in range(self.runs):
            draws = draws_of(number)
            run_id = id_of(number, draws)
            place = number % _FAMILY
            if place == 0:
                head, head_id = draws, run_id
                children = 0 if draws[3] % 100 >= 30 else 1 + draws[3] // 100 % 8
            is_child = 0 < place <= children
            # Squared, so that a few projects hold many runs and many hold a few.
            share = ((head if is_child else draws)[13] / 2**32) ** 2
            status = _STATUS_OF_THOUSAND[draws[2] % 1000]
            if status == UNKNOWN_STATUS and not self.quirks:
                status = "completed"
            # Rounding takes less than a second, so that later runs are always created later.
            created = _FIRST_RUN + number * step + _SECOND + draws[1] * 1024 % (step - _SECOND)
            created -= created % 10 ** (draws[12] // 64 % 7)
            if status in _ENDED:
                seconds = 10 ** (draws[5] % 5000 / 1000)
                spent = int(seconds) * _SECOND if draws[5] % 4 == 0 else int(seconds * _SECOND)
                duration = spent / _SECOND
                updated = created + draws[5] % 90_000 + spent
            else:
                duration = None
                updated = created + draws[14] % 3_600_000_000
            word = draws[10]
            yield RunRow(
                run_id,
                number,
                project_ids[int(len(project_ids) * share)],
                head_id if is_child else None,
                f"{_ADJECTIVES[word % 20]}-{_ANIMALS[word // 20 % 20]}-{word // 400 % 1000}",
                _DESCRIPTIONS[draws[12] // 8 % 5] if draws[12] % 2 else "",
                status,
                None if draws[4] % 33 == 0 else owners[draws[4] // 33 % 40],
                created,
                updated,
                duration,
            )

    def run(self, number: int, run_id: int, project_id: int, name: str) -> GeneratedRun:
        """The lists and files of a run, given what its row says of it."""
        return GeneratedRun(
            run_id, project_id, name, self._run_ids.draws(number), self.size, self.quirks
        )

    def attributes(self, row: RunRow) -> Attributes:
        """A run's attributes as served, apart from what requests have changed since."""
        assert row.number is not None
        run = self.run(row.number, row.id, row.project_id, row.name)
        draws = self._run_ids.draws(row.number)
        ended = row.duration is not None
        pending = row.status == "pending"
        job = f"{draws[11] % 900_000}/jobs/{draws[14]}"
        attributes: Attributes = {
            "completed_at": to_text(row.updated_at) if ended else None,
            "created_at": to_text(row.created_at),
            "deleted_at": None,
            "descendant_match": False,
            "description": row.description,
            "duration": None if row.duration is None else run.number(row.duration),
            "external_url": None if draws[11] % 3 else f"https://ci.example.com/pipelines/{job}",
            "has_children": False,
            "is_pinned": False,
            "metric_summaries": run.metric_summaries,
            "mlflow_artifact_location": f"mlflow-artifacts:/{row.project_id}/{run.path}",
            "name": row.name,
            "owner_id": row.owner_id,
            "params": pairs_to_json(run.params),
            "project_id": row.project_id,
            "started_at": None if pending else to_text(row.created_at + draws[5] % 90_000),
            "status": row.status,
            "tags": pairs_to_json(run.tags),
            "updated_at": to_text(row.updated_at),
        }
        if self.quirks:
            if not ended:
                del attributes["completed_at"]
            if draws[11] % 50 == 0:
                accelerators = [{"kind": "h100", "count": 8}]
                attributes["compute"] = {"accelerators": accelerators, "spot": None}
        return attributes


def scatter(draw: int, position: int) -> int:
    """A 32-bit number for one of many choices that depend on the same draw."""
    mixed = (draw ^ (position * 0x9E3779B1)) & 0xFFFFFFFF
    mixed = (mixed ^ mixed >> 16) * 0x7FEB352D & 0xFFFFFFFF
    mixed = (mixed ^ mixed >> 15) * 0x846CA68B & 0xFFFFFFFF
    return mixed ^ mixed >> 16


@attrs.define(eq=False)
class GeneratedRun:
    """One made-up run; its lists and files are built when they are asked for."""

    id: int
    project_id: int
    name: str
    _draws: tuple[int, ...]
    _size: Size
    _quirks: bool

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
            for position, (path, size) in enumerate(_FILES)
            if draw % 8 and (position == 0 or scatter(draw, position) % 3)
        }

    def _extent(self) -> tuple[int | None, int]:
        """How many params and metric summaries there are; None for params that are null."""
        if self._size != "mixed":
            return _UNIFORM[self._size]
        share, more = self._draws[6] % 1000, self._draws[6] // 1000
        if share < 400:
            return None if self._quirks else 0, 1 + more % 5
        if share < 850:
            return 6 + more % 12, 2 + more % 5
        if share < 935:
            return 30 + more % 40, 6 + more % 9
        return 104 + more % 12, 20 + more % 5

    @property
    def params(self) -> list[Pair] | None:
        """Its params in order; with quirks None in two runs of five, and rarely with a repeat."""
        count, _ = self._extent()
        if count is None:
            return None
        draw = self._draws[7]
        first = self.project_id % 4  # neighbours in a project share most of their keys
        pairs = [self._param(position) for position in range(first, first + count)]
        if self._quirks and self._size == "mixed" and count > 8:
            if draw % 25 == 0:
                pairs.append((_LONG_KEY, _LONG_VALUE % self.name))
            if draw % 50 == 1:
                pairs.append(pairs[0])
        return pairs

    def pairs(self, field: PairsField, keys: Collection[str]) -> list[Pair]:
        """Those of its params or tags that have one of the keys, without building all params."""
        if field == "tags" or _LONG_KEY in keys:
            return [pair for pair in getattr(self, field) or () if pair[0] in keys]
        count, _ = self._extent()
        first = self.project_id % 4
        positions = (_PARAM_POSITIONS.get(key, -1) for key in keys)
        return [self._param(at) for at in positions if 0 <= at - first < (count or 0)]

    def _param(self, position: int) -> Pair:
        key, values = _PARAMS[position]
        return key, str(values[scatter(self._draws[7], position) % len(values)])

    @property
    def tags(self) -> list[Pair] | None:
        """Its tags in order; with quirks None in one run of twenty."""
        draw = self._draws[9]
        if self._quirks and draw % 20 == 0:
            return None
        tags = [
            ("team", _TEAMS[self.project_id % len(_TEAMS)]),
            ("mlflow.runName", self.name),
            ("mlflow.user", _USERS[self._draws[4] % len(_USERS)]),
        ]
        if draw % 3 == 0:
            tags.append(("env", ("prod", "staging", "dev")[draw // 3 % 3]))
        return tags

    @property
    def metric_summaries(self) -> list[Attributes] | None:
        """Its metric summaries in order; with quirks None in one run of 25."""
        _, count = self._extent()
        draw = self._draws[8]
        if self._quirks and self._size == "mixed" and draw % 25 == 0:
            return None
        return [self._metric(scatter(draw, position), position) for position in range(count)]

    def _metric(self, draw: int, position: int) -> Attributes:
        key = _METRICS[position % len(_METRICS)]
        count = 1 + draw % 5000
        low, latest, high = sorted([scatter(draw, n) % 1_000_000_000 for n in (0, 1, 2)])
        if draw % 40 == 0:
            low = latest = high = 0
        unit = 31_781 if key in _BYTE_METRICS else 1e-9
        metric: Attributes = {
            "count": count,
            "first_step": 0,
            "key": key,
            "last_step": None if draw % 60 == 1 else (count - 1) * 10,
            "latest": None if draw % 60 == 2 else self.number(latest * unit),
            "max": self.number(high * unit),
            "mean": self.number((low + high) // 2 * unit),
            "min": self.number(low * unit),
        }
        if not self._quirks:
            metric["stddev"] = (high - low) * unit / 4
        return metric

    def number(self, value: float) -> float:
        """A number as served; with quirks a whole one comes as an integer."""
        if self._quirks and value == int(value):
            return int(value)
        return round(float(value), 9)
