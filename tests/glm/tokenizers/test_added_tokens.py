"""Tokens a fine-tune added, in each of the files that transformers has written them to."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glmquant.errors import CheckpointError
from glmquant.glm.config import GlmConfig
from glmquant.glm.tokenizers.chat import Message
from glmquant.glm.tokenizers.tokenizer import GlmTokenizer, load_tokenizer
from tests.hints.follow import follows
from tests.support import glm4
from tests.support.golden import config, directory

TAG = "<tool>"


def chatglm(to: Path, name: str = "chatglm3-tiny", **files: Any) -> GlmConfig:
    """A native checkpoint's tokenizer files; 2048 ids in ChatGLM2's, 2052 in ChatGLM3's, of a vocabulary of 2112."""
    (to / "tokenizer.model").write_bytes((directory(name) / "tokenizer.model").read_bytes())
    written(to, files)
    return replace(config(name), vocab_size=2112)


def converted(to: Path, **files: Any) -> GlmConfig:
    """The same as ``tokenizer.json``."""
    found = replace(config("chatglm3-tiny"), vocab_size=2112)
    load_tokenizer(directory("chatglm3-tiny"), found).save(to)
    written(to, files)
    return replace(found, family="glm")


def glm_4(to: Path, **files: Any) -> GlmConfig:
    found = glm4.write_tokenizer(to)
    written(to, files)
    return found


def written(to: Path, files: dict[str, Any]) -> None:
    for name, values in files.items():
        path = to / f"{name}.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(before | values))


def entry(content: str, **flags: Any) -> dict[str, Any]:
    return {"content": content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, **flags}


NEXT = {chatglm: 2052, converted: 2052, glm_4: len(glm4.ranks()) + len(glm4.SPECIALS)}
MAKERS = pytest.mark.parametrize("make", NEXT, ids=lambda make: make.__name__)


def decoder(make: Any, *tokens: dict[str, Any], first: int = 0) -> dict[str, Any]:
    """``added_tokens_decoder`` with these behind what is there."""
    entries = {str(NEXT[make] + first + i): token for i, token in enumerate(tokens)}
    if make is glm_4:
        entries |= {str(len(glm4.ranks()) + i): entry(token, special=True) for i, token in enumerate(glm4.SPECIALS)}
    return {"added_tokens_decoder": entries}


@MAKERS
def test_a_list_of_added_tokens_is_read_and_travels(make: Any, tmp_path: Path) -> None:
    """ggml-org/llama.cpp#15842: domain tokens were lost on the way."""
    found = make(tmp_path, added_tokens={TAG: NEXT[make], "<|city|>": NEXT[make] + 1})
    ours = load_tokenizer(tmp_path, found)
    assert ours.encode(f"a{TAG}b") == [*ours.encode("a"), NEXT[make], *ours.encode("b")]
    assert ours.decode([NEXT[make]]) == TAG
    assert_travels(ours, found, tmp_path)


@MAKERS
def test_a_decoder_says_which_are_special(make: Any, tmp_path: Path) -> None:
    tokens = entry("<|end|>", special=True), entry(TAG, special=False), entry("<wide>", special=False, rstrip=True)
    found = make(tmp_path, tokenizer_config=decoder(make, *tokens))
    ours = load_tokenizer(tmp_path, found)
    first = NEXT[make]
    assert ours.decode([first, first + 1]) == TAG
    assert max(ours.encode("<|end|>")) < first  # in a text, special tokens are text
    assert ours.encode(f"{TAG}<wide>  ") == [first + 1, first + 2]
    assert_travels(ours, found, tmp_path)


