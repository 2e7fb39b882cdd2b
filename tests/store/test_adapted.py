"""A checkpoint with an adapter is the model that PEFT's merge_and_unload gives; in native layouts, that of a plain
reference."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from glmquant.errors import CheckpointError
from glmquant.evaluation.baseline_source import BaselineSource
from glmquant.evaluation.source import Query
from glmquant.glm.names import EMBEDDING, FINAL_NORM, HEAD
from glmquant.store.adapter import open_adapter
from glmquant.store.checkpoint import Checkpoint, open_checkpoint, with_adapter
from tests.glm.test_families import (
    GROUPS,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    INNER,
    VOCABULARY,
    Release,
    canonical,
    native_config,
    native_tensors,
)  # fmt: skip
from tests.support.adapters import halves, merge, tiny_base, train, write_adapter
from tests.support.paths import CHATGLM2

EVERY_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"]
OPTIONS: dict[str, dict[str, Any]] = {
    "q and v alone": {},
    "every linear layer": {"target_modules": EVERY_LINEAR},
    "all-linear": {"target_modules": "all-linear"},
    "a pattern of targets": {"target_modules": r".*layers\.1\..*(q|o)_proj"},
    "some layers": {"layers_to_transform": [1]},
    "rank-stabilized": {"target_modules": EVERY_LINEAR, "use_rslora": True, "r": 6},
    "rank and alpha by module": {
        "target_modules": EVERY_LINEAR,
        "rank_pattern": {"layers.0.self_attn.q_proj": 7, "down_proj": 2},
        "alpha_pattern": {r".*\.1\..*(q_proj|o_proj)": 3, "^model.layers.0.mlp.gate_up_proj": 40, "v_proj": 1},
    },
    "rank-stabilized by module": {
        "use_rslora": True, "rank_pattern": {"q_proj": 9}, "alpha_pattern": {"q_proj": 2},
    },
    "DoRA": {"target_modules": EVERY_LINEAR, "use_dora": True},
    "the head": {"target_modules": ["lm_head", "down_proj"]},
    "the embedding": {"target_modules": ["embed_tokens", "o_proj"], "use_rslora": True},
    "head and embedding as a whole": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "norms as a whole": {"modules_to_save": ["input_layernorm", "norm"]},
    "every bias": {"bias": "all"},
    "biases of the adapted": {"bias": "lora_only", "target_modules": ["k_proj"]},
    "a bias of the addition": {"lora_bias": True, "target_modules": ["q_proj", "k_proj"], "r": 2},
    "fan_in_fan_out, which linear layers have not": {"fan_in_fan_out": True},
}  # fmt: skip


def opened(base: Path, adapter: Path) -> Checkpoint:
    return with_adapter(open_checkpoint(base), open_adapter(adapter))


def tensors_of(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Every canonical tensor, read as a block, a head or an embedding is."""
    config = checkpoint.config
    found = {EMBEDDING: checkpoint.embedding(), FINAL_NORM: checkpoint.final_norm()}
    for layer in range(config.num_hidden_layers):
        block, at = checkpoint.block(layer), f"model.layers.{layer}."
        rows = [config.query_rows, config.key_value_rows, config.key_value_rows]
        for name, linear in block.linears().items():
            assert isinstance(linear.weight, Tensor)
            parts = linear.weight.split(rows) if name == "self_attn.qkv_proj" else [linear.weight]
            names = [f"self_attn.{p}_proj" for p in "qkv"] if name == "self_attn.qkv_proj" else [name]
            found |= {f"{at}{n}.weight": part for n, part in zip(names, parts, strict=True)}
            if linear.bias_N is not None:
                found |= {f"{at}{n}.bias": part for n, part in zip(names, linear.bias_N.split(rows), strict=True)}
        found |= {f"{at}{name}.weight": gain for part in block.parts for name, gain in part.gains.items()}
    if not config.num_labels:
        head = checkpoint.lm_head().weight
        assert isinstance(head, Tensor)
        found[HEAD] = head
    return found


def logits_of(checkpoint: Checkpoint, ids: Tensor) -> Tensor:
    answers = BaselineSource(checkpoint).logits([Query(row.numpy(), len(row)) for row in ids])
    return torch.from_numpy(np.stack(list(answers)))


