"""Which tests reach which lines, and how long each takes: of each test file by itself, kept until code changes."""

import ast
import hashlib
import json
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.mutants import forked
from tests.mutants.operators import Mutant

if TYPE_CHECKING:
    from coverage import CoverageData

PASSED, FAILED, NONE_COLLECTED = 0, 1, 5
SLOWEST_TEST: Final = 4.0
SLOWEST_FILE: Final = 15.0
SECONDS_OF_TESTS: Final = 10.0
"""For one fault: no more tests than take this, those of its own file and room first, then the quickest."""


@dataclass(frozen=True)
class Reached:
    """Attributes:
    seconds: of each test function that passes.
    lines: by source file and line, the functions that reach it.
    """

    seconds: Mapping[str, float]
    lines: Mapping[str, Mapping[int, frozenset[str]]]

    @staticmethod
    def of(parts: Iterable[Mapping[str, Any]]) -> "Reached":
        seconds: dict[str, float] = {}
        lines: dict[str, dict[int, set[str]]] = {}
        for part in parts:
            seconds |= part["seconds"]
            for path, by_line in part["lines"].items():
                for line, functions in by_line.items():
                    lines.setdefault(path, {}).setdefault(int(line), set()).update(functions)
        return Reached(seconds, {path: {n: frozenset(f) for n, f in at.items()} for path, at in lines.items()})

    def tests_of(self, mutant: Mutant, inside: Container[int]) -> list[str]:
        """In the order in which they are run.

        Args:
            inside: the lines of functions. Of another line, all tests that reach its file.
        """
        at = self.lines.get(mutant.path, {})
        functions = at.get(mutant.line) or at.get(mutant.statement) or frozenset[str]()
        if mutant.line not in inside:
            functions = frozenset[str]().union(*at.values())
        own = f"/test_{Path(mutant.path).stem}.py::"
        room = f"tests/{Path(mutant.path).parent.name}/"

        def order(name: str) -> tuple[bool, bool, float]:
            return own not in name, not name.startswith(room), self.seconds[name]

        chosen, left = [], SECONDS_OF_TESTS
        for name in sorted(filter(self.seconds.__contains__, functions), key=order):
            is_quick = self.seconds[name] < SLOWEST_TEST and (own in name or self.of_file(name) < SLOWEST_FILE)
            left -= self.seconds[name] if is_quick else 0
            if is_quick and left > 0:
                chosen.append(name)
        return chosen

    def of_file(self, name: str) -> float:
        """Seconds of all tests in a test's file, what they share included."""
        return self._by_file[name.partition("::")[0]]

    @cached_property
    def _by_file(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for name, seconds in self.seconds.items():
            total[name.partition("::")[0]] += seconds  # type: ignore[assignment]
        return total


def measured(test_files: Sequence[str], jobs: int, end: float, work: Path) -> Reached | None:
    """None where there was no time to measure all of them."""
    code = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path("glmquant").rglob("*.py"))))
    kept = {}
    for test_file in test_files:
        key = hashlib.sha256(code.digest() + Path(test_file).read_bytes()).hexdigest()[:16]
        kept[test_file] = work / "reached" / f"{test_file.replace('/', '.')}.{key}.json"
    (work / "reached").mkdir(exist_ok=True)
    tasks = {_task(test_file, path): path for test_file, path in kept.items() if not path.exists()}
    for task, exit_code in forked.done(tasks, jobs, end, work):
        if exit_code != 0:
            print(f"these tests cannot be run (exit code {exit_code}): {task.log}", flush=True)
            tasks[task].write_text(json.dumps({"seconds": {}, "lines": {}}))
    if not all(path.exists() for path in kept.values()):
        return None
    return Reached.of(json.loads(path.read_text()) for path in kept.values())


def _task(test_file: str, kept: Path) -> forked.Task:
    def trace(directory: Path) -> int:
        import coverage

        tracer = coverage.Coverage(include=["glmquant/*"], data_file=None, config_file=False)
        tracer.start()
        times = forked.Times(on_test=tracer.switch_context)
        code = forked.run_pytest([test_file], directory / "temporary", times)
        tracer.stop()
        if code not in (PASSED, FAILED, NONE_COLLECTED):
            return code
        failed = {forked.function_of(name) for name in times.failed}
        if failed:
            print("failed as it is:", *sorted(failed))
        seconds = {name: taken for name, taken in times.seconds.items() if name not in failed}
        kept.write_text(json.dumps({"seconds": seconds, "lines": _lines(tracer.get_data())}))
        return 0

    return forked.Task(trace, kept.with_suffix(".log"), 200)


def _lines(data: "CoverageData") -> dict[str, dict[int, list[str]]]:
    root, lines = Path.cwd(), {}
    for file in sorted(data.measured_files()):
        at = {line: sorted(filter(None, names)) for line, names in data.contexts_by_lineno(file).items()}
        lines[Path(file).relative_to(root).as_posix()] = {line: names for line, names in at.items() if names}
    return lines


def lines_in_functions(source: str) -> frozenset[int]:
    """Those that run when a function is called, rather than when its module is imported."""
    functions = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef))
    return frozenset(line for node in functions for line in range(node.body[0].lineno, (node.end_lineno or 0) + 1))
