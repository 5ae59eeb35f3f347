"""CPU time of fresh processes that import the package or show a command's version or help.

    python benchmarks/startup.py [ROUNDS]

Each round runs every arm once. The published figures are the median CPU time (user and system, the
interpreter's start included) and the median over the rounds of the ratio to importing aiohttp.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from statistics import median

BASELINE = "import aiohttp"
LIBRARIES = "import aiohttp, attrs, cattrs, msgspec, tenacity"
ARMS: Mapping[str, Sequence[str]] = {
    BASELINE: ["-c", BASELINE],
    f"{BASELINE} (control)": ["-c", BASELINE],
    "an empty program": ["-c", ""],
    LIBRARIES: ["-c", LIBRARIES],
    "these and modellab_async": ["-c", f"{LIBRARIES}, modellab_async"],
    "these and ModelLabClient": ["-c", f"{LIBRARIES}\nfrom modellab_async import ModelLabClient"],
    "import modellab_async": ["-c", "import modellab_async"],
    "from modellab_async import ModelLabClient": [
        "-c",
        "from modellab_async import ModelLabClient",
    ],
    "modellab --version": ["-m", "modellab_async", "--version"],
    "modellab --help": ["-m", "modellab_async", "--help"],
}


def cpu_times(rounds: int) -> dict[str, list[float]]:
    """Seconds of CPU time of each arm in each round."""
    times: dict[str, list[float]] = {name: [] for name in ARMS}
    # Bytecode is compiled in a round of its own, as it has been for an installed package.
    with tempfile.TemporaryDirectory() as bytecode:
        env = os.environ | {"PYTHONPYCACHEPREFIX": bytecode}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        for round_ in range(rounds + 1):
            for name, arguments in ARMS.items():
                spent = _cpu_time([sys.executable, *arguments], env)
                if round_:
                    times[name].append(spent)
    return times


def _cpu_time(command: Sequence[str], env: Mapping[str, str]) -> float:
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return usage.ru_utime + usage.ru_stime


def table(times: Mapping[str, Sequence[float]]) -> list[tuple[str, float, float, float]]:
    """Each arm's name, median milliseconds, least milliseconds and median ratio to the baseline."""
    return [
        (
            name,
            median(own) * 1e3,
            min(own) * 1e3,
            median(a / b for a, b in zip(own, times[BASELINE], strict=True)),
        )
        for name, own in times.items()
    ]


def main() -> None:
    times = cpu_times(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
    print(f"{'':48}  median ms  minimum ms  ratio to aiohttp")
    for name, middle, least, ratio in table(times):
        print(f"{name:48}  {middle:9.0f}  {least:10.0f}  {ratio:16.2f}")


if __name__ == "__main__":
    main()
