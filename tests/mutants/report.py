"""Writes what was found: how many of each room's faults, and every one that was not, with its reason."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks.common.machine import describe_machine

TARGET: Final = 0.05
REASONS: Final = Path(__file__).with_name("survivors.yaml")
FOUND: Final = ("killed", "too long")
Row = Mapping[str, Any]


def write(rows: Sequence[Row], per_file: int, seed: int, path: Path) -> None:
    survivors = [row for row in rows if row["outcome"] not in FOUND]
    share = len(survivors) / len(rows)
    lines = [
        "# Do the tests notice?",
        "",
        f"`python -m tests.mutants.run --per-file {per_file} --seed {seed}`, {datetime.now(UTC):%Y-%m-%d}, "
        f"{describe_machine()}; torch {version('torch')}, pytest {version('pytest')}.",
        "",
        f"Of {len(rows)} faults the quick tests found all but {len(survivors)}: {share:.1%} survived; target: at most "
        f"{TARGET:.0%}; {'met' if share <= TARGET else 'missed'}.",
        "",
        "`operators.py` makes them, one at a time: a comparison, an operation or a constant is another, *and* is *or*, "
        f"a statement is removed, nothing is returned. A seeded sample of up to {per_file} of each file, on lines that "
        "quick tests reach, wording and annotations left alone; and those that someone thought of (`faults.yaml`). One "
        "is found where a test fails that reaches its line, or takes ten times as long. Only tests of the fault's own "
        "and of neighboring rooms are asked, of up to 10 s together; whole commands are not.",
        "",
        "| room | faults | found | of these by time | survived |",
        "| --- | --- | --- | --- | --- |",
    ]
    for room in dict.fromkeys(row["room"] for row in rows):
        outcomes = [row["outcome"] for row in rows if row["room"] == room]
        found, late = sum(each in FOUND for each in outcomes), outcomes.count("too long")
        lines.append(f"| {room} | {len(outcomes)} | {found} | {late} | {len(outcomes) - found} |")
    lines += ["", "| operator | faults | survived |", "| --- | --- | --- |"]
    for operator in sorted({row["operator"] for row in rows}):
        some = [row["outcome"] for row in rows if row["operator"] == operator]
        lines.append(f"| {operator} | {len(some)} | {sum(each not in FOUND for each in some)} |")
    lines += ["", "## Survivors", ""]
    if survivors:
        lines += ["| where | fault | why |", "| --- | --- | --- |", *_survivors(survivors)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _survivors(rows: Sequence[Row]) -> list[str]:
    known = {(each["path"], each["before"], each["after"]): each["why"] for each in yaml.safe_load(REASONS.read_text())}
    return [
        f"| {row['path']}:{row['line']} {row['scope']} | `{_cell(row['before'])}` → `{_cell(row['after'])}` "
        f"| {known.get((row['path'], row['before'], row['after']), 'not looked at yet')} |"
        for row in rows
    ]


def _cell(code: str) -> str:
    return " ".join(code.split()).replace("|", "\\|")
