from pathlib import Path

import pytest

from glmquant.data.choices import Question, read_questions
from glmquant.data.reading import Reading
from glmquant.errors import DataError

CHOICES = ("one", "two", "three", "four")


def write(directory: Path, name: str, text: str | bytes) -> Path:
    path = directory / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("q.csv", "id,question,A,B,C,D,answer,explanation\n0,什么?,one,two,three,four,C,because\n"),
        ("q.csv", "什么?,one,two,three,four,C\n"),
        ("q.jsonl", '{"question": "什么?", "choices": ["one", "two", "three", "four"], "answer": "c"}'),
        ("q.jsonl", '{"question": "什么?", "choices": ["one", "two", "three", "four"], "answer": 2}'),
        ("q.jsonl", '{"question": "什么?", "A": "one", "B": "two", "C": "three", "D": "four", "answer": "C"}'),
    ],
)
def test_every_layout(tmp_path: Path, name: str, content: str) -> None:
    (question,) = read_questions(write(tmp_path, name, content))
    assert (question.question, question.choices, question.answer) == ("什么?", CHOICES, 2)
    assert question.line == (2 if content.startswith("id,") else 1)


def test_questions_may_have_fewer_choices(tmp_path: Path) -> None:
    path = write(tmp_path, "q.csv", "question,A,B,C,answer\nx,yes,no,,B\n")
    assert read_questions(path) == (Question("x", ("yes", "no"), 1, 2),)


def test_limit_takes_the_first(tmp_path: Path) -> None:
    path = write(tmp_path, "q.csv", "x,a,b,A\ny,a,b,B\n")
    assert [question.question for question in read_questions(path, 1)] == ["x"]
    with pytest.raises(DataError, match="2 questions where 3 are wanted"):
        read_questions(path, 3)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("q.jsonl", '{"question": "x", "choices": ["a", "b"], "answer": "C"}', ["line 1", "'C'", "one of A, B"]),
        ("q.jsonl", '{"question": "x", "choices": ["a", "b"], "answer": 2}', ["the answer is 2"]),
        ("q.jsonl", '{"question": "x", "choices": ["a", "b"]}', ["the answer is None"]),
        ("q.jsonl", '{"question": "x", "choices": ["a"], "answer": 0}', ["1 choices", "2 to 10"]),
        ("q.jsonl", '{"question": "x", "choices": [1, 2], "answer": 0}', ["not a list of text"]),
        ("q.jsonl", '{"choices": ["a", "b"], "answer": 0}', ["no field 'question'"]),
        ("q.csv", "question,A,B,answer\nx,a,b\n", ["line 2", "a row of 3 fields", "without a header"]),
        ("q.csv", "question,A,B\nx,a,b\n", ["a row of 3 fields"]),
        ("q.csv", 'x,"a"b,c,A\n', ["line 1", "not CSV"]),
        ("q.csv", b"x,\xff,c,A\n", ["byte offset 2", "UTF-8"]),
        ("q.csv", "", ["the file is empty"]),
        ("q.csv", "\n", ["nothing but blanks"]),
        ("q.csv", "question,A,B,answer\n", ["0 questions"]),
        ("q.csv", "question,A,B,answer\nx,a,b,A,\n", ["line 2", "5 cells under a header of 4"]),
        ("q.jsonl", '{"question": null, "choices": ["a", "b"], "answer": 0}', ["line 1", "no question"]),
        ("q.txt", "x", ["plain text", '"question"']),
    ],
)
def test_bad_input_is_named_by_file_and_line(tmp_path: Path, name: str, content: str | bytes, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        read_questions(write(tmp_path, name, content))
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize("separator", ["\t", ";", "|"])
def test_other_separators_with_and_without_a_header(tmp_path: Path, separator: str) -> None:
    row = separator.join(["什么, 吗?", *CHOICES, "C"])
    header = separator.join(["question", "A", "B", "C", "D", "answer"])
    for content in (f"{row}\n", f"{header}\n{row}\n"):
        (question,) = read_questions(write(tmp_path, "q.csv", content))
        assert (question.question, question.choices, question.answer) == ("什么, 吗?", CHOICES, 2)


def test_arcs_layout_and_fields_of_another_name(tmp_path: Path) -> None:
    arc = '{"question": "x", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "2"}'
    assert read_questions(write(tmp_path, "q.json", arc)) == (Question("x", ("a", "b"), 1, 1),)
    reading = Reading("check.tasks", text_field="Frage", label_field="Antwort")
    path = write(tmp_path, "q.csv", "Frage;A;B;Antwort\nx;a;b;B\n")
    assert read_questions(path, reading=reading) == (Question("x", ("a", "b"), 1, 2),)
    with pytest.raises(DataError, match="no field 'Frage'"):
        read_questions(write(tmp_path, "q.jsonl", '{"question": "x"}'), reading=reading)


def test_an_array_of_questions_says_which_record(tmp_path: Path) -> None:
    content = '[{"question": "x", "choices": ["a", "b"], "answer": 0}, {"question": "y", "choices": [], "answer": 0}]'
    with pytest.raises(DataError, match=r"0 choices[\s\S]*record 2"):
        read_questions(write(tmp_path, "q.json", content))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("q.csv", "ID,Question,a,b,c,d,Answer\n0,什么?,one,two,three,four,C\n"),
        ("q.jsonl", '{"Question": "什么?", "Choices": ["one", "two", "three", "four"], "Answer": "C"}'),
        ("q.jsonl", '{"QUESTION": "什么?", "a": "one", "b": "two", "c": "three", "d": "four", "answerkey": "C"}'),
    ],
)
def test_fields_are_found_in_any_case(tmp_path: Path, name: str, content: str) -> None:
    (question,) = read_questions(write(tmp_path, name, content))
    assert (question.question, question.choices, question.answer) == ("什么?", CHOICES, 2)


def test_named_columns_are_found_in_any_case(tmp_path: Path) -> None:
    path = write(tmp_path, "q.csv", "Frage,A,B,Lösung\nx,one,two,B\n")
    (question,) = read_questions(path, reading=Reading(text_field="frage", label_field="lösung"))
    assert (question.question, question.answer) == ("x", 1)
