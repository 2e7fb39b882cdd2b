"""One product of activations and a weight matrix, as a bundle computes it, and the processor's time for it."""

import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch

from glmquant.core.spec import WHOLE_ROW, QuantSpec
from glmquant.glm.linear import Linear
from glmquant.methods.rtn import Rtn
from glmquant.onnx_export.builder import GraphBuilder
from glmquant.onnx_export.graph import to_bytes
from glmquant.onnx_export.matrices import IntegerMatrix, IntegerWriter, PackedMatrix, PackedWriter
from glmquant.onnx_export.ops import MICROSOFT, OPSET, matmul, matmul_integer, matmul_nbits
from glmquant.onnx_export.weights import WeightWriter
from glmquant.onnx_export.weights_file import WeightsFile


def open_product(directory: Path, weight_NK: torch.Tensor, spec: QuantSpec | None) -> ort.InferenceSession:
    """``x @ weight.T`` as a bundle computes it, rounding of activations included."""
    directory.mkdir(parents=True, exist_ok=True)
    rows, columns = weight_NK.shape
    in_integers = spec is not None and spec.group_size == WHOLE_ROW
    g = GraphBuilder("product", {"": OPSET, MICROSOFT: 1})
    x = g.input("x", ir.DataType.FLOAT, ["M", columns])
    with WeightsFile(directory / "model.onnx.data") as file:
        matrices = (IntegerWriter if in_integers else PackedWriter)(file, torch.float32)
        linear = Linear(weight_NK if spec is None else Rtn().quantize(weight_NK, spec, None), None)
        stored = WeightWriter(file, torch.float32, matrices).linear("w", linear).weight
    if isinstance(stored, IntegerMatrix):
        y = matmul_integer(g, x, stored, None)
    elif isinstance(stored, PackedMatrix):
        y = matmul_nbits(g, x, stored, None, accuracy_level=4)
    else:
        assert isinstance(stored, ir.ExternalTensor)
        y = matmul(g, x, g.weight(stored), None)
    g.output(y, "y", ir.DataType.FLOAT, ["M", rows])
    (directory / "model.onnx").write_bytes(to_bytes(g.graph, {}))
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(directory / "model.onnx", options)


def seconds(session: ort.InferenceSession, x: np.ndarray) -> float:
    """The processor's, of one product."""
    start = time.process_time()
    session.run(None, {"x": x})
    return time.process_time() - start
