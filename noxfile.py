"""The project's checks: ``nox`` runs them all; ``nox -s tests-3.11 -- -k name`` runs one test."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = [
    "lint",
    "typing",
    "tests-3.11",
    "core",
    "build",
    "docs",
    "ray",
]
nox.options.error_on_external_run = True
nox.options.error_on_missing_interpreters = False  # CI names the one it has
# Python compiles modules as they are imported, a small part of those that pip installs, and keeps
# the result for the many programs that tests start.
os.environ["PIP_COMPILE"] = "0"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT)
EXTRAS = ("cli", "duckdb", "otel", "speed")
IN_PLACE = ("-e", f".[{','.join(EXTRAS)}]")  # for coverage and pyright to see it
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
    "bulk": "(test_bulk or test_batch) and not bounded_number_of_runs",
    "pagination": "test_pagination and not costs",
}


def group(*names: str) -> list[str]:
    """The requirements of dependency groups in pyproject.toml."""
    return list(nox.project.dependency_groups(PROJECT, *names))


def lowest_allowed() -> list[str]:
    """What the package and these extras need, each in the oldest version that they allow."""
    needed = list(PROJECT["project"]["dependencies"])
    for extra in EXTRAS:
        needed += PROJECT["project"]["optional-dependencies"][extra]
    return [requirement.replace(">=", "==") for requirement in needed]


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
    session.run("mypy")
    session.run("mypy", "--allow-untyped-defs", "--allow-incomplete-defs", "tests")
    session.run("pyright")
    session.run("pyright", "--verifytypes", "modellab_async", "--ignoreexternal")
    session.run("pytest", "tests/snippets.py")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """All tests; in development mode on the newest Python."""
    session.install(*IN_PLACE, *group("test"))
    env = {"PYTHONDEVMODE": "1"} if session.python == PYTHONS[-1] else {}
    session.run("pytest", *PARALLEL, *session.posargs, env=env)


@nox.session(python=PYTHONS[0], default=False)
def coverage(session: nox.Session) -> None:
    """Which lines and branches no test runs. Apart from the tests, which it makes much slower."""
    session.install(*IN_PLACE, *group("test"))
    session.run("pytest", *PARALLEL, "--cov", "--cov-report=term", *session.posargs)


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """All tests with the oldest versions of everything that the package needs."""
    session.install(*IN_PLACE, *lowest_allowed(), *group("test"))
    session.run("pytest", *PARALLEL, *session.posargs)


@nox.session(python=PYTHONS[1])
def core(session: nox.Session) -> None:
    """Tests that need no extra, with none installed, on a Python between the two.

    Without those that start programs: these run the same code as the others do.
    """
    session.install("-e", ".", *group("test"))
    session.run("pytest", *PARALLEL, "-m", "not process", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """What users get: built, looked into, and tried in an environment with nothing else in it."""
    session.install(*group("build"))
    direct, both = Path(session.create_tmp(), "direct"), Path(session.create_tmp(), "dist")
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
    session.install("-e", ".[ray]", *group("pytest"))
    session.run("pytest", "tests/cluster.py", *session.posargs)


@nox.session(default=False)
def browser(session: nox.Session) -> None:
    """What notebooks show, in a real Chromium: the system's, or one that Playwright brings."""
    session.install("-e", ".[cli]", *group("test", "browser"))
    if not shutil.which("chromium"):
        session.run("playwright", "install", "--with-deps", "chromium")
    session.run("pytest", "tests/browser.py", *session.posargs)


@nox.session(default=False)
def thorough(session: nox.Session) -> None:
    """Every case where the default run takes a sample: cancellations, generated inputs, fuzzing."""
    session.install(*IN_PLACE, *group("test"))
    session.run("pytest", *PARALLEL, *session.posargs, env={"MODELLAB_THOROUGH": "1"})


@nox.session(python=PYTHONS[0], default=False)
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
    session.install(".[cli,duckdb,speed]", *group("bench"))
    session.run("python", "-m", "benchmarks.soak", *session.posargs)
