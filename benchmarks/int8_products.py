"""How fast ONNX Runtime multiplies many rows by an INT8 matrix: in blocks (MatMulNBits) and in integers.

    python -m benchmarks.int8_products --work DIR [--out benchmarks/results/int8_products.md]

One thread, and the processor's time rather than the clock's, so that other work on the machine counts little.
"""

import argparse
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch

from benchmarks.machine import describe_machine
from glmquant.core.spec import WHOLE_ROW, QuantSpec
from glmquant.glm.linear import Linear
from glmquant.methods.rtn import Rtn
from glmquant.onnx_export.builder import GraphBuilder
from glmquant.onnx_export.graph import to_bytes
from glmquant.onnx_export.matrices import IntegerMatrix, IntegerWriter, PackedMatrix, PackedWriter
from glmquant.onnx_export.ops import MICROSOFT, OPSET, matmul, matmul_integer, matmul_nbits
from glmquant.onnx_export.weights import WeightWriter
from glmquant.onnx_export.weights_file import WeightsFile

SHAPES = ((2048, 256, 1536), (2048, 768, 256), (512, 4096, 4096))
WAYS = {
    "float32": None,
    "blocks of 32, asymmetric": QuantSpec(8, 32, symmetric=False),
    "blocks of 128": QuantSpec(8, 128),
    "blocks of 256": QuantSpec(8, 256),
    "one scale a row, integers": QuantSpec(8, WHOLE_ROW),
}
REPETITIONS = 7


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


def operations_a_second(work: Path, shape: tuple[int, int, int]) -> list[float]:
    """Of each way: multiplications and additions, the best of some runs that take turns."""
    rows, columns, outputs = shape
    weight_NK = torch.randn(outputs, columns, generator=torch.Generator().manual_seed(0))
    x_MK = np.random.default_rng(0).standard_normal((rows, columns), np.float32)
    sessions = [open_product(work / str(i), weight_NK, spec) for i, spec in enumerate(WAYS.values())]
    best = [float("inf")] * len(sessions)
    for _ in range(REPETITIONS):
        for i, session in enumerate(sessions):
            best[i] = min(best[i], seconds(session, x_MK))
    return [2 * rows * columns * outputs / each for each in best]


def seconds(session: ort.InferenceSession, x: np.ndarray) -> float:
    """The processor's, of one product."""
    start = time.process_time()
    session.run(None, {"x": x})
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/int8_products.md"))
    args = parser.parse_args()
    rates = [operations_a_second(args.work / str(i), shape) for i, shape in enumerate(SHAPES)]
    lines = [
        "# Products of many rows and an INT8 matrix in ONNX Runtime",
        "",
        f"`python -m benchmarks.int8_products`, {datetime.now(UTC):%Y-%m-%d}, {describe_machine()}; onnxruntime "
        f"{ort.__version__}.",
        "",
        "GOP/s on one thread by its processor time, rounding of activations included; rows × columns × outputs.",
        "",
        "| | " + " | ".join(" × ".join(map(str, shape)) for shape in SHAPES) + " |",
        "|---|" + "--:|" * len(SHAPES),
    ]
    for name, *row in zip(WAYS, *rates, strict=True):
        lines.append(f"| {name} | " + " | ".join(f"{rate / 1e9:.0f}" for rate in row) + " |")
    lines += [
        "",
        "- `MatMulNBits` at accuracy level 4 rounds activations in the weights' blocks, and sums each block apart. In",
        "  blocks of 32 it is hardly faster than float32; wider blocks help.",
        "- A symmetric row with a single scale lets the whole sum be one of integers (`MatMulIntegerToFloat`).",
        "- Decoding a token at a time is bound by memory instead; there `MatMulNBits` stays.",
    ]
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
