"""Which files of a repository are fetched, and what a directory lacks."""

import json
from pathlib import Path

import pytest

from glmquant.core.untrusted import MAX_CONFIG_BYTES
from glmquant.hub.choice import WEIGHTS, missing_parts, most_bytes, needed, weights
from glmquant.store.shards import PREFERRED

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def test_weights_are_looked_for_as_a_directorys_are() -> None:
    assert WEIGHTS == PREFERRED


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["pytorch_model.bin", "model.safetensors", "model.safetensors.index.json"], ["model.safetensors"]),
        (["pytorch_model.bin", "pytorch_model.bin.index.json", "x-00001-of-00001.bin"], ["pytorch_model.bin"]),
        (
            ["model.safetensors.index.json", *SHARDS, "consolidated.safetensors", "pytorch_model-00001-of-00001.bin"],
            ["model.safetensors.index.json", *SHARDS],
        ),
        (
            ["model.safetensors.index.json", "a.safetensors", "b.safetensors", "c.bin"],
            ["model.safetensors.index.json", "a.safetensors", "b.safetensors"],
        ),
        (["onnx/model.safetensors", *SHARDS, "training_args.bin"], list(SHARDS)),
        (["gptq_model-4bit-128g.bin"], ["gptq_model-4bit-128g.bin"]),
        (["README.md", "model.gguf", "model.onnx", "model.h5"], []),
    ],
)
def test_one_kind_of_weights_is_chosen(names: list[str], chosen: list[str]) -> None:
    assert list(weights(names)) == chosen


def test_templates_and_licenses_come_along() -> None:
    names = ["config.json", "MODEL_LICENSE", "LICENSE.txt", "docs/LICENSE", "model.safetensors", "modeling_chatglm.py"]
    names += ["README.md", "docs/README.md"]
    names += ["additional_chat_templates/tool_use.jinja", "additional_chat_templates/a/b.jinja", "chat_template.jinja"]
    assert list(needed(names)) == [
        "config.json",
        "chat_template.jinja",
        "LICENSE.txt",
        "MODEL_LICENSE",
        "README.md",
        "additional_chat_templates/tool_use.jinja",
        "model.safetensors",
    ]
    assert (
        most_bytes("additional_chat_templates/tool_use.jinja")
        == most_bytes("LICENSE.txt")
        == most_bytes("README.md")
        == MAX_CONFIG_BYTES
    )
    assert most_bytes("model.safetensors") is None


def test_a_directory_lacks_what_its_index_names(tmp_path: Path) -> None:
    assert missing_parts(tmp_path) == ("config.json", "tokenizer.json or tokenizer.model", "the weights")
    for name in ("config.json", "tokenizer.json", SHARDS[0]):
        (tmp_path / name).touch()
    assert missing_parts(tmp_path) == ()
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": SHARDS[0], "b": SHARDS[1], "c": "../c", "d": 4}}))
    assert missing_parts(tmp_path) == (SHARDS[1],)
    index.write_text("damaged")
    assert missing_parts(tmp_path) == ()


def test_a_name_that_no_disk_takes_is_missing_like_any_other(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).touch()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "x" * 5000}}))
    assert missing_parts(tmp_path) == ("x" * 5000,)
