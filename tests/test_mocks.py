"""`unittest.mock.create_autospec` makes mocks that fit the client."""

from __future__ import annotations

import inspect
from typing import Any
from unittest.mock import AsyncMock, create_autospec

import pytest
from conftest import make_run

from modellab_async import ModelLabClient, Outcome
from modellab_async.resources import Artifacts, Projects, Runs

AWAITED = [
    (attribute, name)
    for attribute, cls in [("runs", Runs), ("projects", Projects), ("artifacts", Artifacts)]
    for name, function in inspect.getmembers(cls, inspect.iscoroutinefunction)
    if not name.startswith("_")
]


@pytest.fixture(scope="module")
def mocks() -> tuple[Any, Any]:
    """A mock of an instance, and what a mock of the class makes."""
    made = create_autospec(ModelLabClient)(api_key="a", app_key="b")
    return create_autospec(ModelLabClient, instance=True), made


@pytest.mark.parametrize(("attribute", "name"), AWAITED)
def test_methods_that_are_awaited(mocks: tuple[Any, Any], attribute: str, name: str):
    """Each of them is an `AsyncMock`, whether the class or an instance is asked for."""
    for lab in mocks:
        assert isinstance(getattr(getattr(lab, attribute), name), AsyncMock)


async def test_a_mock_answers_and_refuses_what_the_client_would_refuse():
    """It returns what a test says, for arguments that the method takes, and for no other method."""
    lab = create_autospec(ModelLabClient, instance=True)
    run = lab.runs.get.return_value = make_run()
    assert await lab.runs.get(70158) is run
    with pytest.raises(TypeError):
        await lab.runs.get(70158, route="single")
    with pytest.raises(AttributeError):
        lab.runs.fetch_all.return_value = []


async def test_a_mock_in_place_of_the_context_manager():
    """Code that opens a client of its own gets the mock, and iterates over what a test says."""
    lab = create_autospec(ModelLabClient, instance=True)
    lab.__aenter__.return_value = lab
    outcomes = lab.runs.fetch.return_value
    outcomes.__aenter__.return_value = outcomes
    outcomes.__aiter__.return_value = [Outcome(70158, run=make_run())]
    async with lab as opened, opened.runs.fetch([70158]) as fetched:
        assert [outcome.unwrap().id async for outcome in fetched] == [70158]
    lab.__aexit__.assert_awaited_once()


def test_every_client_has_operations_of_its_own():
    """What the class holds for mocks is shared by no two clients."""
    one, other = (ModelLabClient(api_key="a", app_key="b") for _ in range(2))
    for attribute, cls in [("runs", Runs), ("projects", Projects), ("artifacts", Artifacts)]:
        assert isinstance(getattr(one, attribute), cls)
        assert getattr(one, attribute) is not getattr(other, attribute)
