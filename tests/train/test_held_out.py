from pathlib import Path

import pytest

from glmquant.data.labeled import Example, LabeledSet, read_labeled
from glmquant.errors import DataError
from glmquant.recipe.load import load_recipe
from glmquant.store.checkpoint import open_checkpoint
from glmquant.streaming.resources import Resources
from glmquant.train.directory import train_for_run
from glmquant.train.held_out import hold_out, write_jsonl
from tests.support.classifiers import golden_classifier


def labeled(*pairs: tuple[str, str]) -> LabeledSet:
    examples = tuple(Example(text, label, line) for line, (text, label) in enumerate(pairs, start=1))
    return LabeledSet("data.jsonl", examples, tuple(sorted({label for _, label in pairs})))


def texts(part: LabeledSet) -> list[str]:
    return [example.text for example in part.examples]


def test_shares_of_each_label_in_the_order_of_the_data() -> None:
    data = labeled(*((f"{label} {i}", label) for i in range(30) for label in ("a", "b")))
    train, test = hold_out(data, 0.2, seed=1)
    assert [sum(e.label == label for e in test.examples) for label in ("a", "b")] == [6, 6]
    assert sorted([*texts(train), *texts(test)]) == sorted(texts(data))
    assert [e.line for e in train.examples] == sorted(e.line for e in train.examples)
    assert texts(hold_out(data, 0.2, seed=1)[1]) == texts(test)
    assert texts(hold_out(data, 0.2, seed=2)[1]) != texts(test)


def test_no_text_is_on_both_sides() -> None:
    plain = [("y", "a"), ("w", "a"), ("u", "b"), ("v", "b"), ("t", "b")]
    data = labeled(("x", "a"), ("x", "a"), (" x  ", "a"), ("z", "b"), ("z", "a"), *plain)
    train, test = hold_out(data, 0.5, seed=0)
    assert sorted([*texts(train), *texts(test)]) == ["t", "u", "v", "w", "x", "y"]  # z contradicts itself


def test_a_label_left_with_two_texts_is_refused() -> None:
    with pytest.raises(DataError, match=r"'b' has 2 examples\n  where: data\.jsonl, line 4\n  expected: three or more"):
        hold_out(labeled(("x", "a"), ("y", "a"), ("w", "a"), ("z", "b"), ("z", "b"), ("u", "b")), 0.5, seed=0)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    data = labeled(("好 \u2028 x", "a"), ('"q"', "b"))
    write_jsonl(data, tmp_path / "test.jsonl")
    again = read_labeled(tmp_path / "test.jsonl")
    assert [(e.text, e.label) for e in again.examples] == [(e.text, e.label) for e in data.examples]
    assert again.sha256 == data.sha256


def test_examples_held_out_before_the_recipe_named_tasks_do_not_stay(tmp_path: Path) -> None:
    golden_classifier(tmp_path, "chatglm2-tiny", ("a", "b", "c")).rename(tmp_path / "classifier")
    write_jsonl(LabeledSet("x", (), ()), tmp_path / "test.jsonl")
    recipe = load_recipe(None, {"check.tasks": [{"data": "mine.csv"}]})
    trained = open_checkpoint(tmp_path / "classifier")
    labeled, resources = LabeledSet("x", (), ()), Resources.named("cpu", None)
    _, options = train_for_run(trained, labeled, recipe, recipe.check, tmp_path, resources)
    assert options == recipe.check
    assert not (tmp_path / "test.jsonl").exists()
