import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmquant.errors import CheckError, DataError
from glmquant.evaluation.plan import TaskPlan, label_scores, plan_task
from glmquant.evaluation.tasks import Truth, compare, macro_f1_intervals
from glmquant.recipe.check_options import Task
from tests.support.sources import Hashed
from tests.support.tokenizers import Letters, Publisher

LANGUAGE = Hashed(vocabulary=128)


class Merging(Letters):
    """Joins every ``ab`` into one token, as byte pair encoding would, also across the end of a prompt."""

    def encode(self, text: str) -> list[int]:
        return super().encode(text.replace("ab", "\x01"))


def data(directory: Path, *labeled: tuple[str, str]) -> str:
    path = directory / "data.csv"
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in labeled), encoding="utf-8")
    return str(path)


def scores(plan: TaskPlan) -> np.ndarray:
    answers = LANGUAGE.logits(plan.queries)
    return np.array(
        [label_scores(e, [next(answers) for _ in e.queries], len(plan.truth.labels)) for e in plan.examples]
    )


def naive_score(prefix: tuple[int, ...], context: list[int], continuation: list[int]) -> float:
    """Sum of log-probabilities, one token and one forward at a time."""
    tokens, total = [*prefix, *context], 0.0
    for token in continuation:
        row = [float(x) for x in LANGUAGE.row(tokens)]
        total += row[token] - math.log(math.fsum(map(math.exp, row)))
        tokens.append(token)
    return total


@given(
    words=st.lists(st.text("abc", min_size=1, max_size=4), min_size=2, max_size=4, unique=True),
    text=st.text("abc", min_size=1, max_size=4),
    prefix=st.sampled_from([(), (5, 6)]),
)
def test_scores_equal_a_plain_loop(
    tmp_path_factory: pytest.TempPathFactory, words: list[str], text: str, prefix: tuple[int, ...]
) -> None:
    labels = {f"label{i}": word for i, word in enumerate(words)}
    path = data(tmp_path_factory.mktemp("t"), (text, "label0"))
    plan = plan_task(Task(data=path, prompt="Is it {text}? ", labels=labels), Letters(prefix))
    context = Letters().encode(f"Is it {text}? ")
    expected = [naive_score(prefix, context, Letters().encode(labels[label])) for label in plan.truth.labels]
    np.testing.assert_allclose(scores(plan)[0], expected, rtol=1e-5)


def test_single_tokens_cost_one_sequence_and_one_row(tmp_path: Path) -> None:
    plan = plan_task(Task(data=data(tmp_path, ("q", "+"), ("rr", "-"))), Letters((1,)))
    assert [(query.tokens.tolist(), query.num_logits) for query in plan.queries] == [
        ([1, ord("q")], 1),
        ([1, ord("r"), ord("r")], 1),
    ]


def test_a_sequence_serves_every_label_that_it_begins_with(tmp_path: Path) -> None:
    labels = {"1": "no", "2": "none", "3": "yes", "4": "n"}
    plan = plan_task(Task(data=data(tmp_path, ("x", "1")), labels=labels), Letters())
    asked = [("".join(map(chr, query.tokens)), query.num_logits) for query in plan.queries]
    assert asked == [("xnon", 4), ("xye", 3)]
    assert [c.query for c in plan.examples[0].continuations] == [0, 0, 1, 0]


def test_a_word_may_merge_with_the_prompt(tmp_path: Path) -> None:
    """The prompt ends in a, one word begins with b: both words are scored from before the a."""
    labels = {"1": "bc", "2": "d"}
    plan = plan_task(Task(data=data(tmp_path, ("x", "1")), prompt="{text}a", labels=labels), Merging())
    assert [c.tokens for c in plan.examples[0].continuations] == [(1, ord("c")), (ord("a"), ord("d"))]
    expected = [naive_score((), [ord("x")], [1, ord("c")]), naive_score((), [ord("x")], [ord("a"), ord("d")])]
    np.testing.assert_allclose(scores(plan)[0], expected, rtol=1e-5)


def test_the_publishers_tokenizer(tmp_path: Path) -> None:
    labels = {"pos": "好", "neg": "差"}
    task = Task(data=data(tmp_path, ("很不错", "pos")), prompt="评价：{text}\n情感：", labels=labels)
    tokenizer = Publisher()
    plan = plan_task(task, tokenizer)
    context = tokenizer.encode("评价：很不错\n情感：")
    for continuation, word in zip(plan.examples[0].continuations, ("差", "好"), strict=True):
        assert [*context, *continuation.tokens] == tokenizer.encode("评价：很不错\n情感：" + word)
    assert plan.queries[0].tokens[: 2 + len(context)].tolist() == [2044, 2046, *context]


def test_words_that_cannot_be_told_apart(tmp_path: Path) -> None:
    path = data(tmp_path, ("x", "1"))
    with pytest.raises(CheckError, match=r"same tokens[\s\S]*line 2"):
        plan_task(Task(data=path, labels={"1": "same", "2": "same"}), Letters())
    with pytest.raises(CheckError, match="same tokens"):
        plan_task(Task(data=path, labels={"1": "", "2": "y"}), Letters())


def test_nothing_before_the_label(tmp_path: Path) -> None:
    path = data(tmp_path, ("", "1"), ("b", "2"))
    with pytest.raises(CheckError, match=r"no prompt before it[\s\S]*line 2"):
        plan_task(Task(data=path), Letters())
    assert len(plan_task(Task(data=path), Letters((1,))).examples) == 2


def test_bad_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown label 'x'"):
        plan_task(Task(data=data(tmp_path, ("a", "x")), labels={"1": "a", "2": "b"}), Letters())


