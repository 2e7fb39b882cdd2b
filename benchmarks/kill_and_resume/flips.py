"""Kill `glmquant run` at random moments, flip a bit in what was left, and let the same command finish.

    python -m benchmarks.kill_and_resume.flips [--kills 30] [--flips 30] [--out benchmarks/kill_and_resume/flips.md]

The model and the recipe are those of `benchmarks.kill_and_resume.run`. Moments are spread evenly over the time of an
unbroken run. Of each kill, what was left is copied for every flip: a random bit of a random file, files by their number
rather than their size, so that small ones get their share. A run that then ends must have written the bytes of the
unbroken run; or it must end with exit code 2 and one error that names the file.

900 resumed runs take hours: with ``--log``, one that was stopped goes on behind what is in the file.
"""

import argparse
import json
import random
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.common.machine import describe_machine
from benchmarks.kill_and_resume.run import OPTIONS, command, hashes, run_for, stage_of
from glmquant import assets

BAD_INPUT = 2


@dataclass(frozen=True)
class Flipped:
    """A resumed run.

    Attributes:
        kill: its number.
        stage: what was at work at the kill.
        file: in which the bit was.
        ending: ``same`` bytes as the unbroken run, an ``error`` that names the file, or what was wrong.
    """

    kill: int
    stage: str
    file: str
    ending: str

    @property
    def is_good(self) -> bool:
        return self.ending in ("same", "error")


def flip(path: Path, chance: random.Random) -> None:
    with path.open("r+b") as file:
        at = chance.randrange(path.stat().st_size)
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << chance.randrange(8)]))


def resume(arguments: list[str], out: Path, flipped: Path, expected: dict[str, str]) -> str:
    done = subprocess.run(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if out.exists():
        found = hashes(out)
        differing = sorted(name for name in expected | found if expected.get(name) != found.get(name))
        return "same" if not differing else f"other bytes: {', '.join(differing)}"
    if done.returncode == BAD_INPUT and flipped.name in done.stderr and done.stderr.count("glmquant: ") == 1:
        return "error"
    return f"exit code {done.returncode}: {done.stderr[-300:]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--flips", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--model", default=assets.DEMO_MODEL)
    parser.add_argument("--log", type=Path, help="resumed runs, a line each, from which to go on")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("flips.md"))
    args = parser.parse_args()
    rows = logged(args.log)
    with tempfile.TemporaryDirectory() as work:
        out = Path(work) / "out"
        arguments = command(args.recipe, str(args.model), out)
        started = time.monotonic()
        subprocess.run(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        seconds, expected = time.monotonic() - started, hashes(out)
        shutil.rmtree(out)
        for number in range(args.kills):
            done = [row.kill for row in rows].count(number)
            chance = random.Random(f"{args.seed} {number} {done}")
            moment = seconds * (number + chance.random()) / args.kills
            for row in flips_after(number, moment, args.flips - done, arguments, out, expected, chance):
                rows.append(row)
                print(row, flush=True)
                if args.log is not None:
                    with args.log.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(asdict(row)) + "\n")
            write_results(rows, seconds, args)


def logged(path: Path | None) -> list[Flipped]:
    """Resumed runs of earlier."""
    if path is None or not path.exists():
        return []
    return [Flipped(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def flips_after(
    number: int, moment: float, flips: int, arguments: list[str], out: Path, expected: dict[str, str],
    chance: random.Random,
) -> Iterator[Flipped]:  # fmt: skip
    """Kills a run after ``moment`` seconds, and resumes it from copies of what it left, a bit flipped in each."""
    partial, kept = out.with_name("out.partial"), out.with_name("kept")
    if flips <= 0:
        return
    run_for(moment, arguments)
    stage = stage_of(out)
    if partial.exists():
        partial.rename(kept)
    shutil.rmtree(out, ignore_errors=True)
    files = sorted(path.relative_to(kept) for path in kept.rglob("*") if path.is_file() and path.stat().st_size)
    for _ in range(flips if files else 0):
        shutil.copytree(kept, partial)
        file = chance.choice(files)
        flip(partial / file, chance)
        yield Flipped(number, stage, str(file), resume(arguments, out, partial / file, expected))
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(kept, ignore_errors=True)


def write_results(rows: list[Flipped], seconds: float, args: argparse.Namespace) -> None:
    endings = Counter(row.ending for row in rows if row.is_good)
    kills = len({row.kill for row in rows})
    lines = [
        "# Killed, a bit flipped, and resumed",
        "",
        f"`python -m benchmarks.kill_and_resume.flips --kills {args.kills} --flips {args.flips} --seed {args.seed}`, "
        f"{datetime.now(UTC):%Y-%m-%d}, {describe_machine()}. glmquant {version('glmquant')}, "
        f"torch {version('torch')}.",
        "",
        f"`glmquant run {args.recipe}` on {Path(args.model).name} ({', '.join(OPTIONS)}; unbroken {seconds:.0f} s), "
        f"killed with SIGKILL {kills} times, moments spread over its length; {len(rows)} times a bit flipped in what "
        "was left.",
        "",
        f"**{sum(endings.values())} of {len(rows)} good**: {endings['same']} ended byte-identical, "
        f"{endings['error']} in an error that names the file.",
        "",
        "| at work when killed | flips |",
        "|---|---|",
        *(f"| {stage} | {count} |" for stage, count in Counter(row.stage for row in rows).most_common()),
    ]
    lines += [f"\n{row.file} ({row.stage}): {row.ending}" for row in rows if not row.is_good]
    args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
