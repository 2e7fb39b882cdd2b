"""Runs damaged inputs in a process of their own, and watches how each ends.

    python -m tests.fuzz.harness --cases 5000 --seed 1 --log seed1.jsonl

With ``--log``, a run that was stopped goes on behind the last case that is in the file.

A case is decided by seed and number alone. It may succeed or raise one :class:`GlmQuantError`; another exception, a
case of more than ``CPU_SECONDS``, a process that dies, or one that holds more than ``MEMORY`` is a finding. Address
space is limited, too, so that an absurd allocation fails at once.
"""

import argparse
import ctypes
import gc
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

CPU_SECONDS = 20.0  # of a case
WALL_SECONDS = 240.0  # of a case that waits; the machine may be busy
MEMORY = 1 << 30

Ending = Literal["success", "error", "other exception", "hang", "crash", "memory"]
CLEAN: tuple[Ending, ...] = ("success", "error")


@dataclass(frozen=True)
class Outcome:
    """How a case ended; ``what`` is the error, or where another exception came from; ``seconds`` are of computing."""

    number: int
    subject: str
    ending: Ending
    what: str
    seconds: float
    peak_bytes: int


def run(cases: int, seed: int, first: int = 0) -> Iterator[Outcome]:
    """The outcomes of cases ``first`` to ``cases``, in order."""
    worker = _Worker(seed)
    try:
        for number in range(first, cases):
            outcome = worker.case(number)
            if outcome.ending in ("hang", "crash", "memory"):
                worker.stop()
                worker = _Worker(seed)
            yield outcome
    finally:
        worker.stop()


class _Worker:
    def __init__(self, seed: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._directory = tempfile.TemporaryDirectory(prefix="fuzz-")
        self._process = context.Process(target=_work, args=(other, seed, Path(self._directory.name)), daemon=True)
        self._process.start()
        other.close()
        self._connection.recv()  # it is ready

    def case(self, number: int) -> Outcome:
        started, cpu_before = time.monotonic(), self._cpu_seconds()
        self._connection.send(number)
        while not self._connection.poll(1.0):
            wall, cpu = time.monotonic() - started, self._cpu_seconds() - cpu_before
            if cpu > CPU_SECONDS or wall > WALL_SECONDS:
                return Outcome(number, "?", "hang", f"{cpu:.0f} s of computing, {wall:.0f} s in all", wall, 0)
        try:
            outcome: Outcome = self._connection.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            return Outcome(number, "?", "crash", f"exit code {code}", time.monotonic() - started, 0)
        return outcome

    def _cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self._directory.cleanup()


def _work(connection: Connection, seed: int, root: Path) -> None:
    from tests.fuzz import subjects

    built = subjects.build(root)
    for subject in built:
        subject.use(root / subject.name, _emptied(root / "scratch"))  # undamaged, they must succeed
    _forget_peak()  # of making the inputs, which takes transformers and more
    limit = _virtual_bytes() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    connection.send(len(built))
    while True:
        connection.send(_case(connection.recv(), seed, built, root))


def _case(number: int, seed: int, built: list, root: Path) -> Outcome:
    from glmquant.errors import GlmQuantError
    from tests.fuzz.mutate import damaged

    rng = random.Random(f"{seed} {number}")
    subject = rng.choice(built)
    name = rng.choice(subject.files)
    path = root / subject.name / name
    original = path.read_bytes()
    path.write_bytes(damaged(original, name, rng))
    started = time.process_time()
    ending: Ending = "success"
    what = ""
    try:
        subject.use(root / subject.name, _emptied(root / "scratch"))
    except GlmQuantError as error:
        ending, what = "error", f"{type(error).__name__}: {error.what}"
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "/glmquant/" in frame.filename]
        frame = ours[-1] if ours else last
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        ending, what = "other exception", f"{type(error).__name__} at {place}: {str(error)[:200]}"
    finally:
        path.write_bytes(original)
    peak = _peak_bytes()
    if peak > MEMORY and ending in CLEAN:
        ending, what = "memory", f"{peak >> 20} MiB"
    return Outcome(number, f"{subject.name}, {name}", ending, what, time.process_time() - started, peak)


def _emptied(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    return directory


def _virtual_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _forget_peak() -> None:
    """Gives freed memory back, and starts the process's peak anew (proc(5), ``clear_refs``)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def report(outcomes: list[Outcome], seed: int) -> str:
    endings = Counter(outcome.ending for outcome in outcomes)
    kinds = Counter(outcome.what.partition(":")[0] for outcome in outcomes if outcome.ending == "error")
    subjects = Counter(outcome.subject.partition(",")[0] for outcome in outcomes)
    slowest = max(outcome.seconds for outcome in outcomes)
    peak = max(outcome.peak_bytes for outcome in outcomes)
    findings = [outcome for outcome in outcomes if outcome.ending not in CLEAN]
    lines = [
        "# Damaged inputs",
        "",
        f"`python -m tests.fuzz.harness --cases {len(outcomes)} --seed {seed}`, {datetime.now(UTC):%Y-%m-%d}.",
        "",
        f"{len(outcomes)} cases: {endings['success']} succeeded, {endings['error']} ended in one clear error, "
        f"{len(findings)} in anything else. Slowest {slowest:.1f} s of computing; peak memory {peak >> 20} MiB.",
        "",
        "| error | cases |",
        "|---|---|",
        *(f"| {kind} | {count} |" for kind, count in kinds.most_common()),
        "",
        "| input | cases |",
        "|---|---|",
        *(f"| {subject} | {count} |" for subject, count in sorted(subjects.items())),
        *(f"\nFinding, case {each.number} ({each.subject}): {each.ending}, {each.what}" for each in findings),
    ]
    return "\n".join(lines) + "\n"


def logged(path: Path) -> list[Outcome]:
    """Outcomes that were written to a log, in the order of their cases."""
    return [Outcome(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log", type=Path, help="outcomes, a line each, from which to go on")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    outcomes = [] if args.log is None or not args.log.exists() else logged(args.log)
    for outcome in run(args.cases, args.seed, len(outcomes)):
        outcomes.append(outcome)
        if args.log is not None:
            with args.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(outcome)) + "\n")
        if outcome.ending not in CLEAN:
            print(outcome, file=sys.stderr, flush=True)
    text = report(outcomes, args.seed)
    print(text)
    if args.out is not None:
        args.out.write_text(text, encoding="utf-8")
    sys.exit(any(outcome.ending not in CLEAN for outcome in outcomes))


if __name__ == "__main__":
    main()
