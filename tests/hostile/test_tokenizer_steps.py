"""A tokenizer's steps take time and memory in proportion to the text, or are refused before the library sees them."""

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest

from glmquant.errors import CheckpointError
from glmquant.glm.tokenizers.charsmap import KNOWN_GROWTH, KNOWN_RULES, growth, is_match_pattern, read_charsmap
from glmquant.glm.tokenizers.merges import joined_pairs, merges_budget
from glmquant.glm.tokenizers.steps import LONGEST_PATTERN, is_straight, require_bounded_steps
from glmquant.glm.tokenizers.tiktoken_model import PATTERN, tiktoken_tokenizer
from glmquant.glm.tokenizers.tokenizer import GlmTokenizer
from glmquant.glm.tokenizers.tokenizer_json import json_tokenizer
from tests.glm.tokenizers.test_charsmap import rule
from tests.support.golden import tokenizer


def replaces(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def splits(regex: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def sequence(name: str, *steps: Any) -> dict[str, Any]:
    return {"type": "Sequence", name: list(steps)}


HUNDRED = replaces({"String": "a"}, "a" * 100)
UNBOUNDED = {
    "padding": {"padding": {"strategy": {"Fixed": 20_000_000_000}, "pad_to_multiple_of": None}},
    "padding to a multiple": {"padding": {"strategy": "BatchLongest", "pad_to_multiple_of": 1 << 40}},
    "replacements of a letter": {"normalizer": sequence("normalizers", *[HUNDRED] * 2)},
    "nested": {
        "normalizer": sequence("normalizers", sequence("normalizers", HUNDRED), sequence("normalizers", HUNDRED))
    },
    "between letters": {"normalizer": replaces({"Regex": r"\s*"}, "a" * 300)},
    "nothing": {"normalizer": replaces({"String": ""}, "a" * 300)},
    "in the decoder": {"decoder": sequence("decoders", *[HUNDRED] * 2)},
    "in both": {"normalizer": HUNDRED, "decoder": HUNDRED},
    "steps without end": {"normalizer": sequence("normalizers", *[{"type": "NFC"}] * 2000)},
    "a backtracking split": {"pre_tokenizer": splits("(x+x+)+y")},
    "a backtracking replacement": {"normalizer": replaces({"Regex": "(a|a)+b"}, "")},
    "one in a decoder": {"decoder": replaces({"Regex": "(a|aa)+$"}, "")},
    "a pattern of another kind": {"pre_tokenizer": splits(["x"])},  # type: ignore[arg-type]
    "a rule that is no base64": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "*"}},
    "a rule that is a number": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": 5}},
}


@pytest.mark.parametrize("values", UNBOUNDED.values(), ids=UNBOUNDED)
def test_a_step_without_bound_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError):
        require_bounded_steps(values, "tokenizer.json")


BACKTRACKING = ["(x+x+)+y", "x+y", "x*x*x*y", r"(?<a>x)\k<a>+", "(a|a)*b", "a{60}b{60}", "a?" * 30 + "(", ".*.*=.*"]


@pytest.mark.parametrize("pattern", BACKTRACKING)
def test_a_pattern_that_can_fail_behind_a_repeat_is_not_straight(pattern: str) -> None:
    assert not is_straight(pattern)


@pytest.mark.parametrize("unit", ["[^a", "|", "(", "\\", "[a]", "a?", "{1}", "["])
def test_looking_at_a_pattern_takes_no_time_itself(unit: str) -> None:
    started = time.process_time()
    is_straight((unit * LONGEST_PATTERN)[:LONGEST_PATTERN])
    is_straight(unit * 10_000_000)
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "pattern", [PATTERN, r"[\s\S]+", r"\w+|[^\w\s]+", r"a\.b|c\|d|▁\ e", r"[|()+]?x+", r"\p{N}{1,3}"]
)
def test_patterns_of_published_tokenizers_are_straight(pattern: str) -> None:
    assert is_straight(pattern)


@pytest.mark.parametrize("name", ["nfkc", "nmt_nfkc", "nfkc_cf", "nmt_nfkc_cf"])
def test_what_is_known_of_sentencepieces_own_rules_is_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    charsmap = rule(name)[1]
    normalizer = json.loads(tokenizer_with(charsmap))
    pattern = normalizer["normalizers"][0]["pattern"]["Regex"]
    known = growth(charsmap), is_match_pattern(pattern, charsmap), is_match_pattern(pattern + "x", charsmap)
    assert known == (KNOWN_GROWTH, True, False)
    monkeypatch.setattr("glmquant.glm.tokenizers.charsmap.KNOWN_RULES", frozenset())
    assert known == (growth(charsmap), is_match_pattern(pattern, charsmap), is_match_pattern(pattern + "x", charsmap))
    assert len(KNOWN_RULES) == 4


def tokenizer_with(charsmap: bytes) -> str:
    from glmquant.glm.tokenizers.charsmap import charsmap_normalizer

    return charsmap_normalizer(charsmap).__getstate__().decode()


def test_a_rule_of_long_texts_is_refused() -> None:
    """Leaves of a trie share a text, and the entries' texts come to far more than the file."""
    from tests.glm.tokenizers.test_charsmap import small_map

    honest = small_map({b"a": b"b"})
    assert read_charsmap(honest) == {"a": "b"}
    long = small_map({b"a": b"b" * 300})
    step = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(long).decode()}
    with pytest.raises(CheckpointError, match="times as long"):
        require_bounded_steps({"normalizer": step}, "tokenizer.json")


def saved(directory: Path, **changes: Any) -> Path:
    tokenizer("chatglm2-tiny").save(directory)
    path = directory / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return directory


def test_padding_and_truncation_without_bound_are_left_out(tmp_path: Path) -> None:
    padding = {"strategy": {"Fixed": 1 << 24}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0}
    padding |= {"pad_type_id": 0, "pad_token": "<unk>"}
    truncation = {"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 0}
    read = json_tokenizer(saved(tmp_path, padding=padding, truncation=truncation))
    assert read.encode("a").ids
    assert read.padding is None
    assert read.truncation is None


def test_a_panic_on_the_users_text_is_our_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glmquant.glm.tokenizers.tokenizer_json.require_bounded_steps", lambda *_: None)
    panics = json_tokenizer(saved(tmp_path, pre_tokenizer=splits("(x+x+)+y")))
    text = GlmTokenizer((), 0, (0,), None, None, 100, panics)
    with pytest.raises(CheckpointError, match="the tokenizer cannot be used"):
        text.encode("x" * 60)


def test_tokens_with_too_many_merges_are_refused() -> None:
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [bytes([byte]) * length for byte in range(40) for length in range(2, 513)]
    lines = (base64.b64encode(token) + f" {rank}\n".encode() for rank, token in enumerate(tokens))
    started = time.process_time()
    with pytest.raises(CheckpointError, match="too many bytes of merges"):
        tiktoken_tokenizer(b"".join(lines), Path("tokenizer.model"))
    assert time.process_time() - started < 10


def test_long_tokens_that_merge_with_none_are_refused_too() -> None:
    budget = merges_budget("tokenizer.model")
    pieces = (pair for _ in range(100_000) for pair in joined_pairs(b"x" * 512, (), budget))
    with pytest.raises(CheckpointError, match="too many bytes of merges"):
        list(pieces)


def test_honest_pieces_merge() -> None:
    assert list(joined_pairs("abc", {"a", "bc", "ab", "x"}, merges_budget("x"))) == [("a", "bc")]
