"""The runs that the benchmark server returns: JSON templates, cut at the run's id.

``Catalogue(size, differing)`` joins the pieces of a template with an id, which is all the work that
a response costs.
"""

from __future__ import annotations

import json
import random
import uuid
from typing import Any

from attrs import frozen

ID = "@RUNS@"  # as long as an id
TEMPLATES = 16
PARAMS = ("lr", "depth", "seed", "warmup", "path", "width", "dropout", "batch", "optim")
METRICS = ("loss", "accuracy", "grad_norm", "throughput", "perplexity", "memory")
STATISTICS = ("latest", "max", "mean", "min")
LITERAL = "{'stages': [{\"name\": \"warm-up\", 'steps': 500},\n {\"name\": 'main', 'steps': 9000}]}"
PROSE = "A run of the ranking model on the third data set, resumed once after a preemption. "


@frozen
class Shape:
    """How large a run is: the bytes of its JSON, and how many of each part it has."""

    bytes: int
    params: int
    tags: int
    metrics: int


SHAPES = {
    "2.2": Shape(bytes=2_200, params=10, tags=3, metrics=6),
    "8.9": Shape(bytes=8_900, params=106, tags=4, metrics=22),
    "1.1": Shape(bytes=1_100, params=3, tags=2, metrics=1),
}
"""By kilobytes: the mean of a listing, a production run, and a small one."""

TAGS_PER_PARAM = {100: 100, 74: 24, 0: 0}
"""The share of params that differ from run to run, in percent, and the share of tags with it.

As recorded, 183 of 247 pairs of params are distinct, and 33 of 138 tags.
"""


class Catalogue:
    """Runs of one size by id, as bytes of JSON without white space.

    ``differing`` percent of the params have values that no other run has; the others are the same
    in all runs. Metrics are measurements, and always differ.
    """

    def __init__(self, size: str, differing: int = 100) -> None:
        shape = SHAPES[size]
        self._pieces = [_pieces(shape, differing, template) for template in range(TEMPLATES)]

    def run(self, run_id: bytes) -> bytes:
        """The JSON:API resource of a run; ``run_id`` is its digits."""
        return run_id.join(self._pieces[int(run_id) % TEMPLATES])


def _pieces(shape: Shape, differing: int, template: int) -> list[bytes]:
    resource = _resource(shape, differing, template)
    missing = shape.bytes - len(_dump({"data": resource}))
    resource["attributes"]["description"] = (PROSE * (missing // len(PROSE) + 1))[: max(missing, 0)]
    return [piece.encode() for piece in _dump(resource).split(ID)]


def _dump(value: Any) -> str:
    """Compact JSON without the quotes around `_float`."""
    return json.dumps(value, separators=(",", ":")).replace('"#', "").replace('#"', "")


def _float(dice: random.Random) -> str:
    """A float with 17 digits, of which the last ones are the run's id."""
    return f"#{dice.randrange(9)}.{dice.randrange(10**9, 10**10)}{ID}#"


def _resource(shape: Shape, differing: int, template: int) -> dict[str, Any]:
    dice, same = random.Random(template), random.Random(-1)
    params = [
        {"key": f"{PARAMS[n % len(PARAMS)]}_{n}", "value": value}
        for n, value in enumerate(_values(shape.params, differing, same))
    ]
    if shape.params > 20:
        params[20]["value"] = LITERAL
    tags = [
        {"key": f"tag_{n}", "value": value}
        for n, value in enumerate(_values(shape.tags, TAGS_PER_PARAM[differing], same))
    ]
    mlflow_id = f"{dice.getrandbits(104):026x}{ID}"
    return {
        "id": ID,
        "type": "runs",
        "attributes": {
            "name": f"ranker-{ID}",
            "description": "",
            "project_id": 2000 + template % 4,
            "status": ("completed", "completed", "failed", "running")[template % 4],
            "created_at": f"2026-05-15T02:57:03.{dice.randrange(100, 1000)}Z",
            "updated_at": f"2026-05-15T09:12:50.{dice.randrange(10_000, 100_000)}Z",
            "started_at": "2026-05-15T02:57:04Z",
            "completed_at": None if template % 4 == 3 else "2026-05-15T09:12:50.387051Z",
            "duration": round(dice.uniform(60, 90_000), 3),
            "owner_id": str(uuid.UUID(int=dice.getrandbits(128), version=4)),
            "external_url": f"https://app.datadoghq.com/ml/runs/{mlflow_id}",
            "mlflow_artifact_location": f"mlflow-artifacts:///2387/{ID}/artifacts",
            "has_children": template % 8 == 0,
            "is_pinned": False,
            "descendant_match": False,
            "params": params,
            "tags": tags,
            "metric_summaries": [_metric(n, dice) for n in range(shape.metrics)],
        },
    }


def _values(count: int, differing: int, dice: random.Random) -> list[str]:
    """Text values, of which a share differs from run to run, evenly spread."""
    return [
        ID if n * differing // 100 < (n + 1) * differing // 100 else f"{dice.randrange(10**6):06}"
        for n in range(count)
    ]


def _metric(n: int, dice: random.Random) -> dict[str, Any]:
    steps = dice.randrange(100_000, 1_000_000)
    statistics = {name: _float(dice) for name in STATISTICS}
    if n % 3 == 2:  # whole numbers often arrive as integers
        statistics |= dict.fromkeys(("latest", "max", "min"), f"#31781558{ID}#")
    return {
        "key": f"{('training', 'validation')[n % 2]}/ranking/{METRICS[n % len(METRICS)]}/layer_{n}",
        "count": steps,
        "first_step": 0,
        "last_step": steps - 1,
        **statistics,
    }
