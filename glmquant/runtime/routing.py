"""Which experts a bundle's tokens meet: its graph with the routers' outputs shown.

Shape suffixes: T tokens, X experts, k experts of a token.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from glmquant.data.sequences import Ids
from glmquant.errors import ExportError
from glmquant.runtime.session import CACHE_DTYPES, GRAPH_FILE, SETTINGS_FILE, read_settings, session_options

ROUTER: Final = "MoEGroupRouter"
NOT_CHOSEN: Final = -1e3
"""Scores of experts that were not chosen are far below it, logarithms of those that were far above."""

WEIGHTS_FOLDER: Final = "session.model_external_initializers_file_folder_path"
LAYER: Final = "layers."


def bundle_choices(
    directory: Path, sequences: Sequence[Ids], num_threads: int | None = None
) -> dict[int, list[NDArray[np.int16]]]:
    """By layer and sequence, numbers of each token's experts in ascending order, int16 ``[T, k]``; empty for a bundle
    without routed experts.

    Args:
        sequences: token ids, int64 ``[T]`` each, prefix included.
        num_threads: within an operator; None lets ONNX Runtime use every core.

    Raises:
        ExportError: ONNX Runtime cannot run the graph with these outputs.
    """
    model = onnx.load(directory / GRAPH_FILE, load_external_data=False)
    routers = {_layer(node.name): node.output[0] for node in model.graph.node if node.op_type == ROUTER}
    if not routers:
        return {}
    session = _session(directory, model, list(routers.values()), num_threads)
    choices: dict[int, list[NDArray[np.int16]]] = {layer: [] for layer in routers}
    for ids_T in sequences:
        for layer, chosen_Tk in zip(routers, _run(session, list(routers.values()), ids_T), strict=True):
            choices[layer].append(chosen_Tk)
    return choices


def _layer(node: str) -> int:
    """Of a node's name, ``layers.3/MoEGroupRouter_60``."""
    return int(node.removeprefix(LAYER).partition("/")[0])


def _session(
    directory: Path, model: onnx.ModelProto, outputs: Sequence[str], num_threads: int | None
) -> ort.InferenceSession:
    shown = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs]
    model.graph.output.extend(shown)
    options = session_options(read_settings(directory), num_threads)
    options.add_session_config_entry(WEIGHTS_FOLDER, str(directory))
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exceptions share no base class but this
        raise ExportError(
            f"ONNX Runtime cannot load the graph with its routers shown: {error}",
            where=directory / GRAPH_FILE,
            expected=f"a graph that onnxruntime {ort.__version__} can run, with {SETTINGS_FILE} beside it",
            hint="export the model again; the files may be damaged or incomplete",
        ) from error


def _run(session: ort.InferenceSession, outputs: Sequence[str], ids_T: Ids) -> Iterator[NDArray[np.int16]]:
    tokens_1T = np.ascontiguousarray(ids_T, dtype=np.int64)[None]
    feeds: dict[str, Any] = {"input_ids": tokens_1T, "attention_mask": np.ones_like(tokens_1T)}
    for value in session.get_inputs():
        if value.name not in feeds:
            _, heads, _, width = value.shape
            feeds[value.name] = np.zeros((1, heads, 0, width), CACHE_DTYPES[value.type])
    for scores_TX in session.run(list(outputs), feeds):
        chosen_TX = scores_TX > NOT_CHOSEN
        yield np.nonzero(chosen_TX)[1].reshape(len(chosen_TX), -1).astype(np.int16)