def assert_travels(ours: GlmTokenizer, found: GlmConfig, tmp_path: Path) -> None:
    """Saved, it is the same tokenizer, and transformers gives its ids."""
    from transformers import AutoTokenizer

    saved = tmp_path / "saved"
    saved.mkdir()
    ours.save(saved)
    (saved / "config.json").write_text('{"model_type": "glm"}')
    again = load_tokenizer(saved, replace(found, family="glm"))
    assert again.sha256 == ours.sha256
    theirs = AutoTokenizer.from_pretrained(saved, local_files_only=True)
    for text in (f"a{TAG}b", f"{TAG} people {TAG}", f"你好{TAG}<|user|>", "<|city|> <|end|>"):
        ids = theirs(text, split_special_tokens=True)["input_ids"]
        assert ids == [*again.prefix_ids, *again.encode(text)]
        assert ids == [*ours.prefix_ids, *ours.encode(text)]


@MAKERS
@pytest.mark.parametrize("file", ["tokenizer_config", "special_tokens_map"])
def test_a_name_alone_is_the_next_id_as_in_transformers(make: Any, file: str, tmp_path: Path) -> None:
    found = make(tmp_path, **{file: {"additional_special_tokens": ["<|end|>", entry("<|begin|>")]}})
    ours = load_tokenizer(tmp_path, found)
    assert [ours.token(NEXT[make]), ours.token(NEXT[make] + 1)] == ["<|end|>", "<|begin|>"]
    assert ours.decode([NEXT[make]]) == ""


HONEST = {
    "ggml-org/llama.cpp#3583: tokens of the vocabulary listed again": {"<unk>": 0, "<s>": 1, "</s>": 2, TAG: 2052},
    "ggml-org/llama.cpp#3635: nothing but tokens of the vocabulary": {"</s>": 2, "<s>": 1, "<unk>": 0},
    "OpenNMT/CTranslate2#1415: emptied by hand": {},
    "hiyouga/LlamaFactory: ChatGLM3's own, as its fine-tunes list them": {
        **{"[gMASK]": 2044, "sop": 2046, "<|user|>": 2049, "<|assistant|>": 2050, "<|observation|>": 2051}
    },
    "a gap": {TAG: 2060},
}


@pytest.mark.parametrize("listed", HONEST.values(), ids=HONEST)
def test_honest_lists_are_read(listed: dict[str, int], tmp_path: Path) -> None:
    ours = load_tokenizer(tmp_path, chatglm(tmp_path, added_tokens=listed))
    assert [ours.token(index) for index in listed.values()] == list(listed)
    plain = load_tokenizer(directory("chatglm3-tiny"), config("chatglm3-tiny"))
    assert ours.encode("people sop [gMASK] 你好") == plain.encode("people sop [gMASK] 你好")
    assert ours.apply_chat_template([Message("user", "你好")]) == plain.apply_chat_template([Message("user", "你好")])


CONTRADICTIONS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "the model has another token there": ({"added_tokens": {TAG: 260}}, ("added_tokens.json", "tokenizer.model")),
    "the family has another token there": ({"added_tokens": {TAG: 2049}}, ("added_tokens.json", "tokenizer.model")),
    "the family's token elsewhere": ({"added_tokens": {"<|user|>": 2060}}, ("added_tokens.json", "tokenizer.model")),
    "an id twice": ({"added_tokens": {TAG: 2052, "<b>": 2052}}, ("added_tokens.json",)),
    "two files, one id": (
        {"added_tokens": {TAG: 2052}, "tokenizer_config": {"added_tokens_decoder": {"2052": entry("<b>")}}},
        ("added_tokens.json", "tokenizer_config.json"),
    ),
    "two files, one token": (
        {"added_tokens": {TAG: 2053}, "tokenizer_config": {"added_tokens_decoder": {"2052": entry(TAG)}}},
        ("added_tokens.json", "tokenizer_config.json"),
    ),
    "two names of the end": (
        {"tokenizer_config": {"eos_token": "</s>"}, "special_tokens_map": {"eos_token": entry("<|user|>")}},
        ("tokenizer_config.json", "special_tokens_map.json"),
    ),
    "hf-lin/ChatMusician#23: beyond the model's vocabulary": ({"added_tokens": {TAG: 2112}}, ("added_tokens.json",)),
    "far beyond": ({"added_tokens": {TAG: 2**29}}, ("added_tokens.json",)),
}


