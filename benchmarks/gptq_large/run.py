"""GPTQ at the size of ChatGLM2-6B: how near the machine's peak, how well predicted, in how much memory.

    python -m benchmarks.gptq_large.run --text TEXT --slice SLICE4 --eight SLICE8 --full FULL --work DIR

Checkpoints come from `benchmarks.common.make_chatglm2` (--layers 4, 8, and the whole). 32 samples of 512 tokens. Each
section runs where its checkpoint is given. The whole model is quantized until ``--blocks`` of its 28 are done: one is
like the other, and the embedding is read before them.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.common.child import ROOT, Cost, glmquant, run, weights_bytes
from benchmarks.common.machine import describe_machine

RECIPE = "int4-g128-gptq-fast"
RESULTS = Path(__file__).with_name("result.md")
SAMPLES, LENGTH = 32, 512
WORK = re.compile(r"quantized with .*? in ([\d.]+) s: [\d,]+ tokens/s, ([\d,]+) GFLOP/s")
BLOCK = re.compile(r"quantizing: (\d+) of")


def settings(text: Path) -> list[str]:
    options = {
        "calibration.data": json.dumps([str(text.resolve())]),
        "calibration.num_samples": SAMPLES,
        "calibration.seq_len": LENGTH,
    }
    return [part for key, value in options.items() for part in ("--set", f"{key}={value}")]


def quantize(model: Path, text: Path, work: Path) -> tuple[Cost, Cost]:
    """The cost of ``calibrate`` and of ``quantize``."""
    for name in ("calibration", "int4"):
        shutil.rmtree(work / name, ignore_errors=True)
        shutil.rmtree(work / f"{name}.partial", ignore_errors=True)
    options = ["--recipe", RECIPE, *settings(text)]
    calibrated = glmquant("calibrate", model, "--out", work / "calibration", *options)
    quantized = glmquant("quantize", model, "--calibration", work / "calibration", "--out", work / "int4", *options)
    return calibrated, quantized


def peak_section(model: Path, text: Path, work: Path) -> list[str]:
    limits = json.loads(run([sys.executable, "-m", "benchmarks.common.limits", model, "--scratch", work]).output)
    calibrated, quantized = quantize(model, text, work)
    seconds, gigaflops = pass_of(quantized)
    return [
        "",
        f"## {weights_bytes(model) / 1e9:.1f} GB slice: achieved against the peak of bfloat16 products in the same run",
        "",
        "| step | seconds, whole process | seconds, the pass | GFLOP/s of the pass | of the peak | peak memory, GB |",
        "|---|---|---|---|---|---|",
        f"| `calibrate`, samples alone | {calibrated.seconds:.1f} | | | | {calibrated.peak_bytes / 1e9:.2f} |",
        f"| `quantize` | {quantized.seconds:.1f} | {seconds:.1f} | {gigaflops:.0f} | "
        f"{gigaflops * 1e9 / limits['peak']:.0%} (target 35 %) | {quantized.peak_bytes / 1e9:.2f} |",
        "",
        f"Peak: {limits['peak'] / 1e9:.0f} GFLOP/s. Counted: 2mnk a product of the blocks, 2TK² a Hessian, K³ for its "
        "factors; not counted: attention, rounding, the errors that are reported.",
    ]


def pass_of(cost: Cost) -> tuple[float, float]:
    """Seconds and GFLOP/s, as ``quantize`` itself reports them."""
    found = WORK.search(re.sub(r"\s+", " ", cost.output))
    if found is None:
        sys.exit(f"no rate in what the command said:\n{cost.output}")
    return float(found[1]), float(found[2].replace(",", ""))


def prediction_section(model: Path, text: Path, work: Path) -> list[str]:
    said = glmquant("inspect", model, "--recipe", RECIPE, "--json", *settings(text))
    forecast = json.loads(said.output[said.output.index("{") :])["forecast"]
    stage = next(stage for stage in forecast["stages"] if stage["name"] == "quantize")
    _, quantized = quantize(model, text, work)
    seconds, _ = pass_of(quantized)
    return [
        "",
        f"## Predicted by `inspect`, then measured, on {weights_bytes(model) / 1e9:.1f} GB",
        "",
        "| | predicted | measured | off by |",
        "|---|---|---|---|",
        f"| `quantize`, seconds of the pass | {stage['seconds']:.0f} | {seconds:.0f} | "
        f"{stage['seconds'] / seconds - 1:+.0%} (target 15 %) |",
        f"| peak memory, GB | {stage['peak_bytes'] / 1e9:.2f} | {quantized.peak_bytes / 1e9:.2f} | "
        f"{stage['peak_bytes'] / quantized.peak_bytes - 1:+.0%} |",
        "",
        f"The prediction itself took {said.seconds:.0f} s: {'; '.join(forecast['how'])}.",
    ]


def memory_section(model: Path, text: Path, work: Path, blocks: int) -> list[str]:
    shutil.rmtree(work / "run.partial", ignore_errors=True)
    arguments = ["run", model, "--recipe", RECIPE, "--out", work / "run", *settings(text)]
    peak, done = stop_after(blocks, [sys.executable, "-m", "glmquant", *map(str, arguments)])
    shutil.rmtree(work / "run.partial", ignore_errors=True)
    baseline = run([sys.executable, "-m", "benchmarks.gptq_large.baseline", model, text])
    return [
        "",
        f"## The whole model, {weights_bytes(model) / 1e9:.2f} GB",
        "",
        f"`run` with {SAMPLES} x {LENGTH} tokens, stopped after {done} blocks of GPTQ: peak memory {peak / 1e9:.2f} GB "
        "(target 6).",
        "",
        f"The float checkpoint's side of `check`, 4 x 512 tokens: {baseline.seconds:.0f} s, peak memory "
        f"{baseline.peak_bytes / 1e9:.2f} GB (target 4). {baseline.output.strip()}",
    ]


def stop_after(blocks: int, arguments: list[str]) -> tuple[int, int]:
    """Interrupts a run as Ctrl-C would once so many blocks are done; its peak, and the blocks done."""
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=ROOT)
    done = 0
    assert process.stderr is not None
    for line in process.stderr:
        print(line, end="", flush=True)
        if found := BLOCK.search(line):
            done = int(found[1])
            if done >= blocks:
                process.send_signal(signal.SIGINT)
                break
    process.stderr.close()
    _, _, usage = os.wait4(process.pid, 0)
    return usage.ru_maxrss * 1024, done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--slice", type=Path)
    parser.add_argument("--eight", type=Path)
    parser.add_argument("--full", type=Path)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    lines = [
        "# GPTQ at the size of ChatGLM2-6B",
        "",
        f"`python -m benchmarks.gptq_large.run`, {datetime.now(UTC):%Y-%m-%d}, {describe_machine()}. Recipe "
        f"`{RECIPE}`, {SAMPLES} samples of {LENGTH} tokens; random weights of the model's shapes.",
    ]
    if args.slice:
        lines += peak_section(args.slice, args.text, args.work)
    if args.eight:
        lines += prediction_section(args.eight, args.text, args.work)
    if args.full:
        lines += memory_section(args.full, args.text, args.work, args.blocks)
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
