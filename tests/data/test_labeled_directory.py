import logging
from pathlib import Path

import pytest

from glmquant.data.labeled import read_labeled
from glmquant.data.reading import Reading
from glmquant.errors import DataError


def fill(directory: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return directory


def test_a_directory_for_each_label_has_a_text_a_file(tmp_path: Path) -> None:
    labeled = read_labeled(fill(tmp_path, {"pos/2.txt": " 好\n第二行\n", "pos/1.txt": "good", "neg/0.txt": "bad"}))
    assert [(e.label, e.text, e.place) for e in labeled.examples] == [
        ("neg", "bad", "neg/0.txt, line 1"),
        ("pos", "good", "pos/1.txt, line 1"),
        ("pos", "好\n第二行", "pos/2.txt, line 1"),
    ]
    assert labeled.place(labeled.examples[1]) == f"{tmp_path.name}/pos/1.txt, line 1"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"pos.txt": "a", "neg.txt": "b", "README.txt": "about"}, ["README.txt is no label's file", "move it away"]),
        ({"pos.txt": "a", "neg.txt": "b", "labels.csv": "x"}, ["labels.csv is no label's file"]),
        ({"pos.txt": "a", "neg.txt": "b", "neg.txt.bak": "x"}, ["neg.txt.bak is no label's file"]),
        ({"pos/1.txt": "a", "neg/1.txt": "b", "urls.txt": "x"}, ["urls.txt lies beside the directories"]),
        ({"pos/1.txt": "a", "neg/1.txt": "b", "neg/note.md": "x"}, ["neg/note.md is no text of the label 'neg'"]),
        ({"pos/1.txt": "a", "neg/deep/1.txt": "b"}, ["neg/deep is no text of the label 'neg'"]),
        ({"pos.txt": "a", "neg.txt": "\n \n"}, ["neg.txt", "nothing but blanks"]),
        ({"pos.txt": "a", "neg.txt": b"\xff\xfeb"}, ["neg.txt"]),
        ({"pos.txt": "a", "neg.txt": '{"text": "b"}'}, ["neg.txt is JSON, not plain text"]),
        ({"pos/1.txt": "a", "neg/1.txt": ""}, ["neg/1.txt", "the file is empty"]),
    ],
)
def test_what_is_no_labels_is_refused_by_name(tmp_path: Path, files: dict[str, str | bytes], words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        read_labeled(fill(tmp_path, files))
    assert [word for word in words if word not in str(caught.value)] == []


def test_files_of_a_package_and_hidden_ones_are_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(
        tmp_path, {"pos.txt": "a", "neg.txt": "b", "__init__.py": "", "sentiment.marshal.3": b"\0", ".DS_Store": b"\0"}
    )
    with caplog.at_level(logging.INFO, "glmquant"):
        assert len(read_labeled(tmp_path).examples) == 2
    assert "not read: __init__.py, sentiment.marshal.3" in caplog.text


def test_another_encoding(tmp_path: Path) -> None:
    fill(tmp_path, {"pos.txt": "房间很干净，下次还来\n".encode("gb18030"), "neg.txt": "bad"})
    with pytest.raises(DataError, match=r"train\.encoding=gb18030"):
        read_labeled(tmp_path, reading=Reading("train"))
    assert read_labeled(tmp_path, reading=Reading("train", "gb18030")).examples[1].text == "房间很干净，下次还来"
