"""Tests run in a process forked after libraries were imported, of the project's code as it is or with a fault in it."""

import contextlib
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType
from typing import Final

import pytest

OURS: Final = ("glmquant", "tests", "benchmarks", "conftest")
PYTEST: Final = ("-q", "-p", "no:cacheprovider", "-p", "no:cov", "--hypothesis-seed=0", "-m", "not slow")
MOST_BYTES: Final = 8 << 30
"""Of memory that a fault may ask for."""


class Faulty(SourceFileLoader):
    """Gives one module another source; also a finder of it."""

    def __init__(self, path: str, source: str) -> None:
        name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        super().__init__(name, str(Path(path).resolve()))
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._source, self.path, "exec")

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return spec_from_file_location(name, self.path, loader=self) if name == self.name else None


@dataclass(eq=False)
class Times:
    """A pytest plugin: seconds of each test function, which failed, and a call as each test begins and ends."""

    on_test: Callable[[str], object] = lambda _: None
    seconds: dict[str, float] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.on_test(function_of(nodeid))

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.on_test("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = function_of(report.nodeid)
        self.seconds[name] = self.seconds.get(name, 0.0) + report.duration
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)


def function_of(nodeid: str) -> str:
    """A test's name without its parameters."""
    return nodeid.partition("[")[0]


def run_pytest(arguments: Sequence[str], temporary: Path, plugin: Times) -> int:
    """Its exit code."""
    return int(pytest.main([*PYTEST, f"--basetemp={temporary}", *arguments], plugins=[plugin]))


def preload(arguments: Sequence[str], work: Path) -> None:
    """Imports the libraries that tests need, as a forked process that collects them finds out."""
    names = work / "libraries.json"

    def collect(directory: Path) -> int:
        code = run_pytest(["--collect-only", *arguments], directory / "temporary", Times())
        names.write_text(json.dumps([name for name in sys.modules if not name.startswith((*OURS, "__"))]))
        return code

    if not names.exists():
        list(done([Task(collect, work / "collect.log", 240)], 1, float("inf"), work))
    for name in json.loads(names.read_text()):
        with contextlib.suppress(Exception):
            importlib.import_module(name)


@dataclass(frozen=True, eq=False)
class Task:
    """Work for a forked process.

    Attributes:
        work: is given a directory of its own, empty, and gives the exit code.
        log: takes what it prints.
        processor_seconds: that it may use; it may take three times as long.
    """

    work: Callable[[Path], int]
    log: Path
    processor_seconds: int


def done(tasks: Iterable[Task], jobs: int, end: float, work: Path) -> Iterator[tuple[Task, int | None]]:
    """Tasks in the order in which they end, with their exit codes, negative for a signal; None where one took too long
    and was killed, with its children. Begins none after ``end``, on the monotonic clock."""
    running: dict[int, tuple[Task, float, int]] = {}
    waiting = iter(tasks)
    free = list(range(jobs))
    while True:
        while free and time.monotonic() < end and (task := next(waiting, None)) is not None:
            child = _start(task, work / f"job-{free[-1]}")
            running[child] = task, time.monotonic() + 3 * task.processor_seconds, free.pop()
        if not running:
            return
        time.sleep(0.02)
        for child, (task, limit, job) in list(running.items()):
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid or time.monotonic() > limit:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGKILL)
                if not pid:
                    os.waitpid(child, 0)
                del running[child]
                free.append(job)
                yield task, os.waitstatus_to_exitcode(status) if pid else None


def _start(task: Task, directory: Path) -> int:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.setsid()
        with task.log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (task.processor_seconds, task.processor_seconds))
        os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(directory / "hypothesis")
        code = task.work(directory)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)
