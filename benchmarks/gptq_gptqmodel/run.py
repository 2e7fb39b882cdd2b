"""GPTQ on a real 135M-parameter model, by glmquant and by GPTQModel, from the same 32 samples of 512 tokens.

    python -m benchmarks.common.make_smol_glm SMOL
    python -m benchmarks.gptq_gptqmodel.run --model SMOL --text TEXT --python ENV/bin/python --work DIR

GPTQModel runs in an environment of its own (benchmarks/interop_gptq/requirements-gptqmodel.txt) on the same checkpoint.
Wall time is that of whole processes; ours are `calibrate`, which GPTQModel has no counterpart of, and `quantize`.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

from benchmarks.common.child import Cost, glmquant, run
from benchmarks.common.machine import describe_machine

RESULTS = Path(__file__).with_name("result.md")
WRITER = Path(__file__).parents[1] / "interop_gptq" / "write_gptqmodel.py"
RULES = [{"match": "layers.*", "spec": {"bits": 4, "group_size": 128}, "method": {"kind": "gptq"}}]


def settings(text: Path) -> list[str]:
    options = {
        "rules": json.dumps(RULES),
        "calibration.data": json.dumps([str(text.resolve())]),
        "calibration.num_samples": 32,
        "calibration.seq_len": 512,
        "calibration.sampling": "sequential",
    }
    return [part for key, value in options.items() for part in ("--set", f"{key}={value}")]


def ours(model: Path, text: Path, work: Path) -> tuple[Cost, Cost]:
    options = ["--recipe", "int4-g128-rtn", *settings(text)]
    calibrated = glmquant("calibrate", model, "--out", work / "calibration", "--quiet", *options)
    arguments = ["--calibration", work / "calibration", "--out", work / "ours", "--quiet", *options]
    return calibrated, glmquant("quantize", model, *arguments)


def theirs(model: Path, python: str, work: Path) -> Cost:
    tokens = run([sys.executable, "-m", "benchmarks.common.tokens", work / "calibration"]).output
    (work / "calibration.json").write_text(tokens)
    options = json.dumps({"bits": 4, "group_size": 128, "desc_act": False, "sym": True})
    cores = str(os.cpu_count())
    return run(
        [python, WRITER, model, work / "calibration.json", options, work / "theirs"], GPTQMODEL_CPU_WORKERS=cores
    )


def row(name: str, costs: Sequence[Cost]) -> str:
    each = ", ".join(f"{cost.seconds:.1f}" for cost in costs)
    return f"| {name} | {seconds(costs):.1f} | {each} | {max(cost.peak_bytes for cost in costs) / 1e9:.2f} |"


def seconds(costs: Sequence[Cost]) -> float:
    return median(cost.seconds for cost in costs)


def faster(ours: Sequence[Cost], theirs: Sequence[Cost]) -> str:
    """How many times; in brackets the rounds' own."""
    each = sorted(their.seconds / our.seconds for our, their in zip(ours, theirs, strict=True))
    return f"{seconds(theirs) / seconds(ours):.1f} times ({each[0]:.1f} to {each[-1]:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--python", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    calibrated, quantized, peer = list[Cost](), list[Cost](), list[Cost]()
    for _ in range(args.rounds):
        shutil.rmtree(args.work, ignore_errors=True)
        args.work.mkdir(parents=True)
        for costs, cost in zip((calibrated, quantized), ours(args.model, args.text, args.work), strict=True):
            costs.append(cost)
        peer.append(theirs(args.model, args.python, args.work))
    both = [one + other for one, other in zip(calibrated, quantized, strict=True)]
    memory = max(cost.peak_bytes for cost in quantized) / max(cost.peak_bytes for cost in peer)
    lines = [
        "# GPTQ beside GPTQModel: a real 135M-parameter model, 32 x 512 tokens",
        "",
        f"`python -m benchmarks.gptq_gptqmodel.run`, {datetime.now(UTC):%Y-%m-%d}, {describe_machine()}. "
        f"glmquant {version('glmquant')} with torch {version('torch')}; GPTQModel 7.7.0 with torch 2.14.1. INT4, "
        f"groups of 128, linears of the blocks. Whole processes, imports included; {args.rounds} rounds in turn.",
        "",
        "| | seconds, median | each round | peak memory, GB |",
        "|---|---|---|---|",
        row("`calibrate`", calibrated),
        row("`quantize`", quantized),
        row("glmquant, both", both),
        row("GPTQModel", peer),
        "",
        f"`quantize` alone does what GPTQModel does: {faster(quantized, peer)} as fast (target 5), in {memory:.2f} of "
        f"its memory (target 1); with `calibrate` {faster(both, peer)}.",
    ]
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
