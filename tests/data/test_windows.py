from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmquant.data.windows import read_windows
from glmquant.errors import CheckError
from tests.support.tokenizers import Letters


def write(directory: Path, text: str, name: str = "held_out.txt") -> Path:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_last_windows_cover_the_end_of_the_text(tmp_path: Path) -> None:
    text = read_windows(write(tmp_path, "abcdefghijk"), Letters((1, 2)), num_tokens=9, seq_len=4, place="last")
    assert [window.tolist() for window in text.windows] == [
        [1, 2, *map(ord, "defg")],
        [1, 2, *map(ord, "hijk")],
    ]
    assert (text.name, text.num_scored, text.num_tokens) == ("held_out.txt", 3, 11)


@pytest.mark.parametrize(
    ("length", "num_tokens", "windows"),
    [
        (8, 8, ["ab", "cd", "ef", "gh"]),
        (11, 8, ["ab", "de", "gh", "jk"]),
        (26, 8, ["ab", "ij", "qr", "yz"]),
        (11, 2, ["ef"]),
        (11, 3, ["ef"]),
        (7, 4, ["ab", "fg"]),
    ],
)
def test_even_windows_reach_from_the_first_token_to_the_last(
    tmp_path: Path, length: int, num_tokens: int, windows: list[str]
) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"[:length]
    text = read_windows(write(tmp_path, letters), Letters(), num_tokens=num_tokens, seq_len=2)
    assert ["".join(map(chr, window)) for window in text.windows] == windows


@given(length=st.integers(2, 200), seq_len=st.integers(2, 9), count=st.integers(1, 20))
def test_even_windows_never_overlap(
    tmp_path_factory: pytest.TempPathFactory, length: int, seq_len: int, count: int
) -> None:
    letters = "".join(chr(0x4E00 + number) for number in range(length))
    path = write(tmp_path_factory.mktemp("t"), letters)
    if length < seq_len * count:
        with pytest.raises(CheckError, match="too short"):
            read_windows(path, Letters(), num_tokens=seq_len * count, seq_len=seq_len)
        return
    text = read_windows(path, Letters(), num_tokens=seq_len * count, seq_len=seq_len)
    tokens = np.concatenate(text.windows)
    assert len(tokens) == seq_len * count
    assert len(set(tokens.tolist())) == len(tokens)
    gaps = np.diff([int(window[0]) for window in text.windows])
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1
    assert text.bytes_per_token == 3


def test_the_hint_gives_the_number_of_tokens_that_works(tmp_path: Path) -> None:
    path = write(tmp_path, "abcdefghijk")
    with pytest.raises(CheckError, match=r"set check\.num_tokens=8\b"):
        read_windows(path, Letters(), num_tokens=400, seq_len=4)
    assert len(read_windows(path, Letters(), num_tokens=8, seq_len=4).windows) == 2


def test_equal_texts_have_one_digest_whatever_their_files(tmp_path: Path) -> None:
    plain = write(tmp_path, "abcd\nefgh\n")
    lines = write(tmp_path, '{"text": "abcd"}\n{"text": "efgh"}\n', "a.jsonl")
    one, other = (read_windows(path, Letters(), num_tokens=4, seq_len=2).sha256 for path in (plain, lines))
    assert one == other
    assert one != read_windows(write(tmp_path, "abcd\nefgi\n"), Letters(), num_tokens=4, seq_len=2).sha256


def test_bytes_per_token_are_of_the_windows_alone(tmp_path: Path) -> None:
    text = read_windows(write(tmp_path, "aaaa好好a好"), Letters(), num_tokens=4, seq_len=2, place="last")
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
            read_windows(path, Letters(), num_tokens=needed, seq_len=seq_len)
        return
    text = read_windows(path, Letters(), num_tokens=needed, seq_len=seq_len, place="last")
    assert "".join(chr(i) for window in text.windows for i in window) == whole[-needed:]


def test_tokens_that_decode_to_nothing(tmp_path: Path) -> None:
    class Mute(Letters):
        def decode(self, ids: object) -> str:
            return ""

    with pytest.raises(CheckError, match="decode to nothing"):
        read_windows(write(tmp_path, "abcd"), Mute(), num_tokens=4, seq_len=2)
