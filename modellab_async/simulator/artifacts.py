"""Artifact trees, and file contents of any size that are computed as they are sent."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, Any, Final

import attrs

from modellab_async.simulator.responses import (
    NotFoundError,
    RequestRefusedError,
    Response,
    error_response,
)
from modellab_async.simulator.times import to_microseconds, to_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from modellab_async.simulator.dataset import Dataset, Run
    from modellab_async.simulator.fixtures import Files, Project

OCTETS: Final = "application/octet-stream"
_BLOCK: Final = 65_536
_RANGE: Final = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)
_RUN_PATH: Final = re.compile(
    r"(?:run-(?P<declared>\d{1,18})|[0-9a-f]{16}(?P<made_up>[0-9a-f]{16}))/artifacts/"
)


class Content:
    """The bytes of one artifact: those declared, or as many as its size, made up from its name.

    Made-up bytes come in blocks of 64 KiB, each of which starts with its own number, so that a
    download that misplaces a block is noticed.
    """

    def __init__(self, name: str, source: int | bytes) -> None:
        self._declared = source if isinstance(source, bytes) else None
        self.size: int = source if isinstance(source, int) else len(source)
        self._pattern = random.Random(name).randbytes(_BLOCK)  # noqa: S311  # not a secret
        self.etag: str = f'"{random.Random(f"{name} {self.size}").getrandbits(64):016x}"'  # noqa: S311

    def __len__(self) -> int:
        return self.size

    def _block(self, number: int) -> bytes:
        if self._declared is not None:
            return self._declared[number * _BLOCK : (number + 1) * _BLOCK]
        stamp = number.to_bytes(8, "big")
        return stamp + self._pattern[len(stamp) :]

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` to before `stop`, at most 64 KiB at a time."""
        stop = self.size if stop is None else min(stop, self.size)
        while start < stop:
            number, offset = divmod(start, _BLOCK)
            chunk = self._block(number)[offset : offset + stop - start]
            yield chunk
            start += len(chunk)

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes from `start` to before `stop`, all at once."""
        return b"".join(self.chunks(start, stop))


@attrs.frozen
class _Part:
    content: Content
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def chunks(self) -> Iterator[bytes]:
        return self.content.chunks(self.start, self.stop)


class Artifacts:
    """The files of runs and projects."""

    def __init__(self, dataset: Dataset, *, ranges: bool) -> None:
        self._dataset = dataset
        self._ranges = ranges

    def of_run(self, run: Run, directory: str) -> dict[str, Any]:
        """The listing of one directory of a run, as a resource.

        Raises:
            NotFoundError: there is no such directory.
        """
        prefix = directory and directory.rstrip("/") + "/"
        entries: dict[str, dict[str, Any]] = {}
        for path, source in run.artifacts.items():
            if not path.startswith(prefix):
                continue
            head, slash, _ = path[len(prefix) :].partition("/")
            # A path that would climb out of its directory is shown as it was declared.
            if slash and head not in {"", ".", ".."}:
                name = f"{prefix}{head}/"
                entries[name] = {"file_size": None, "is_dir": True, "path": name}
            else:
                entries[path] = {"file_size": _size(source), "is_dir": False, "path": path}
        if prefix and not entries:
            raise NotFoundError("artifact")
        return {
            "attributes": {
                "files": [entries[name] for name in sorted(entries)],
                "path_in_project": run.path,
            },
            "id": str(run.id),
            "type": "artifacts",
        }

    def of_project(self, project: Project) -> dict[str, Any]:
        """The listing of a project's own files, as a resource."""
        created = to_text(to_microseconds(project.attributes.get("created_at")))
        return {
            "attributes": {
                "files": [
                    {
                        "artifact_path": path,
                        "created_at": created,
                        "file_size": _size(source),
                        "filename": path.rpartition("/")[2],
                    }
                    for path, source in sorted(project.artifacts.items())
                ]
            },
            "id": str(project.id),
            "type": "project_files",
        }

    def content(self, project_id: int, artifact_path: str) -> Content:
        """The content at a path relative to a project's artifact root.

        Raises:
            NotFoundError: there is no such project or file.
        """
        files: Files = self._dataset.project(project_id).artifacts
        path = artifact_path
        run_path = _RUN_PATH.match(artifact_path)
        if run_path is not None:
            declared, made_up = run_path.groups()
            run = self._dataset.run(int(declared) if declared else int(made_up, 16))
            if run.project_id == project_id and artifact_path.startswith(run.path + "/"):
                files, path = run.artifacts, artifact_path[len(run.path) + 1 :]
        if path not in files:
            raise NotFoundError("artifact")
        return Content(f"{project_id}/{artifact_path}", files[path])

    def respond(self, content: Content, wanted: str | None, if_range: str | None) -> Response:
        """The whole content or the part that a `Range` header asks for.

        Raises:
            RequestRefusedError: status 416, the range starts after the end.
        """
        if not self._ranges:
            return Response(200, content, OCTETS)
        headers = (("Accept-Ranges", "bytes"), ("ETag", content.etag))
        part = None if if_range not in {None, content.etag} else _part(content, wanted)
        if part is None:
            return Response(200, content, OCTETS, headers)
        content_range = f"bytes {part.start}-{part.stop - 1}/{content.size}"
        return Response(206, part, OCTETS, (*headers, ("Content-Range", content_range)))


def _part(content: Content, wanted: str | None) -> _Part | None:
    """The part that a `Range` header asks for, or None if it is to be ignored."""
    match = _RANGE.fullmatch(wanted or "")
    if match is None or match.group() == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        start, stop = max(0, content.size - int(last)), content.size
    else:
        start, stop = int(first), min(int(last) + 1 if last else content.size, content.size)
        if last and int(last) < start:
            return None
    if start >= content.size:
        detail = f"the content has {content.size} bytes"
        refusal = error_response(416, "Range Not Satisfiable", detail)
        content_range = ("Content-Range", f"bytes */{content.size}")
        raise RequestRefusedError(attrs.evolve(refusal, headers=(content_range,)))
    return _Part(content, start, stop)


def _size(source: int | bytes) -> int:
    return source if isinstance(source, int) else len(source)
