"""Do the tests notice? Faults in the code, one at a time, and the quick tests that reach them.

    python -m tests.mutants.run --work /tmp/mutants [--seconds 220] [--per-file 6] [--seed 0]

Start it again until it says that it is done: what was found is in WORK/rows.json, and only then `result.md` is
written. Of each file a seeded sample of faults (`operators.py`) is made, on lines that quick tests reach, and all
the deliberate faults of `faults.yaml`. A fault is found where one of those tests fails, or takes too long.
`survivors.yaml` says of each that is not found why that may be. `--again survivors` tries those once more, after a test
was written; `--only glmquant/core` keeps to some files.
"""

import argparse
import hashlib
import itertools
import json
import random
import signal
import sys
import time
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.mutants import forked, report
from tests.mutants.faults import deliberate
from tests.mutants.operators import Mutant, mutants_of
from tests.mutants.reached import Reached, lines_in_functions, measured
from tests.mutants.rooms import ROOMS, Room

NO_TESTS: Final = 5
SPARE_SECONDS: Final = 60
SLOWER: Final = 10
KILLED, SURVIVED, TOO_LONG, UNREACHED = "killed", "survived", "too long", "unreached"


@dataclass(frozen=True)
class Trial:
    """A fault and the tests that are to find it."""

    room: str
    mutant: Mutant
    tests: Sequence[str]
    seconds: float

    @property
    def key(self) -> str:
        """Stays the same as long as its file does."""
        return f"{self.mutant.path}:{hashlib.sha256(self.mutant.source.encode()).hexdigest()[:16]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where rows are kept")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin nothing after this")
    parser.add_argument("--per-file", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="at once, each on one thread")
    parser.add_argument("--only", default="", help="files whose path begins with this")
    parser.add_argument("--again", choices=["survivors"])
    args = parser.parse_args()
    end = time.monotonic() + args.seconds
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    forked.preload(sorted({path for room in ROOMS for path in room.test_files()}), work)
    rows, found = _read(work / "rows.json"), []
    for room in ROOMS:
        trials = _made(room, work, end, args)
        if trials is None:
            print("tests are still to be measured: start again")
            return
        _try_all([each for each in trials if _is_waiting(rows.get(each.key), args.again)], rows, work, end, args.jobs)
        found += [rows.get(each.key) for each in trials]
    left = sum(row is None for row in found)
    print(f"{left} of {len(found)} are left: start again" if left else "done")
    if not left and not args.only:
        report.write(found, args.per_file, args.seed, Path(__file__).with_name("result.md"))


def _try_all(trials: Sequence[Trial], rows: dict[str, dict[str, Any]], work: Path, end: float, jobs: int) -> None:
    tasks = {_task(number, trial, work): trial for number, trial in enumerate(trials)}
    for task, code in forked.done(tasks, jobs, end, work):
        row = rows[tasks[task].key] = _row(tasks[task], task, code)
        (work / "rows.json").write_text(json.dumps(rows, indent=1))
        print("{outcome}: {path}:{line} {before} -> {after} ({tests} tests)".format(**row), flush=True)


def _is_waiting(row: dict[str, Any] | None, again: str | None) -> bool:
    return row is None or (again is not None and row["outcome"] in (SURVIVED, UNREACHED))


def _made(room: Room, work: Path, end: float, args: argparse.Namespace) -> list[Trial] | None:
    """A room's faults; None where its tests are not all measured yet."""
    paths = [path for path in room.source_files() if path.startswith(args.only)]
    reached = measured(room.test_files(), args.jobs, end, work) if paths else None
    if reached is None:
        return None if paths else []
    trials: list[Trial] = []
    for path in paths:
        source = Path(path).read_text(encoding="utf-8")
        inside = lines_in_functions(source)
        mutants = mutants_of(path, source)
        random.Random(f"{args.seed} {path}").shuffle(mutants)
        covered = (trial for mutant in mutants if (trial := _trial(room, mutant, reached, inside)).tests)
        trials += itertools.islice(covered, args.per_file)
        trials += [_trial(room, mutant, reached, inside) for mutant in deliberate() if mutant.path == path]
    return trials


def _trial(room: Room, mutant: Mutant, reached: Reached, inside: Container[int]) -> Trial:
    tests = reached.tests_of(mutant, inside)
    return Trial(room.name, mutant, tests, sum(reached.seconds[name] for name in tests))


def _task(number: int, trial: Trial, work: Path) -> forked.Task:
    mutant = trial.mutant

    def test(directory: Path) -> int:
        if not trial.tests:
            return NO_TESTS
        sys.meta_path.insert(0, forked.Faulty(mutant.path, mutant.source))
        times = forked.Times()
        code = forked.run_pytest(["-x", *trial.tests], directory / "temporary", times)
        (work / f"trial-{number}.json").write_text(json.dumps(times.failed))
        return code

    return forked.Task(test, work / f"trial-{number}.log", int(SPARE_SECONDS + SLOWER * trial.seconds))


def _row(trial: Trial, task: forked.Task, code: int | None) -> dict[str, Any]:
    mutant, failed = trial.mutant, task.log.with_suffix(".json")
    row = {
        "room": trial.room,
        "path": mutant.path,
        "line": mutant.line,
        "scope": mutant.scope,
        "operator": mutant.operator,
        "before": mutant.before,
        "after": mutant.after,
        "outcome": {0: SURVIVED, None: TOO_LONG, -signal.SIGXCPU: TOO_LONG, NO_TESTS: UNREACHED}.get(code, KILLED),
        "by": json.loads(failed.read_text())[:1] if failed.exists() else [],
        "tests": len(trial.tests),
    }
    for path in (task.log, failed):
        path.unlink(missing_ok=True)
    return row


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.exists() else {}


if __name__ == "__main__":
    main()
