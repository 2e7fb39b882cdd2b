"""GLM-4.7-Flash's and GLM-4.5-Air's own shapes: rounding to ONNX near the disk's speed, GPTQ expert by expert.

    python -m benchmarks.common.make_sparse flash --layers 5 --out FLASH
    python -m benchmarks.common.make_sparse flash --layers 2 --out SHORT
    python -m benchmarks.common.make_sparse air --layers 1 --sparse --out AIR
    python -m benchmarks.sparse_slice.run --flash FLASH --short SHORT --air AIR --text TEXT [TEXT ...] --work DIR

Random weights: what is measured is time and memory. GPTQ's slice is short, for a dense layer and a sparse one tell of
the others. The texts are what GPTQ calibrates on, 65,536 tokens for the one
slice and 16,384 for the other. Nothing of a checkpoint is cached when a command starts. A row that is there already
(``--work``/rows.json) is not measured again.
"""

import argparse
import json
import re
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.common.child import Cost, forget, glmquant, run, weights_bytes
from benchmarks.common.machine import describe_machine

RTN, GPTQ = "moe-int4-g128", "moe-int4-g128-gptq"
LENGTH = 512
WORK = re.compile(r"quantized with .*? in ([\d.]+) s: [\d,]+ tokens/s, ([\d,]+) GFLOP/s")
LAYERS = {"flash": 47, "air": 46}
RESULTS = Path(__file__).with_name("result.md")

Row = dict[str, Any]


