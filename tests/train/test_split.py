from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glmquant.data.labeled import Example, LabeledSet
from glmquant.errors import DataError
from glmquant.train.split import class_weights, label_indices, split_examples
from tests.support.training import labeled


def made_of(counts: dict[str, int]) -> LabeledSet:
    names = [label for label, count in counts.items() for _ in range(count)]
    examples = tuple(Example(f"text {i}", label, i + 1) for i, label in enumerate(names))
    return LabeledSet("data.jsonl", examples, tuple(sorted(counts)))


@given(
    counts=st.lists(st.integers(2, 40), min_size=2, max_size=4),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
)
def test_every_example_is_in_one_part_and_every_label_in_both(counts: list[int], share: float, seed: int) -> None:
    data = made_of({chr(97 + i): count for i, count in enumerate(counts)})
    split = split_examples(data, share, seed)
    assert sorted([*split.train, *split.validation]) == list(range(sum(counts)))
    truth = label_indices(data)
    for part in (split.train, split.validation):
        assert set(truth[torch.from_numpy(part)].tolist()) == set(range(len(counts)))
    again = split_examples(data, share, seed)
    assert (split.train == again.train).all()


def test_shares_are_those_of_each_label() -> None:
    data = made_of({"a": 100, "b": 20})
    truth = label_indices(data)
    assert torch.bincount(truth[torch.from_numpy(split_examples(data, 0.1, 0).validation)]).tolist() == [10, 2]


def test_a_label_with_one_example_is_refused(tmp_path: Path) -> None:
    rows = [("aa", "animal"), ("bb", "animal"), ("ii", "plant"), ("jj", "plant"), ("q", "stone")]
    with pytest.raises(DataError, match=r"'stone' has 1 example\n  where: data\.jsonl, line 5"):
        split_examples(labeled(tmp_path, rows), 0.1, 0)


def test_balanced_weights_make_labels_count_alike() -> None:
    truth = torch.tensor([0, 0, 0, 1])
    weights = class_weights(truth, 2)
    assert weights.tolist() == pytest.approx([2 / 3, 2.0])
