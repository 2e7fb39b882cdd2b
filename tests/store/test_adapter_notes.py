"""What about an adapter is worth a look, and what is not."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from glmquant.store.adapter import open_adapter
from glmquant.store.checkpoint import open_checkpoint, with_adapter
from tests.support.adapters import edit, halves, tiny_base, train, write_adapter


def notes_on(base: Path, adapter: Path) -> tuple[str, ...]:
    return with_adapter(open_checkpoint(base), open_adapter(adapter)).adapter_notes


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_base(tmp_path / "glm-edge-1.5b-chat")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    tensors = halves("model.layers.0.self_attn.q_proj", 64, 64)
    return write_adapter(tmp_path / "adapter", tensors, target_modules=["q_proj"])


SAME = [
    "THUDM/glm-edge-1.5b-chat",
    "/root/autodl-tmp/GLM-Edge-1.5B-Chat/",
    r"D:\models\glm-edge-1.5b-chat",
    "/home/me/.cache/huggingface/hub/models--THUDM--glm-edge-1.5b-chat/snapshots/0123abcd",
    None,
    "",
]


@pytest.mark.parametrize("told", SAME)
def test_the_same_model_under_another_path_is_no_note(told: str | None, base: Path, adapter: Path) -> None:
    assert notes_on(base, edit(adapter, base_model_name_or_path=told)) == ()


def test_another_model_is_a_note(base: Path, adapter: Path) -> None:
    (note,) = notes_on(base, edit(adapter, base_model_name_or_path="THUDM/glm-edge-4b-chat"))
    assert "'THUDM/glm-edge-4b-chat'" in note
    assert "'glm-edge-1.5b-chat'" in note


def test_the_models_own_name_counts_as_its_directorys(base: Path, adapter: Path, tmp_path: Path) -> None:
    """hiyouga/LlamaFactory#6105: the base was the wrong one of several checkpoints, and nothing said so."""
    path = base / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_name_or_path": "THUDM/glm-4-9b-hf"}))
    moved = shutil.move(base, tmp_path / "base")
    assert notes_on(Path(moved), edit(adapter, base_model_name_or_path="/models/glm-4-9b-hf")) == ()
    assert len(notes_on(Path(moved), edit(adapter, base_model_name_or_path="/models/checkpoint-351"))) == 1


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"target_modules": ["q_proj", "o_proj"]}, ["target_modules names 'o_proj'"]),
        ({"target_modules": ["proj"]}, ["target_modules names 'proj'"]),
        ({"target_modules": ["self_attn.q_proj"]}, []),
        ({"target_modules": ".*_proj"}, []),
        ({"target_modules": "all-linear"}, []),
        ({"modules_to_save": ["lm_head"]}, ["modules_to_save names 'lm_head'"]),
        ({"modules_to_save": ["classifier", "score"]}, ["'classifier'", "'score'"]),
    ],
)
def test_what_has_no_tensors_is_a_note(fields: dict[str, Any], names: list[str], base: Path, adapter: Path) -> None:
    notes = notes_on(base, edit(adapter, **fields))
    assert len(notes) == len(names)
    assert all(name in note for name, note in zip(names, notes, strict=True))


def test_a_classifiers_adapter_has_one_of_both_heads(base: Path, tmp_path: Path) -> None:
    """LlamaFactory and PEFT add both names; PEFT writes whichever the model has."""
    adapter = train(base, tmp_path / "a", task="SEQ_CLS")
    saved = json.loads((adapter / "adapter_config.json").read_text())["modules_to_save"]
    assert sorted(saved) == ["classifier", "score"]
    edit(adapter, base_model_name_or_path=None)
    assert notes_on(base, adapter) == ()


def test_a_tokenizer_of_its_own_is_a_note_where_it_differs(base: Path, adapter: Path) -> None:
    """unslothai/unsloth#978: tokens were added, and the adapter's directory alone has them."""
    for directory in (base, adapter):
        (directory / "tokenizer.json").write_text("{}")
    assert notes_on(base, adapter) == ()
    (adapter / "tokenizer.json").write_text('{"added_tokens": []}')
    (adapter / "chat_template.jinja").write_text("{{ messages }}")
    (note,) = notes_on(base, adapter)
    assert "the adapter's tokenizer.json, chat_template.jinja" in note


def test_an_alpha_that_nothing_tells_is_a_note(base: Path, adapter: Path) -> None:
    (note,) = notes_on(base, edit(adapter, lora_alpha=None))
    assert "no lora_alpha: PEFT's default, 8" in note


def test_an_adapter_that_adds_nothing_is_a_note(base: Path, tmp_path: Path) -> None:
    """liangwq/Chatglm_lora_multi-gpu#14: DeepSpeed saved matrices that it had never trained."""
    tensors = halves("model.layers.0.self_attn.q_proj", 64, 64)
    (note,) = notes_on(base, write_adapter(tmp_path / "a", {n: t * ("lora_A" in n) for n, t in tensors.items()}))
    assert "adds nothing" in note


def test_notes_are_logged(base: Path, adapter: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "glmquant")
    (note,) = notes_on(base, edit(adapter, target_modules=["k_proj", "q_proj"]))
    assert note in caplog.messages


def test_an_adapter_of_nothing_but_whole_tensors_is_read(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "a", {"lm_head.weight": torch.ones(160, 64)}, modules_to_save=["lm_head"])
    assert notes_on(base, adapter) == ()
