"""Faults are what they are said to be, and each of the deliberate ones still has the code that it changes."""

import ast
from pathlib import Path

from tests.mutants import report
from tests.mutants.faults import deliberate
from tests.mutants.operators import mutants_of
from tests.mutants.reached import Reached, lines_in_functions
from tests.mutants.rooms import ROOMS

SOURCE = '''\
LIMIT: Final = 3


def f(x: int | None, é: float = 0.5) -> bool:
    """Text."""
    assert x > 0
    if x < LIMIT and not é:
        raise ValueError(f"{x + 1}")
    log.info("%d", x - 1)
    x += 1
    return g("é", x * 2 == -é)
'''


def test_every_fault_changes_one_thing() -> None:
    found = {(each.line, each.operator, each.before, each.after) for each in mutants_of("a.py", SOURCE)}
    assert found == {
        (1, "constant", "3", "4"),
        (4, "constant", "0.5", "1.0"),
        (7, "boolean", "x < LIMIT and not é", "(x < LIMIT or not é)"),
        (7, "boolean", "not é", "bool(é)"),
        (7, "comparison", "x < LIMIT", "(x <= LIMIT)"),
        (8, "removed", 'raise ValueError(f"{x + 1}")', "pass"),
        (10, "arithmetic", "x += 1", "x -= 1"),
        (10, "constant", "1", "2"),
        (10, "removed", "x += 1", "pass"),
        (11, "arithmetic", "-é", "(é)"),
        (11, "arithmetic", "x * 2", "(x / 2)"),
        (11, "comparison", "x * 2 == -é", "(x * 2 != -é)"),
        (11, "constant", "2", "3"),
        (11, "returned", 'return g("é", x * 2 == -é)', "return None"),
    }


def test_a_fault_is_python_and_lies_where_it_says() -> None:
    for each in mutants_of("a.py", SOURCE):
        ast.parse(each.source)
        line = each.source.splitlines()[each.line - 1]
        assert each.after in line
        assert each.scope == ("f" if each.line > 1 else "")


def test_deliberate_faults_change_code_that_is_there() -> None:
    faults = deliberate()
    assert {each.path for each in faults} <= {path for room in ROOMS for path in room.source_files()}
    for each in faults:
        ast.parse(each.source)


def test_a_fault_meets_the_quick_tests_that_reach_its_line_its_own_first() -> None:
    inside, (constant, *_), comparison = lines_in_functions(SOURCE), *_mutants()
    own, near, far = "tests/core/test_a.py::t", "tests/core/test_b.py::t", "tests/store/test_c.py::t"
    slow = "tests/core/test_a.py::slow"
    reached = Reached(
        {own: 2.0, near: 0.5, far: 0.1, slow: 60.0},
        {"glmquant/core/a.py": {7: frozenset({far, near, slow}), 8: frozenset({own})}},
    )
    assert reached.tests_of(comparison, inside) == [near, far]
    assert reached.tests_of(constant, inside) == [own, near, far]


def _mutants():
    found = mutants_of("glmquant/core/a.py", SOURCE)
    return found, next(each for each in found if each.operator == "comparison")


def test_the_result_counts_what_was_found_and_names_what_was_not(tmp_path: Path) -> None:
    row = {"room": "core", "path": "a.py", "line": 1, "scope": "f", "operator": "constant", "before": "3", "after": "4"}
    outcomes = ["killed"] * 17 + ["too long", "survived", "unreached"]
    report.write([{**row, "outcome": outcome} for outcome in outcomes], 6, 0, tmp_path / "result.md")
    text = (tmp_path / "result.md").read_text(encoding="utf-8")
    assert "Of 20 faults the quick tests found all but 2: 10.0% survived; target: at most 5%; missed." in text
    assert "| core | 20 | 18 | 1 | 2 |" in text
    assert text.count("| a.py:1 f | `3` → `4` | not looked at yet |") == 2
