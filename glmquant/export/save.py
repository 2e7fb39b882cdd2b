"""Writing a bundle."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch

from glmquant.errors import ExportError
from glmquant.export.bundle import GRAPH_FILE, WEIGHTS_FILE, OnnxBundle
from glmquant.export.graph import build_graph, to_bytes
from glmquant.export.side_files import genai_config, optimum_config, write_json
from glmquant.export.source import ModelSource
from glmquant.export.weights import StoredModel, WeightWriter, store_model
from glmquant.export.weights_file import DTYPES, WeightsFile
from glmquant.glm.config import GlmConfig
from glmquant.glm.hf_config import to_hf_config
from glmquant.recipe.schema import ExportOptions

TORCH_DTYPES = {"float32": torch.float32, "float16": torch.float16}


class Saveable(Protocol):
    """A tokenizer, as far as export knows it."""

    def save(self, directory: Path) -> None: ...


def export_bundle(
    source: ModelSource,
    options: ExportOptions,
    out: Path,
    *,
    tokenizer: Saveable | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> OnnxBundle:
    """Writes a model into the existing directory ``out``: graph, weights, and side files.

    Memory follows the largest of one block, the embedding and ``lm_head``. The same model and options give the same
    bytes.

    Args:
        progress: called with blocks done and blocks in all.

    Raises:
        ExportError: a shape the operators cannot run, or a weight that ``options.dtype`` cannot hold.
    """
    config = source.config
    check_supported(config)
    length = positions(config, options)
    dtype = TORCH_DTYPES[options.dtype]
    with WeightsFile(out / WEIGHTS_FILE) as file:
        weights = store_model(
            source, WeightWriter(file, dtype), embedding=options.embedding, length=length, progress=progress
        )
    bundle = _write_graph(config, options, weights, file, out)
    write_json(out / "genai_config.json", genai_config(config, length))
    write_json(out / "config.json", optimum_config(to_hf_config(config)))
    if tokenizer is not None:
        tokenizer.save(out)
    return bundle


def positions(config: GlmConfig, options: ExportOptions) -> int:
    """Tokens that prompt and answer may have together: ``max_length``, but no more than the model was made for."""
    return min(options.max_length, config.max_position_embeddings)


def check_supported(config: GlmConfig) -> None:
    """Refuses what GroupQueryAttention cannot run.

    Raises:
        ExportError: naming the dimension.
    """
    for name, value in (("head_dim", config.head_dim), ("rotary_dim", config.rotary_dim)):
        if value % 16:
            raise ExportError(
                f"{name} is {value}", where=name, expected="a multiple of 16 (ONNX Runtime's GroupQueryAttention)"
            )


def _write_graph(
    config: GlmConfig, options: ExportOptions, weights: StoredModel, file: WeightsFile, out: Path
) -> OnnxBundle:
    decoder = build_graph(
        config, weights, dtype=DTYPES[TORCH_DTYPES[options.dtype]], accuracy_level=options.accuracy_level
    )
    metadata = {
        "glmquant.profile": options.profile,
        "glmquant.accuracy_level": str(options.accuracy_level),
        "glmquant.max_length": str(positions(config, options)),
        "glmquant.weights_sha256": file.sha256,
        "glmquant.weights_size": str(file.size),
    }
    data = to_bytes(decoder.graph, metadata)
    (out / GRAPH_FILE).write_bytes(data)
    return OnnxBundle(
        path=out,
        inputs=decoder.inputs,
        outputs=decoder.outputs,
        size=len(data) + file.size,
        sha256=hashlib.sha256(data).hexdigest(),
    )
