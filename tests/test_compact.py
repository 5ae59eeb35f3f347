"""attrs classes that msgspec lays out; what all models have in common is in test_models."""

from __future__ import annotations

import gc
import inspect
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from modellab_async import Outcome, Param, Run
from modellab_async.endpoints import Call
from modellab_async.ratelimit import RateLimit
from modellab_async.responses import Response

if TYPE_CHECKING:
    from attrs import frozen as compact
else:
    from modellab_async.compact import compact


def test_compact_classes_are_attrs_classes() -> None:
    """Attrs knows their fields, and can change and take apart what they hold."""

    @compact(kw_only=True)
    class Point:
        x: int
        y: int = 0

    point = Point(x=1)
    assert [field.name for field in attrs.fields(Point)] == ["x", "y"]
    assert attrs.evolve(point, y=2) == Point(x=1, y=2)
    assert attrs.asdict(point) == {"x": 1, "y": 0}
    assert {point: "equal"}[Point(x=1)] == "equal"


def test_compact_values_are_unknown_to_the_garbage_collector() -> None:
    """However many are kept, a collection visits none of them."""

    @compact
    class Point:
        x: int

    assert not gc.is_tracked(Point(1))


def test_compact_classes_hide_what_their_repr_leaves_out() -> None:
    """A field with ``repr=False`` is in no text, rich's included; the others are as in attrs."""

    @compact
    class Answer:
        status: int
        body: bytes = attrs.field(default=b"", repr=False)

    answer: Any = Answer(200, b"secret")
    assert repr(answer) == "Answer(status=200)"
    assert list(answer.__rich_repr__()) == [("status", 200)]
    assert (answer.body, answer) == (b"secret", Answer(200, b"secret"))


@pytest.mark.parametrize(
    "field",
    [
        attrs.field(factory=list),
        attrs.field(converter=int),
        attrs.field(validator=attrs.validators.instance_of(int)),
    ],
    ids=["factory", "converter", "validator"],
)
def test_compact_classes_refuse_what_they_would_ignore(field: Any) -> None:
    """A field that does more than hold a value is an error, rather than one that does less."""
    with pytest.raises(TypeError, match=r"Odd\.value can only have a plain default"):
        compact(type("Odd", (), {"__annotations__": {"value": "int"}, "value": field}))


@pytest.mark.parametrize("cls", [Run, Param, Outcome, Call, Response, RateLimit])
def test_signatures_of_compact_classes_tell_their_fields(cls: Any) -> None:
    """What ``help`` and editors ask for can be evaluated, and has all fields with their types."""
    parameters = inspect.signature(cls).parameters
    assert list(parameters) == [field.name for field in attrs.fields(cls)]
    assert not any(isinstance(each.annotation, str) for each in parameters.values())


def test_compact_classes_refuse_subclasses() -> None:
    """One would hold fields that attrs, or msgspec, does not know of: better no class at all."""
    with pytest.raises(TypeError, match=r"Run is not made for subclasses, such as MyRun"):
        type("MyRun", (Run,), {"__annotations__": {"note": "str"}, "note": ""})
