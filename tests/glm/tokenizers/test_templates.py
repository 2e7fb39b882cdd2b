"""A fine-tune's own chat template, wherever transformers and people put it."""

import json
from pathlib import Path
from typing import Any

import pytest

from glmquant.errors import CheckpointError
from glmquant.glm.tokenizers.chat import TEMPLATES, Message
from glmquant.glm.tokenizers.templates import checked_templates, shipped_templates
from glmquant.glm.tokenizers.tokenizer import load_tokenizer
from tests.support.golden import config, directory

ONE, TWO = "{{ messages[0].content }}1", "{{ messages[0].content }}2"
LIST = [{"name": "default", "template": ONE}, {"name": "tool_use", "template": TWO}]

FOUND: dict[str, tuple[dict[str, Any], str, dict[str, str]]] = {
    "a string": ({"tokenizer_config.json": ONE}, "tokenizer_config.json, chat_template", {}),
    "ggml-org/llama.cpp#6484: a list of named ones": (
        {"tokenizer_config.json": LIST}, "tokenizer_config.json, chat_template", {"tool_use": TWO}
    ),
    "huggingface/swift-transformers#134: a list of one": (
        {"tokenizer_config.json": LIST[:1]}, "tokenizer_config.json, chat_template", {}
    ),
    "an object of named ones": (
        {"tokenizer_config.json": {"default": ONE, "rag": TWO}}, "tokenizer_config.json, chat_template", {"rag": TWO}
    ),
    "a file": ({"chat_template.jinja": ONE}, "chat_template.jinja", {}),
    "ggml-org/llama.cpp#12460: chat_template.json": (
        {"chat_template.json": ONE}, "chat_template.json, chat_template", {}
    ),
    "a file and others in a directory": (
        {"chat_template.jinja": ONE, "additional_chat_templates/tool_use.jinja": TWO},
        "chat_template.jinja",
        {"tool_use": TWO},
    ),
    "a file before the configuration": (
        {"chat_template.jinja": ONE, "tokenizer_config.json": TWO}, "chat_template.jinja", {}
    ),
    "an empty one stands for none": (
        {"tokenizer_config.json": " ", "chat_template.json": ONE}, "chat_template.json, chat_template", {}
    ),
    "null stands for none": ({"tokenizer_config.json": None, "chat_template.jinja": ONE}, "chat_template.jinja", {}),
}  # fmt: skip


def put(to: Path, files: dict[str, Any]) -> None:
    for name, value in files.items():
        (to / name).parent.mkdir(exist_ok=True)
        (to / name).write_text(value if name.endswith(".jinja") else json.dumps({"chat_template": value}))


