"""What the machine itself can do, as JSON: the limits that passes over a model are held against.

    python -m benchmarks.common.limits MODEL --scratch DIR

``read``: bytes/s of the checkpoint's files through the checkpoint's own reader, not cached. ``write``: bytes/s of 1 GiB
until it is on the disk. ``rtn``: bytes/s of float16 weights in memory rounded to INT4 in groups of 128, nothing else.
``peak``: operations/s of products in the precision that glmquant takes on this machine, the best of three sizes.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.common.child import forget
from glmquant.core.matmul import forward_dtype
from glmquant.core.spec import QuantSpec
from glmquant.methods import Rtn
from glmquant.store.checkpoint import open_checkpoint

GIB = 1 << 30


def read_rate(model: Path) -> float:
    checkpoint, done = open_checkpoint(model), 0
    forget(model)
    started = time.monotonic()
    for tensor in checkpoint.stored():
        tensor.read()
        done += tensor.nbytes
        if done > 2 * GIB:
            break
    return done / (time.monotonic() - started)


def write_rate(scratch: Path) -> float:
    block = os.urandom(1 << 24)
    with tempfile.NamedTemporaryFile(dir=scratch, buffering=0) as file:
        started = time.monotonic()
        for _ in range(GIB >> 24):
            file.write(block)
        os.fsync(file.fileno())
        return GIB / (time.monotonic() - started)


def rtn_rate(model: Path) -> float:
    weights = [linear.dense(torch.float16) for linear in open_checkpoint(model).block(0).linears().values()]
    started = time.monotonic()
    for weight in weights:
        Rtn().quantize(weight, QuantSpec(4, 128), None)
    return sum(2 * weight.numel() for weight in weights) / (time.monotonic() - started)


def peak_rate() -> float:
    best = 0.0
    for size in (2048, 4096, 6144):
        matrix = torch.randn(size, size).to(forward_dtype())
        for _ in range(4):
            started = time.monotonic()
            torch.mm(matrix, matrix)
            best = max(best, 2 * size**3 / (time.monotonic() - started))
    return best


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--scratch", type=Path, required=True)
    args = parser.parse_args()
    with torch.inference_mode():
        rates = {
            "read": read_rate(args.model),
            "write": write_rate(args.scratch),
            "rtn": rtn_rate(args.model),
            "peak": peak_rate(),
        }
    print(json.dumps(rates))
