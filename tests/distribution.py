"""What users get: the wheel and the sdist that `nox -s build` has built, looked into and tried."""

from __future__ import annotations

import email
import os
import shlex
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.message import Message
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]
BESIDE = {"_modellab_async_cli.py", "_modellab_async_pytest.py"}


def built(variable: str) -> Path:
    return Path(os.environ[variable]).absolute()


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def wheel() -> dict[str, bytes]:
    return contents(built("MODELLAB_WHEEL"))


@pytest.fixture(scope="module")
def metadata(wheel: dict[str, bytes]) -> Message:
    [name] = [name for name in wheel if name.endswith(".dist-info/METADATA")]
    return email.message_from_string(wheel[name].decode("utf-8"))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: dict[str, bytes]):
    """It has every module, `py.typed`, what stands beside the package, the licence, no tests."""
    package = {
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "modellab_async").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert "modellab_async/py.typed" in package

    about = {name for name in wheel if ".dist-info/" in name}
    assert set(wheel) - about == {*package, *BESIDE}
    assert {PurePosixPath(name).name for name in about} == {
        "METADATA",
        "WHEEL",
        "RECORD",
        "entry_points.txt",
        "LICENSE",
    }


def test_the_wheel_says_what_it_is(metadata: Message):
    """Its metadata names the licence, the README, the Pythons and the extras."""
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["License-File"] == "LICENSE"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload() == (ROOT / "README.md").read_text("utf-8")
    assert set(metadata.get_all("Provides-Extra", [])) == {
        *("all", "cli", "notebook", "otel", "ray", "speed", "tables")
    }
    core = {need for need in metadata.get_all("Requires-Dist", []) if "extra ==" not in need}
    assert {need.partition(">")[0] for need in core} == {
        *("aiohttp", "attrs", "cattrs", "msgspec", "tenacity")
    }


def test_the_sdist_builds_the_same_wheel(wheel: dict[str, bytes]):
    """A wheel built from the sdist is that built from the checkout, byte for byte."""
    assert contents(built("MODELLAB_DIRECT_WHEEL")) == wheel


def test_the_sdist_holds_what_a_packager_needs():
    """It has the sources, the tests, the docs and the licence, and nothing that was left about."""
    with tarfile.open(built("MODELLAB_SDIST")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "noxfile.py", *BESIDE}
    needed |= {"PKG-INFO", "tests/conftest.py", "docs/explanation/architecture.md"}
    assert needed <= names
    assert [name for name in names if "__pycache__" in name or "/_build/" in name] == []
    assert {name.partition("/")[0] for name in names} <= {
        *needed,
        *("modellab_async", "tests", "docs", "examples", "benchmarks", ".github", ".gitignore"),
        *("CONTRIBUTING.md", "SECURITY.md", ".pre-commit-config.yaml"),
        *("constraints.txt", "constraints-lowest.txt"),
    }


def test_the_wheel_works_by_itself(tmp_path: Path):
    """In an empty environment the core imports, and the command says how to install its extra."""
    venv.create(tmp_path / "venv", with_pip=True)
    scripts = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [scripts / program, *arguments],
            cwd=tmp_path,
            env=clean,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def install(*command: str) -> None:
        done = run(*command, "--quiet")
        assert done.returncode == 0, done.stderr

    install("python", "-m", "pip", "install", str(built("MODELLAB_WHEEL")))
    imported = run("python", "-W", "error", "-c", "import modellab_async as m; print(m.__file__)")
    assert imported.stdout.startswith(str(tmp_path)), imported.stderr
    without = run("modellab", "demo")
    assert (without.returncode, without.stdout) == (2, "")
    missing, _, command = without.stderr.partition(": ")
    assert missing == "modellab needs typer and rich"

    install(*shlex.split(command))
    demo = run("modellab", "demo")
    assert demo.returncode == 0, demo.stderr
    assert demo.stderr + demo.stdout
