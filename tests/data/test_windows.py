from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmquant.data.windows import last_windows
from glmquant.errors import CheckError
from tests.support.tokenizers import Letters


def write(directory: Path, text: str, name: str = "held_out.txt") -> Path:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


def test_windows_cover_the_end_of_the_text(tmp_path: Path) -> None:
    text = last_windows(write(tmp_path, "abcdefghijk"), Letters((1, 2)), num_tokens=9, seq_len=4)
    assert [window.tolist() for window in text.windows] == [
        [1, 2, *map(ord, "defg")],
        [1, 2, *map(ord, "hijk")],
    ]
    assert (text.name, text.num_scored) == ("held_out.txt", 3)


def test_bytes_per_token_are_of_the_windows_alone(tmp_path: Path) -> None:
    text = last_windows(write(tmp_path, "aaaa好好a好"), Letters(), num_tokens=4, seq_len=2)
    assert text.bytes_per_token == (3 + 3 + 1 + 3) / 4


@given(
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=8).filter(any),
    seq_len=st.integers(2, 4),
    count=st.integers(1, 4),
)
def test_the_end_is_found_across_documents(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], seq_len: int, count: int
) -> None:
    texts = [chr(97 + i) * length for i, length in enumerate(lengths)]
    lines = "".join(f'{{"text": "{text}"}}\n' for text in texts)
    path = write(tmp_path_factory.mktemp("t"), lines, "a.jsonl")
    whole = "".join(text + "\n" for text in texts)
    needed = seq_len * count
    if len(whole) < needed:
        with pytest.raises(CheckError, match=f"has {len(whole)} tokens; {needed} are needed"):
            last_windows(path, Letters(), num_tokens=needed, seq_len=seq_len)
        return
    text = last_windows(path, Letters(), num_tokens=needed, seq_len=seq_len)
    assert "".join(chr(i) for window in text.windows for i in window) == whole[-needed:]


def test_tokens_that_decode_to_nothing(tmp_path: Path) -> None:
    class Mute(Letters):
        def decode(self, ids: object) -> str:
            return ""

    with pytest.raises(CheckError, match="decode to nothing"):
        last_windows(write(tmp_path, "abcd"), Mute(), num_tokens=4, seq_len=2)
