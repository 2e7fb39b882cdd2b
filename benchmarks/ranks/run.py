"""What several ranks save of quantizing a block, what each of them holds, and what they exchange.

    python -m benchmarks.ranks.run --work WORK --ranks 1     # and 2, and 4: each takes some minutes of one core
    python -m benchmarks.ranks.run --work WORK               # the table

Each rank has one thread. Counted are processor seconds of the slowest one, so that other load on the machine does not
matter, its ``ru_maxrss``, and on Linux the bytes that pass through the loopback interface of a network namespace of
their own (``unshare -rn``).
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.common.child import ROOT, glmquant, run
from benchmarks.common.machine import describe_machine

RESULTS = Path(__file__).with_name("result.md")
COUNTS: Final = (1, 2, 4)
TARGETS: Final = {2: 0.55, 4: 0.38}
KEPT_HEAD: Final = {"match": "lm_head", "keep": True}
"""One layer of 29 in the whole model, and more than half of all weights in a slice of one block."""
TEXTS: Final = (*sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("glmquant/**/*.py")))
ALONE_ON_LOOPBACK: Final = ("unshare", "-rn", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")


@dataclass(frozen=True)
class Case:
    """A model and a recipe; ``layers`` of it are quantized. Without ``divisor`` of ChatGLM2-6B's width, the packaged
    model. Of 1,025 tokens and more, a batch holds one sample and a leaf eight: as few tokens as a leaf may have."""

    name: str
    recipe: str
    layers: int
    samples: int
    length: int
    divisor: int | None = None


CASES: Final = (
    Case("block", "int4-g128-gptq-fast", 1, 128, 2048, 1),
    Case("half", "int4-g128-gptq-fast", 1, 32, 1025, 2),
    Case("demo", "int4-g128-gptq-fast", 6, 96, 512),
)


def model_of(case: Case, work: Path) -> Path:
    """Written when it is first asked for; or the packaged one."""
    if case.divisor is None:
        return ROOT / "glmquant" / "assets" / "demo-model"
    out = work / case.name
    if not out.exists():
        tokenizer = ROOT / "glmquant" / "assets" / "demo-model"
        options = ["--layers", case.layers, "--divisor", case.divisor, "--tokenizer-of", tokenizer, "--out", out]
        run([sys.executable, "-m", "benchmarks.common.make_chatglm2", *options])
    return out


def text_in(work: Path) -> Path:
    """Of as many tokens as are asked for; what it says does not matter to random weights."""
    out = work / "text.txt"
    out.write_text("\n".join(path.read_text(encoding="utf-8") for path in TEXTS), encoding="utf-8")
    return out


def settings(case: Case, work: Path) -> list[str]:
    from glmquant.recipe.load import load_recipe

    rules = load_recipe(case.recipe, {}).model_dump(mode="json", exclude_unset=True)["rules"][1:]
    values = {
        "calibration.data": [str(text_in(work))],
        "calibration.num_samples": case.samples,
        "calibration.seq_len": case.length,
        "rules": [KEPT_HEAD, *rules],
    }
    return [
        "--recipe",
        case.recipe,
        *(x for name, value in values.items() for x in ("--set", f"{name}={json.dumps(value)}")),
    ]


def measure(case: Case, count: int, work: Path) -> None:
    """What quantizing costs each rank, in ``work``; what ``inspect`` says of it beside that."""
    model, options = model_of(case, work), settings(case, work)
    calibration = work / f"{case.name}-calibration"
    if not calibration.exists():
        glmquant("calibrate", model, "--out", calibration, *options)
    results, out = work / f"{case.name}-{count}", work / f"{case.name}-{count}-out"
    for directory in (results, out, out.with_name(out.name + ".partial")):
        shutil.rmtree(directory, ignore_errors=True)
    results.mkdir()
    launched = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", count, "-m", "benchmarks.ranks.rank"]
    line = [*launched, results, "quantize", model, "--calibration", calibration, "--out", out, *options]
    run([*ALONE_ON_LOOPBACK, *line], GLOO_SOCKET_IFNAME="lo", OMP_NUM_THREADS="1")
    said = run(
        [sys.executable, "-m", "glmquant", "inspect", model, "--ranks", count, "--json", *options], OMP_NUM_THREADS="1"
    )
    forecast = json.loads(said.output[said.output.index("{") :])["forecast"]
    (results / "forecast.json").write_text(json.dumps(forecast), encoding="utf-8")


@dataclass(frozen=True)
class Measured:
    """Of all ranks: each one's cost, what was foretold, and the bytes of what they wrote."""

    ranks: Sequence[Mapping[str, float]]
    forecast: Mapping[str, Any]
    written: Mapping[str, bytes]

    @property
    def slowest(self) -> float:
        return max(rank["cpu_seconds"] for rank in self.ranks)

    @property
    def peak(self) -> float:
        return max(rank["peak_bytes"] for rank in self.ranks)

    @property
    def received(self) -> float:
        return max(rank["received_bytes"] for rank in self.ranks)


