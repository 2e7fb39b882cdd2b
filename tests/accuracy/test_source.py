from hypothesis import given
from hypothesis import strategies as st

from glmquant.accuracy.source import length_batches


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
