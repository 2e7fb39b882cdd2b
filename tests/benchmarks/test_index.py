"""``benchmarks/README.md`` has a row for every benchmark, and every row has its script and its result."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
TABLE = [line for line in (BENCHMARKS / "README.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TABLE[2:]]
COMMANDS = [re.fullmatch(r"`python -m ([\w.]+)`", row[1]) for row in ROWS]
MODULES = [command[1] for command in COMMANDS if command]
LINKED = {BENCHMARKS / link for row in ROWS for link in re.findall(r"\]\(([^)]+)\)", row[2])}


def test_every_row_is_whole() -> None:
    assert ROWS
    assert len(MODULES) == len(ROWS)
    assert all(len(row) == 5 and all(row) for row in ROWS)


@pytest.mark.parametrize("module", MODULES)
def test_every_command_can_be_started_without_its_peers(module: str) -> None:
    assert callable(importlib.import_module(module).main)


def test_every_result_belongs_to_a_row() -> None:
    written = set(BENCHMARKS.glob("*/*.md"))
    assert written == LINKED


def test_every_script_belongs_to_a_row() -> None:
    scripts = {f"benchmarks.{path.parent.name}.run" for path in BENCHMARKS.glob("*/run.py")}
    assert scripts == {module for module in MODULES if module.startswith("benchmarks.")}


def test_every_folder_is_a_claim_with_a_result() -> None:
    folders = {path for path in BENCHMARKS.iterdir() if path.is_dir() and any(path.rglob("*.*"))}
    others = {BENCHMARKS / "common", BENCHMARKS / "__pycache__"}
    assert [folder.name for folder in folders - others if not (folder / "result.md").exists()] == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[1])
def test_a_dated_result_says_its_date(row: list[str]) -> None:
    result = BENCHMARKS / re.findall(r"\]\(([^)]+)\)", row[2])[0]
    text = result.read_text(encoding="utf-8")
    if row[3] == "not recorded":
        assert not re.search(r"2026-\d\d-\d\d|November 2026", text)
    else:
        day = f"{int(row[3][-2:])} November 2026"
        assert row[3] in text or day in text
