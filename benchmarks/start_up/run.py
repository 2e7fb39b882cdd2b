"""Seconds until the commands that are typed most often answer: the median of several starts, in turn.

    python -m benchmarks.start_up.run

`chat` is started in a terminal, on an INT8 bundle of the model in the package, and timed to its prompt.
"""

import argparse
import os
import pty
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import glmquant as gq
from benchmarks.common.machine import describe_machine
from glmquant import assets

PROMPT = b"> "
PYTHON, GLMQUANT = [sys.executable], [sys.executable, "-m", "glmquant"]
TARGETS = {
    "import glmquant": 0.15,
    "glmquant --help": 0.7,
    "glmquant recipes": 0.7,
    "glmquant chat, to its prompt": 1.5,
}


def seconds(command: Sequence[str]) -> float:
    """To the end of a command."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def seconds_to_prompt(command: Sequence[str]) -> float:
    """To what a chat asks with, in a terminal of its own."""
    ours, theirs = pty.openpty()
    started = time.perf_counter()
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
        os.close(theirs)
        shown = b""
        while not shown.endswith(PROMPT):
            shown += os.read(ours, 1 << 16)
        took = time.perf_counter() - started
        os.write(ours, b"/exit\n")
        process.wait()
    os.close(ours)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as directory:
        bundle = str(gq.export(assets.DEMO_MODEL, "int8-rtn", out=Path(directory) / "onnx").path)
        starts = {
            "import glmquant": lambda: seconds([*PYTHON, "-c", "import glmquant"]),
            "glmquant --help": lambda: seconds([*GLMQUANT, "--help"]),
            "glmquant recipes": lambda: seconds([*GLMQUANT, "recipes"]),
            "glmquant chat, to its prompt": lambda: seconds_to_prompt([*GLMQUANT, "chat", bundle]),
        }
        taken: dict[str, list[float]] = {name: [] for name in starts}
        for _ in range(repeats):
            for name, start in starts.items():
                taken[name].append(start())
    print(f"{describe_machine()}; glmquant {gq.__version__}, onnxruntime {version('onnxruntime')}")
    print(f"{'':30} {'median':>7} {'least':>7} {'most':>7} {'target':>7}")
    for name, each in taken.items():
        print(f"{name:30} {statistics.median(each):7.2f} {min(each):7.2f} {max(each):7.2f} {TARGETS[name]:7.2f}")


if __name__ == "__main__":
    main()
