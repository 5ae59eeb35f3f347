"""The project's checks: ``nox`` runs them all; ``nox -s tests -- -k name`` runs one test.

Each session runs on the Python that runs nox; ``nox -P 3.14 -s tests`` takes another.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2026.10.20"
nox.options.sessions = ["lint", "typing", "tests", "core", "build", "docs", "ray"]
nox.options.error_on_external_run = True
# Python compiles modules as they are imported, a small part of those that pip installs, and keeps
# the result for the many programs that tests start.
os.environ["PIP_COMPILE"] = "0"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

ROOT = Path(__file__).parent
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
VERSION_FILE = PROJECT["tool"]["hatch"]["version"]["path"]


def locked(file: str) -> dict[str, str]:
    """An environment in which pip installs the versions of this file, for builds, too."""
    # pip splits the value at spaces, which a URL has none of.
    return dict.fromkeys(("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT"), (ROOT / file).as_uri())


os.environ |= locked("constraints.txt")

# The tests need every extra but Ray, which is large; in place, for coverage and pyright to see it.
IN_PLACE = ("-e", ".[cli,notebook,otel,speed,tables]")
PROSE = (  # with docstrings, errors and --help
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs", "examples"),
    *("modellab_async", "_modellab_async_cli.py", "_modellab_async_pytest.py"),
    "docs/_build/html/reference/command-line.html",
)
# Each worker takes whole files as long as it can, so that fixtures of a file are made once.
PARALLEL = ("-n", "auto", "--maxprocesses", "4", "--dist", "worksteal")
MUTATED = {  # each module that mutmut changes, and the tests (see ``pytest -k``) that should notice
    "retry": "test_retry or test_unreachable",
    "limiter": "test_limiter and not TestOverASocket",
    "quota": "test_quota or test_limiter and not TestOverASocket",
    "bulk": "(test_bulk or test_batch) and not bounded_number_of_runs",
    "pagination": "test_pagination and not costs",
}


def group(*names: str) -> list[str]:
    """The requirements of dependency groups in pyproject.toml."""
    return list(nox.project.dependency_groups(PROJECT, *names))


def python_of(session: nox.Session) -> tuple[int, ...]:
    """The version of Python that a session runs on, such as (3, 14)."""
    return version(str(session.python or platform.python_version()))


def version(text: str) -> tuple[int, ...]:
    """Major and minor number, to compare."""
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


@nox.session
def lint(session: nox.Session) -> None:
    """Style, likely bugs and formatting, by ruff; dead code, by vulture."""
    session.install(*group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("vulture")


@nox.session
def typing(session: nox.Session) -> None:
    """Types, by mypy and pyright: of the code, every public name, and every documented example."""
    session.install(*IN_PLACE, *group("typing"))
    for system in ("linux", "darwin", "win32"):
        session.run("mypy", "--platform", system)
    session.run("mypy", "--allow-untyped-defs", "--allow-incomplete-defs", "tests")
    session.run("pyright")
    session.run("pyright", "--verifytypes", "modellab_async", "--ignoreexternal")
    session.run("pytest", "tests/snippets.py")


@nox.session
def tests(session: nox.Session) -> None:
    """All tests; on the newest Python in development mode, with warnings of Python as errors."""
    session.install(*IN_PLACE, *group("test"))
    strict = python_of(session) >= version(nox.project.python_versions(PROJECT)[-1])
    env = {"PYTHONDEVMODE": "1", "PYTHONWARNINGS": "error"} if strict else {}
    session.run("pytest", *PARALLEL, *session.posargs, env=env)


@nox.session(default=False)
def coverage(session: nox.Session) -> None:
    """Which lines and branches no test runs. Apart from the tests, which it makes much slower."""
    session.install(*IN_PLACE, *group("test"))
    session.run("pytest", *PARALLEL, "--cov", "--cov-report=term", *session.posargs)


@nox.session(default=False)
def lowest(session: nox.Session) -> None:
    """All tests with the oldest versions that pyproject.toml allows; made for Python 3.11."""
    session.env.update(locked("constraints-lowest.txt"))
    session.install("-e", ".[all]", *group("test"))
    session.run("pytest", *PARALLEL, *session.posargs)
    session.run("pytest", "tests/cluster.py", *session.posargs)


@nox.session(venv_backend="none", default=False)
def newest(session: nox.Session) -> None:
    """All checks with the newest release of everything, instead of the locked ones."""
    for variable in locked("constraints.txt"):
        del os.environ[variable]
    for name in nox.options.sessions or ():
        session.notify(name)


@nox.session
def core(session: nox.Session) -> None:
    """Tests that need no extra, with none installed.

    Without those that start programs: these run the same code as the others do.
    """
    session.install("-e", ".", *group("test"))
    session.run("pytest", *PARALLEL, "-m", "not process", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """What users get: built, looked into, and tried in an environment with nothing else in it."""
    session.install(*group("build"))
    direct, both = Path(session.create_tmp(), "direct"), ROOT / "dist"
    for directory in (direct, both):
        shutil.rmtree(directory, ignore_errors=True)
    session.run("python", "-m", "build", "--wheel", "--outdir", str(direct), silent=True)
    session.run("python", "-m", "build", "--outdir", str(both), silent=True)
    [wheel] = both.glob("*.whl")
    [sdist] = both.glob("*.tar.gz")
    session.run("twine", "check", "--strict", str(wheel), str(sdist))
    session.run(
        *("pytest", "--noconftest", "tests/distribution.py"),
        env={
            "MODELLAB_SDIST": str(sdist),
            "MODELLAB_WHEEL": str(wheel),
            "MODELLAB_DIRECT_WHEEL": str(next(direct.glob("*.whl"))),
        },
    )


@nox.session
def docs(session: nox.Session) -> None:
    """The site, with warnings as errors, every link inside it checked, and its wording."""
    session.install(*IN_PLACE, *group("docs"))
    session.run("sphinx-build", "-W", "--keep-going", "-E", "-q", "docs", "docs/_build/html")
    session.run("python", "docs/check_links.py", "docs/_build/html")
    session.run("codespell", "--dictionary=-", "--dictionary=docs/words.txt", *PROSE)


@nox.session
def ray(session: nox.Session) -> None:
    """Reads by a local Ray cluster of two workers."""
    if python_of(session) >= (3, 15):
        session.skip("Ray has no wheels for Python 3.15 yet")
    session.install("-e", ".[ray]", *group("pytest"))
    session.run("pytest", "tests/cluster.py", *session.posargs)


@nox.session(default=False)
def browser(session: nox.Session) -> None:
    """What notebooks show, in a real Chromium: the system's, or one that Playwright brings."""
    session.install("-e", ".[cli,notebook]", *group("test", "browser"))
    if not shutil.which("chromium"):
        session.run("playwright", "install", "--with-deps", "chromium")
    session.run("pytest", "tests/browser.py", *session.posargs)


