from pathlib import Path

import pytest

from glmquant.data.labeled import Example, read_labeled
from glmquant.errors import DataError


def write(directory: Path, name: str, text: str | bytes) -> Path:
    path = directory / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_jsonl(tmp_path: Path) -> None:
    path = write(tmp_path, "r.jsonl", '{"text": "好", "label": "pos"}\n\n{"text": "bad", "label": "neg", "id": 3}\n')
    labeled = read_labeled(path)
    assert labeled.examples == (Example("好", "pos", 1), Example("bad", "neg", 3))
    assert (labeled.name, labeled.labels) == ("r.jsonl", ("neg", "pos"))


def test_numbers_are_labels_too(tmp_path: Path) -> None:
    path = write(tmp_path, "r.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": 0}')
    assert [example.label for example in read_labeled(path).examples] == ["1", "0"]


def test_csv_with_quotes_and_line_ends(tmp_path: Path) -> None:
    path = write(tmp_path, "r.csv", '﻿label,text\r\npos,"one, ""two""\nthree"\r\nneg,好\r\n')
    assert read_labeled(path).examples == (Example('one, "two"\nthree', "pos", 3), Example("好", "neg", 4))


def test_known_labels_need_not_occur(tmp_path: Path) -> None:
    path = write(tmp_path, "r.jsonl", '{"text": "a", "label": "pos"}')
    assert read_labeled(path, known={"pos": "好", "neg": "差"}).labels == ("neg", "pos")


def test_limit_takes_the_first(tmp_path: Path) -> None:
    path = write(tmp_path, "r.csv", "text,label\na,x\nb,y\nc,z\n")
    assert [example.text for example in read_labeled(path, limit=2).examples] == ["a", "b"]
    with pytest.raises(DataError, match="3 examples where 4 are wanted"):
        read_labeled(path, limit=4)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("r.jsonl", '{"text": "a", "label": "x"}\n{"text": "b"}', ["r.jsonl, line 2", "no field 'label'"]),
        ("r.jsonl", '{"text": "a", "label": " "}', ["line 1", "no label"]),
        ("r.jsonl", '{"text": "a", "label": true}', ["line 1", "bool"]),
        ("r.jsonl", '{"label": "x"}', ["line 1", "no field 'text'"]),
        ("r.csv", "text,label\na,x\nb\n", ["r.csv, line 3", "1 cells under a header of 2"]),
        ("r.csv", "text,label\na,\n", ["line 2", "no label"]),
        (
            "r.csv",
            "text,klass\na,x\n",
            [
                "line 2",
                "no field 'label'",
                "are: text, klass; did you mean 'klass'? give klass",
            ],
        ),
        ("r.csv", "", ["the file is empty"]),
        ("r.csv", 'text,label\n"a"b,x\n', ["line 2", "not CSV"]),
        ("r.csv", b"text,label\n\xff,x\n", ["line 2", "byte offset 11", "UTF-8"]),
        ("r.jsonl", '{"text": "a", "label": "x"}', ["1 different labels", "at least two"]),
        ("r.txt", "a x", ["plain text", "has no labels"]),
        ("r.jsonl", " \n", ["nothing but blanks"]),
    ],
)
def test_bad_input_is_named_by_file_and_line(tmp_path: Path, name: str, content: str, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        read_labeled(write(tmp_path, name, content))
    assert [word for word in words if word not in str(caught.value)] == []


def test_an_unknown_label(tmp_path: Path) -> None:
    path = write(tmp_path, "r.jsonl", '{"text": "a", "label": "pos"}\n{"text": "b", "label": "neutral"}')
    with pytest.raises(DataError, match=r"unknown label 'neutral'[\s\S]*line 2[\s\S]*pos, neg"):
        read_labeled(path, known={"pos": "好", "neg": "差"})


def test_a_directory_has_a_file_for_each_label(tmp_path: Path) -> None:
    (tmp_path / "pos.txt").write_text("好\n\n very good \n", encoding="utf-8")
    (tmp_path / "neg.txt").write_text("bad", encoding="utf-8")
    (tmp_path / "__init__.py").write_text("")
    labeled = read_labeled(tmp_path)
    assert [(e.text, e.label, e.line) for e in labeled.examples] == [
        ("bad", "neg", 1),
        ("好", "pos", 1),
        ("very good", "pos", 3),
    ]
    assert labeled.place(labeled.examples[2]) == f"{tmp_path.name}/pos.txt, line 3"


def test_a_directory_without_labels(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 different labels"):
        read_labeled(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"b\xff")
    with pytest.raises(DataError, match=r"a\.txt"):
        read_labeled(tmp_path)


def test_whole_numbers_stand_in_the_order_of_their_values(tmp_path: Path) -> None:
    lines = "".join(f'{{"text": "t", "label": {label}}}\n' for label in (11, 2, 10, 0, 1, -1))
    assert read_labeled(write(tmp_path, "r.jsonl", lines)).labels == ("-1", "0", "1", "2", "10", "11")
    path = write(tmp_path, "r.csv", "text,label\na,10\nb,9\n")
    assert read_labeled(path).labels == read_labeled(path, known={"10": "x", "9": "y"}).labels == ("9", "10")


def test_decimal_labels_are_names_and_that_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, "r.csv", "text,label\na,10.0\nb,9.0\n")
    assert read_labeled(path).labels == ("9.0", "10.0")
    assert "the labels are decimal numbers (10.0, …); each is taken as a name" in caplog.text
    with pytest.raises(DataError, match=r"the label is the number 1\.0[\s\S]*line 1[\s\S]*whole numbers"):
        read_labeled(write(tmp_path, "r.jsonl", '{"text": "a", "label": 1.0}'))


def test_blanks_around_labels_are_taken_off_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "glmquant"):
        assert read_labeled(write(tmp_path, "r.csv", "text,label\na, x\nb,x \nc,y\n")).labels == ("x", "y")
    assert "r.csv: blanks around 2 labels are taken off" in caplog.text


def test_an_unknown_label_suggests_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path, "r.jsonl", '{"text": "a", "label": "postive"}')
    with pytest.raises(DataError, match="did you mean 'positive'"):
        read_labeled(path, known={"positive": "好", "negative": "差"})
