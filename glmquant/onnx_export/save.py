"""Writing a bundle."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from glmquant.core.files import write_json
from glmquant.data.calibration import KeyValueRange
from glmquant.errors import ExportError
from glmquant.glm.config import GlmConfig
from glmquant.glm.model import ModelSource
from glmquant.glm.tokenizers.generation import GENERATION_CONFIG, Generation
from glmquant.onnx_export.bundle import GENAI_GRAPH_FILE, GRAPH_FILE, WEIGHTS_FILE, OnnxBundle
from glmquant.onnx_export.feasible import require_dimensions
from glmquant.onnx_export.fused import FusedOperators
from glmquant.onnx_export.graph import Operators, build_graph, to_bytes
from glmquant.onnx_export.matrices import matrix_writer
from glmquant.onnx_export.side_files import genai_config, generation_config, keep_text_whole, optimum_config
from glmquant.onnx_export.standard import StandardOperators
from glmquant.onnx_export.weights import StoredModel, WeightWriter, store_model
from glmquant.onnx_export.weights_file import DTYPES, WeightsFile
from glmquant.recipe.schema import ExportOptions

log = logging.getLogger("glmquant.onnx_export")

TORCH_DTYPES = {"float32": torch.float32, "float16": torch.float16}
CACHE_BITS = {"float": 0, "int8": 8, "int4": 4}


class BundledTokenizer(Protocol):
    """A tokenizer, as far as export knows it."""

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Every id that ends an answer; a chat may end at more than the model's own."""
        ...

    @property
    def generation(self) -> Generation:
        """What the checkpoint says of generating."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """Where the checkpoint's files disagree, and what is made of that."""
        ...

    def save(self, directory: Path) -> None: ...


