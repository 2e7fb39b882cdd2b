"""Tensors that make no GLM: what they are instead, and the next step, before the first of them is missed by name."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from glmquant.core.untrusted import shown
from glmquant.errors import CheckpointError
from glmquant.glm.layouts.layout import Layout
from glmquant.glm.names import EMBEDDING, HEAD
from glmquant.store.tensors import StoredTensor

Stored = Mapping[str, StoredTensor]

LORA: Final = re.compile(
    r"\.lora_(?:A|B|embedding_A|embedding_B|magnitude_vector)\b|\.(?:base_layer|modules_to_save|original_module)\."
)
PREFIX: Final = re.compile(r"(?:^|\.)prefix_encoder\.|^prompt_embeddings")
VALUE_HEAD: Final = re.compile(r"(?:^|\.)(?:v_head|value_head|reward_head)\.")
BITSANDBYTES: Final = re.compile(
    r"\.(?:SCB|weight_format|absmax|quant_map|nested_absmax|nested_quant_map)$|bitsandbytes__"
)
OPTIMIZER: Final = re.compile(r"(?:^|\.)(?:exp_avg|exp_avg_sq|momentum_buffer)(?:\.|$)")
LAYER: Final = re.compile(r"(?:^|\.)layers\.(\d+)\.")
LAYER_FIELDS: Final = {"transformer": "num_layers", "model": "num_hidden_layers"}
VOCABULARY_FIELDS: Final = {"transformer": "padded_vocab_size", "model": "vocab_size"}


def refuse_what_is_no_model(stored: Stored, layout: Layout, config_path: Path) -> None:
    """Refuses tensors that are not, or not alone, those of the model that ``config.json`` describes.

    Raises:
        CheckpointError: what they are, and the next step.
    """
    _refuse_placeholders(stored)
    for expression, error in KINDS:
        found = [name for name in stored if expression.search(name)]
        if found:
            raise error(found, stored)
    _refuse_other_names(stored, layout, config_path)
    _refuse_other_layers(stored, layout, config_path)
    _refuse_other_vocabulary(stored, layout, config_path)
    _refuse_without_head(stored, layout, config_path)


def _refuse_placeholders(stored: Stored) -> None:
    empty = [tensor for tensor in stored.values() if 0 in tensor.shape]
    if empty and 2 * len(empty) >= len(stored):
        raise CheckpointError(
            f"{len(empty)} of {len(stored)} tensors are empty, as DeepSpeed's ZeRO-3 leaves them where it is not told "
            "to gather",
            where=empty[0].path,
            expected=f"{shown(empty[0].name)} with its values",
            hint="put the ranks together with `python zero_to_fp32.py . OUT` in the directory DeepSpeed saved to, or "
            "save again with stage3_gather_16bit_weights_on_model_save",
        )


def _where(found: Sequence[str], stored: Stored) -> Path:
    return stored[found[0]].path


def _lora(found: Sequence[str], stored: Stored) -> CheckpointError:
    whole = len(found) < len(stored)
    return CheckpointError(
        f"{'among the' if whole else 'in place of'} weights are LoRA's tensors: {shown(found[0])}",
        where=_where(found, stored),
        expected="weights that LoRA was merged into, or that know nothing of it",
        hint="save what PEFT's model.merge_and_unload() gives"
        if whole
        else "give the base model, and as `adapter` the directory that PEFT saved, with its adapter_config.json",
    )


def _prefix(found: Sequence[str], stored: Stored) -> CheckpointError:
    place = "in place of weights" if len(found) == len(stored) else "beside the weights"
    return CheckpointError(
        f"{place} lies a prefix that P-Tuning trained: {shown(found[0])}",
        where=_where(found, stored),
        expected="a model without a prefix, which nothing here feeds to it",
        hint="give the base model, whose weights P-Tuning leaves as they are; or train with LoRA, which can be put "
        "into them",
    )


def _value_head(found: Sequence[str], stored: Stored) -> CheckpointError:
    return CheckpointError(
        f"among the weights are a value head's tensors, of reinforcement learning: {shown(found[0])}",
        where=_where(found, stored),
        expected="a language model or a classifier",
        hint="save the model without it: model.pretrained_model.save_pretrained(DIR) of TRL's model, and give DIR",
    )


def _bitsandbytes(found: Sequence[str], stored: Stored) -> CheckpointError:
    return CheckpointError(
        f"the weights are quantized by bitsandbytes: {shown(found[0])}",
        where=_where(found, stored),
        expected="float weights, or GPTQ's",
        hint="give the float checkpoint, or save what transformers' model.dequantize() gives",
    )


def _optimizer(found: Sequence[str], stored: Stored) -> CheckpointError:
    return CheckpointError(
        f"the tensors are an optimizer's state, not a model: {shown(found[0])}",
        where=_where(found, stored),
        expected="weights",
        hint="give the directory that the trainer saved the model to",
    )


KINDS: Final[tuple[tuple[re.Pattern[str], Callable[[Sequence[str], Stored], CheckpointError]], ...]] = (
    (OPTIMIZER, _optimizer),
    (LORA, _lora),
    (PREFIX, _prefix),
    (VALUE_HEAD, _value_head),
    (BITSANDBYTES, _bitsandbytes),
)


def _refuse_other_names(stored: Stored, layout: Layout, config_path: Path) -> None:
    """Names of another layout: not one of the model's tensors is there under its name."""
    expected = {source.name for source in layout.sources.values()}
    if stored and not expected & stored.keys() and not any(name.endswith(".qweight") for name in stored):
        raise CheckpointError(
            f"none of the tensors has a name of a {layout.config.family} model; they are called "
            + ", ".join(shown(name) for name in sorted(stored)[:3]),
            where=next(iter(stored.values())).path,
            expected=f"names such as {layout.sources[EMBEDDING].name}",
            hint=f"see that {config_path} belongs to these weights: its model_type says how they are called",
        )


