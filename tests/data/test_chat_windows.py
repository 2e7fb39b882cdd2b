import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from glmquant.data.chat_windows import read_chats
from glmquant.errors import CheckError, CheckpointError, DataError
from tests.support.golden import tokenizer as golden

TOKENIZER = golden("chatglm3-tiny")


def write(path: Path, count: int, answer: str = "Hello there") -> Path:
    chats = [[("user", f"question {n}"), ("assistant", f"{answer} {n}")] for n in range(count)]
    lines = [json.dumps({"messages": [{"role": role, "content": text} for role, text in chat]}) for chat in chats]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_all_tokens_behind_the_prefix_are_scored_but_the_first(tmp_path: Path) -> None:
    chats = read_chats(write(tmp_path / "a.jsonl", 3), TOKENIZER, num_tokens=40, seq_len=512)
    assert len(chats.windows) == 3
    for window, scored in zip(chats.windows, chats.scored, strict=True):
        assert window[:2].tolist() == list(TOKENIZER.prefix_ids)
        assert scored.all()
        assert len(scored) == len(window) - 3
    assert chats.num_tokens == sum(map(len, chats.windows))


def test_answers_alone_are_scored_with_their_ends(tmp_path: Path) -> None:
    chats = read_chats(write(tmp_path / "a.jsonl", 3), TOKENIZER, num_tokens=40, seq_len=512, scored="answers")
    for number, (window, scored, size) in enumerate(zip(chats.windows, chats.scored, chats.num_bytes, strict=True)):
        said = window[len(window) - len(scored) :][scored]
        assert TOKENIZER.decode(said.tolist(), skip_special_tokens=False).strip() == f"Hello there {number}<|user|>"
        assert scored[0]
        assert size == len(TOKENIZER.decode(said.tolist()).encode())


def test_only_as_many_conversations_as_are_needed_spread_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", 200)
    chats = read_chats(path, TOKENIZER, num_tokens=300, seq_len=512)
    total = sum(map(len, chats.windows))
    assert 300 <= total < 300 + max(map(len, chats.windows))
    numbers = [int(TOKENIZER.decode(window.tolist()).split()[1]) for window in chats.windows]
    assert numbers == sorted(numbers)
    assert min(numbers) < 60
    assert max(numbers) > 140
    again = read_chats(path, TOKENIZER, num_tokens=300, seq_len=512)
    assert all(np.array_equal(*pair) for pair in zip(chats.windows, again.windows, strict=True))


def test_long_conversations_are_cut_and_a_cut_answer_is_scored_up_to_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", 4, "word " * 50)
    chats = read_chats(path, TOKENIZER, num_tokens=40, seq_len=20, scored="answers")
    assert {len(window) for window in chats.windows} == {22}
    with pytest.raises(CheckError, match=r"no token of the conversations is scored[\s\S]*raise check\.seq_len"):
        read_chats(path, TOKENIZER, num_tokens=8, seq_len=4, scored="answers")


def test_too_few_tokens_say_how_many_there_are(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", 3)
    with pytest.raises(CheckError, match=r"too few conversations.*tokens; 10,000 are needed") as caught:
        read_chats(path, TOKENIZER, num_tokens=10_000, seq_len=16)
    amount = int(str(caught.value.hint).rpartition("=")[2])
    assert read_chats(path, TOKENIZER, num_tokens=amount, seq_len=16).num_tokens == amount


def test_a_text_among_conversations_and_a_model_without_a_template(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path.write_text(json.dumps({"messages": turns}) + "\n" + json.dumps({"messages": "text"}), encoding="utf-8")
    with pytest.raises(DataError, match="a text among conversations"):
        read_chats(path, TOKENIZER, num_tokens=8, seq_len=16)
    with pytest.raises(CheckpointError, match="no chat template"):
        read_chats(path, replace(TOKENIZER, chat_template=None), num_tokens=8, seq_len=16)
