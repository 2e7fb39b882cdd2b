"""What bits and groups cost where a model runs: ONNX Runtime's MatMulNBits, one token at a time and many.

    python -m benchmarks.nbits_products --work DIR [--out benchmarks/results/nbits_products.md]

One thread, and the processor's time rather than the clock's, so that other work on the machine counts little.
"""

import argparse
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch

from benchmarks.int8_products import REPETITIONS, open_product, seconds
from benchmarks.machine import describe_machine
from glmquant.core.spec import QuantSpec

SIZE = 4096
TOKENS = (1, 128)
GROUPS = (128, 64, 32, 16)
SPECS = [QuantSpec(bits, size, symmetric) for bits in (2, 4, 8) for size in GROUPS for symmetric in (True, False)]


def row(spec: QuantSpec, directory: Path) -> str:
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
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "nbits_products.md")
    args = parser.parse_args()
    lines = [
        "# Products with quantized weights in ONNX Runtime, by bits and groups",
        "",
        f"`python -m benchmarks.nbits_products`, {datetime.now(UTC):%Y-%m-%d}, {describe_machine()}; "
        f"onnxruntime {ort.__version__}.",
        "",
        f"A matrix of {SIZE} x {SIZE} at accuracy level 4, on one thread, by its processor time, from the cache "
        "where it fits.",
        "",
        "| bits | group | | bits a weight, stored | 1 token, ms | 128 tokens, ms |",
        "|--:|--:|---|--:|--:|--:|",
    ]
    for number, spec in enumerate(SPECS):
        lines.append(row(spec, args.work / str(number)))
        print(lines[-1], flush=True)
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
