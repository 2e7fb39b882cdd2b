"""How fast ONNX Runtime multiplies by quantized weights: INT8 beside float32 for many rows, and by bits and group size.

    python -m benchmarks.matmul.run --work DIR

One thread, and the processor's time rather than the clock's, so that other work on the machine counts little.
"""

import argparse
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch

from benchmarks.common.machine import describe_machine
from benchmarks.matmul.product import open_product, seconds
from glmquant.core.spec import WHOLE_ROW, QuantSpec

SHAPES = ((2048, 256, 1536), (2048, 768, 256), (512, 4096, 4096))
WAYS = {
    "float32": None,
    "blocks of 32, asymmetric": QuantSpec(8, 32, symmetric=False),
    "blocks of 128": QuantSpec(8, 128),
    "blocks of 256": QuantSpec(8, 256),
    "one scale a row, integers": QuantSpec(8, WHOLE_ROW),
}
SIZE = 4096
TOKENS = (1, 128)
GROUPS = (128, 64, 32, 16)
SPECS = [QuantSpec(bits, size, symmetric) for bits in (2, 4, 8) for size in GROUPS for symmetric in (True, False)]
REPETITIONS = 7


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


def int8_section(work: Path) -> list[str]:
    rates = [operations_a_second(work / str(i), shape) for i, shape in enumerate(SHAPES)]
    lines = [
        "## Many rows and an INT8 matrix",
        "",
        "GOP/s on one thread by its processor time, rounding of activations included; rows × columns × outputs.",
        "",
        "| | " + " | ".join(" × ".join(map(str, shape)) for shape in SHAPES) + " |",
        "|---|" + "--:|" * len(SHAPES),
    ]
    for name, *row in zip(WAYS, *rates, strict=True):
        lines.append(f"| {name} | " + " | ".join(f"{rate / 1e9:.0f}" for rate in row) + " |")
    return [
        *lines,
        "",
        "- `MatMulNBits` at accuracy level 4 rounds activations in the weights' blocks, and sums each block apart. In",
        "  blocks of 32 it is hardly faster than float32; wider blocks help.",
        "- A symmetric row with a single scale lets the whole sum be one of integers (`MatMulIntegerToFloat`).",
        "- Decoding a token at a time is bound by memory instead; there `MatMulNBits` stays.",
    ]


def bits_section(work: Path) -> list[str]:
    lines = [
        "## By bits and group size",
        "",
        f"A matrix of {SIZE} x {SIZE} at accuracy level 4, on one thread, by its processor time, from the cache "
        "where it fits.",
        "",
        "| bits | group | | bits a weight, stored | 1 token, ms | 128 tokens, ms |",
        "|--:|--:|---|--:|--:|--:|",
    ]
    for number, spec in enumerate(SPECS):
        lines.append(bits_row(spec, work / str(number)))
        print(lines[-1], flush=True)
    return lines


def bits_row(spec: QuantSpec, directory: Path) -> str:
    weight_NK = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    session = open_product(directory, weight_NK, spec)
    inputs = [np.random.default_rng(0).standard_normal((tokens, SIZE), dtype=np.float32) for tokens in TOKENS]
    taken = [1e3 * min(seconds(session, x) for _ in range(REPETITIONS)) for x in inputs]
    stored = 8 * spec.stored_bytes(SIZE, SIZE) / SIZE**2
    symmetry = "symmetric" if spec.symmetric else "asymmetric"
    return f"| {spec.bits} | {spec.group_size} | {symmetry} | {stored:.2f} | {taken[0]:.2f} | {taken[1]:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("result.md"))
    args = parser.parse_args()
    lines = [
        "# Products with quantized weights in ONNX Runtime",
        "",
        f"`python -m benchmarks.matmul.run`, {datetime.now(UTC):%Y-%m-%d}, {describe_machine()}; onnxruntime "
        f"{ort.__version__}.",
        "",
        *int8_section(args.work / "int8"),
        "",
        *bits_section(args.work / "bits"),
    ]
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
