"""Where two JSON values differ."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from podctl.json_difference import differences, first_difference

values: st.SearchStrategy[JsonValue] = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "a", "b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["x", "y", "z"]), inner, max_size=3),
    max_leaves=8,
)


@given(values, values)
def test_equal_is_what_is_written_the_same(one: JsonValue, other: JsonValue) -> None:
    assert (first_difference(one, other, "it") is None) == (json.dumps(one) == json.dumps(other))


@pytest.mark.parametrize(
    ("before", "now", "says"),
    [
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}, ["it.a[1].b: 2 in the file, 3 with this podctl"]),
        ({"a": 1}, {}, ["it.a: 1 in the file, not there with this podctl"]),
        ({}, {"a": "x"}, ['it.a: not in the file, "x" with this podctl']),
        ([1], [1, 2], ["it: 1 in the file, 2 with this podctl; the first that only this podctl has is 2"]),
        ([1, 2], [1], ["it: 2 in the file, 1 with this podctl; the first that only the file has is 2"]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, ["it: the same entries in another order"]),
        ({"a": 1, "b": 2}, {"a": True, "b": None}, ["it.a: 1 in the file, true with this podctl"]),
    ],
)
def test_a_difference_is_told_with_its_place(before: JsonValue, now: JsonValue, says: list[str]) -> None:
    assert list(differences(before, now, "it"))[: len(says)] == says
