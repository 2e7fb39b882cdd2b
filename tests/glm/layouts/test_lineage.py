"""Which release a native checkpoint descends from: hub ids and the tokenizer tell, a path never does."""

import json
from pathlib import Path
from typing import Any

import pytest

import glmquant as gq
from glmquant.errors import CheckpointError
from glmquant.glm.layouts.lineage import FAMILIES, Traces, Vocabulary, published_names
from glmquant.glm.layouts.resolve import resolve_layout
from glmquant.store.checkpoint import open_checkpoint
from tests.glm.test_families import NATIVE
from tests.hints.follow import follows
from tests.support.golden import published_config
from tests.support.handed import edit, plain
from tests.test_families import native


def family(name: Any = None, traces: Traces | None = None, asked: Any = None, **fields: Any) -> str:
    config = published_config(_name_or_path=name, eos_token_id=2, pad_token_id=0, **fields)
    return resolve_layout(config, config_path=Path("config.json"), family=asked, traces=traces).config.family


NAMES = {
    "THUDM/chatglm2-6b": "chatglm2",
    "chatglm3-6b": "chatglm3",
    "ZhipuAI/ChatGLM3-6B-Base": "chatglm3",
    "me/my_chatglm3-6b.v2": "chatglm3",
    "THUDM/codegeex2-6b": "codegeex2",
    "THUDM/codegeex4-all-9b": "glm-4",
    "THUDM/LongWriter-glm4-9b": "glm-4",
    "/root/.cache/huggingface/hub/models--THUDM--chatglm3-6b/snapshots/103caa4": "chatglm3",
}


@pytest.mark.parametrize(("name", "expected"), NAMES.items(), ids=NAMES.keys())
def test_hub_ids(name: str, expected: str) -> None:
    assert family(name) == expected


PATHS = [
    "/data/chatglm2-6b",
    "/home/me/ChatGLM3/finetune/output/checkpoint-500",
    "./chatglm3-6b",
    "../chatglm3-6b",
    "~/chatglm3-6b",
    "models/THUDM/chatglm3-6b",
    "D:\\models\\chatglm3-6b",
    "ChatGLM3/checkpoint-500",
    "",
    None,
    7,
    ["THUDM/chatglm3-6b"],
]


@pytest.mark.parametrize("name", PATHS, ids=str)
def test_a_path_never_decides(name: Any) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json, _name_or_path") as caught:
        family(name)
    assert str(caught.value.hint).endswith("model.family=chatglm3")
    for asked in FAMILIES:
        assert family(name, asked=asked) == asked


AUTO_MAP = {"AutoConfig": "THUDM/chatglm3-6b--configuration_chatglm.ChatGLMConfig"}
TOKENIZER_MAP = {"AutoTokenizer": ["THUDM/glm-4-9b-chat--tokenization_chatglm.ChatGLM4Tokenizer", None]}

TRACES: dict[str, tuple[dict[str, Any], dict[str, Any], Vocabulary | None, str]] = {
    "GLM-4#609, auto_map": ({"auto_map": AUTO_MAP}, {}, None, "chatglm3"),
    "GLM-4#612, the tokenizer's auto_map": ({}, {"auto_map": TOKENIZER_MAP}, None, "glm-4"),
    "the tokenizer's name_or_path": ({}, {"name_or_path": "THUDM/codegeex2-6b"}, None, "codegeex2"),
    "AutoGPTQ#683, a tiktoken vocabulary": ({}, {}, "tiktoken", "glm-4"),
    "all of them": ({"auto_map": AUTO_MAP}, {"name_or_path": "THUDM/chatglm3-6b"}, "sentencepiece", "chatglm3"),
    "two names, one of which has this vocabulary": (
        {"auto_map": AUTO_MAP}, {"name_or_path": "THUDM/glm-4-9b"}, "tiktoken", "glm-4",
    ),
    "codegeex4-all-9b, the tokenizer's class": ({}, {"tokenizer_class": "ChatGLM4Tokenizer"}, None, "glm-4"),
    "damaged": ({"auto_map": [1]}, {"auto_map": {"x": {"y": 1}}, "name_or_path": 3}, "tiktoken", "glm-4"),
}  # fmt: skip


