"""The error for a part of the package whose extra is not installed, and what to install."""

from __future__ import annotations

from modellab_async.errors import MissingExtraError


def missing_extra(user: str, extra: str, *packages: str) -> MissingExtraError:
    """The error to raise if packages that an extra installs are missing.

    pip takes the extra from the package that is installed, without looking for it on an index, so
    the command in the message works with a wheel, a clone and an index alike.

    Args:
        user: what needs them: a module, or the command ``modellab``.
        extra: the extra.
        packages: what is missing.
    """
    needed = " and ".join(packages)
    return MissingExtraError(
        f"{user} needs {needed}: python -m pip install 'modellab_async[{extra}]'"
    )
