import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmquant.data import cells
from glmquant.data.cells import python_literal, turns_in_cell
from glmquant.data.text import Conversation, read_documents
from glmquant.errors import DataError

TURNS = [{"role": "user", "content": 'it\'s "so"\n\\ 你好 } {'}, {"role": "assistant", "content": "yes"}]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=3), each, max_size=3),
    max_leaves=8,
)


def table(path: Path, cell: str, column: str = "messages") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", column], ["1", cell]])
    return path


@pytest.mark.parametrize(
    "cell",
    [
        str(TURNS),
        str(np.array(TURNS, dtype=object)),
        str(TURNS).replace("[{", "[ {"),
        '[ {"role": "user", "content": "it\'s \\"so\\"\\n\\\\ 你好 } {"},\n {"role": "assistant", "content": "yes"} ]',
    ],
    ids=["Python", "numpy", "blanks", "JSON with blanks"],
)
@pytest.mark.parametrize("column", ["messages", "text"])
def test_a_conversation_in_a_cell_is_read_however_it_is_written(tmp_path: Path, cell: str, column: str) -> None:
    (found,) = read_documents(table(tmp_path / "a.csv", cell, column))
    assert isinstance(found, Conversation)
    assert [{"role": turn.role, "content": turn.content} for turn in found.turns] == TURNS


@given(st.lists(st.fixed_dictionaries({"role": st.just("user")}, optional={"content": VALUES}), min_size=1))
def test_what_python_writes_is_read_back(value: list[dict[str, Any]]) -> None:
    assert turns_in_cell(repr(value)) == value


@pytest.mark.parametrize(
    "text",
    [
        "[{'role': __import__('os')}]",
        "[{'role': 'a' 'b'}]",
        "[{'role': " + "[" * 50 + "]" * 50 + "}]",
        "[{'role': " + "-" * 10_000 + "1}]",
        "[{'role': 'user', ...]",
        "[{'role': 'user'",
        "[{'role': 1 if 2 else 3}]",
        "[{'role': array(['a'], dtype=object)}]",
        "[{'role': " + "9" * 5000 + "}]",
        "[{'role': '\0'}] \0",
    ],
)
def test_what_is_no_literal_or_too_deep_is_not_evaluated(text: str) -> None:
    assert turns_in_cell(text) is None


def test_what_is_too_long_is_not_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "LARGEST_LITERAL", 10)
    assert python_literal("['a', 'b']") == ["a", "b"]
    assert python_literal("['a', 'b' ]") is None


def test_a_cell_cut_in_a_conversation_is_refused_and_in_a_text_is_text(tmp_path: Path) -> None:
    cut = str(TURNS)[:40]
    with pytest.raises(DataError, match=r"starts as a list of turns, and is none[\s\S]*line 2[\s\S]*to_json"):
        list(read_documents(table(tmp_path / "a.csv", cut)))
    assert list(read_documents(table(tmp_path / "b.csv", cut, "text"))) == [cut + "\n"]
