"""Whatever a server sends, decoding it and reading its headers raises documented errors only."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from fuzz import MODELS, fuzz
from hypothesis import given
from hypothesis import strategies as st

from modellab_async import DecodeError, make_converter
from modellab_async.documents import decode
from modellab_async.ratelimit import RateLimit

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=9,
)
NAMES = ("limit", "period", "remaining", "reset", "name")


def test_thousands_of_spoilt_answers():
    """Four thousand of the cases whose long form runs in the soak, every end among them."""
    ends = fuzz(4_000, seed=20_260_515)
    assert sum(ends.values()) == 4_000
    assert set(ends) == {
        *("decoded", "page", "refused", "cut short", "limit", "no limit", "status"),
    }


def test_the_same_seed_makes_the_same_cases():
    """What was found once can be found again."""
    assert fuzz(300, seed=5) == fuzz(300, seed=5) != fuzz(300, seed=6)


@given(st.sampled_from(MODELS), st.dictionaries(st.text(max_size=9), JSON, max_size=4), JSON)
def test_resources_of_any_shape(model: type[Any], attributes: dict[str, Any], own_id: Any):
    """JSON of the right frame with anything in it is a model or a DecodeError."""
    body = json.dumps({"data": {"id": own_id, "attributes": attributes}}).encode()
    with contextlib.suppress(DecodeError):
        assert isinstance(decode(body, model, make_converter()), model)


@given(st.dictionaries(st.sampled_from(NAMES), st.text(max_size=30), max_size=5), st.text())
def test_rate_limits_of_any_text(told: dict[str, str], retry_after: str):
    """Any text in the headers gives a limit that can be believed, or none."""
    headers = {f"x-ratelimit-{name}": text for name, text in told.items()}
    found = RateLimit.from_headers(headers | {"retry-after": retry_after})
    assert found is not None
    assert found.reset is None or 0 <= found.reset <= 30 * 86_400
    assert found.limit is None or found.limit >= 0