@pytest.mark.parametrize("trace", TRACES.values(), ids=TRACES.keys())
def test_other_traces(trace: tuple[dict[str, Any], dict[str, Any], Vocabulary | None, str]) -> None:
    fields, tokenizer_config, vocabulary, expected = trace
    assert family("/x", Traces(tokenizer_config, vocabulary), **fields) == expected


def test_names_that_disagree_ask() -> None:
    traces = Traces({"name_or_path": "THUDM/chatglm3-6b"}, "sentencepiece")
    with pytest.raises(CheckpointError, match="chatglm2, chatglm3 this is"):
        family("THUDM/chatglm2-6b", traces)
    assert family("THUDM/chatglm2-6b", traces, asked="chatglm2") == "chatglm2"
    with pytest.raises(CheckpointError, match=r"a codegeex2 checkpoint, since model\.family says so"):
        family("THUDM/chatglm2-6b", traces, asked="codegeex2")


@follows("if the tokenizer is right, say which it is: model.family={}")
def test_a_name_of_another_vocabulary_is_told_and_the_advice_works() -> None:
    traces = Traces(vocabulary="tiktoken")
    with pytest.raises(CheckpointError, match="tiktoken vocabulary") as caught:
        family("THUDM/chatglm3-6b", traces)
    asked = str(caught.value.hint).rpartition("=")[2]
    assert family("THUDM/chatglm3-6b", traces, asked=asked) == asked == "glm-4"
    with pytest.raises(CheckpointError, match=r"model\.family is chatglm3, and tokenizer\.model is a tiktoken"):
        family("THUDM/chatglm3-6b", traces, asked="chatglm3")


def test_names_come_without_their_owner() -> None:
    assert list(published_names({"_name_or_path": "a/b", "auto_map": {"X": "c/d--e.F", "Y": "e.F"}}, {})) == ["b", "d"]


GLM4 = next(release for release in NATIVE if release.name == "THUDM/glm-4-9b-chat")


@pytest.mark.parametrize(
    "name",
    ["/data/glm4-chat-pytorch-9b", "/home/me/ChatGLM3/finetune/output/checkpoint-500", "THUDM/codegeex4-all-9b"],
)
def test_a_glm4_fine_tune_is_known_by_its_tokenizer(tmp_path: Path, name: str) -> None:
    directory = tmp_path / "c"
    directory.mkdir()
    native(GLM4, directory)
    edit(directory, _name_or_path=name)
    assert open_checkpoint(directory).config.family == "glm-4"
    assert open_checkpoint(directory).tokenizer.encode("hello")
    recipe = gq.load_recipe("int8-rtn", {"model.family": "glm-4"})
    assert gq.inspect(directory, recipe, predict=False).config.family == "glm-4"


def test_what_transformers_5_writes(tmp_path: Path) -> None:
    directory = plain(tmp_path / "c", "chatglm3-tiny")
    edit(directory, drop=("_name_or_path", "torch_dtype"), dtype="float16", auto_map=AUTO_MAP)
    (directory / "tokenizer_config.json").write_text(json.dumps({"name_or_path": "THUDM/chatglm3-6b"}))
    assert open_checkpoint(directory).config.family == "chatglm3"
    (directory / "tokenizer_config.json").write_text("{damaged")
    assert open_checkpoint(directory).config.family == "chatglm3"
    edit(directory, auto_map={})
    with pytest.raises(CheckpointError, match="chatglm2, chatglm3, codegeex2 this is"):
        open_checkpoint(directory)
    assert open_checkpoint(directory, family="chatglm3").config.family == "chatglm3"