def measured(case: Case, count: int, work: Path) -> Measured | None:
    results, out = work / f"{case.name}-{count}", work / f"{case.name}-{count}-out"
    if not (results / "forecast.json").exists():
        return None
    costs = [json.loads((results / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(count)]
    forecast = json.loads((results / "forecast.json").read_text(encoding="utf-8"))
    written = {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.suffix != ".safetensors"}
    written |= {path.name: _sha256(path) for path in sorted(out.glob("*.safetensors"))}
    return Measured(costs, forecast, written)


def _sha256(path: Path) -> bytes:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def section(case: Case, work: Path) -> list[str]:
    found = {count: each for count in COUNTS if (each := measured(case, count, work)) is not None}
    alone = found[1]
    lines = [
        "",
        f"## {case.name}, {case.recipe}, {case.samples} samples of {case.length:,} tokens",
        "",
        "| ranks | same bytes | CPU s of the slowest | of one rank's | target | foretold | peak a rank, GB "
        "| foretold, GB | sent a rank and block, MB | computed, MB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for count, each in found.items():
        stage, first = _quantizing(each.forecast), _quantizing(alone.forecast)
        sent = each.received / count / case.layers
        target = TARGETS.get(count) if case.divisor is not None else None
        lines.append(
            f"| {count} | {'yes' if each.written == alone.written else 'NO'} | {each.slowest:.0f} | "
            f"{each.slowest / alone.slowest:.2f} | {'' if target is None else f'{target:.2f}'} | "
            f"{stage['seconds'] / first['seconds']:.2f} | {each.peak / 1e9:.2f} | {stage['peak_bytes'] / 1e9:.2f} | "
            f"{sent / 1e6 if count > 1 else 0:.0f} | {each.forecast['sent_bytes'] / 1e6:.0f} |"
        )
    if missing := [str(count) for count in COUNTS if count not in found]:
        lines += ["", f"Not measured yet: {', '.join(missing)} ranks."]
    return lines


def _quantizing(forecast: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(stage for stage in forecast["stages"] if stage["name"] == "quantize")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--ranks", type=int, choices=COUNTS, help="measure these only, and write no table")
    parser.add_argument("--case", choices=[case.name for case in CASES], default=CASES[0].name)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    args.work = args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    os.chdir(ROOT)
    if args.ranks is not None:
        measure(next(case for case in CASES if case.name == args.case), args.ranks, args.work)
        return
    lines = [
        "# Several ranks",
        "",
        f"`python -m benchmarks.ranks.run`, {datetime.now(UTC):%Y-%m-%d}, {describe_machine()}; one thread a rank. "
        "`block` is one block of ChatGLM2-6B's shape, random weights, the head kept float; `half` the same by half "
        "its width; `demo` is the packaged model.",
    ]
    for case in CASES:
        if measured(case, 1, args.work) is not None:
            lines += section(case, args.work)
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