@pytest.mark.parametrize(("files", "where", "others"), FOUND.values(), ids=FOUND)
def test_the_template_is_found_and_travels(
    files: dict[str, Any], where: str, others: dict[str, str], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    put(tmp_path, files)
    found = checked_templates(tmp_path)
    assert (found.default, found.where, found.others) == (ONE, f"{tmp_path}/{where}", others)
    (tmp_path / "tokenizer.model").write_bytes((directory("chatglm3-tiny") / "tokenizer.model").read_bytes())
    saved = tmp_path / "saved"
    saved.mkdir()
    load_tokenizer(tmp_path, config("chatglm3-tiny")).save(saved)
    again = shipped_templates(saved)
    assert (again.default, again.others, again.notes) == (ONE, others, ())
    (saved / "config.json").write_text('{"model_type": "glm"}')
    theirs = AutoTokenizer.from_pretrained(saved, local_files_only=True)
    assert theirs.chat_template == (ONE if not others else {"default": ONE, **others})


def test_two_that_differ_are_noted(tmp_path: Path) -> None:
    put(tmp_path, {"chat_template.jinja": ONE, "tokenizer_config.json": TWO, "chat_template.json": ONE})
    (note,) = shipped_templates(tmp_path).notes
    assert "chat_template.jinja and" in note
    assert "tokenizer_config.json, chat_template differ" in note


def test_one_that_has_another_name_is_taken_and_noted(tmp_path: Path) -> None:
    put(tmp_path, {"tokenizer_config.json": [{"name": "chatml", "template": ONE}]})
    found = shipped_templates(tmp_path)
    assert (found.default, len(found.notes)) == (ONE, 1)


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "nomic-ai/gpt4all#3255: it does not compile": ({"tokenizer_config.json": "{% if %}"}, "does not compile"),
    "one of several does not compile": ({"tokenizer_config.json": [LIST[0], {**LIST[1], "template": "{{"}]}, "compile"),
    "none is the default": ({"tokenizer_config.json": {"rag": ONE, "tool_use": TWO}}, "none of the 2 chat templates"),
    "two of one name": ({"tokenizer_config.json": [LIST[0], LIST[0]]}, "one name"),
    "no name": ({"tokenizer_config.json": [{"template": ONE}]}, "is named None"),
    "a name that climbs": ({"tokenizer_config.json": {"../x": ONE, "default": TWO}}, "is named"),
    "a number": ({"tokenizer_config.json": 7}, "chat_template is a int"),
    "a list of text": ({"tokenizer_config.json": [ONE]}, "is named None"),
    "half a character": ({"tokenizer_config.json": "\ud800"}, "string"),
    "a file of bytes": ({"chat_template.jinja": "\ud800"}, "not UTF-8"),
}


@pytest.mark.parametrize(("files", "said"), BROKEN.values(), ids=BROKEN)
def test_a_broken_one_is_told_with_its_file(files: dict[str, Any], said: str, tmp_path: Path) -> None:
    ((name, value),) = files.items()
    if name.endswith(".jinja"):
        (tmp_path / name).write_bytes(value.encode("utf-8", "surrogatepass"))
    else:
        put(tmp_path, files)
    with pytest.raises(CheckpointError) as caught:
        checked_templates(tmp_path)
    assert said in str(caught.value)
    assert str(tmp_path) in str(caught.value.where)


@pytest.mark.parametrize(
    ("files", "mended"),
    [
        ({"tokenizer_config.json": "{% if %}"}, {"chat_template.jinja": ONE}),
        ({"tokenizer_config.json": {"rag": ONE, "tool_use": TWO}}, {"chat_template.jinja": ONE}),
        ({"tokenizer_config.json": [LIST[0], LIST[0]]}, {"tokenizer_config.json": LIST[:1]}),
    ],
)
def test_the_hints_work_when_followed(files: dict[str, Any], mended: dict[str, Any], tmp_path: Path) -> None:
    put(tmp_path, files)
    with pytest.raises(CheckpointError) as caught:
        checked_templates(tmp_path)
    assert caught.value.hint
    put(tmp_path, mended)
    assert checked_templates(tmp_path).default == ONE


def test_without_one_the_familys_is_used(tmp_path: Path) -> None:
    ours = load_tokenizer(directory("chatglm3-tiny"), config("chatglm3-tiny"))
    assert (ours.shipped.default, ours.chat_template) == (None, TEMPLATES["chatglm3"])


def test_a_template_may_name_the_tokens_that_the_files_name(tmp_path: Path) -> None:
    """transformers gives a template bos_token and eos_token as the tokenizer's files have them."""
    (tmp_path / "tokenizer.model").write_bytes((directory("chatglm3-tiny") / "tokenizer.model").read_bytes())
    values = {"bos_token": "<s>", "eos_token": "<|user|>", "chat_template": "{{ bos_token }}[gMASK]{{ eos_token }}"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(values))
    ours = load_tokenizer(tmp_path, config("chatglm3-tiny"))
    expected = [ours.bos_id, 2044, 2049]
    assert ours.apply_chat_template([Message("user", "")]) == expected
