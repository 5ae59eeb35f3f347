"""The context manager that pauses the garbage collector, by choice only."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from modellab_async import large_results


@pytest.fixture(autouse=True)
def _collector_on() -> Iterator[None]:
    gc.enable()
    yield
    gc.enable()


def test_the_collector_is_paused_inside_and_back_afterwards() -> None:
    """Inside, the collector is off; afterwards it is on again, also after an error."""
    with large_results():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(KeyError), large_results():
        raise KeyError
    assert gc.isenabled()


def test_nested_and_overlapping_uses_count() -> None:
    """The collector comes back when the last user leaves, in whatever order they do."""
    one, other = large_results(), large_results()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert not gc.isenabled()
    other.__exit__(None, None, None)
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    """Who has switched the collector off finds it off."""
    gc.disable()
    with large_results():
        pass
    assert not gc.isenabled()