@pytest.mark.parametrize(("files", "named"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_contradictions_name_the_files(files: dict[str, Any], named: tuple[str, ...], tmp_path: Path) -> None:
    found = chatglm(tmp_path, **files)
    with pytest.raises(CheckpointError) as caught:
        load_tokenizer(tmp_path, found)
    assert [name for name in named if f"{tmp_path / name}" not in str(caught.value)] == []
    assert caught.value.hint


@follows("remove {} from the file that is wrong; both belong to one saved tokenizer")
def test_removing_the_wrong_name_as_told_works(tmp_path: Path) -> None:
    files, _ = CONTRADICTIONS["two names of the end"]
    found = chatglm(tmp_path, **files)
    with pytest.raises(CheckpointError, match="remove eos_token from the file that is wrong"):
        load_tokenizer(tmp_path, found)
    (tmp_path / "special_tokens_map.json").write_text("{}")
    assert load_tokenizer(tmp_path, found).eos_token == "</s>"


MALFORMED: dict[str, dict[str, Any]] = {
    "ids as text": {"added_tokens": {TAG: "2052"}},
    "a negative id": {"added_tokens": {TAG: -1}},
    "an id that is true": {"added_tokens": {TAG: True}},
    "an empty token": {"added_tokens": {"": 2052}},
    "half a character": {"added_tokens": {"\ud83d": 2052}},
    "a very long token": {"added_tokens": {"x" * 600: 2052}},
    "a decoder of text": {"tokenizer_config": {"added_tokens_decoder": {"2052": TAG}}},
    "a decoder without content": {"tokenizer_config": {"added_tokens_decoder": {"2052": {}}}},
    "a decoder by name": {"tokenizer_config": {"added_tokens_decoder": {TAG: {"content": TAG}}}},
    "names that are numbers": {"special_tokens_map": {"additional_special_tokens": [7]}},
    "an end that is a number": {"special_tokens_map": {"eos_token": 7}},
    "far too many": {"added_tokens": {f"<{i}>": 2052 + i for i in range(2**14 + 1)}},
}


@pytest.mark.parametrize("files", MALFORMED.values(), ids=MALFORMED)
def test_malformed_declarations_give_one_error(files: dict[str, Any], tmp_path: Path) -> None:
    found = chatglm(tmp_path, **files)
    with pytest.raises(CheckpointError) as caught:
        load_tokenizer(tmp_path, found)
    assert "tmp" in str(caught.value.where)


def test_an_end_that_a_fine_tune_added_ends_its_answers(tmp_path: Path) -> None:
    """hiyouga/LlamaFactory#9338: eos_token was replaced in the tokenizer's files alone; open-r1#663."""
    files = {"added_tokens": {"<|im_end|>": 2052}, "tokenizer_config": {"eos_token": "<|im_end|>"}}
    ours = load_tokenizer(tmp_path, chatglm(tmp_path, **files))
    assert ours.eos_ids == (2, 2052, 2049, 2051)
    assert [note for note in ours.notes if "ends at 2052" in note and "tokenizer_config.json" in note] == [*ours.notes]
    saved = tmp_path / "saved"
    saved.mkdir()
    ours.save(saved)
    assert json.loads((saved / "tokenizer_config.json").read_text())["eos_token"] == "<|im_end|>"


def test_an_end_that_no_token_has_is_noted(tmp_path: Path) -> None:
    ours = load_tokenizer(tmp_path, chatglm(tmp_path, tokenizer_config={"eos_token": "<eos>"}))
    assert (ours.eos_ids, len(ours.notes)) == ((2, 2049, 2051), 1)
    assert "'<eos>', which the tokenizer does not have" in ours.notes[0]
