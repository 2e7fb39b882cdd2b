"""The whole ChatGLM2-6B, INT4 by rounding, from its shards to an ONNX bundle; and a slice of it beside a peer.

    python -m benchmarks.common.make_chatglm2 --out FULL --tokenizer-of tests/golden/chatglm2-tiny
    python -m benchmarks.common.make_chatglm2 --layers 4 --out SLICE --tokenizer-of tests/golden/chatglm2-tiny
    python -m benchmarks.rtn_export.run --full FULL --slice SLICE --genai-python ENV/bin/python --work DIR

The peer is onnxruntime-genai's model builder, in an environment of its own (requirements-genai.txt beside this script),
on a Llama-shaped twin of the slice. Nothing of the checkpoint is cached when a conversion starts.
"""

import argparse
import json
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.common.child import Cost, forget, glmquant, run, weights_bytes
from benchmarks.common.machine import describe_machine

RECIPE = "int4-g128-rtn"
HEADER = ("| | seconds | GB of input/s | peak memory, GB |", "|---|---|---|---|")
RESULTS = Path(__file__).with_name("result.md")


def ours(model: Path, work: Path) -> Cost:
    """``export`` of the float checkpoint, which rounds on the way."""
    for name in ("onnx", "onnx.partial"):
        shutil.rmtree(work / name, ignore_errors=True)
    forget(model)
    return glmquant("export", model, "--recipe", RECIPE, "--out", work / "onnx", "--quiet")


def genai(model: Path, python: str, work: Path) -> Cost:
    twin, out = work / "twin", work / "genai"
    shutil.rmtree(out, ignore_errors=True)
    if not twin.exists():
        run([sys.executable, "-m", "benchmarks.common.llama_twin", model, twin])
    forget(twin)
    options = ["int4_accuracy_level=4", "hf_token=false"]
    builder = [
        python,
        "-m",
        "onnxruntime_genai.models.builder",
        "-m",
        twin,
        "-i",
        twin,
        "-o",
        out,
        "-p",
        "int4",
        "-e",
        "cpu",
    ]
    return run([*builder, "-c", work / "cache", "--extra_options", *options], HF_HUB_OFFLINE="1")


def row(name: str, cost: Cost, size: int) -> str:
    rate = size / cost.seconds / 1e9
    return f"| {name} | {cost.seconds:.1f} | {rate:.2f} | {cost.peak_bytes / 1e9:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", type=Path)
    parser.add_argument("--slice", type=Path)
    parser.add_argument("--genai-python")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    lines = [
        "# INT4 by rounding: checkpoint to ONNX bundle",
        "",
        f"`python -m benchmarks.rtn_export.run`, {datetime.now(UTC):%Y-%m-%d}, {describe_machine()}. Wall time from "
        f"the start of each process; peak memory is `ru_maxrss`, mapped files included. Recipe `{RECIPE}`.",
    ]
    if args.full:
        lines += full_section(args.full, args.work)
    if args.slice and args.genai_python:
        lines += slice_section(args.slice, args.genai_python, args.work)
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def full_section(model: Path, work: Path) -> list[str]:
    size = weights_bytes(model)
    before = rates(model, work)
    cost = ours(model, work)
    after = rates(model, work)
    limits = {name: max(before[name], after[name]) for name in before}
    slower = min("read", "rtn", key=lambda name: limits[name])
    share = size / cost.seconds / limits[slower]
    read, write = (
        f"{min(before[name], after[name]) / 1e9:.2f} to {limits[name] / 1e9:.2f}" for name in ("read", "write")
    )
    return [
        "",
        f"## The whole model, {size / 1e9:.2f} GB in seven `.bin` shards",
        "",
        *HEADER,
        row("`export`, rounding on the way", cost, size),
        "",
        f"Limits just before and after: the disk reads {read} GB/s and writes {write}; rounding alone, from memory to "
        f"memory, takes {limits['rtn'] / 1e9:.2f} GB/s. The whole command runs at {share:.0%} of the slower of reading "
        f"and rounding ({slower}, at its faster; target 50 %). Peak memory {cost.peak_bytes / 1e9:.2f} GB (target 3).",
    ]


def rates(model: Path, work: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads(
        run([sys.executable, "-m", "benchmarks.common.limits", model, "--scratch", work]).output
    )
    return found


def slice_section(model: Path, python: str, work: Path) -> list[str]:
    size = weights_bytes(model)
    peer = genai(model, python, work)
    cost = ours(model, work)
    return [
        "",
        f"## A slice of {size / 1e9:.2f} GB beside onnxruntime-genai's builder on its Llama-shaped twin",
        "",
        *HEADER,
        row("glmquant `export`, rounding on the way", cost, size),
        row("genai builder", peer, size),
        "",
        f"{peer.seconds / cost.seconds:.1f} times as fast (target 5), in 1/{peer.peak_bytes / cost.peak_bytes:.1f} of "
        "the memory (target 1/5).",
    ]


if __name__ == "__main__":
    main()
