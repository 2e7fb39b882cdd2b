"""Opening a bundle's graph in ONNX Runtime."""

import json
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from glmquant.errors import ExportError

GRAPH_FILE = "model.onnx"
INPUTS = ("input_ids", "attention_mask")


@dataclass(frozen=True)
class BundleInfo:
    """What a bundle says about itself.

    Attributes:
        num_layers, num_key_value_heads, head_dim: of the key/value cache.
        cache_dtype: ``float32`` or ``float16``.
        vocab_size: width of the logits.
        max_length: tokens that prompt and answer may have together.
        eos_ids: ids that end generation.
        pad_id: id that fills rows up.
        accuracy_level: the least exact arithmetic its quantised products may use (``MatMulNBits``).
    """

    num_layers: int
    num_key_value_heads: int
    head_dim: int
    cache_dtype: str
    vocab_size: int
    max_length: int
    eos_ids: tuple[int, ...]
    pad_id: int
    accuracy_level: int


def open_session(directory: Path, num_threads: int | None) -> ort.InferenceSession:
    """The session of ``model.onnx``.

    Raises:
        ExportError: no such file, or ONNX Runtime cannot load it.
    """
    graph = directory / GRAPH_FILE
    if not graph.is_file():
        raise ExportError(
            f"{directory} is not an ONNX bundle",
            where=graph,
            expected="a directory that `glmquant export` or `glmquant run` wrote",
            fix="give the path of such a directory; nothing is downloaded",
        )
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if num_threads is not None:
        options.intra_op_num_threads = num_threads
    # Every step of decoding has shapes of its own, and a memory pattern would be kept for each.
    options.enable_mem_pattern = False
    try:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exceptions share no base class but this
        raise ExportError(
            f"ONNX Runtime cannot load {graph}: {error}",
            where=graph,
            expected=f"a graph and weights that onnxruntime {ort.__version__} can run",
            fix="export the model again; the files may be damaged or incomplete",
        ) from error


def read_info(directory: Path, session: ort.InferenceSession) -> BundleInfo:
    """Raises ExportError where the graph is not one of glmquant's."""
    inputs = {value.name: value for value in session.get_inputs()}
    outputs = {value.name: value for value in session.get_outputs()}
    metadata = session.get_modelmeta().custom_metadata_map
    keys = [name for name in inputs if name.startswith("past_key_values.") and name.endswith(".key")]
    known = {*INPUTS, *keys, *(name.removesuffix("key") + "value" for name in keys)}
    if not keys or set(inputs) != known or "logits" not in outputs or "glmquant.max_length" not in metadata:
        raise ExportError(
            f"{directory / GRAPH_FILE} is no graph of glmquant's: it has inputs {sorted(inputs)[:4]} …",
            where=directory / GRAPH_FILE,
            expected=f"inputs {', '.join(INPUTS)} and past_key_values.*, output logits, and glmquant's metadata",
            fix="export the checkpoint with glmquant",
        )
    _, heads, _, head_dim = inputs[keys[0]].shape
    eos_ids, pad_id = _special_ids(directory / "genai_config.json")
    return BundleInfo(
        num_layers=len(keys),
        num_key_value_heads=heads,
        head_dim=head_dim,
        cache_dtype={"tensor(float)": "float32", "tensor(float16)": "float16"}[inputs[keys[0]].type],
        vocab_size=outputs["logits"].shape[2],
        max_length=int(metadata["glmquant.max_length"]),
        eos_ids=eos_ids,
        pad_id=pad_id,
        accuracy_level=int(metadata["glmquant.accuracy_level"]),
    )


def _special_ids(path: Path) -> tuple[tuple[int, ...], int]:
    try:
        model = json.loads(path.read_text(encoding="utf-8"))["model"]
        return tuple(model["eos_token_id"]), model["pad_token_id"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(
            f"cannot read the special token ids of the bundle: {error!r}",
            where=path,
            expected="model.eos_token_id, a list, and model.pad_token_id",
            fix="export the model again",
        ) from error
