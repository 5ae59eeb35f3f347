"""``modellab`` and ``python -m modellab_async``: the command line, if its extra is installed."""

from __future__ import annotations

import os
import re
import signal
import sys
from importlib.util import find_spec
from io import TextIOWrapper

from modellab_async._version import __version__


def main() -> None:
    """Run the command line, or say in one line what to install for it."""
    _quit_on_ctrl_c()
    _open_closed_streams()
    try:
        if sys.argv[1:] == ["--version"]:  # at once: the rest takes a while to import
            sys.stdout.write(f"modellab {__version__}\n")
            sys.stdout.flush()
            return
        _run()
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:  # such as standard output on a full disk
        sys.stderr.write(f"error: {error.strerror or error}\n")
        # What is still buffered would fail again at the end, after this exit code.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)


def _run() -> None:
    missing = [name for name in ("typer", "rich") if find_spec(name) is None]
    if missing:
        from modellab_async.extras import missing_extra  # noqa: PLC0415 - it imports all models

        sys.exit(_refusal(str(missing_extra("modellab", "cli", *missing))))
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # what a terminal cannot show is a ``?``
    for argument in sys.argv[1:]:
        if re.search(r"[\ud800-\udfff]", argument):  # how Python shows bytes that are no text
            sys.exit(_refusal(f"error: {argument!a} is not text in this system's encoding"))

    from modellab_async.cli import app  # noqa: PLC0415 - after the checks above

    if callable(signal.getsignal(signal.SIGINT)):  # not if whoever started it has it ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)
    app(prog_name="modellab")


def _refusal(message: str) -> int:
    sys.stderr.write(f"{message}\n")
    return 2


def _quit_on_ctrl_c() -> None:
    """Let Ctrl-C during imports end the process at once, unless its parent ignores Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))


def _open_closed_streams() -> None:
    """Open the null device for each standard stream that is closed.

    The next file or socket would get its descriptor otherwise: output would end up in it, and
    uvloop aborts the process when it closes a standard descriptor.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            mode = "w" if descriptor else "r"
            stream = open(descriptor, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


if __name__ == "__main__":
    main()
