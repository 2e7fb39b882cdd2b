"""Every supported release, tiny, in its publisher's layout on disk: recognized, quantized, exported, and it answers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import glmquant as gq
from glmquant.evaluation.baseline_source import BaselineSource
from glmquant.evaluation.source import Query
from glmquant.glm.tokenizers.chat import Message
from glmquant.glm.tokenizers.tokenizer import load_tokenizer
from glmquant.runtime.model import OnnxModel
from glmquant.store.checkpoint import open_checkpoint
from tests.glm.test_families import (
    GROUPS,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    HUGGING_FACE,
    INNER,
    LAYERS,
    NATIVE,
    VOCABULARY,
    Release,
    native_config,
    native_tensors,
)
from tests.support import glm4
from tests.support.golden import directory as golden
from tests.support.paths import contents

FAMILIES = {
    "THUDM/chatglm2": "chatglm2", "THUDM/codegeex2": "codegeex2", "THUDM/chatglm3": "chatglm3", "THUDM/glm-4": "glm-4",
}  # fmt: skip
RECIPE = {
    "rules": [{"match": "*", "spec": {"bits": 8, "group_size": 16}}],
    "export.accuracy_level": 0,
    "fit.equalize": True,
}


def native(release: Release, to: Path) -> str:
    """Writes the release; gives the family it must be recognized as."""
    family = next(family for start, family in FAMILIES.items() if release.name.startswith(start))
    config = native_config(release)
    if family == "glm-4":
        glm4.write_tokenizer(to)
        first = len(glm4.ranks())
        config |= {"eos_token_id": [first, first + 7, first + 9], "pad_token_id": first}
    else:
        source = golden("chatglm3-tiny" if family == "chatglm3" else "chatglm2-tiny")
        for name in ("tokenizer.model", "tokenizer_config.json"):
            (to / name).write_bytes((source / name).read_bytes())
    torch.save(native_tensors(release, config["multi_query_group_num"]), to / "pytorch_model.bin")
    (to / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return family


def hugging_face(release: Release, to: Path) -> str:
    from transformers import AutoConfig, AutoModelForCausalLM

    first = len(glm4.ranks())
    config: dict[str, Any] = {
        "_name_or_path": release.name, "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": GROUPS, "head_dim": HEAD_DIM, "vocab_size": VOCABULARY,
        "partial_rotary_factor": 0.5, "eos_token_id": [first, first + 7, first + 9], "pad_token_id": first,
        "rms_norm_eps": 1e-5, "max_position_embeddings": 128, "hidden_act": "silu", "torch_dtype": "float32",
    } | release.fields  # fmt: skip
    torch.manual_seed(11)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    tensors = {name: 0.2 * torch.randn_like(p) + (p.dim() == 1) for name, p in model.named_parameters()}
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    (to / "config.json").write_text(json.dumps(config), encoding="utf-8")
    scratch = to.parent / "tokenizer"
    scratch.mkdir()
    load_tokenizer(scratch, glm4.write_tokenizer(scratch)).save(to)
    return str(config["model_type"])


WRITERS = [(native, release) for release in NATIVE] + [(hugging_face, release) for release in HUGGING_FACE]


@pytest.mark.parametrize(("write", "release"), WRITERS, ids=[release.name for _, release in WRITERS])
def test_from_the_publishers_files_to_an_answer(write: Any, release: Release, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    family = write(release, model)
    seen = gq.inspect(model).config
    assert family in (seen.family, seen.architecture)
    recipe = gq.load_recipe(None, RECIPE)
    quantized = gq.quantize(model, recipe, out=tmp_path / "quantized")
    bundle = gq.export(quantized, recipe, out=tmp_path / "onnx")
    assert contents(gq.export(model, recipe, out=tmp_path / "directly").path) == contents(bundle.path)
    tokens = torch.randint(0, VOCABULARY, (1, 12), generator=torch.Generator().manual_seed(0)).numpy()
    shipped = OnnxModel.open(bundle.path).forward(tokens, tokens * 0 + 1)[0]
    (dequantized,) = BaselineSource(quantized).logits([Query(tokens[0], 12)])
    assert abs(shipped - dequantized).max() <= 1e-3 * abs(dequantized).max()
    (published,) = BaselineSource(open_checkpoint(model)).logits([Query(tokens[0], 12)])
    assert abs(dequantized - published).max() <= 0.1 * abs(published).max()
    answer = gq.generate(bundle, "你好, hello", options=gq.GenerationOptions(max_new_tokens=8))
    assert isinstance("".join(answer), str)
    tokenizer = load_tokenizer(model, seen)
    templated = tokenizer.apply_chat_template([Message("user", "你好")])
    assert templated[: len(tokenizer.prefix_ids)] == list(tokenizer.prefix_ids) != []