def limits(model: Path, work: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads(
        run([sys.executable, "-m", "benchmarks.common.limits", model, "--scratch", work]).output
    )
    return found


def rounding(model: Path, work: Path) -> Row:
    """``export`` of the float checkpoint, which rounds on the way, between two looks at the machine's limits."""
    before = limits(model, work)
    shutil.rmtree(work / "onnx", ignore_errors=True)
    forget(model)
    cost = glmquant("export", model, "--recipe", RTN, "--set", "export.kv_cache=float", "--out", work / "onnx")
    after = limits(model, work)
    best = {name: max(before[name], after[name]) for name in before}
    written = sum(file.stat().st_size for file in (work / "onnx").iterdir())
    return {**best, "seconds": cost.seconds, "peak": cost.peak_bytes, "bytes": weights_bytes(model), "written": written}


def gptq(model: Path, texts: list[Path], samples: int, work: Path, memory: str) -> Row:
    for name in ("calibration", "int4"):
        shutil.rmtree(work / name, ignore_errors=True)
    options = ["--recipe", GPTQ, "--set", "export.kv_cache=float", "--set", f"calibration.num_samples={samples}"]
    options += ["--set", f"calibration.data={json.dumps([str(text.resolve()) for text in texts])}"]
    predicted = glmquant("inspect", model, *options, "--memory-limit", memory, "--json")
    glmquant("calibrate", model, "--out", work / "calibration", *options)
    peak_rate = limits(model, work)["peak"]
    cost = glmquant(
        "quantize",
        model,
        "--calibration",
        work / "calibration",
        "--out",
        work / "int4",
        "--memory-limit",
        memory,
        *options,
    )
    seconds, gigaflops = _pass(cost)
    forecast = json.loads(predicted.output[predicted.output.index("{") :])["forecast"]
    stage = next(stage for stage in forecast["stages"] if stage["name"] == "quantize")
    return {
        "tokens": samples * LENGTH,
        "seconds": seconds,
        "gigaflops": gigaflops,
        "peak": cost.peak_bytes,
        "rate": peak_rate / 1e9,
        "foretold": stage["seconds"],
        "foretold_peak": stage["peak_bytes"],
        "layers": json.loads((model / "config.json").read_text())["num_hidden_layers"],
        "memory": memory,
    }


def _pass(cost: Cost) -> tuple[float, float]:
    found = WORK.search(re.sub(r"\s+", " ", cost.output))
    if found is None:
        sys.exit(f"no rate in what the command said:\n{cost.output}")
    return float(found[1]), float(found[2].replace(",", ""))


def rounding_lines(name: str, row: Row) -> list[str]:
    slower = min("read", "rtn", key=lambda limit: row[limit])
    rate = row["bytes"] / row["seconds"]
    disk = row["bytes"] / row["read"] + row["written"] / row["write"]
    return [
        f"| {name}, {row['bytes'] / 1e9:.2f} GB | {row['seconds']:.1f} | {rate / 1e9:.2f} | {row['read'] / 1e9:.2f} | "
        f"{row['rtn'] / 1e9:.2f} | {rate / row[slower]:.0%} of {slower} | {disk:.1f} | {row['peak'] / 1e9:.2f} |"
    ]


def gptq_lines(name: str, row: Row) -> list[str]:
    share = row["gigaflops"] / row["rate"]
    whole = row["seconds"] / row["layers"] * LAYERS[name] / 3600
    cells = (
        f"{name}, {row['layers']} layers, {row['tokens']:,} tokens, {row['memory']}",
        f"{row['seconds']:.0f}",
        f"{row['foretold']:.0f}",
        f"{row['gigaflops']:.0f} ({share:.0%} of {row['rate']:.0f})",
        f"{row['peak'] / 1e9:.2f}",
        f"{row['foretold_peak'] / 1e9:.2f}",
        f"{whole:.1f}",
    )
    return [f"| {' | '.join(cells)} |"]


def _gptq_section(rows: dict[str, Row]) -> list[str]:
    measured = [line for name, row in rows.items() if name.startswith("gptq ") for line in gptq_lines(name[5:], row)]
    if not measured:
        return []
    return [
        "",
        f"## GPTQ, `{GPTQ}`",
        "",
        "GFLOP/s beside the best bfloat16 product of the machine in the same run. The whole model's hours are those of "
        "as many such layers; in the slice of GLM-4.7-Flash the first layer is dense.",
        "",
        "| slice, calibration, `--memory-limit` | seconds | foretold | GFLOP/s | peak memory, GB | foretold | whole "
        "model, hours |",
        "|---|---|---|---|---|---|---|",
        *measured,
    ]


def report(rows: dict[str, Row]) -> str:
    lines = [
        "# The published shapes of GLM-4.7-Flash and GLM-4.5-Air, random weights",
        "",
        f"`python -m benchmarks.sparse_slice.run`, {datetime.now(UTC):%Y-%m-%d}, {describe_machine()}. Wall time of "
        "whole processes; peak memory is `ru_maxrss`, mapped files included.",
        "",
        f"## Rounding on the way to ONNX, `{RTN}` with a float cache",
        "",
        "Limits are the faster of just before and just after: the disk through the checkpoint's reader, and rounding "
        "from memory to memory. Targets: 60 % of the slower of the two, a peak of 3 GB. *The disk alone* is what "
        "reading the slice and then writing its bundle takes at the disk's own rates.",
        "",
        "| slice | seconds | GB/s | disk, GB/s | rounding, GB/s | share | the disk alone, s | peak memory, GB |",
        "|---|---|---|---|---|---|---|---|",
        *(line for name, row in rows.items() if name.startswith("rtn ") for line in rounding_lines(name[4:], row)),
        *_gptq_section(rows),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flash", type=Path)
    parser.add_argument("--short", type=Path, help="for GPTQ")
    parser.add_argument("--air", type=Path)
    parser.add_argument("--text", type=Path, nargs="+", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--memory-limit", default="5GB")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    stored = args.work / "rows.json"
    rows: dict[str, Row] = json.loads(stored.read_text()) if stored.exists() else {}
    measured: dict[str, Callable[[], Row]] = {}
    for name, model in (("flash", args.flash), ("air", args.air)):
        if model is not None:
            measured[f"rtn {name}"] = lambda model=model: rounding(model, args.work)  # type: ignore[misc]
    for name, model, samples in (("flash", args.short, 128), ("air", args.air, 32)):
        if model is not None:
            measured[f"gptq {name}"] = lambda model=model, samples=samples: gptq(  # type: ignore[misc]
                model, args.text, samples, args.work, args.memory_limit
            )
    for name, measure in measured.items():
        if name not in rows:
            rows[name] = measure()
            stored.write_text(json.dumps(rows, indent=1))
            print(name, rows[name], flush=True)
    args.out.write_text(report(rows), encoding="utf-8")
    print(report(rows))


if __name__ == "__main__":
    main()
