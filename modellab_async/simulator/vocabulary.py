"""The words that made-up runs and projects consist of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

STATUSES: Final = ("pending", "running", "completed", "failed", "killed", "unresponsive", "paused")

UNKNOWN_STATUS: Final = "queued"
"""A status that the published reference does not list."""

STATUS_OF_THOUSAND: Final[Sequence[str]] = (
    *["completed"] * 780,
    *["failed"] * 100,
    *["killed"] * 50,
    *["running"] * 25,
    *["unresponsive"] * 20,
    *["pending"] * 12,
    *["paused"] * 10,
    *[UNKNOWN_STATUS] * 3,
)

ADJECTIVES: Final = (
    "amber", "bold", "brisk", "calm", "clever", "crisp", "eager", "fancy", "gentle", "grand",
    "hasty", "jolly", "keen", "lively", "mellow", "nimble", "polite", "quiet", "rapid", "sunny",
)  # fmt: skip
ANIMALS: Final = (
    "ant", "auk", "bee", "colt", "crane", "deer", "finch", "fox", "goose", "hare",
    "ibis", "koi", "lark", "lynx", "mole", "newt", "otter", "perch", "seal", "wren",
)  # fmt: skip

DESCRIPTIONS: Final = (
    "",
    "Baseline with the default learning rate.",
    "Longer warm-up, same data as the run before; compare eval_loss after 10k steps.",
    'Re-run of "baseline" with\nseed fixed and dropout off.',
    "Größerer Batch für den A/B-Vergleich, 学習率を半分にした 🚀",
)

TEAMS: Final = ("ranking", "search", "ads", "speech", "vision", "fraud", "forecasting", "platform")
SUBJECTS: Final = (
    "click-model", "dense-retrieval", "query-rewrite", "churn", "speech-to-text", "layout",
    "anomaly", "embedding", "summaries", "reranker", "toxicity", "translation", "capacity",
)  # fmt: skip
USERS: Final = tuple(f"user{number:02d}@example.com" for number in range(24))

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

PARAMS: Final[Sequence[tuple[str, Sequence[str] | range]]] = tuple(
    (section + setting, values) for section in _SECTIONS for setting, values in _SETTINGS
)
"""128 parameter keys, each with the values it takes."""

PARAM_POSITIONS: Final = {key: position for position, (key, _) in enumerate(PARAMS)}

BYTE_METRICS: Final = frozenset({"system/gpu_0_memory_bytes", "system/network_bytes"})
METRICS: Final = (
    "train/loss", "eval_loss", "eval_accuracy", "train/grad_norm", "train/learning_rate",
    "system/gpu_0_memory_bytes", "eval_f1", "eval_auc", "train/epoch", "eval/ndcg@10",
    "train/tokens_per_second", "system/cpu_percent", "system/gpu_0_percent", "eval_recall",
    "eval_precision", "system/network_bytes", "train/perplexity", "eval/perplexity",
    "train/global_step", "eval/mrr", "train/step_seconds", "eval_runtime_seconds",
    "train/clip_fraction", "eval_samples_per_second",
)  # fmt: skip

LONG_KEY: Final = "config"
LONG_VALUE: Final = (
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

FILES: Final = (
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
