"""The files beside the graph that other runtimes look for."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glmquant.core.files import write_json
from glmquant.glm.config import GlmConfig
from glmquant.glm.hf_config import to_hf_config
from glmquant.onnx_export.bundle import GENAI_GRAPH_FILE
from glmquant.recipe.schema import ExportOptions

log = logging.getLogger("glmquant.onnx_export")


def genai_config(
    config: GlmConfig, options: ExportOptions, length: int, sampling: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """``genai_config.json`` of onnxruntime-genai 0.18.

    ``chatglm`` is one of the model types it runs as a plain decoder, whatever GLM this is. ``length`` bounds prompt and
    answer together; the key/value buffer is reserved for all of it, where the profile's attention writes in place.
    ``sampling`` are the checkpoint's own defaults, by the names that both transformers and genai have for them.
    """
    special = {"eos_token_id": list(config.eos_token_ids), "pad_token_id": config.pad_token_id}
    if config.bos_token_id is not None:
        special["bos_token_id"] = config.bos_token_id
    decoder = {
        "filename": GENAI_GRAPH_FILE,
        "head_size": config.head_dim,
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "session_options": session_options(options),
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    search = {
        "do_sample": False,
        "max_length": length,
        "min_length": 0,
        "num_beams": 1,
        "num_return_sequences": 1,
        "past_present_share_buffer": options.profile == "ort",
        "repetition_penalty": 1.0,
        "temperature": 1.0,
        "top_k": 50,
        "top_p": 1.0,
        **(sampling or {}),
    }
    model = {
        "type": "chatglm",
        **special,
        "vocab_size": config.vocab_size,
        "context_length": length,
        "decoder": decoder,
    }
    return {"model": model, "search": search}


def session_options(options: ExportOptions) -> dict[str, Any]:
    """ONNX Runtime session options; entries with a dot in their names are its configuration keys.
    Quantized products of the ``standard`` profile are fused as the model loads, and take their accuracy level from the
    session rather than from the graph.
    """
    common: dict[str, Any] = {
        "log_id": "onnxruntime-genai",
        "provider_options": [],
    }
    if options.profile == "standard":
        common["session.qdq_matmulnbits_accuracy_level"] = str(options.accuracy_level)
    return common


def generation_config(stated: dict[str, Any], config: GlmConfig) -> dict[str, Any]:
    """``generation_config.json`` of a bundle: as ``stated``, with the token ids of ``genai_config.json``."""
    ends = list(config.eos_token_ids)
    found = stated.get("eos_token_id")
    agrees = set(found if isinstance(found, list) else [found]) == set(ends)
    ids = {"eos_token_id": found if agrees else ends, "pad_token_id": config.pad_token_id}
    if config.bos_token_id is not None:
        ids["bos_token_id"] = config.bos_token_id
    return {**stated, **{name: value for name, value in ids.items() if name in stated or name == "eos_token_id"}}


def optimum_config(config: GlmConfig) -> dict[str, Any]:
    """``config.json`` of a bundle.

    Optimum 0.1 counts key/value heads right for ``glm`` and not for ``glm4``; all else it takes from the graph.
    """
    shape = {"head_dim": config.head_dim, "num_key_value_heads": config.num_key_value_heads}
    return {**to_hf_config(config), **shape, "model_type": "glm", "architectures": ["GlmForCausalLM"]}


def keep_text_whole(path: Path) -> None:
    """Says in ``tokenizer.json`` that text is not split before merging, where it only fails to say that it is.

    Without a pre-tokenizer, onnxruntime-genai 0.18 splits spaces from the digits after them. This one matches any text
    as a whole, so the ids stay what they are everywhere else.
    """
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    if "Precompiled" in _kinds(tokenizer["normalizer"]):
        # Its BPE knows no such step, and none of those it knows can stand for it.
        log.warning("onnxruntime-genai does not normalize Unicode as this tokenizer does: give it text in NFKC there")
    if tokenizer["pre_tokenizer"] is None:
        whole = {"type": "Split", "pattern": {"Regex": "[\\s\\S]+"}, "behavior": "Isolated", "invert": False}
        tokenizer["pre_tokenizer"] = whole
        write_json(path, tokenizer)


def _kinds(normalizer: dict[str, Any] | None) -> set[str]:
    """Of a normalizer in ``tokenizer.json``, and of its steps."""
    if normalizer is None:
        return set()
    return {normalizer["type"]}.union(*(_kinds(step) for step in normalizer.get("normalizers", ())))
