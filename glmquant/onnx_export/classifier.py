"""A classifier as an ONNX bundle: no key/value cache, one row of logits a text.

Shape suffixes: B batch, S tokens, T columns of the mask (the same number), D hidden size, L labels.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir

from glmquant.core.files import write_json
from glmquant.glm.config import GlmConfig
from glmquant.glm.model import ModelSource
from glmquant.onnx_export.bundle import GRAPH_FILE, WEIGHTS_FILE, OnnxBundle
from glmquant.onnx_export.feasible import refuse_cache, require_dimensions
from glmquant.onnx_export.graph import Decoder, DecoderBuilder, Operators, to_bytes
from glmquant.onnx_export.matrices import matrix_writer
from glmquant.onnx_export.save import (
    TORCH_DTYPES,
    BundledTokenizer,
    metadata_of,
    operators_of,
    positions,
)
from glmquant.onnx_export.side_files import optimum_config
from glmquant.onnx_export.weights import StoredModel, WeightWriter, store_model
from glmquant.onnx_export.weights_file import DTYPES, WeightsFile
from glmquant.recipe.schema import ExportOptions


def export_classifier(
    classifier: ModelSource,
    options: ExportOptions,
    out: Path,
    *,
    tokenizer: BundledTokenizer | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> OnnxBundle:
    """Writes a classifier into the existing directory ``out``: ``model.onnx``, its weights, and side files.

    The graph takes ``input_ids`` and ``attention_mask``, int64 ``[B, S]`` with padding on either side, and gives
    ``logits`` ``[B, L]`` of each row's last real token. Optimum's ``ORTModelForSequenceClassification`` opens it. The
    head stays float. Memory follows the embedding and one block, or two blocks: one is written while the
    next is read. The same input gives the same bytes.

    Raises:
        ExportError: a shape the operators cannot run, a weight that ``options.dtype`` cannot hold, or a quantized
            cache, which a classifier does not have.
    """
    config = classifier.config
    require_dimensions(config, options)
    refuse_cache(options)
    dtype = TORCH_DTYPES[options.dtype]
    with WeightsFile(out / WEIGHTS_FILE) as file:
        matrices = matrix_writer(file, dtype, options)
        weights = store_model(
            classifier,
            WeightWriter(file, dtype, matrices),
            embedding=options.embedding,
            length=positions(config, options),
            progress=progress,
        )
    graph = build_classifier(config, weights, operators_of(config, options, weights), dtype=DTYPES[dtype])
    data = to_bytes(graph.graph, metadata_of(config, options, file))
    (out / GRAPH_FILE).write_bytes(data)
    names = {"architectures": ["GlmForSequenceClassification"]}
    write_json(out / "config.json", optimum_config(config) | names)
    if tokenizer is not None:
        tokenizer.save(out)
    digest = hashlib.sha256(data).hexdigest()
    return OnnxBundle(
        path=out,
        inputs=graph.inputs,
        outputs=graph.outputs,
        size=len(data) + file.size,
        sha256=digest,
        weights_sha256=file.sha256,
    )


def build_classifier(config: GlmConfig, weights: StoredModel, operators: Operators, *, dtype: ir.DataType) -> Decoder:
    """The graph; see :func:`export_classifier`. ``weights.lm_head`` holds the classification head."""
    g = operators.g
    shape = ["batch_size", "sequence_length"]
    input_ids_BS = g.input("input_ids", ir.DataType.INT64, shape)
    mask_BT = g.input("attention_mask", ir.DataType.INT64, shape)
    g.scope("no_past")
    empty = _empty_cache(config, operators, input_ids_BS)
    past = [(empty, empty)] * config.num_hidden_layers
    normed_B1D, _ = DecoderBuilder(config, weights, operators).layers(input_ids_BS, mask_BT, past, operators.last_real)
    g.scope("score")
    last_BD = g.node("Squeeze", [normed_B1D, g.ints(1)])
    g.output(operators.linear(last_BD, weights.lm_head), "logits", dtype, ["batch_size", config.num_labels])
    return Decoder(g.graph, tuple(g.fed_inputs), tuple(g.outputs))


def _empty_cache(config: GlmConfig, operators: Operators, input_ids_BS: ir.Value) -> ir.Value:
    """Keys or values of no token: Shape-15, Concat-13, ConstantOfShape-9, Cast-19."""
    g = operators.g
    batch_1 = g.node("Shape", [input_ids_BS], start=0, end=1)
    shape = g.node("Concat", [batch_1, g.ints(config.num_key_value_heads, 0, operators.cache.width)], axis=0)
    return g.node("Cast", [g.node("ConstantOfShape", [shape])], to=int(operators.cache.dtype))
