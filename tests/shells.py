"""Programs as a shell starts them: real processes, pipes and terminals."""

from __future__ import annotations

import asyncio
import os
import re
import struct
import sys
from asyncio import StreamReader
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import PATIENCE, eventually

import modellab_async
from modellab_async.simulator import Simulator

_TAKE_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""Makes the terminal one that Ctrl-C interrupts from, and becomes the program."""

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
CURSOR = re.compile(r"\x1b\[\??[0-9;]*[A-KhlJ]")


def environment(sim: Simulator | None = None, **more: str) -> dict[str, str]:
    """A bare environment in which this package can be imported and ``sim`` used."""
    env = {
        "PATH": os.defpath,
        "PYTHONPATH": str(Path(modellab_async.__file__).parents[1]),
        "PYTHONWARNINGS": "error",
        "TERM": "xterm-256color",
        "LC_ALL": "C.UTF-8",
    }
    if sim is not None:
        env |= {
            "MODELLAB_BASE_URL": sim.base_url,
            "DD_API_KEY": sim.api_key,
            "DD_APP_KEY": sim.app_key,
        }
    return env | more


def with_command(home: Path, sim: Simulator | None = None) -> dict[str, str]:
    """An environment with that home, and with `modellab` on the path beside all other programs."""
    tools = home / "bin"
    tools.mkdir()
    command = tools / "modellab"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m modellab_async "$@"\n')
    command.chmod(0o755)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    return environment(sim, HOME=str(home), PATH=path)


class Shell:
    """Starts programs, and sees to it that none outlives its test."""

    def __init__(self) -> None:
        self.processes: list[Process] = []

    async def python(
        self, *arguments: object, env: dict[str, str] | None = None, **streams: int
    ) -> Process:
        """Start Python."""
        return await self.run(sys.executable, *arguments, env=env, **streams)

    async def run(
        self, program: str, *arguments: object, env: dict[str, str] | None = None, **streams: int
    ) -> Process:
        """Start a program, piped unless told otherwise."""
        streams = {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE} | streams
        process = await asyncio.create_subprocess_exec(
            program,
            *map(str, arguments),
            env=environment() if env is None else env,
            **streams,  # type: ignore[arg-type]
        )
        self.processes.append(process)
        return process

    async def modellab(
        self, *arguments: object, env: dict[str, str] | None = None, **streams: int
    ) -> Process:
        """Start a command."""
        return await self.python("-m", "modellab_async", *arguments, env=env, **streams)

    async def close(self) -> None:
        for process in self.processes:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def finish(process: Process, given: bytes = b"") -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    async with asyncio.timeout(PATIENCE):
        stdout, stderr = await process.communicate(given)
    assert process.returncode is not None
    return process.returncode, (stdout or b"").decode(), stderr.decode()


async def first_line(stream: StreamReader | None) -> str:
    """The next line that a process writes."""
    assert stream is not None
    async with asyncio.timeout(PATIENCE):
        return (await stream.readline()).decode()


async def on_terminal(
    shell: Shell,
    *arguments: object,
    env: dict[str, str] | None = None,
    typed: bytes = b"",
    width: int = 100,
    interrupt: Callable[[], bool] | None = None,
) -> tuple[int, str]:
    """Run on a terminal of its own; gives the exit code and all that was drawn.

    Ctrl-C is typed once ``interrupt`` is true. Windows has no such terminals: the test is skipped.
    """
    fcntl, pty, termios = (
        pytest.importorskip(name, reason="terminals of POSIX")
        for name in ("fcntl", "pty", "termios")
    )
    ours, theirs = pty.openpty()
    os.write(ours, typed)
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
        command = ["-c", _TAKE_TERMINAL, "-m", "modellab_async", *arguments]
        process = await shell.python(*command, env=env, stdin=theirs, stdout=theirs, stderr=theirs)
    finally:
        os.close(theirs)

    def read() -> bytes:
        drawn = b""
        try:
            while chunk := os.read(ours, 65_536):
                drawn += chunk
        except OSError:  # Linux: the other side is closed
            pass
        return drawn

    try:
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            reading = group.create_task(asyncio.to_thread(read))
            if interrupt is not None:
                await eventually(interrupt)
                os.write(ours, b"\x03")
        return await process.wait(), reading.result().decode()
    finally:
        os.close(ours)
