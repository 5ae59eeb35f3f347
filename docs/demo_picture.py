"""``modellab demo`` in a terminal, as a picture: ``python docs/demo_picture.py`` takes a new one.

A run writes to a pseudo terminal, and rich draws what it shows at the end.
"""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

from rich.console import Console
from rich.text import Text

PICTURE = Path(__file__).parent / "_static/demo.svg"
COLUMNS, LINES = 96, 40
UP_AND_CLEAR = re.compile(r"(?:\x1b\[1A\x1b\[2K)+")
OTHER_CONTROL = re.compile(r"\x1b\[\?25[lh]|\x1b\[2K|\r(?!\n)")


def written() -> str:
    """All that the command writes to its terminal."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (LINES, COLUMNS))
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    command = [sys.executable, "-m", "modellab_async", "demo"]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        chunks = []
        try:
            while chunk := os.read(ours, 65_536):
                chunks.append(chunk)
        except OSError:  # Linux says so at the end of a terminal
            pass
        os.close(ours)
    if process.returncode:
        raise SystemExit(f"the demo ended with {process.returncode}")
    return b"".join(chunks).decode()


def last_screen(text: str) -> list[str]:
    """The lines at the end; each redrawing goes up and clears what it replaces."""
    lines = [""]
    position = 0
    for match in UP_AND_CLEAR.finditer(text):
        lines = _add(lines, text[position : match.start()])
        ups = match[0].count("\x1b[1A")
        lines = [*lines[: len(lines) - 1 - ups], ""]
        position = match.end()
    return _add(lines, text[position:])


def _add(lines: list[str], text: str) -> list[str]:
    first, *rest = OTHER_CONTROL.sub("", text).replace("\r\n", "\n").split("\n")
    return [*lines[:-1], lines[-1] + first, *rest]


def main() -> None:
    """Run the demo and write its picture."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), color_system="truecolor")
    console.print(Text("$ modellab demo", style="bold"))
    for line in last_screen(written().rstrip()):
        console.print(Text.from_ansi(line))
    console.print()  # the frame would cut the last line
    console.save_svg(str(PICTURE), title="modellab demo", unique_id="demo")
    text = PICTURE.read_text("utf-8")
    # rich refers to fonts on another host.
    text = re.sub(r"\s*@font-face \{.*?\}", "", text, flags=re.DOTALL)
    PICTURE.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
