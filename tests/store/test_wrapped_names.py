"""Names with a wrapper's prefix, without the publisher's, or both: the published ones where all share it."""

import logging
from pathlib import Path

import pytest
import torch

from glmquant.errors import CheckpointError
from glmquant.store.checkpoint import open_checkpoint
from glmquant.store.tensors import StoredTensor
from glmquant.store.wrapped_names import unwrapped
from tests.support.checkpoints import float_tensors, tiny_config, write_checkpoint
from tests.support.handed import EMBEDDING, assert_same_model, plain, saved, weights

NATIVE = {
    "pytorch#3805, DataParallel": "module.{}",
    "pytorch-image-models#2003, torch.compile": "_orig_mod.{}",
    "pytorch-image-models#2003, torch.compile in DataParallel": "module._orig_mod.{}",
    "apex#647, twice": "module.module.{}",
    "PEFT": "base_model.model.{}",
    "PEFT in DeepSpeed": "module.base_model.model.{}",
    "chatglm-maths#5, TRL": "pretrained_model.{}",
    "ssbuild/chatglm_finetuning#51, Lightning": "_forward_module._TransformerLightningModule__backbone.transformer.{}",
    "model. of a trainer": "model.{}",
}


@pytest.mark.parametrize("form", NATIVE.values(), ids=NATIVE.keys())
@pytest.mark.parametrize("publishers_own", [True, False])
def test_every_wrapper_and_each_without_the_publishers_prefix(tmp_path: Path, form: str, publishers_own: bool) -> None:
    names = {name: name if publishers_own else name.removeprefix("transformer.") for name in weights()}
    wrapped = {form.format(names[name]): tensor for name, tensor in weights().items()}
    ours = open_checkpoint(saved(tmp_path / "c", wrapped))
    assert_same_model(ours, open_checkpoint(plain(tmp_path / "plain")))


def test_no_prefix_at_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stripped = {name.removeprefix("transformer."): tensor for name, tensor in weights().items()}
    with caplog.at_level(logging.INFO, "glmquant"):
        ours = open_checkpoint(saved(tmp_path / "c", stripped))
    assert "'embedding.word_embeddings.weight' is read as 'transformer.embedding.word_embeddings.weight'" in caplog.text
    assert_same_model(ours, open_checkpoint(plain(tmp_path / "plain")))


CANONICAL = {
    "doubled": "model.{}",
    "meta-llama, module": "module.{}",
    "activation checkpointing inside": "{}",
    "FSDP around and inside": "_fsdp_wrapped_module.{}",
}


@pytest.mark.parametrize("form", CANONICAL.values(), ids=CANONICAL.keys())
@pytest.mark.parametrize("inner", ["", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module."])
def test_transformers_own_names(tmp_path: Path, form: str, inner: str) -> None:
    config = tiny_config()
    tensors = float_tensors(config)
    wrapped = {
        form.format(name.replace("self_attn.", f"{inner}self_attn.")): tensor for name, tensor in tensors.items()
    }
    ours = open_checkpoint(write_checkpoint(tmp_path / "c", config, wrapped))
    assert_same_model(ours, open_checkpoint(write_checkpoint(tmp_path / "plain", config, tensors)))


def test_the_backbone_of_a_tied_model_saved_alone(tmp_path: Path) -> None:
    config = tiny_config(tied=True)
    tensors = {name: tensor for name, tensor in float_tensors(config).items() if name != "lm_head.weight"}
    alone = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    ours = open_checkpoint(write_checkpoint(tmp_path / "c", config, alone))
    assert_same_model(ours, open_checkpoint(write_checkpoint(tmp_path / "plain", config, tensors)))


def stored(*names: str) -> dict[str, StoredTensor]:
    return {name: StoredTensor(Path("x"), name, 0, torch.float16, (1,)) for name in names}


@pytest.mark.parametrize(
    "names",
    [
        [f"module.{EMBEDDING}", "transformer.encoder.final_layernorm.weight"],
        [f"module.{EMBEDDING}", f"ema.{EMBEDDING}"],
        [EMBEDDING, f"_orig_mod.{EMBEDDING}"],
        ["module.transformer.encoder.final_layernorm.weight"],
        [EMBEDDING, "module.transformer.encoder.final_layernorm.weight"],
        [f"not{EMBEDDING}", "transformer.encoder.final_layernorm.weight"],
        [],
    ],
)
def test_what_is_ambiguous_stays_as_it_is(names: list[str]) -> None:
    assert set(unwrapped(stored(*names), EMBEDDING)) == set(names)


def test_a_wrapper_that_is_not_around_all_is_an_error(tmp_path: Path) -> None:
    mixed = {name if "layers.1" in name else f"module.{name}": tensor for name, tensor in weights().items()}
    with pytest.raises(CheckpointError, match=r"no tensor transformer\.embedding"):
        open_checkpoint(saved(tmp_path / "c", mixed))
