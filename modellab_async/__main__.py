"""``modellab`` and ``python -m modellab_async``: the command line, if its extra is installed."""

from __future__ import annotations

import os
import re
import signal
import sys
from importlib.util import find_spec
from io import TextIOWrapper


def main() -> None:
    """Run the command line, or say in one line what to install for it."""
    missing = [name for name in ("typer", "rich") if find_spec(name) is None]
    if missing:
        from modellab_async.extras import missing_extra  # noqa: PLC0415 - it imports all models

        sys.exit(_refusal(str(missing_extra("modellab", "cli", *missing))))
    _make_streams_usable()
    for argument in sys.argv[1:]:
        if re.search(r"[\ud800-\udfff]", argument):  # how Python shows bytes that are no text
            sys.exit(_refusal(f"error: {argument!a} is not text in this system's encoding"))
    try:
        from modellab_async.cli import app  # noqa: PLC0415 - after the checks above

        if callable(signal.getsignal(signal.SIGINT)):  # it has been another one until here
            signal.signal(signal.SIGINT, signal.default_int_handler)
        app(prog_name="modellab")
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:  # such as standard output on a full disk
        sys.stderr.write(f"error: {error.strerror or error}\n")
        # What is still buffered would fail again at the end, after this exit code.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)


def _refusal(message: str) -> int:
    sys.stderr.write(f"{message}\n")
    return 2


def _make_streams_usable() -> None:
    """Let output that was closed lead nowhere, and show what a terminal cannot as ``?``."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


if __name__ == "__main__":
    main()
