"""The runs that the benchmark server answers with: JSON templates, cut where the run's id goes.

Nothing is measured here. ``Catalogue(size)`` joins a template's pieces with an id, which is all the
work that one answer costs.
"""

from __future__ import annotations

import json
import random
import uuid
from typing import Any

from attrs import frozen

ID = "@RUN@"  # as long as most ids are
VARIANTS = 16

OWN_PARAMS = ("run.seed", "run.output_dir", "run.commit", "run.host", "run.started_by")
PARAM_ROOMS = (
    "model",
    "optimizer",
    "data",
    "trainer",
    "scheduler",
    "tokenizer",
    "parallel",
    "eval",
)
PARAM_NAMES = (
    "hidden_size",
    "num_layers",
    "lr",
    "batch_size",
    "path",
    "dtype",
    "warmup_steps",
    "dropout",
    "max_length",
    "weight_decay",
    "seed_offset",
    "checkpoint_every",
    "enabled",
    "name",
    "version",
)
WORDS = (
    "bfloat16",
    "adamw",
    "cosine",
    "true",
    "false",
    "None",
    "s3://datasets/ranking/v3",
    "llama",
)
METRICS = ("loss", "accuracy", "grad_norm", "tokens_per_second", "perplexity", "memory_allocated")
LITERAL = (
    "{'stages': [{\"name\": \"warm-up\", 'steps': 500},\n {\"name\": 'main', 'steps': 20_000}]}"
)
PROSE = "A run of the ranking model on the third data set, resumed once after a preemption. "


@frozen
class Shape:
    """How large a run is: bytes of its JSON as one answer, and what it holds."""

    bytes: int
    params: int
    tags: int
    metrics: int


SHAPES = {
    "1.1": Shape(bytes=1_100, params=6, tags=2, metrics=1),
    "2.2": Shape(bytes=2_200, params=16, tags=3, metrics=5),
    "8.9": Shape(bytes=8_900, params=113, tags=6, metrics=22),
}
"""The sizes that can be asked for, named by their kilobytes."""


class Catalogue:
    """Runs of one size by id, as bytes of JSON without any white space.

    An id picks one of 16 templates. Metrics and a few params hold the id and so differ from run to
    run, other params repeat as they do within a real project; ``distinct`` makes every param, tag
    and metric value differ.
    """

    def __init__(self, size: str, *, distinct: bool = False) -> None:
        shape = SHAPES[size]
        self._pieces = [_pieces(shape, variant, distinct) for variant in range(VARIANTS)]

    def run(self, run_id: bytes) -> bytes:
        """The JSON:API resource of a run; ``run_id`` is its digits."""
        return run_id.join(self._pieces[int(run_id) % VARIANTS])


def _pieces(shape: Shape, variant: int, distinct: bool) -> list[bytes]:
    resource = _resource(shape, variant, distinct)
    missing = shape.bytes - len(_dump({"data": resource}))
    resource["attributes"]["description"] = (PROSE * (missing // len(PROSE) + 1))[: max(missing, 0)]
    return [piece.encode() for piece in _dump(resource).split(ID)]


def _dump(value: Any) -> str:
    """Compact JSON with the quotes that ``_number`` needed taken away."""
    return json.dumps(value, separators=(",", ":")).replace('"#', "").replace('#"', "")


def _number(text: str) -> str:
    return f"#{text}#"


def _resource(shape: Shape, variant: int, distinct: bool) -> dict[str, Any]:
    shared, own = random.Random(0), random.Random(variant + 1)
    params = [_param(index, shared, own, distinct) for index in range(shape.params)]
    if shape.params > 20:
        params[20]["value"] = LITERAL
    return {
        "id": ID,
        "type": "runs",
        "attributes": {
            "name": f"ranker-{own.choice(WORDS[:3])}-{ID}",
            "description": "",
            "project_id": 2000 + variant % 4,
            "status": ("completed", "completed", "failed", "running")[variant % 4],
            "created_at": f"2026-05-15T02:57:03.{own.randrange(100, 1000)}Z",
            "updated_at": f"2026-05-15T09:12:50.{own.randrange(10_000, 100_000)}Z",
            "started_at": "2026-05-15T02:57:04Z",
            "completed_at": None if variant % 4 == 3 else "2026-05-15T09:12:50.387051Z",
            "duration": round(own.uniform(60, 90_000), 3),
            "owner_id": str(uuid.UUID(int=own.getrandbits(128), version=4)),
            "mlflow_artifact_location": f"s3://artifacts/{ID}/files",
            "has_children": variant % 8 == 0,
            "is_pinned": False,
            "descendant_match": False,
            "params": params,
            "tags": [
                {"key": f"tag_{index}", "value": f"{index}:{ID}" if distinct else _value(own)}
                for index in range(shape.tags)
            ],
            "metric_summaries": [_metric(index, own) for index in range(shape.metrics)],
        },
    }


def _param(index: int, shared: random.Random, own: random.Random, distinct: bool) -> dict[str, str]:
    if index < len(OWN_PARAMS):
        return {"key": OWN_PARAMS[index], "value": f"{own.randrange(1000)}-{ID}"}
    room = PARAM_ROOMS[index % len(PARAM_ROOMS)]
    name = PARAM_NAMES[index % len(PARAM_NAMES)]
    value = f"{index}.{ID}" if distinct else _value(own if index % 4 == 0 else shared)
    return {"key": f"{room}.{name}", "value": value}


def _value(source: random.Random) -> str:
    if source.random() < 0.5:
        return source.choice(WORDS)
    return str(source.choice((1, 8, 64, 512, 4096, 0.1, 3e-05, 0.95)))


def _metric(index: int, own: random.Random) -> dict[str, Any]:
    step = own.randrange(1_000, 20_000)
    floats = {
        name: _number(f"{own.randrange(9)}.{own.randrange(100, 1000)}{ID}")
        for name in ("latest", "max", "mean", "min")
    }
    if index % 6 == 5:
        floats["max"] = _number(f"31781{ID}")
    return {
        "key": f"{('train', 'eval')[index % 2]}.{METRICS[index % len(METRICS)]}_{index}",
        "count": step,
        "first_step": 0,
        "last_step": step - 1,
        **floats,
    }