def export_bundle(
    source: ModelSource,
    options: ExportOptions,
    out: Path,
    *,
    key_values: Sequence[KeyValueRange] | None = None,
    tokenizer: BundledTokenizer | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> OnnxBundle:
    """Writes a model into the existing directory ``out``: two graphs, their weights, and side files.

    ``model.onnx`` is for ONNX Runtime and Optimum, ``genai.onnx`` for onnxruntime-genai, which needs logits of each
    row's last token alone; both read ``model.onnx.data``.

    Memory follows the largest pair of neighbors among the embedding, the blocks and ``lm_head``: one is written while
    the next is read. The same model and options give the same bytes.

    Args:
        key_values: ranges of each layer's keys and values, from a calibration; ``kv_cache: int8`` and ``int4`` need
            them, others leave them unread.
        progress: called with blocks done and blocks in all.

    Raises:
        ExportError: a shape the operators cannot run, a weight that ``options.dtype`` cannot hold, or a quantized cache
            without the ranges of this model.
    """
    config = source.config
    require_dimensions(config, options)
    tell_of_length(config, options)
    ranges = cache_ranges(config, options, key_values)
    dtype = TORCH_DTYPES[options.dtype]
    with WeightsFile(out / WEIGHTS_FILE) as file:
        matrices = matrix_writer(file, dtype, options)
        weights = store_model(
            source,
            WeightWriter(file, dtype, matrices),
            embedding=options.embedding,
            length=positions(config, options),
            key_values=ranges,
            cache_bits=CACHE_BITS[options.kv_cache],
            progress=progress,
        )
    bundle = _write_graphs(config, options, weights, file, out)
    sampling: dict[str, Any] = {}
    if tokenizer is not None:
        config = replace(config, eos_token_ids=tokenizer.eos_ids)
        sampling = tokenizer.generation.sampling.stated()
        write_tokenizer(tokenizer, config, out)
    write_json(out / "genai_config.json", genai_config(config, options, positions(config, options), sampling))
    write_json(out / "config.json", optimum_config(config))
    return bundle


def write_tokenizer(tokenizer: BundledTokenizer, config: GlmConfig, out: Path) -> None:
    """Writes the tokenizer's files, and ``generation_config.json`` anew where a copy of it would contradict them."""
    for note in tokenizer.notes:
        log.warning("%s", note)
    tokenizer.save(out)
    keep_text_whole(out / "tokenizer.json")
    stated = tokenizer.generation.values
    if stated is not None and generation_config(stated, config) != stated:
        write_json(out / GENERATION_CONFIG, generation_config(stated, config))


def tell_of_length(config: GlmConfig, options: ExportOptions) -> None:
    """Where more is asked for than the model was made for, what the bundle takes."""
    if "max_length" in options.model_fields_set and options.max_length > config.max_position_embeddings:
        log.warning(
            "export.max_length is %d, and the model was made for %d tokens: the bundle takes no more",
            options.max_length,
            config.max_position_embeddings,
        )


def positions(config: GlmConfig, options: ExportOptions) -> int:
    """Tokens that prompt and answer may have together: ``max_length``, but no more than the model was made for."""
    return min(options.max_length, config.max_position_embeddings)


def cache_ranges(
    config: GlmConfig, options: ExportOptions, key_values: Sequence[KeyValueRange] | None
) -> Sequence[KeyValueRange]:
    """The ranges a quantized cache needs; none for a float one.

    Raises:
        ExportError: there are none, or they are another model's.
    """
    if options.kv_cache == "float":
        return ()
    shape = (config.num_key_value_heads, config.head_dim)
    if not key_values:
        raise ExportError(
            f"kv_cache: {options.kv_cache} needs the ranges of keys and values, and there are none",
            where="export.kv_cache",
            expected=f"a calibration made with export.kv_cache: {options.kv_cache}",
            hint=f"calibrate with export.kv_cache={options.kv_cache} and give that, or use export.kv_cache=float",
        )
    found = {tuple(part.shape) for seen in key_values for part in (seen.key_absmax_CE, seen.value_absmax_CE)}
    if len(key_values) != config.num_hidden_layers or found != {shape}:
        raise ExportError(
            f"the calibration has {len(key_values)} layers with keys and values of {sorted(found)}",
            where="export.kv_cache",
            expected=f"{config.num_hidden_layers} layers with {shape} (heads, head size)",
            hint="calibrate this very model",
        )
    return key_values


def operators_of(config: GlmConfig, options: ExportOptions, weights: StoredModel) -> Operators:
    """The operators of the profile, with a graph of their own."""
    dtype = DTYPES[TORCH_DTYPES[options.dtype]]
    if options.profile == "standard":
        return StandardOperators(config, weights, dtype)
    bits = 0 if config.num_labels else CACHE_BITS[options.kv_cache]
    return FusedOperators(config, weights, dtype, options.accuracy_level, bits)


def metadata_of(config: GlmConfig, options: ExportOptions, file: WeightsFile) -> dict[str, str]:
    """What a graph says about itself."""
    task = {"glmquant.task": "text-classification"} if config.num_labels else {}
    cache = {} if config.num_labels else {"glmquant.kv_cache": options.kv_cache}
    return {
        **task,
        "glmquant.profile": options.profile,
        "glmquant.accuracy_level": str(options.accuracy_level),
        **cache,
        "glmquant.max_length": str(positions(config, options)),
        "glmquant.weights_sha256": file.sha256,
        "glmquant.weights_size": str(file.size),
    }


def _write_graphs(
    config: GlmConfig, options: ExportOptions, weights: StoredModel, file: WeightsFile, out: Path
) -> OnnxBundle:
    dtype = DTYPES[TORCH_DTYPES[options.dtype]]
    metadata = metadata_of(config, options, file)
    decoder = build_graph(config, weights, operators_of(config, options, weights), dtype=dtype)
    data = to_bytes(decoder.graph, metadata)
    (out / GRAPH_FILE).write_bytes(data)
    last_only = build_graph(config, weights, operators_of(config, options, weights), dtype=dtype, last_only=True)
    (out / GENAI_GRAPH_FILE).write_bytes(to_bytes(last_only.graph, metadata))
    return OnnxBundle(
        path=out,
        inputs=decoder.inputs,
        outputs=decoder.outputs,
        size=len(data) + file.size,
        sha256=hashlib.sha256(data).hexdigest(),
        weights_sha256=file.sha256,
    )
