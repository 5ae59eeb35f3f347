"""Paths that a user names: of files and directories on this machine."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from modellab_async.errors import ConfigError

# A path has lost the second slash if it was a `Path` before. One letter is a drive of Windows.
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:[/\\]")


def local_path(path: str | os.PathLike[str]) -> Path:
    """A path as a user writes it, with ``~`` and ``~user`` at its beginning expanded.

    Raises:
        ConfigError: for a URL.
    """
    text = os.fspath(path)
    if _URL.match(text):
        raise ConfigError(
            f"{text!r} is a URL; only paths on this machine are supported: absolute ones, relative"
            " ones, and those that start with ~ (write ./ before a directory that ends in a colon)"
        )
    return Path(os.path.expanduser(text))  # noqa: PTH111 - leaves a ~name that is no user's


def missing_directory(path: Path) -> str | None:
    """Why no file can be created at a path, if its directory does not exist."""
    if path.parent.is_dir():
        return None
    problem = "is not a directory" if path.parent.exists() else "does not exist"
    return f"{path}: the directory {path.parent} {problem}"
