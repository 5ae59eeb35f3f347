"""The whole made-up organization: runs and projects from a seed, on demand, none of them kept."""

from __future__ import annotations

import uuid
from hashlib import blake2b
from typing import Literal, TypeAlias, get_args

from modellab_async.simulator.ids import IdSequence
from modellab_async.simulator.projects import GeneratedProject
from modellab_async.simulator.runs import GeneratedRun

Size: TypeAlias = Literal["mixed", "small", "medium", "large"]


class World:
    """Everything the simulator makes up: `runs` runs in `projects` projects.

    Construction costs nothing, whatever the number of runs.
    """

    def __init__(self, *, seed: int, runs: int, projects: int, size: Size, quirks: bool) -> None:
        if runs and not projects:
            raise ValueError("runs need at least one project")
        if size not in get_args(Size):
            raise ValueError(f"size must be mixed, small, medium or large, not {size!r}")
        self.run_ids: IdSequence = IdSequence(
            seed, "run", count=runs, lowest=10_000, highest=999_999
        )
        self.project_ids: IdSequence = IdSequence(
            seed, "project", count=projects, lowest=1_000, highest=9_999
        )
        self.size: Size = size
        self.quirks = quirks
        self.seed = seed
        self.owners: tuple[str, ...] = tuple(
            str(uuid.UUID(bytes=blake2b(f"{seed}/{n}".encode(), digest_size=16).digest()))
            for n in range(40)
        )

    def run(self, index: int) -> GeneratedRun:
        """The run at that index of `run_ids`."""
        return GeneratedRun(self, index)

    def project(self, index: int) -> GeneratedProject:
        """The project at that index of `project_ids`."""
        return GeneratedProject(self, index)
