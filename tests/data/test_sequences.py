import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmquant.data.sequences import encode_texts, length_batches, padded
from glmquant.errors import DataError
from tests.support.tokenizers import Letters


@given(lengths=st.lists(st.integers(1, 50), max_size=30), budget=st.integers(1, 120))
def test_batches_hold_everyone_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = length_batches(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[i] for i in batch)
        assert len(batch) * longest <= budget or len(batch) == 1
        assert lengths[batch[0]] == longest


def test_similar_lengths_go_together() -> None:
    assert length_batches([2, 9, 3, 9, 2], 18) == [[1, 3], [2, 0, 4]]


def test_long_texts_lose_their_end_and_are_counted() -> None:
    encoded = encode_texts(["abc", "abcd", "abcde"], Letters((1, 2)), 6)
    assert [ids.tolist() for ids in encoded.ids] == [
        [1, 2, 97, 98, 99],
        [1, 2, 97, 98, 99, 100],
        [1, 2, 97, 98, 99, 100],
    ]
    assert encoded.truncated == (False, False, True)
    assert encoded.num_truncated == 1


def test_no_room_for_text() -> None:
    with pytest.raises(DataError, match="max_length is 2"):
        encode_texts(["a"], Letters((1, 2)), 2)


def test_padding_is_on_the_left() -> None:
    ids, mask = padded([np.array([5, 6, 7]), np.array([8])], 9)
    assert ids.tolist() == [[5, 6, 7], [9, 9, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
