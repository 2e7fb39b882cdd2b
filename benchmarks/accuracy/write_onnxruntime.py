"""The linear layers of a checkpoint's blocks quantized by ONNX Runtime's own quantizer. Runs in its environment.

python write_onnxruntime.py FLOAT_CHECKPOINT CALIBRATION OPTIONS.json OUT.onnx

OPTIONS: ``algorithm`` (``default`` or ``k_quant``), ``block_size``, ``symmetric``. It takes no calibration. The graph
has a product for each linear, named as in the checkpoint.
"""

import json
import re
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.matmul_nbits_quantizer import (
    DefaultWeightOnlyQuantConfig,
    KQuantWeightOnlyQuantConfig,
    MatMulNBitsQuantizer,
)
from safetensors.numpy import load_file

LINEAR = re.compile(r"model\.layers\.\d+\.\w+\.\w+_proj\.weight")


def products(checkpoint):
    nodes, weights, inputs, outputs = [], [], [], []
    for file in sorted(Path(checkpoint).glob("*.safetensors")):
        for name, weight_NK in load_file(file).items():
            if not LINEAR.fullmatch(name):
                continue
            rows, columns = weight_NK.shape
            weights.append(numpy_helper.from_array(np.ascontiguousarray(weight_NK.T, np.float32), name))
            inputs.append(helper.make_tensor_value_info(f"{name}.x", TensorProto.FLOAT, [1, columns]))
            outputs.append(helper.make_tensor_value_info(f"{name}.y", TensorProto.FLOAT, [1, rows]))
            nodes.append(helper.make_node("MatMul", [f"{name}.x", name], [f"{name}.y"], name=name))
    graph = helper.make_graph(nodes, "linears", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])


def main():
    source, _, text, out = sys.argv[1:]
    options = json.loads(text)
    grid = {"block_size": options["block_size"], "is_symmetric": options["symmetric"]}
    if options["algorithm"] == "default":
        algorithm = DefaultWeightOnlyQuantConfig(**grid)
    else:
        algorithm = KQuantWeightOnlyQuantConfig()
    quantizer = MatMulNBitsQuantizer(products(source), algo_config=algorithm, **grid)
    quantizer.process()
    onnx.save(quantizer.model.model, out)


if __name__ == "__main__":
    main()
