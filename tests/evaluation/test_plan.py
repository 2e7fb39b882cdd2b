"""Multiple choice, solved examples, texts that are too long, and label priors."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from glmquant.errors import CheckError, DataError
from glmquant.evaluation.plan import TaskPlan, plan_task, without_prior
from glmquant.recipe.check_options import Task
from tests.evaluation.test_tasks import naive_score, scores
from tests.support.tokenizers import Letters

QUESTIONS = "question,A,B,C,D,answer\nq?,ab,abcd,x,yy,B\nr?,k,ll,,,A\n"


def questions(directory: Path, name: str = "q.csv", content: str = QUESTIONS) -> str:
    path = directory / name
    path.write_text(content, encoding="utf-8")
    return str(path)


def reviews(directory: Path, *texts: str) -> str:
    path = directory / "r.csv"
    path.write_text("text,label\n" + "".join(f"{text},{'pn'[i % 2]}\n" for i, text in enumerate(texts)))
    return str(path)


def letters(text: str) -> list[int]:
    return Letters().encode(text)


def read(plan: TaskPlan, example: int, query: int = 0) -> str:
    return "".join(map(chr, plan.examples[example].queries[query].tokens))


def test_letters_are_scored_after_the_list_of_choices(tmp_path: Path) -> None:
    plan = plan_task(Task(data=questions(tmp_path), kind="multiple_choice"), Letters())
    assert (plan.truth.labels, plan.truth.answers) == (("A", "B", "C", "D"), (1, 0))
    prompt = "q?\nA. ab\nB. abcd\nC. x\nD. yy\nAnswer: "
    assert read(plan, 0) == prompt
    expected = [naive_score((), letters(prompt), letters(letter)) for letter in "ABCD"]
    np.testing.assert_allclose(scores(plan)[0], expected, rtol=1e-5)


def test_choices_that_a_question_lacks_cannot_win(tmp_path: Path) -> None:
    plan = plan_task(Task(data=questions(tmp_path), kind="multiple_choice"), Letters())
    assert np.isfinite(scores(plan)[1]).tolist() == [True, True, False, False]


@pytest.mark.parametrize(("scoring", "divided"), [("likelihood", False), ("length_normalized", True)])
def test_choices_by_their_own_text(tmp_path: Path, scoring: str, divided: bool) -> None:
    task = Task.model_validate({"data": questions(tmp_path), "kind": "multiple_choice", "scoring": scoring})
    plan = plan_task(task, Letters((7,)))
    expected = [
        naive_score((7,), letters("q?\nAnswer: "), letters(choice)) / (len(choice) if divided else 1)
        for choice in ("ab", "abcd", "x", "yy")
    ]
    np.testing.assert_allclose(scores(plan)[0], expected, rtol=1e-5)


def test_lengths_are_bytes(tmp_path: Path) -> None:
    data = questions(tmp_path, content="q,好,b,A\n")
    task = Task(data=data, kind="multiple_choice", scoring="length_normalized")
    assert [c.divisor for c in plan_task(task, Letters()).examples[0].continuations] == [3, 1]


def test_solved_examples_come_first(tmp_path: Path) -> None:
    solved = questions(tmp_path, "dev.csv", "s?,1,2,B\nt?,3,4,A\n")
    task = Task.model_validate(
        {"data": questions(tmp_path), "kind": "multiple_choice", "few_shot": {"data": solved, "count": 2}}
    )
    start = "s?\nA. 1\nB. 2\nAnswer: B\n\nt?\nA. 3\nB. 4\nAnswer: A\n\nq?\nA. ab"
    assert read(plan_task(task, Letters()), 0).startswith(start)


def test_solved_examples_of_one_label(tmp_path: Path) -> None:
    (tmp_path / "dev.csv").write_text("text,label\nbad,n\n")
    task = Task.model_validate(
        {
            "data": reviews(tmp_path, "good", "poor"),
            "prompt": "{text}: ",
            "few_shot": {"data": str(tmp_path / "dev.csv"), "count": 1},
        }
    )
    assert read(plan_task(task, Letters()), 0) == "bad: n\n\ngood: "


def test_a_placeholder_in_the_data_is_text(tmp_path: Path) -> None:
    data = questions(tmp_path, content="what is {choices}?,x,{question},A\n")
    plan = plan_task(Task(data=data, kind="multiple_choice"), Letters())
    assert read(plan, 0) == "what is {choices}?\nA. x\nB. {question}\nAnswer: "


def test_a_long_text_loses_its_end_and_is_counted(tmp_path: Path) -> None:
    task = Task(data=reviews(tmp_path, "short", "0123456789" * 3), prompt="It is {text}: ")
    plan = plan_task(task, Letters((1, 2)), max_length=20)
    assert [read(plan, i)[2:] for i in range(2)] == ["It is short: ", "It is 0123456789: "]
    assert plan.truth.num_truncated == 1
    assert len(plan.examples[1].queries[0].tokens) == 20
    assert plan.truth.texts[1] == "0123456789" * 3
    assert plan_task(task, Letters((1, 2))).truth.num_truncated == 0


def test_a_long_question_loses_its_beginning(tmp_path: Path) -> None:
    data = questions(tmp_path, content="0123456789 why?,x,y,A\n")
    plan = plan_task(Task(data=data, kind="multiple_choice"), Letters(), max_length=25)
    assert read(plan, 0) == "9 why?\nA. x\nB. y\nAnswer: "


def test_a_prompt_without_room(tmp_path: Path) -> None:
    task = Task(data=reviews(tmp_path, "short", "long"), prompt="0123456789{text}")
    with pytest.raises(CheckError, match=r"no room for the text[\s\S]*line 2[\s\S]*at most 10 tokens"):
        plan_task(task, Letters(), max_length=10)


def test_what_a_model_always_prefers_is_taken_out() -> None:
    """A model that adds 5 to one label decides by the text alone once that is gone."""
    rng = np.random.default_rng(0)
    truth = np.arange(400) % 2
    evidence = 2.0 * np.eye(2)[truth] + 0.2 * rng.normal(size=(400, 2))
    biased = evidence + np.array([5.0, 0.0])
    assert (biased.argmax(1) == truth).mean() < 0.55
    assert (without_prior(biased).argmax(1) == truth).mean() > 0.95


def test_the_prior_is_the_mean_probability() -> None:
    probabilities = np.array([[0.9, 0.1], [0.5, 0.5], [0.7, 0.3]])
    expected = np.log(probabilities / [0.7, 0.3])
    np.testing.assert_allclose(without_prior(np.log(probabilities) - 3.0), expected, atol=1e-12)


def test_a_letter_without_choice_stays_impossible() -> None:
    result = without_prior(np.array([[1.0, 2.0, -np.inf], [2.0, 1.0, -np.inf]]))
    assert np.isneginf(result[:, 2]).all()
    assert np.isfinite(result[:, :2]).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompt": "no place"}, "{text} exactly once"),
        ({"kind": "multiple_choice", "prompt": "{question}"}, "{choices} exactly once"),
        ({"kind": "multiple_choice", "labels": {"a": "b"}}, "labels are for classification"),
        ({"scoring": "letter"}, "scoring is for multiple_choice"),
        ({"kind": "multiple_choice", "scoring": "likelihood", "label_prior": "remove"}, "common to all questions"),
    ],
)
def test_options_that_do_not_go_together(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Task.model_validate({"data": "x.csv", **values})


def test_solved_examples_may_be_in_another_encoding_than_the_questions(tmp_path: Path) -> None:
    data = reviews(tmp_path, "a", "b")
    (tmp_path / "solved.csv").write_bytes("text,label\n好,p\n坏,n\n".encode("gb18030") * 20)
    shots = {"data": str(tmp_path / "solved.csv"), "count": 2}
    with pytest.raises(DataError) as error:
        plan_task(Task.model_validate({"data": data, "few_shot": shots}), Letters())
    assert "the task's few_shot.encoding as gb" in str(error.value.hint)
    plan = plan_task(Task.model_validate({"data": data, "few_shot": shots | {"encoding": "gb18030"}}), Letters())
    assert read(plan, 0).startswith("好p\n\n坏n\n\n")
