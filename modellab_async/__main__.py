"""``modellab`` and ``python -m modellab_async``: the command line, where its extra is installed."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def main() -> None:
    """Run the command line, or say in one line what to install for it."""
    missing = [name for name in ("typer", "rich") if find_spec(name) is None]
    if missing:
        sys.stderr.write(
            f"modellab needs {' and '.join(missing)}: pip install 'modellab_async[cli]'\n"
        )
        sys.exit(2)
    try:
        from modellab_async.cli import app  # noqa: PLC0415 - after the check above

        app(prog_name="modellab")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
