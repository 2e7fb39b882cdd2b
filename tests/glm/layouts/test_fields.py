"""What errors about a field of ``config.json`` say."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from glmquant.errors import CheckpointError
from glmquant.glm.layouts.fields import LARGEST_SIZE, Fields, float_dtype


def fields(**values: Any) -> Fields:
    return Fields(values, "config.json")


@pytest.mark.parametrize(
    ("read", "value", "expected"),
    [
        (lambda f: f.integer("it"), 0, f"a whole number from 1 to {LARGEST_SIZE}"),
        (lambda f: f.integer("it", high=7), 8, "a whole number from 1 to 7"),
        (lambda f: f.integer("it"), 2.0, f"a whole number from 1 to {LARGEST_SIZE}"),
        (lambda f: f.integer("it"), True, f"a whole number from 1 to {LARGEST_SIZE}"),
        (lambda f: f.number("it", high=1.0), 10**400, "a number above 0 and at most 1"),
        (lambda f: f.number("it"), math.nan, "a number above 0 and at most 1e+12"),
        (lambda f: f.flag("it"), 1, "true or false"),
        (lambda f: f.choice("it", ("b", "a"), "a"), "c", "one of a, b"),
        (lambda f: f.token_id("it", 10), 10, "a whole number from 0 to 9"),
        (lambda f: f.token_ids("it", 10, (1,)), [3, 10], "a token id below 10, or a list of them"),
        (lambda f: f.token_ids("it", 10, (1,)), [], "a token id below 10, or a list of them"),
        (lambda f: f.refuse_unless("it", True, "not implemented"), 1, "true: not implemented"),
    ],
)
def test_errors_name_file_field_value_and_what_was_expected(
    read: Callable[[Fields], object], value: object, expected: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        read(fields(it=value))
    assert (caught.value.where, caught.value.expected) == ("config.json, it", expected)
    assert caught.value.what.startswith("it is ")


def test_a_required_field_is_missing_where_it_is_null() -> None:
    for absent in (fields(), fields(it=None)):
        with pytest.raises(CheckpointError, match="it is missing"):
            absent.integer("it")
        assert absent.integer("it", 3) == 3
        assert absent.number("it", 0.5) == 0.5
        assert absent.flag("it", False) is False
        assert absent.choice("it", ("a", "b"), "b") == "b"
        assert absent.token_ids("it", 10, (4,)) == (4,)
        assert absent.token_id("it", 10) is None
        assert "it" not in absent


def test_a_long_value_is_cut() -> None:
    with pytest.raises(CheckpointError) as caught:
        fields(it="x" * 10_000).flag("it")
    assert len(caught.value.what) < 100


def test_a_section_is_named_with_its_file() -> None:
    with pytest.raises(CheckpointError) as caught:
        fields(rope={"factor": -1}).section("rope").number("factor")
    assert caught.value.where == "config.json, rope, factor"
    with pytest.raises(CheckpointError, match="the configuration is a list"):
        fields(rope=[1]).section("rope")


def test_the_dtype_has_two_names() -> None:
    assert float_dtype(fields(torch_dtype="bfloat16"), "float32") == "bfloat16"
    assert float_dtype(fields(dtype="float16", torch_dtype="bfloat16"), "float32") == "float16"
    assert float_dtype(fields(), "float32") == "float32"
    with pytest.raises(CheckpointError, match=r"config\.json, dtype"):
        float_dtype(fields(dtype="int8"), "float32")
