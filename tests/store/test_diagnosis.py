"""Weights that are not, or not alone, a model's: named for what they are, and the advice works when followed."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from glmquant.errors import CheckpointError
from glmquant.store.checkpoint import open_checkpoint
from tests.hints.follow import follows
from tests.support.checkpoints import float_tensors, random_float, tiny_config, write_checkpoint
from tests.support.handed import assert_same_model, edit, plain, saved, weights

Tensors = dict[str, Tensor]
QKV = "transformer.encoder.layers.0.self_attention.query_key_value"
LORA = {f"{QKV}.lora_A.default.weight": torch.zeros(8, 128), f"{QKV}.lora_B.default.weight": torch.zeros(256, 8)}
PREFIX = {"transformer.prefix_encoder.embedding.weight": torch.zeros(128, 256)}


def lora_inside() -> Tensors:
    """As ``model.state_dict()`` of a PEFT model gives it, wrapped layers and all."""
    inside = {name.replace(QKV, f"{QKV}.base_layer"): tensor for name, tensor in weights().items()} | LORA
    return {f"base_model.model.{name}": tensor for name, tensor in inside.items()}


PARTS: dict[str, tuple[Callable[[], Tensors], str, str]] = {
    "ChatGLM2-6B#561: P-Tuning, the prefix alone": (lambda: PREFIX, "in place of weights lies a prefix", "base model"),
    "P-Tuning, beside the weights": (lambda: weights() | PREFIX, "beside the weights lies a prefix", "base model"),
    "chatglm-maths#5: TRL's value head": (
        lambda: {f"pretrained_model.{n}": t for n, t in weights().items()} | {"v_head.summary.weight": torch.zeros(9)},
        "among the weights are a value head's", r"model\.pretrained_model\.save_pretrained",
    ),
    "ethanyanjiali/minChatGPT#11: value_head": (
        lambda: weights() | {"value_head.weight": torch.zeros(1, 9)}, "a value head's", "save_pretrained",
    ),
    "verl#4704: LoRA inside a full save": (lora_inside, r"among the weights are LoRA's", r"merge_and_unload\(\)"),
    "LLaMA-Factory#214: an adapter renamed": (lambda: LORA, "in place of weights are LoRA's", "`adapter`"),
    "DeepSpeed#7501: empty placeholders": (
        lambda: {n: torch.empty(0, dtype=t.dtype) for n, t in weights().items()}, "ZeRO-3", "zero_to_fp32",
    ),
    "transformers#20082: some placeholders": (
        lambda: {n: torch.empty(0) if t.dim() == 2 else t for n, t in weights().items()}, "ZeRO-3", "zero_to_fp32",
    ),
    "bitsandbytes in 8 bits": (
        lambda: weights() | {f"{QKV}.SCB": torch.zeros(8)}, "quantized by bitsandbytes", "float checkpoint",
    ),
    "an optimizer's moments": (lambda: {f"{QKV}.exp_avg": torch.zeros(3)}, "an optimizer's state", "trainer"),
    "names of another model": (
        lambda: float_tensors(tiny_config()), "none of the tensors has a name of a chatglm2 model", "model_type",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("tensors", "what", "hint"), PARTS.values(), ids=PARTS.keys())
def test_what_is_no_model_is_named(tmp_path: Path, tensors: Callable[[], Tensors], what: str, hint: str) -> None:
    directory = saved(tmp_path / "c", tensors())
    with pytest.raises(CheckpointError, match=what) as caught:
        open_checkpoint(directory)
    assert caught.value.where == directory / "pytorch_model.bin"
    assert re.search(hint, str(caught.value.hint))


@follows(
    "give the base model, whose weights P-Tuning leaves as they are; or train with LoRA, which can "
    "be put into them. Where prefix_encoder was never trained, set pre_seq_len to null"
)
def test_a_tuned_prefix_is_refused_by_its_field_first(tmp_path: Path) -> None:
    directory = edit(saved(tmp_path / "c", PREFIX), pre_seq_len=128, prefix_projection=False)
    with pytest.raises(CheckpointError, match="pre_seq_len is 128") as caught:
        open_checkpoint(directory)
    assert "give the base model" in str(caught.value.hint)
    mended = edit(saved(tmp_path / "mended", weights()), pre_seq_len=None)
    assert_same_model(open_checkpoint(mended), open_checkpoint(plain(tmp_path / "plain")))


@follows("save the model without it: model.pretrained_model.save_pretrained(DIR) of TRL's model, and give DIR")
def test_a_value_head_left_away_leaves_the_model(tmp_path: Path) -> None:
    config = tiny_config()
    directory = write_checkpoint(tmp_path / "c", config)
    tensors = load_file(directory / "model.safetensors")
    save_file(tensors | {"v_head.summary.weight": torch.zeros(1, 64)}, directory / "model.safetensors")
    with pytest.raises(CheckpointError, match="value head"):
        open_checkpoint(directory)
    save_file(tensors, directory / "model.safetensors")
    assert open_checkpoint(directory).config == config


def expected_value(error: CheckpointError) -> dict[str, int]:
    """The field and value that an error expects, as ``num_layers: 3``."""
    found = re.match(r"(\w+): (\d+)", str(error.expected))
    assert found is not None
    return {found[1]: int(found[2])}


@pytest.mark.parametrize("said", [1, 2, 4, 40])
@pytest.mark.parametrize("kind", ["native", "canonical"])
@follows(
    "where the model has so many layers on purpose, say so in config.json; else download the "
    "checkpoint again, completely, and see that config.json belongs to it"
)
def test_another_number_of_layers_is_named_and_mended(tmp_path: Path, said: int, kind: str) -> None:
    field = "num_layers" if kind == "native" else "num_hidden_layers"
    directory = plain(tmp_path / "c") if kind == "native" else write_checkpoint(tmp_path / "c", tiny_config(layers=3))
    with pytest.raises(CheckpointError, match=f"those of 3 layers, and {field} is {said}") as caught:
        open_checkpoint(edit(directory, **{field: said}))
    assert str(caught.value.where).endswith(f"config.json, {field}")
    open_checkpoint(edit(directory, **expected_value(caught.value)))


@pytest.mark.parametrize("rows", [2050, 2176])
@follows(
    "where the vocabulary was padded or extended, say so in config.json; else see that it belongs to these weights"
)
def test_a_vocabulary_padded_otherwise_is_named_and_mended(tmp_path: Path, rows: int) -> None:
    resized = {
        name: random_float(rows, 128) if "word_embeddings" in name or "output_layer" in name else tensor
        for name, tensor in weights().items()
    }
    directory = saved(tmp_path / "c", resized)
    with pytest.raises(CheckpointError, match=f"{rows} rows, and padded_vocab_size is 2112") as caught:
        open_checkpoint(directory)
    assert open_checkpoint(edit(directory, **expected_value(caught.value))).config.vocab_size == rows


def test_a_head_of_another_size_than_the_embedding(tmp_path: Path) -> None:
    """hiyouga/LLaMA-Factory#6749: tokens added to one of the two."""
    tensors = weights() | {"transformer.output_layer.weight": random_float(2176, 128)}
    with pytest.raises(CheckpointError, match=r"output_layer\.weight is torch\.float16 of shape \[2176, 128\]"):
        open_checkpoint(saved(tmp_path / "c", tensors))


