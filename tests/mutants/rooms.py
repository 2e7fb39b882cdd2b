"""Which files get faults, and which tests are asked to find them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True)
class Room:
    """Patterns of paths, from the repository's root.

    Attributes:
        sources: files that get faults.
        tests: the quick tests of these, and of rooms above that hold what several files together promise. What only a
            test of a whole command would find is told as a survivor, and wants a test of its own.
    """

    name: str
    sources: tuple[str, ...]
    tests: tuple[str, ...]

    def source_files(self) -> list[str]:
        return [path for pattern in self.sources for path in _files(pattern)]

    def test_files(self) -> list[str]:
        return [path for pattern in self.tests for path in _files(pattern)]


GATE: Final = ("gate", "statistics", "metrics", "tasks", "baseline_cache")
ROOMS: Final = (
    Room("methods", ("glmquant/methods/*.py",), ("tests/methods/test_*.py",)),
    Room(
        "gate and statistics",
        tuple(f"glmquant/evaluation/{name}.py" for name in GATE),
        tuple(f"tests/evaluation/test_{name}.py" for name in GATE),
    ),
    Room(
        "inert text, external data",
        ("glmquant/inert.py", "glmquant/runtime/external_data.py"),
        ("tests/hostile/test_inert.py", "tests/runtime/test_external_data.py"),
    ),
    Room(
        "core",
        ("glmquant/core/*.py",),
        (
            "tests/core/test_*.py",
            "tests/methods/test_*.py",
            "tests/hostile/test_budgets.py",
            "tests/hostile/test_no_files.py",
        ),
    ),
    Room(
        "store",
        ("glmquant/store/*.py",),
        (
            "tests/store/test_*.py",
            "tests/hostile/test_no_files.py",
            "tests/hostile/test_resumed.py",
            "tests/pipeline/test_verify.py",
        ),
    ),
)


def _files(pattern: str) -> list[str]:
    return sorted(path.as_posix() for path in Path().glob(pattern) if path.name != "__init__.py")