def plan_of(labels: list[str], tmp_path: Path) -> TaskPlan:
    return plan_task(Task(data=data(tmp_path, *[("t", label) for label in labels]), name="reviews"), Letters())


def one_hot(answers: list[str], labels: tuple[str, ...]) -> np.ndarray:
    return np.array([[float(answer == label) for label in labels] for answer in answers])


def test_the_result_in_numbers(tmp_path: Path) -> None:
    truth = ["a", "a", "a", "a", "b", "b", "c", "c", "c", "c"]
    before = ["a", "a", "a", "a", "b", "b", "c", "c", "c", "a"]
    after = ["a", "a", "b", "a", "b", "a", "c", "c", "c", "c"]
    plan = plan_of(truth, tmp_path)
    result = compare(plan.truth, *(one_hot(answers, plan.truth.labels) for answers in (before, after)))
    assert (result.name, result.labels, result.num_examples) == ("reviews", ("a", "b", "c"), 10)
    assert (result.baseline.accuracy, result.candidate.accuracy) == (0.9, 0.8)
    assert result.accuracy_drop.estimate == pytest.approx(0.1)
    pairs = result.pairs
    assert (pairs.both, pairs.only_first, pairs.only_second, pairs.neither) == (7, 2, 1, 0)
    assert result.mcnemar_p == 1.0
    assert result.same_answer == 0.7
    assert result.majority == 0.4
    assert not result.near_chance
    assert result.candidate.confusion == ((3, 1, 0), (1, 1, 0), (0, 0, 4))
    a, b, c = result.candidate.classes
    assert (a.precision, a.recall, a.f1, a.support) == (0.75, 0.75, 0.75, 4)
    assert (b.precision, b.recall, b.f1) == (0.5, 0.5, 0.5)
    assert (c.f1, result.candidate.macro_f1) == (1.0, 0.75)


def test_classes_that_never_occur_do_not_count(tmp_path: Path) -> None:
    path = data(tmp_path, ("t", "a"), ("t", "b"), ("t", "b"))
    plan = plan_task(Task(data=path, labels={"a": "a", "b": "b", "z": "z"}), Letters())
    answers = one_hot(["b", "b", "b"], plan.truth.labels)
    result = compare(plan.truth, answers, answers)
    assert [quality.f1 for quality in result.baseline.classes] == [0.0, 0.8, 0.0]
    assert result.baseline.macro_f1 == 0.4


@pytest.mark.parametrize(("right", "near_chance"), [(11, True), (14, True), (19, False)])
def test_a_baseline_near_chance_is_flagged(tmp_path: Path, right: int, near_chance: bool) -> None:
    truth = ["a", "b"] * 10
    answers = truth[:right] + ["b" if label == "a" else "a" for label in truth[right:]]
    plan = plan_of(truth, tmp_path)
    scored = one_hot(answers, plan.truth.labels)
    result = compare(plan.truth, scored, scored)
    assert result.near_chance is near_chance
    assert ("examples measured, about" in (result.why_not_judged or "")) is near_chance


@given(st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=2, max_size=30))
def test_macro_f1_and_its_drop_equal_a_plain_count(outcomes: list[tuple[int, int, int]]) -> None:
    def plain(side: int) -> float:
        values = []
        for label in range(3):
            hits = sum(o[0] == o[side] == label for o in outcomes)
            whole = sum(o[0] == label for o in outcomes) + sum(o[side] == label for o in outcomes)
            values += [2 * hits / whole] if whole else []
        return sum(values) / len(values)

    truth, first, second = np.array(outcomes).T
    f1, drop = macro_f1_intervals(truth, first, second, 3)
    assert (f1.estimate, drop.estimate) == (pytest.approx(plain(2)), pytest.approx(plain(1) - plain(2)))
    for interval in (f1, drop):
        assert interval.low is not None
        assert interval.high is not None
        assert interval.low <= interval.estimate <= interval.high


def test_equal_answers_have_no_drop_of_f1() -> None:
    answers = np.array([0, 1, 1, 0, 1])
    _, drop = macro_f1_intervals(np.array([0, 1, 0, 0, 1]), answers, answers, 2)
    assert (drop.low, drop.estimate, drop.high) == (0, 0, 0)


def test_the_bootstrap_covers_the_truth() -> None:
    """Both classifiers err at random; with classes of equal size and errors, macro F1 is the accuracy."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        truth = np.arange(400) % 2
        first, second = (np.where(rng.random(400) < rate, 1 - truth, truth) for rate in (0.10, 0.14))
        _, drop = macro_f1_intervals(truth, first, second, 2)
        covered.append(drop.low <= 0.04 <= drop.high)  # type: ignore[operator]
    assert 0.92 <= np.mean(covered) <= 0.98


def test_what_changed_is_shown_the_worst_first() -> None:
    truth = Truth("t", ("a", "b"), (0, 0, 1, 0), ("one", "two", "three" * 200, "four"))
    before = np.array([[2.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    after = np.array([[0.0, 1.0], [0.0, 3.0], [0.0, 1.0], [2.0, 0.0]])
    result = compare(truth, before, after)
    assert [(c.text[:5], c.truth, c.baseline, c.candidate, c.shift) for c in result.changed] == [
        ("two", "a", "a", "b", 4.0),
        ("one", "a", "a", "b", 3.0),
        ("three", "b", "a", "b", -2.0),
    ]
    assert len(result.changed[2].text) == 300
    assert result.answers == ((0, 0, 1), (0, 0, 1), (1, 0, 1), (0, 0, 0))
