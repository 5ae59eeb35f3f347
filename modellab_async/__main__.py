"""``modellab`` and ``python -m modellab_async``: the command line, where its extra is installed."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from io import TextIOWrapper


def main() -> None:
    """Run the command line, or say in one line what to install for it."""
    missing = [name for name in ("typer", "rich") if find_spec(name) is None]
    if missing:
        sys.stderr.write(
            f"modellab needs {' and '.join(missing)}: pip install 'modellab_async[cli]'\n"
        )
        sys.exit(2)
    _make_streams_usable()
    try:
        from modellab_async.cli import app  # noqa: PLC0415 - after the check above

        app(prog_name="modellab")
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:  # such as a disk that is full where the results go
        sys.stderr.write(f"error: {error.strerror or error}\n")
        # What is still buffered would fail again at the end, after this exit code.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)


def _make_streams_usable() -> None:
    """Have output that was closed lead nowhere, and show what a terminal cannot as ``?``."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


if __name__ == "__main__":
    main()
