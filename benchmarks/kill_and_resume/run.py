"""Kill `glmquant run` with SIGKILL at random moments, over all of its stages, and let the same command finish.

    python -m benchmarks.kill_and_resume.run [--kills 30] [--out benchmarks/kill_and_resume/result.md]

The model inside the package is quantized with GPTQ, its cache in INT8, so that a run calibrates, quantizes, exports and
checks. Moments are spread evenly over the time an unbroken run takes, with a random offset each; a run that is killed
is killed once more, at a random moment, with a chance of one in four. What counts is that every file of the finished
output has the bytes of the unbroken run's.
"""

import argparse
import hashlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.common.machine import describe_machine
from glmquant import assets

OPTIONS = ("export.kv_cache=int8", "check.num_tokens=1024", "check.seq_len=128")
AGAIN = 0.25
STAGES = {"report": "check", "onnx": "export", "calibration": "calibrate", "quantized": "quantize"}


@dataclass(frozen=True)
class Resumed:
    """A run that was killed and then finished.

    Attributes:
        stages: what was at work at each kill.
        differing: files that are not those of the unbroken run.
        left_over: what lies beside the output.
    """

    stages: tuple[str, ...]
    differing: tuple[str, ...]
    left_over: tuple[str, ...]

    @property
    def good(self) -> bool:
        return not self.differing and not self.left_over


def command(recipe: str, model: str, out: Path) -> list[str]:
    settings = [part for option in OPTIONS for part in ("--set", option)]
    return [sys.executable, "-m", "glmquant", "run", recipe, "--model", model, "--out", str(out), "--quiet", *settings]


def hashes(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def stage_of(out: Path) -> str:
    """What the run in ``out.partial`` was at, from what it has begun to write."""
    partial = out.with_name(out.name + ".partial")
    if not partial.exists():
        return "finished" if out.exists() else "starting"
    at_work = (stage for name, stage in STAGES.items() if (partial / f"{name}.partial").exists())
    return next(at_work, "between stages")


def run_for(seconds: float, arguments: list[str]) -> int | None:
    """The exit code, or None where the process was killed after ``seconds``."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return None


def kill_and_finish(arguments: list[str], out: Path, moment: float, longest: float, chance: random.Random) -> list[str]:
    """What was at work at each kill."""
    stages = []
    while run_for(moment, arguments) is None:
        stages.append(stage_of(out))
        if len(stages) > 1 or chance.random() >= AGAIN:
            break
        moment = chance.uniform(0, longest)
    # A run that had just come to its end says that its output is there already.
    subprocess.run(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return stages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--model", default=assets.DEMO_MODEL)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("result.md"))
    args = parser.parse_args()
    chance = random.Random(args.seed)
    rows = []
    with tempfile.TemporaryDirectory() as work:
        whole = Path(work) / "whole"
        started = time.monotonic()
        unbroken = command(args.recipe, str(args.model), whole)
        code = subprocess.run(unbroken, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode
        seconds, expected = time.monotonic() - started, hashes(whole)
        for number in range(args.kills):
            out = Path(work) / f"run-{number}" / "out"
            out.parent.mkdir()
            moment = seconds * (number + chance.random()) / args.kills
            stages = kill_and_finish(command(args.recipe, str(args.model), out), out, moment, seconds, chance)
            found = hashes(out) if out.exists() else {}
            differing = tuple(sorted(name for name in expected | found if expected.get(name) != found.get(name)))
            beside = tuple(path.name for path in out.parent.iterdir() if path != out)
            rows.append(Resumed(tuple(stages), differing, beside))
            print(number, f"{moment:.1f} s", rows[-1], flush=True)
            shutil.rmtree(out.parent)
    write_results(rows, seconds, code, len(expected), args)


def write_results(rows: list[Resumed], seconds: float, code: int, files: int, args: argparse.Namespace) -> None:
    good = sum(row.good for row in rows)
    stages = Counter(stage for row in rows for stage in row.stages)
    lines = [
        "# Killed and resumed",
        "",
        f"`python -m benchmarks.kill_and_resume.run --kills {args.kills} --seed {args.seed}`, "
        f"{datetime.now(UTC):%Y-%m-%d}, {describe_machine()}. glmquant {version('glmquant')}, "
        f"torch {version('torch')}.",
        "",
        f"`glmquant run {args.recipe}` on the model inside the package ({', '.join(OPTIONS)}; unbroken {seconds:.0f} "
        f"s, exit code {code}), killed with SIGKILL {sum(stages.values())} times in {len(rows)} runs, at moments "
        "spread over its whole length, then the same command again.",
        "",
        f"**{good} of {len(rows)} ended byte-identical**, all {files} files, with nothing left beside them.",
        "",
        "| at work when killed | kills |",
        "|---|---|",
        *(f"| {stage} | {count} |" for stage, count in stages.most_common()),
    ]
    bad = [(number, row) for number, row in enumerate(rows) if not row.good]
    lines += [f"\nRun {number}: {row.differing} differ, {row.left_over} left over" for number, row in bad]
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
