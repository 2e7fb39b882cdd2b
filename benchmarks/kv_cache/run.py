"""What an INT8 or INT4 key/value cache costs: perplexity, decoding against the full forward, prefill speed.

    python -m benchmarks.kv_cache.run --model DIR --calibration-text FILE --text FILE --work DIR

Weights stay float32, so that the cache is all that differs. Perplexity: the last 16 windows of 512 tokens of
``--text``, 511 scored in each. Scales come from text that is not scored.
"""

import argparse
import math
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime as ort

from benchmarks.common.machine import describe_machine
from glmquant.data.calibration import sample_calibration
from glmquant.data.windows import read_windows
from glmquant.glm.tokenizers.tokenizer import load_tokenizer
from glmquant.onnx_export.save import export_bundle
from glmquant.quantization.calibrate import key_value_ranges
from glmquant.recipe.schema import ExportOptions
from glmquant.runtime.model import OnnxModel
from glmquant.store.checkpoint import open_checkpoint

CACHES = ("float", "int8", "int4")


def mean_nll(logits_TV: np.ndarray, targets_T: np.ndarray) -> float:
    wide = logits_TV.astype(np.float64)
    top_T = wide.max(1)
    norm_T = top_T + np.log(np.exp(wide - top_T[:, None]).sum(1))
    return float((norm_T - wide[np.arange(len(targets_T)), targets_T]).mean())


def perplexity(model: OnnxModel, windows: tuple[np.ndarray, ...], num_scored: int) -> float:
    losses = []
    for window in windows:
        row = window[None]
        logits = model.forward(row, np.ones_like(row), keep=num_scored + 1)[0, :-1]
        losses.append(mean_nll(logits, window[-num_scored:]))
    return math.exp(sum(losses) / len(losses))


def decode_error(model: OnnxModel, ids_T: np.ndarray) -> float:
    """Largest difference of logits between decoding token by token and one full forward, over their range."""
    row = ids_T[None]
    full = model.forward(row, np.ones_like(row))[0]
    cache = model.new_cache(1, len(ids_T))
    worst = 0.0
    for i in range(len(ids_T)):
        step = model.forward_with_cache(row[:, i : i + 1], np.ones((1, i + 1), np.int64), cache)
        worst = max(worst, float(np.abs(step[0, 0] - full[i]).max()))
    return worst / float(full.max() - full.min())


def prefill_seconds(models: list[OnnxModel], length: int, repetitions: int) -> list[float]:
    """Medians of alternating runs."""
    ids = np.random.default_rng(0).integers(3, 2000, (1, length))
    times: list[list[float]] = [[] for _ in models]
    for _ in range(repetitions):
        for model, seen in zip(models, times, strict=True):
            cache = model.new_cache(1, length)
            start = time.perf_counter()
            model.forward_with_cache(ids, np.ones_like(ids), cache, keep=1)
            seen.append(time.perf_counter() - start)
    return [median(seen) for seen in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--calibration-text", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("result.md"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prefill", type=int, nargs="+", default=[256, 1024])
    args = parser.parse_args()
    checkpoint = open_checkpoint(args.model)
    tokenizer = load_tokenizer(args.model, checkpoint.config)
    samples = sample_calibration([args.calibration_text], [], tokenizer, num_samples=16, seq_len=512, place="last")
    ranges = key_value_ranges(checkpoint, samples)
    text = read_windows(args.text, tokenizer, num_tokens=16 * 512, seq_len=512, place="last")
    models, rows = [], []
    for kind in CACHES:
        out = args.work / kind
        out.mkdir(parents=True, exist_ok=True)
        export_bundle(checkpoint, ExportOptions(kv_cache=kind, max_length=2048), out, key_values=ranges)
        model = OnnxModel.open(out, num_threads=args.threads)
        models.append(model)
        rows.append((kind, perplexity(model, text.windows, text.num_scored), decode_error(model, text.windows[0])))
        print(rows[-1], flush=True)
    prefill = {length: prefill_seconds(models, length, 5) for length in args.prefill}
    lines = [
        "# Quantized key/value caches",
        "",
        f"`python -m benchmarks.kv_cache.run --model {args.model.name} …`, {datetime.now(UTC):%Y-%m-%d}, "
        f"{describe_machine()}, onnxruntime {ort.__version__}, {args.threads} threads.",
        "",
        f"Float32 weights. Perplexity on the last 16 windows of 512 tokens of {text.name}; scales, one a channel, from "
        f"16 samples of 512 tokens of {args.calibration_text.name}. *Decode*: 512 tokens one at a time against the "
        "full forward, largest difference of logits over their range. *Prefill*: median of 5 alternating runs.",
        "",
        "| cache | perplexity | change | decode against full | "
        + " | ".join(f"prefill {length}" for length in prefill)
        + " |",
        "|---|---|---|---|" + "---|" * len(prefill),
    ]
    for index, (kind, value, error) in enumerate(rows):
        times = " | ".join(
            f"{seconds[index] * 1e3:.0f} ms ({seconds[index] / seconds[0]:.2f} ×)" for seconds in prefill.values()
        )
        lines.append(f"| {kind} | {value:.3f} | {value / rows[0][1] - 1:+.2%} | {error:.1e} | {times} |")
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
