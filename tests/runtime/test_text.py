import codecs
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmquant.runtime.text import stream_text


class Utf8:
    """Tokens are bytes."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, index: int) -> str:
        return self._decoder.decode(bytes([index]))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


@given(st.text())
def test_pieces_are_the_text(text) -> None:
    pieces = list(stream_text(text.encode(), Utf8()))
    assert "".join(pieces) == text
    assert "" not in pieces


def test_a_character_comes_when_it_is_whole() -> None:
    assert list(stream_text("a你b".encode(), Utf8())) == ["a", "你", "b"]


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one\n\ntwo", ["\n\n"], "one"),
        ("one\ntwo", ["\n\n"], "one\ntwo"),
        ("abcabd!", ["abd", "zz"], "abc"),
        ("[Round 2]", ["[Round"], ""),
        ("ends with a\n", ["\n\n"], "ends with a\n"),
    ],
)
def test_text_ends_before_a_stop_string(text, stop, expected) -> None:
    assert "".join(stream_text(text.encode(), Utf8(), stop)) == expected


def test_no_more_ids_are_taken_than_the_stop_string_needs() -> None:
    taken = []

    def ids() -> Iterator[int]:
        for byte in b"ab|cd":
            taken.append(byte)
            yield byte

    assert "".join(stream_text(ids(), Utf8(), ["|"])) == "ab"
    assert bytes(taken) == b"ab|"


@given(st.text(alphabet="ab"), st.lists(st.text(alphabet="ab", min_size=1), max_size=3))
def test_stop_strings_against_the_whole_text(text, stop) -> None:
    places = [text.find(s) for s in stop if s in text]
    got = "".join(stream_text(text.encode(), Utf8(), stop))
    # The first stop string to be complete ends the text, so it is cut at or before the first place of any.
    assert got == text if not places else text.startswith(got) and not any(s in got for s in stop)