@nox.session(default=False)
def thorough(session: nox.Session) -> None:
    """Every case where the default run takes a sample: cancellations, generated inputs, fuzzing."""
    session.install(*IN_PLACE, *group("test"))
    session.run("pytest", *PARALLEL, *session.posargs, env={"MODELLAB_THOROUGH": "1"})


@nox.session(default=False)
def mutation(session: nox.Session) -> None:
    """Which changes to the core, or to modules of it, no test notices, by mutmut."""
    session.install("-e", ".", *group("test", "mutation"))
    for module in session.posargs or MUTATED:
        session.run(
            *("mutmut", "run", f"modellab_async.{module}.*"),
            env={"PYTEST_ADDOPTS": f"-k '{MUTATED[module]}'"},
        )
    session.run("mutmut", "results")


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """What the client costs, against its peers; writes tables and plots into docs/."""
    session.install(".[cli,speed]", *group("bench"))
    session.run("python", "-m", "benchmarks.bench", *session.posargs)


@nox.session(default=False)
def soak(session: nox.Session) -> None:
    """What the client survives, at full size; writes a page of figures into docs/."""
    session.install(".[cli,speed,tables]", *group("bench"))
    session.run("python", "-m", "benchmarks.soak", *session.posargs)


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Write both files of constraints; ``-- --upgrade`` takes the newest releases."""
    session.install(*group("lock"))
    everything = [f"--group={name}" for name in PROJECT["dependency-groups"]]
    for file, options in {
        "constraints.txt": everything,
        "constraints-lowest.txt": ["--group=backend", "--group=test", "--resolution=lowest-direct"],
    }.items():
        session.run(
            *("uv", "pip", "compile", "--universal", "--python-version=3.11", "--no-annotate"),
            *("--custom-compile-command=nox -s lock", "--no-emit-package=modellab-async"),
            *("--quiet", "--all-extras", "pyproject.toml", f"--output-file={file}"),
            *options,
            *session.posargs,
        )


@nox.session(default=False)
def audit(session: nox.Session) -> None:
    """Known vulnerabilities of all that is locked, by pip-audit."""
    session.install(*group("audit"))
    for file in ("constraints.txt", "constraints-lowest.txt"):
        session.run("pip-audit", "--disable-pip", "--no-deps", "--requirement", file)


@nox.session(venv_backend="none", default=False)
def release_notes(session: nox.Session) -> None:
    """Write the changelog's part for a tag, such as v0.2.0, which must name this version."""
    [tag] = session.posargs or ["(none)"]
    [defined] = re.findall(r'__version__ = "(.+)"', (ROOT / VERSION_FILE).read_text("utf-8"))
    if tag != f"v{defined}":
        session.error(f"the tag is {tag}, but {VERSION_FILE} says {defined}")
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    _, _, rest = changelog.partition(f"\n## [{defined}]")
    if not rest:
        session.error(f"CHANGELOG.md has no part [{defined}]")
    notes = ROOT / "build" / "release-notes.md"
    notes.parent.mkdir(exist_ok=True)
    notes.write_text(rest.partition("\n")[2].partition("\n## ")[0].strip() + "\n", "utf-8")
