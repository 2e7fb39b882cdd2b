import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glmquant.data.calibration import CalibrationSet, KeyValueRange, TextSource, sample_calibration
from glmquant.errors import CalibrationError, DataError
from tests.support.tokenizers import Letters, Publisher

DIGITS = "0123456789" * 10


def write(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


def rows(samples: CalibrationSet) -> list[str]:
    return ["".join(chr(i) for i in row) for row in samples.tokens_SL.tolist()]


def test_sequential_takes_the_first_windows_in_order(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "abcdefghijklmnop")
    samples = sample_calibration([path], [], Letters(), num_samples=3, seq_len=5, sampling="sequential")
    assert rows(samples) == ["abcde", "fghij", "klmno"]
    assert samples.tokens_SL.dtype == torch.int64
    assert samples.sources == (TextSource("a.txt", 3),)


def test_the_prefix_counts_towards_the_length(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "abcdefgh")
    tokenizer = Letters((ord("["), ord("]")))
    samples = sample_calibration([path], [], tokenizer, num_samples=2, seq_len=5, sampling="sequential")
    assert rows(samples) == ["[]abc", "[]def"]


def test_random_samples_follow_the_documented_keys(tmp_path: Path) -> None:
    paths = [write(tmp_path, "a.txt", DIGITS), write(tmp_path, "b.txt", "abcdefghij" * 10)]
    samples = sample_calibration(paths, [3, 1], Letters(), num_samples=8, seq_len=4, seed=7)
    keyed = []
    for file, (text, share) in enumerate([(DIGITS, 6), ("abcdefghij" * 10, 2)]):
        windows = [
            (hashlib.blake2b(f"7/{file}/{w}".encode(), digest_size=16).digest(), text[4 * w : 4 * w + 4])
            for w in range(25)
        ]
        keyed += sorted(windows)[:share]
    assert rows(samples) == [text for _, text in sorted(keyed)]


def test_the_seed_decides(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", DIGITS)

    def draw(seed: int) -> CalibrationSet:
        return sample_calibration([path], [], Letters(), num_samples=6, seq_len=7, seed=seed)

    assert torch.equal(draw(1).tokens_SL, draw(1).tokens_SL)
    assert draw(1).sha256 == draw(1).sha256 != draw(2).sha256


@given(count=st.integers(1, 12), length=st.integers(1, 8), seed=st.integers(0, 5))
def test_samples_never_overlap(tmp_path_factory: pytest.TempPathFactory, count: int, length: int, seed: int) -> None:
    text = "".join(chr(0x4E00 + i) for i in range(97))
    path = write(tmp_path_factory.mktemp("t"), "a.txt", text)
    samples = sample_calibration([path], [], Letters(), num_samples=count, seq_len=length, seed=seed)
    drawn = samples.tokens_SL.flatten().tolist()
    assert len(set(drawn)) == count * length


def test_jsonl_records_are_joined_by_line_ends(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"text": "abc"}\n{"text": "de"}\n{"text": "fghij"}\n')
    samples = sample_calibration([path], [], Letters(), num_samples=2, seq_len=6, sampling="sequential")
    assert rows(samples) == ["abc\nde", "\nfghij"]


def test_the_publishers_tokens_come_first_32_windows(tmp_path: Path) -> None:
    text = "模型把文本变成向量。Quantization makes models small.\n" * 40
    tokenizer = Publisher()
    samples = sample_calibration(
        [write(tmp_path, "a.txt", text)], [], tokenizer, num_samples=4, seq_len=18, sampling="sequential"
    )
    ids = tokenizer.encode(text)
    expected = [[2044, 2046, *ids[16 * i : 16 * i + 16]] for i in range(4)]
    assert samples.tokens_SL.tolist() == expected
    assert samples.tokenizer == tokenizer.sha256


def test_the_hash_is_of_the_tokens_and_their_shape() -> None:
    tokens = torch.tensor([[1, 2], [3, 4]])
    expected = hashlib.sha256(b"2x2\n" + np.array([1, 2, 3, 4], "<i8").tobytes()).hexdigest()
    assert CalibrationSet(tokens, (), "t", 0).sha256 == expected
    assert CalibrationSet(tokens.view(1, 4), (), "t", 0).sha256 != expected


@pytest.mark.parametrize("sampling", ["random", "sequential"])
def test_too_little_text_says_how_much_there_is(tmp_path: Path, sampling: str) -> None:
    path = write(tmp_path, "short.txt", "abcdefghij")
    with pytest.raises(CalibrationError, match=r"short\.txt has 10 tokens; 4 samples of 8 text tokens need 32"):
        sample_calibration([path], [], Letters(), num_samples=4, seq_len=8, sampling=sampling)  # type: ignore[arg-type]


def test_empty_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the file is empty"):
        sample_calibration([write(tmp_path, "e.txt", "")], [], Letters(), num_samples=1, seq_len=8)


def test_each_file_must_hold_its_share(tmp_path: Path) -> None:
    paths = [write(tmp_path, "long.txt", DIGITS), write(tmp_path, "short.txt", "abc")]
    with pytest.raises(CalibrationError, match=r"short\.txt has 3 tokens; 2 samples"):
        sample_calibration(paths, [], Letters(), num_samples=4, seq_len=8)


def test_a_weight_too_small_for_one_sample(tmp_path: Path) -> None:
    paths = [write(tmp_path, "a.txt", DIGITS), write(tmp_path, "b.txt", DIGITS)]
    with pytest.raises(CalibrationError, match="file 2 of 2 would get none"):
        sample_calibration(paths, [100, 1], Letters(), num_samples=3, seq_len=8)


def test_no_files_and_no_room(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="no calibration text"):
        sample_calibration([], [], Letters(), num_samples=1, seq_len=8)
    with pytest.raises(CalibrationError, match="no room"):
        sample_calibration([tmp_path], [], Letters((1, 2)), num_samples=1, seq_len=2)
    with pytest.raises(DataError, match="no such file"):
        sample_calibration([tmp_path / "x"], [], Letters(), num_samples=1, seq_len=8)


def test_samples_and_ranges_are_printed_without_their_tensors(tmp_path: Path) -> None:
    samples = sample_calibration([write(tmp_path, "a.txt", DIGITS)], [], Letters(), num_samples=2, seq_len=4)
    text = repr((samples, KeyValueRange(torch.ones(2, 4), torch.ones(2, 4))))
    assert "tensor(" not in text
    assert "TextSource(name='a.txt', num_samples=2, sha256=" in text