def steps_apart(ours: Tensor, theirs: Tensor, *operands: Tensor) -> float:
    """The largest distance in units of the last place, of the result or of a larger operand."""
    largest = torch.stack([each.float().abs() for each in (ours, theirs, *operands)]).amax(0)
    smallest = torch.finfo(ours.dtype).tiny
    units = torch.exp2(torch.log2(largest.clamp(min=smallest)).floor()) * torch.finfo(ours.dtype).eps
    return ((ours.float() - theirs.float()).abs() / units).max().item()


def assert_merged(checkpoint: Checkpoint, merged: Any) -> None:
    expected = {name: tensor.detach() for name, tensor in merged.named_parameters(remove_duplicate=False)}
    found = tensors_of(checkpoint)
    plain = open_checkpoint(checkpoint.path).embedding()  # an embedding's addition is rounded by itself
    assert found.keys() == {name for name in expected if "score" not in name}
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype, name
        if tensor.dtype == torch.float32:
            torch.testing.assert_close(tensor, expected[name], atol=2e-6, rtol=2e-6, msg=name)
        else:
            operands = (plain, expected[name] - plain) if name == EMBEDDING else ()
            assert steps_apart(tensor, expected[name], *operands) <= 1, name


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_weights_are_those_that_peft_merges(options: dict[str, Any], dtype: str, tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base", dtype)
    adapter = train(base, tmp_path / "adapter", **options)
    merged = opened(base, adapter)
    assert_merged(merged, merge(base, adapter))
    plain = tensors_of(open_checkpoint(base))
    changed = {name for name, tensor in tensors_of(merged).items() if not torch.equal(tensor, plain[name])}
    assert changed == set(merged.adapted_tensors) != set()


@pytest.mark.parametrize("architecture", ["glm", "glm4"])
@pytest.mark.parametrize(
    "name", ["every linear layer", "head and embedding as a whole", "rank and alpha by module", "DoRA"]
)
def test_logits_are_those_that_peft_merges(name: str, architecture: str, tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base", architecture=architecture)
    adapter = train(base, tmp_path / "adapter", **OPTIONS[name])
    ids = torch.randint(0, 160, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = merge(base, adapter)(ids).logits
    ours = logits_of(opened(base, adapter), ids)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
    assert (logits_of(open_checkpoint(base), ids) - ours).abs().max() > 0.01


@pytest.mark.parametrize("kept", ["float32", "float16", "bfloat16"])
def test_adapters_are_read_in_any_float_dtype(kept: str, tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base", "bfloat16")
    adapter = train(base, tmp_path / "adapter", target_modules=EVERY_LINEAR)
    path = adapter / "adapter_model.safetensors"
    save_file({name: tensor.to(getattr(torch, kept)) for name, tensor in load_file(path).items()}, path)
    assert_merged(opened(base, adapter), merge(base, adapter))


def test_an_adapter_of_pickled_tensors_is_the_same(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    adapter = train(base, tmp_path / "adapter")
    expected = tensors_of(opened(base, adapter))
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    found = tensors_of(opened(base, adapter))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["embed_tokens"]},
        {"target_modules": ["lm_head"]},
        {"target_modules": ["lm_head", "embed_tokens", "q_proj"]},
        {"modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ["lm_head"]},
    ],
    ids=lambda options: "huggingface/peft#2018 " + str(options),
)
def test_tied_embedding_and_head_are_untied_as_they_were_trained(options: dict[str, Any], tmp_path: Path) -> None:
    """PEFT warns that merging into tied weights changes the model, and says to untie them first: the oracle does."""
    tied = tiny_base(tmp_path / "tied", tied=True)
    adapter = train(tied, tmp_path / "adapter", **options)
    merged = opened(tied, adapter)
    assert not merged.config.tie_word_embeddings
    assert any("ties" in note for note in merged.adapter_notes)
    untied = tiny_base(tmp_path / "untied")
    path = untied / "model.safetensors"
    shared = load_file(tied / "model.safetensors")
    save_file(shared | {HEAD: shared[EMBEDDING].clone()}, path, {"format": "pt"})
    assert_merged(merged, merge(untied, adapter))


def test_a_tied_model_stays_tied_where_the_adapter_is_elsewhere(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base", tied=True)
    merged = opened(base, train(base, tmp_path / "adapter"))
    assert merged.config.tie_word_embeddings
    assert merged.adapter_notes == ()


NATIVE = Release("THUDM/chatglm3-6b", {"torch_dtype": "float32"}, torch.float32)
SHAPES = {
    "self_attention.query_key_value": ((HEADS + 2 * GROUPS) * HEAD_DIM, HIDDEN),
    "self_attention.dense": (HIDDEN, HEADS * HEAD_DIM),
    "mlp.dense_h_to_4h": (2 * INNER, HIDDEN),
    "mlp.dense_4h_to_h": (HIDDEN, INNER),
}


def native_additions() -> dict[str, Tensor]:
    """As LLaMA-Factory trains ChatGLM3 with lora_target all, and the head."""
    tensors: dict[str, Tensor] = halves("transformer.output_layer", VOCABULARY, HIDDEN, seed=99)
    for layer in range(2):
        for number, (module, (rows, columns)) in enumerate(SHAPES.items()):
            at = f"transformer.encoder.layers.{layer}.{module}"
            tensors |= halves(at, rows, columns, seed=10 * layer + number)
    embedding = "transformer.embedding.word_embeddings"
    return tensors | {
        f"{embedding}.lora_embedding_A": 0.1 * torch.randn(4, VOCABULARY),
        f"{embedding}.lora_embedding_B": 0.1 * torch.randn(HIDDEN, 4),
    }


def added(weights: dict[str, Tensor], additions: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    """``W + scale * B A``, in the plainest way."""
    out = dict(weights)
    for name, down in additions.items():
        if name.endswith(".lora_A.weight"):
            module = name.removesuffix(".lora_A.weight")
            out[f"{module}.weight"] = out[f"{module}.weight"] + scale * additions[f"{module}.lora_B.weight"] @ down
        elif name.endswith(".lora_embedding_A"):
            module = name.removesuffix(".lora_embedding_A")
            both = additions[f"{module}.lora_embedding_B"] @ down
            out[f"{module}.weight"] = out[f"{module}.weight"] + scale * both.T
    return out


def in_canonical_names(additions: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same additions to q_proj, k_proj, v_proj, and so on, each with halves of its own."""
    names = {
        "transformer.output_layer": "lm_head",
        "transformer.embedding.word_embeddings": "model.embed_tokens",
        "transformer.encoder.layers.": "model.layers.",
        "self_attention.dense": "self_attn.o_proj",
        "dense_h_to_4h": "gate_up_proj",
        "dense_4h_to_h": "down_proj",
    }
    out: dict[str, Tensor] = {}
    for name, tensor in additions.items():
        for native, hugging_face in names.items():
            name = name.replace(native, hugging_face)  # noqa: PLW2901
        if "query_key_value" not in name:
            out[name] = tensor
            continue
        rows = [HEADS * HEAD_DIM, GROUPS * HEAD_DIM, GROUPS * HEAD_DIM]
        parts = tensor.split(rows) if "lora_B" in name else [tensor.clone()] * 3
        for part, of_part in zip("qkv", parts, strict=True):
            out[name.replace("self_attention.query_key_value", f"self_attn.{part}_proj")] = of_part.clone()
    return out


@pytest.fixture
def native(tmp_path: Path) -> Path:
    """A ChatGLM3 in its publisher's layout."""
    directory = tmp_path / "chatglm3-6b"
    directory.mkdir()
    config = native_config(NATIVE) | {"multi_query_group_num": GROUPS}
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    torch.save(native_tensors(NATIVE, GROUPS), directory / "pytorch_model.bin")
    return directory


@pytest.fixture
def twin(native: Path, tmp_path: Path) -> Path:
    """The same model in transformers' layout."""
    from glmquant.glm.hf_config import to_hf_config

    directory = tmp_path / "glm-twin"
    directory.mkdir()
    layout = open_checkpoint(native)._table.layout
    (directory / "config.json").write_text(json.dumps(to_hf_config(layout.config)), encoding="utf-8")
    weights = {name: tensor.clone() for name, tensor in canonical(layout, native_tensors(NATIVE, GROUPS)).items()}
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    return directory


def test_native_names_mean_rows_of_the_publishers_tensors(native: Path, tmp_path: Path) -> None:
    additions = native_additions()
    merged = tensors_of(opened(native, write_adapter(tmp_path / "a", additions)))
    plain = native_tensors(NATIVE, GROUPS)
    expected = canonical(open_checkpoint(native)._table.layout, added(plain, additions, 8 / 4))
    assert merged.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(merged[name], tensor, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("stored_in", ["native", "twin"])
@pytest.mark.parametrize("trained_in", ["native names", "canonical names"])
def test_names_of_either_layout_are_merged_into_either(
    stored_in: str, trained_in: str, native: Path, twin: Path, tmp_path: Path
) -> None:
    """PEFT merges the canonical one into the twin; the four ways that there are here give the same."""
    additions = native_additions()
    split = write_adapter(
        tmp_path / "split", in_canonical_names(additions), target_modules=[*EVERY_LINEAR, "lm_head", "embed_tokens"]
    )
    adapter = split if trained_in == "canonical names" else write_adapter(tmp_path / "fused", additions)
    assert_merged(opened(native if stored_in == "native" else twin, adapter), merge(twin, split))


def test_halves_that_other_code_keeps_apart_are_rows_of_the_fused_layer(twin: Path, tmp_path: Path) -> None:
    apart = halves("model.layers.0.mlp.gate_proj", INNER, HIDDEN) | halves(
        "model.layers.0.mlp.up_proj", INNER, HIDDEN, seed=1
    )
    found = tensors_of(opened(twin, write_adapter(tmp_path / "a", apart)))["model.layers.0.mlp.gate_up_proj.weight"]
    before = tensors_of(open_checkpoint(twin))["model.layers.0.mlp.gate_up_proj.weight"]
    gate, up = (
        apart[f"model.layers.0.mlp.{name}.lora_B.weight"] @ apart[f"model.layers.0.mlp.{name}.lora_A.weight"]
        for name in ("gate_proj", "up_proj")
    )
    torch.testing.assert_close(found, before + 2 * torch.cat([gate, up]), atol=1e-5, rtol=1e-5)


def test_a_large_layer_is_merged_strip_by_strip_to_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base(tmp_path / "base", "float16")
    adapter = train(
        base, tmp_path / "adapter", target_modules=[*EVERY_LINEAR, "embed_tokens"], modules_to_save=["lm_head"]
    )
    whole = tensors_of(opened(base, adapter))
    monkeypatch.setattr("glmquant.core.parallel.STRIP_ELEMENTS", 7 * 64)
    strips = tensors_of(opened(base, adapter))
    assert all(torch.equal(strips[name], tensor) for name, tensor in whole.items())


def test_merging_leaves_no_trace(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    adapter, plain = train(base, tmp_path / "adapter"), open_checkpoint(base)
    before = tensors_of(plain)
    merged = with_adapter(plain, open_adapter(adapter))
    once, twice = tensors_of(merged), tensors_of(merged)
    after = tensors_of(plain)
    assert all(torch.equal(once[name], twice[name]) for name in once)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("rank", [2, 3])
def test_a_language_model_becomes_a_classifier_by_an_adapter_that_brings_a_head(rank: int, tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    adapter = train(base, tmp_path / "adapter", task="SEQ_CLS", r=rank)
    merged = opened(base, adapter)
    assert merged.config.labels == ("LABEL_0", "LABEL_1")
    assert merged.adapter_notes == ()
    theirs = merge(base, adapter, "SEQ_CLS")
    assert torch.equal(merged.classification_head().weight_LD, theirs.score.weight)
    assert_merged(merged, theirs)
    with pytest.raises(CheckpointError, match="no language-model head"):
        merged.lm_head()


def test_a_brought_head_has_the_models_labels(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    path = base / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id2label": {"0": "差", "1": "好"}}))
    adapter = write_adapter(tmp_path / "a", {"score.weight": torch.ones(2, 64)})
    assert opened(base, adapter).classification_head().labels == ("差", "好")
    three = write_adapter(tmp_path / "three", {"score.weight": torch.ones(3, 64)})
    with pytest.raises(CheckpointError, match=r"shape \[3, 64\], the model's is \[2, 64\]"):
        opened(base, three)


def test_the_fingerprint_follows_the_adapter(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    plain = open_checkpoint(base).fingerprint
    one = train(base, tmp_path / "one")
    prints = {plain, opened(base, one).fingerprint}
    assert opened(base, one).fingerprint in prints
    path = one / "adapter_config.json"
    path.write_text(path.read_text().replace('"lora_alpha": 8', '"lora_alpha": 9'))
    prints.add(opened(base, one).fingerprint)
    prints.add(opened(base, train(base, tmp_path / "two", r=5)).fingerprint)
    assert len(prints) == 4
    assert open_checkpoint(base).fingerprint == plain


def test_weights_that_leave_the_dtype_are_an_error(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base", "float16")
    huge = {name: 200 * tensor for name, tensor in halves("model.layers.0.self_attn.q_proj", 64, 64).items()}
    merged = opened(base, write_adapter(tmp_path / "a", huge, lora_alpha=80000))
    with pytest.raises(CheckpointError, match=r"q_proj.lora_B.*does not fit torch.float16"):
        merged.block(0)


Q = "model.layers.0.self_attn.q_proj"
MISFITS = {
    "ChatGLM3#657 the adapter of a wider model": (halves(Q, 64, 128), r"shape \[64, 128\], the model's is \[64, 64\]"),
    "LlamaFactory#3125 more tokens": ({"model.embed_tokens.weight": torch.ones(170, 64)}, r"\[170, 64\].*\[160, 64\]"),
    "axolotl#2277 fewer tokens": ({"lm_head.weight": torch.ones(150, 64)}, r"\[150, 64\], the model's is \[160, 64\]"),
    "a deeper model's": (halves("model.layers.7.self_attn.q_proj", 64, 64), "no place in a glm model"),
    "visual-openllm#36 ChatGLM-6B's": (halves("transformer.layers.0.attention.query_key_value", 192, 64), "no place"),
    "hiyouga/ChatGLM-Efficient-Tuning#262": (halves("transformer.h.0.attn.c_attn", 192, 64), "no place"),
    "a bias where there is none": ({"model.layers.0.self_attn.o_proj.bias": torch.ones(64)}, "no place"),
    "a value head": ({"v_head.summary.weight": torch.ones(1, 64)}, "no place"),
    "trained rows": ({"model.embed_tokens.token_adapter.trainable_tokens_delta": torch.ones(2, 64)}, "no place"),
    "both names of one layer": (
        halves(Q, 64, 64) | halves("transformer.encoder.layers.0.self_attention.query_key_value", 128, 64),
        "the same layer",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("tensors", "says"), MISFITS.values(), ids=MISFITS)
def test_an_adapter_of_another_model_is_refused(tensors: dict[str, Tensor], says: str, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "a", tensors, base_model_name_or_path="THUDM/other-model")
    with pytest.raises(CheckpointError, match=says) as refused:
        opened(tiny_base(tmp_path / "base"), adapter)
    if "the same layer" not in says:
        assert "THUDM/other-model" in str(refused.value.hint)


def test_a_quantized_base_is_refused(tmp_path: Path) -> None:
    import glmquant as gq

    base = tiny_base(tmp_path / "base", "float16")
    adapter = open_adapter(train(base, tmp_path / "adapter"))
    from glmquant.quantization.quantize import quantize
    from glmquant.recipe.plan import make_plan

    recipe = gq.load_recipe("int8-rtn", {"rules": [{"match": "*", "spec": {"bits": 8, "group_size": 32}}]})
    (tmp_path / "quantized").mkdir()
    quantize(open_checkpoint(base), make_plan(recipe, open_checkpoint(base).config), None, tmp_path / "quantized")
    with pytest.raises(CheckpointError, match="is quantized already"):
        with_adapter(open_checkpoint(tmp_path / "quantized"), adapter)
    merged = with_adapter(open_checkpoint(base), adapter)
    with pytest.raises(CheckpointError, match="has an adapter already"):
        with_adapter(merged, adapter)


def test_rows_that_the_publisher_quantized_are_refused(tmp_path: Path) -> None:
    release = Release("THUDM/chatglm2-6b-int4", {"quantization_bit": 4}, bits=4)
    directory = tmp_path / "chatglm2-6b-int4"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(native_config(release)), encoding="utf-8")
    torch.save(native_tensors(release, GROUPS), directory / "pytorch_model.bin")
    adapter = write_adapter(tmp_path / "a", native_additions())
    with pytest.raises(CheckpointError, match="is quantized already") as refused:
        opened(directory, adapter)
    assert "float model" in str(refused.value.hint)


def test_the_golden_model_with_an_adapter_of_zeros_is_the_golden_model(tmp_path: Path) -> None:
    plain = open_checkpoint(CHATGLM2)
    rows = plain.config.query_rows + 2 * plain.config.key_value_rows
    module = "transformer.encoder.layers.1.self_attention.query_key_value"
    tensors = halves(module, rows, plain.config.hidden_size)
    tensors[f"{module}.lora_B.weight"].zero_()
    merged = opened(CHATGLM2, write_adapter(tmp_path / "a", tensors))
    before, after = tensors_of(plain), tensors_of(merged)
    assert all(torch.equal(before[name], after[name]) for name in before)