def _refuse_other_layers(stored: Stored, layout: Layout, config_path: Path) -> None:
    used = stored.keys() - layout.ignored
    found = {int(match[1]) for name in used if (match := LAYER.search(name)) and len(match[1]) < 6}
    expected, field = layout.config.num_hidden_layers, LAYER_FIELDS[_root(layout)]
    if not found or found != set(range(len(found))) or len(found) == expected:
        return
    names = {source.name for source in layout.sources.values()}
    if len(found) < expected:
        missing = next(source.name for source in layout.sources.values() if not _holds(stored, source.name))
        what = f"the checkpoint has no tensor {missing}"
    else:
        left = [name for name in stored if name not in names | layout.ignored]
        what = f"{len(left)} tensors of the checkpoint have no place in a {layout.config.family} model"
    raise CheckpointError(
        f"{what}: the tensors are those of {len(found)} layers, and {field} is {expected}",
        where=f"{config_path}, {field}",
        expected=f"{field}: {len(found)}, or the tensors of {expected} layers",
        hint="where the model has so many layers on purpose, say so in config.json; else download the checkpoint "
        "again, completely, and see that config.json belongs to it",
    )


def _refuse_without_head(stored: Stored, layout: Layout, config_path: Path) -> None:
    names = [source.name for name, source in layout.sources.items() if name != HEAD]
    head = layout.sources.get(HEAD)
    if head is None or head.name in names or _holds(stored, head.name) or not all(_holds(stored, n) for n in names):
        return
    raise CheckpointError(
        f"the checkpoint has no tensor {head.name}, and tie_word_embeddings is not true",
        where=f"{config_path}, tie_word_embeddings",
        expected=f"{head.name} of shape {list(head.shape)}, or a head tied to the embedding",
        hint="where the model uses its embedding as the head, set tie_word_embeddings to true in config.json; else "
        "download the checkpoint again, completely",
    )


def _holds(stored: Stored, name: str) -> bool:
    return name in stored or name.removesuffix(".weight") + ".qweight" in stored


def _refuse_other_vocabulary(stored: Stored, layout: Layout, config_path: Path) -> None:
    source, field = layout.sources[EMBEDDING], VOCABULARY_FIELDS[_root(layout)]
    tensor = stored.get(source.name)
    if tensor is None or len(tensor.shape) != 2 or tensor.shape[1:] != source.shape[1:]:
        return
    if tensor.shape[0] != source.shape[0]:
        raise CheckpointError(
            f"the embedding has {tensor.shape[0]} rows, and {field} is {source.shape[0]}",
            where=f"{config_path}, {field}",
            expected=f"{field}: {tensor.shape[0]}",
            hint="where the vocabulary was padded or extended, say so in config.json; else see that it belongs to "
            "these weights",
        )


def _root(layout: Layout) -> str:
    return layout.sources[EMBEDDING].name.partition(".")[0]
