"""The whole ChatGLM2-6B, INT4 by rounding, from its shards to an ONNX bundle; and a slice of it beside a peer.

    python -m benchmarks.make_chatglm2 --out FULL --tokenizer-of tests/golden/chatglm2-tiny
    python -m benchmarks.make_chatglm2 --layers 4 --out SLICE --tokenizer-of tests/golden/chatglm2-tiny
    python -m benchmarks.laptop.rtn --full FULL --slice SLICE --genai-python ENV/bin/python --work DIR

The peer is onnxruntime-genai's model builder, in an environment of its own (requirements-genai.txt beside this script),
on a Llama-shaped twin of the slice. Nothing of the checkpoint is cached when a conversion starts.
"""

import argparse
import json
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.laptop.child import Cost, forget, glmquant, run, weights_bytes
from benchmarks.machine import describe_machine

RECIPE = "int4-g128-rtn"
RESULTS = Path(__file__).parents[1] / "results" / "laptop_rtn.md"


def ours(model: Path, work: Path) -> tuple[Cost, Cost]:
    """The cost of ``quantize`` and of ``export``, each a process of its own."""
    for name in ("int4", "onnx"):
        shutil.rmtree(work / name, ignore_errors=True)
        shutil.rmtree(work / f"{name}.partial", ignore_errors=True)
    forget(model)
    quantized = glmquant("quantize", model, "--recipe", RECIPE, "--out", work / "int4", "--quiet")
    forget(work / "int4")
    exported = glmquant("export", work / "int4", "--recipe", RECIPE, "--out", work / "onnx", "--quiet")
    return quantized, exported


def genai(model: Path, python: str, work: Path) -> Cost:
    twin, out = work / "twin", work / "genai"
    shutil.rmtree(out, ignore_errors=True)
    if not twin.exists():
        run([sys.executable, "-m", "benchmarks.laptop.llama_twin", model, twin])
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
        f"`python -m benchmarks.laptop.rtn`, {datetime.now(UTC):%Y-%m-%d}, {describe_machine()}. Wall time from the "
        f"start of each process; peak memory is `ru_maxrss`, mapped files included. Recipe `{RECIPE}`.",
    ]
    if args.full:
        lines += full_section(args.full, args.work)
    if args.slice and args.genai_python:
        lines += slice_section(args.slice, args.genai_python, args.work)
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def full_section(model: Path, work: Path) -> list[str]:
    size = weights_bytes(model)
    limits = json.loads(run([sys.executable, "-m", "benchmarks.laptop.limits", model, "--scratch", work]).output)
    quantized, exported = ours(model, work)
    both = quantized + exported
    slower = min("read", "rtn", key=lambda name: limits[name])
    share = size / both.seconds / limits[slower]
    return [
        "",
        f"## The whole model, {size / 1e9:.2f} GB in seven `.bin` shards",
        "",
        "| step | seconds | GB of input/s | peak memory, GB |",
        "|---|---|---|---|",
        row("`quantize`", quantized, size),
        row("`export`", exported, size),
        row("both", both, size),
        "",
        f"Limits in the same run: the disk reads {limits['read'] / 1e9:.2f} GB/s and writes "
        f"{limits['write'] / 1e9:.2f}; rounding alone, from memory to memory, takes {limits['rtn'] / 1e9:.2f} GB/s. "
        f"Both steps together run at {share:.0%} of the slower of reading and rounding ({slower}; target 50 %). Peak "
        f"memory {both.peak_bytes / 1e9:.2f} GB (target 3).",
    ]


def slice_section(model: Path, python: str, work: Path) -> list[str]:
    size = weights_bytes(model)
    peer = genai(model, python, work)
    quantized, exported = ours(model, work)
    both = quantized + exported
    return [
        "",
        f"## A slice of {size / 1e9:.2f} GB beside onnxruntime-genai's builder on its Llama-shaped twin",
        "",
        "| | seconds | GB of input/s | peak memory, GB |",
        "|---|---|---|---|",
        row("`quantize`", quantized, size),
        row("`export`", exported, size),
        row("glmquant, both", both, size),
        row("genai builder", peer, size),
        "",
        f"{peer.seconds / both.seconds:.1f} times as fast (target 5), in 1/{peer.peak_bytes / both.peak_bytes:.1f} of "
        "the memory (target 1/5).",
    ]


if __name__ == "__main__":
    main()