@follows(
    "where the model uses its embedding as the head, set tie_word_embeddings to true in "
    "config.json; else download the checkpoint again, completely"
)
def test_no_head_and_not_tied(tmp_path: Path) -> None:
    """transformers would give it a random one."""
    tensors = {name: tensor for name, tensor in float_tensors(tiny_config()).items() if name != "lm_head.weight"}
    directory = write_checkpoint(tmp_path / "c", tiny_config(), tensors)
    with pytest.raises(CheckpointError, match=r"no tensor lm_head\.weight, and tie_word_embeddings is not true"):
        open_checkpoint(directory)
    checkpoint = open_checkpoint(edit(directory, tie_word_embeddings=True))
    assert torch.equal(checkpoint.lm_head().weight, checkpoint.embedding())  # type: ignore[arg-type]


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression", "ranking", 3])
@follows("where the head was trained to give one label a text, say so in config.json, or leave the field out")
def test_a_head_that_gives_no_single_label(tmp_path: Path, problem: object) -> None:
    directory = plain(tmp_path / "c")
    head = {"classifier_head.weight": random_float(2, 128), "classifier_head.bias": random_float(2)}
    torch.save({**weights(), **head}, directory / "pytorch_model.bin")
    assert open_checkpoint(directory).config.num_labels == 2
    with pytest.raises(CheckpointError, match="problem_type is") as caught:
        open_checkpoint(edit(directory, problem_type=problem))
    assert json.loads((directory / "config.json").read_text())["problem_type"] == problem
    assert str(caught.value.expected).startswith("single_label_classification")
    open_checkpoint(edit(directory, problem_type="single_label_classification"))
