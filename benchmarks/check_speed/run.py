"""What the check costs beyond running the bundle: its rate against bare forwards that give all logits.

    python -m benchmarks.check_speed.run --model SMOL --bundle BUNDLE --text handbook-en.txt

`bare` feeds the same windows, in the same batches, and drops the logits. `check` also scores every token against the
baseline; the baseline's own forwards are timed apart.
"""

import argparse
import time
from pathlib import Path

from benchmarks.common.machine import describe_machine
from glmquant.evaluation.baseline_source import BaselineSource
from glmquant.evaluation.evaluate import read_material
from glmquant.evaluation.examples import worst_token
from glmquant.evaluation.metrics import score_tokens
from glmquant.evaluation.onnx_source import OnnxSource
from glmquant.glm.tokenizers.tokenizer import load_tokenizer
from glmquant.recipe.check_options import CheckOptions
from glmquant.runtime.model import OnnxModel
from glmquant.store.checkpoint import open_checkpoint


class Clock:
    """Seconds spent inside ``with clock``, of the wall and of the process's threads."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def __enter__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.wall += time.perf_counter() - self._wall
        self.cpu += time.process_time() - self._cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--windows", type=int, default=16)
    arguments = parser.parse_args()
    checkpoint = open_checkpoint(arguments.model)
    tokenizer = load_tokenizer(checkpoint.path, checkpoint.config)
    options = CheckOptions(text=(arguments.text,), num_tokens=512 * arguments.windows, seq_len=512, windows="last")
    material = read_material(tokenizer, options)
    queries, (text,) = material.queries, material.texts
    candidate = OnnxSource(OnnxModel.open(arguments.bundle))
    next(candidate.logits(queries[:1]))
    bare, forward, scoring, baseline = Clock(), Clock(), Clock(), Clock()
    answers, truths = candidate.logits(queries), BaselineSource(checkpoint).logits(queries)
    repeated = candidate.logits(queries)
    for window in text.windows:
        with bare:
            next(repeated)
        with baseline:
            truth = next(truths)
        with forward:
            answer = next(answers)
        with scoring:
            scores = score_tokens(truth, answer, window[-text.num_scored :])
            worst_token(text.name, window, truth, answer, scores, tokenizer)
    tokens = len(text.windows) * 512
    check = forward.wall + scoring.wall, forward.cpu + scoring.cpu
    print(f"{describe_machine()}\n{tokens:,} tokens")
    for name, wall, cpu in (
        ("bare forwards", bare.wall, bare.cpu),
        ("check, candidate and scores", *check),
        ("of which scores", scoring.wall, scoring.cpu),
        ("baseline", baseline.wall, baseline.cpu),
    ):
        print(f"{name:28} {wall:7.2f} s {tokens / wall:8,.0f} tokens/s   {cpu:7.2f} s of CPU")
    shares = bare.wall / check[0], bare.cpu / check[1]
    print(f"rate of the check: {shares[0]:.1%} of bare forwards by wall clock, {shares[1]:.1%} by CPU")
    print(f"both sides together: {check[0] + baseline.wall:.1f} s")


if __name__ == "__main__":
    main()
