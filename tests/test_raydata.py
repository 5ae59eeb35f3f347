"""Ray datasets, as far as they go without ray; the rest is in ``tests/cluster.py``."""

from __future__ import annotations

import sys

import pytest

from modellab_async import MissingExtraError, raydata


@pytest.mark.parametrize("missing", ["ray", "pyarrow"])
def test_without_ray_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """The room can be imported, and says what to install when it is used."""
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'modellab_async\[ray\]'"):
        raydata.read_runs([70158])
