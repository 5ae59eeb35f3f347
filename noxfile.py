"""The project's checks: ``nox`` runs them all; ``nox -s tests -- -k name`` runs one test."""

from __future__ import annotations

import shutil

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "typing", "tests", "docs", "ray"]
nox.options.error_on_external_run = True

PROJECT = nox.project.load_toml("pyproject.toml")


def group(*names: str) -> list[str]:
    """The requirements of dependency groups in pyproject.toml."""
    return list(nox.project.dependency_groups(PROJECT, *names))


@nox.session
def lint(session: nox.Session) -> None:
    """Style, likely bugs, and formatting, by ruff."""
    session.install(*group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def typing(session: nox.Session) -> None:
    """Types, by mypy in strict mode and by pyright."""
    session.install("-e", ".[cli,arrow,otel]", *group("typing"))
    session.run("mypy")
    session.run("mypy", "--allow-untyped-defs", "--allow-incomplete-defs", "tests")
    session.run("pyright")


@nox.session
def tests(session: nox.Session) -> None:
    """All tests, with coverage."""
    session.install("-e", ".[cli,arrow,otel]", *group("test"))  # in place, for coverage to see it
    session.run(
        "pytest",
        "--cov",
        "--cov-report=term",
        *session.posargs,
        env={"PYTHONDEVMODE": "1"},
    )


@nox.session
def docs(session: nox.Session) -> None:
    """The site, with warnings as errors and every link inside it checked."""
    session.install("-e", ".[cli,arrow]", *group("docs"))
    session.run("sphinx-build", "-W", "--keep-going", "-E", "-q", "docs", "docs/_build/html")
    session.run("python", "docs/check_links.py", "docs/_build/html")


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
def bench(session: nox.Session) -> None:
    """What the client costs, against its peers; writes tables and plots into docs/."""
    session.install(".[cli]", *group("bench"))
    session.run("python", "-m", "benchmarks.bench", *session.posargs)


@nox.session(default=False)
def soak(session: nox.Session) -> None:
    """What the client survives, at full size; writes a page of figures into docs/."""
    session.install(".[cli]", *group("bench"))
    session.run("python", "-m", "benchmarks.soak", *session.posargs)
