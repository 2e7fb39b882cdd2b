"""What stands in ``docs/captures`` is what commands show now, but for what :mod:`tests.captures.normal` takes out."""

import sys
from pathlib import Path

import pytest

from tests.captures.normal import normal

if sys.platform == "win32":
    pytest.skip("Windows has no pseudo-terminals", allow_module_level=True)

from tests.captures.files import DIRECTORY, stored, write_if_changed
from tests.captures.sessions import COLUMNS, SESSIONS, captured, prepare

QUICK = [("failing-gate", 80), ("chat", 80)]
REST = [(name, columns) for columns in COLUMNS for name in SESSIONS if (name, columns) not in QUICK]
STALE = "run `python -m tests.captures`, and look at what it changed"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("desk")
    prepare(made)
    return made


def differences(name: str, columns: int, desk: Path) -> tuple[str, str]:
    return normal(stored(name, columns).read_text(encoding="utf-8")), normal(captured(name, columns, desk))


@pytest.mark.parametrize(("name", "columns"), QUICK)
def test_a_capture_is_up_to_date(name: str, columns: int, desk: Path) -> None:
    was, now = differences(name, columns, desk)
    assert was == now, STALE


@pytest.mark.slow
@pytest.mark.parametrize(("name", "columns"), REST)
def test_a_longer_capture_is_up_to_date(name: str, columns: int, tmp_path: Path) -> None:
    prepare(tmp_path)
    was, now = differences(name, columns, tmp_path)
    assert was == now, STALE


def test_every_capture_is_of_a_session() -> None:
    assert set(DIRECTORY.iterdir()) == {stored(name, columns) for name in SESSIONS for columns in COLUMNS}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("about 7 s, 512 MB and\n0.97 GB", "about 2 min, 0.51 GB\nand 97 GB"),
        ("quantizing      0/6 0:00:00", "quantizing ━━━━ ━╸ 3/6 0:00:12 about 2 min left"),
        ("0.0233 (0.0223 to 0.0243)  at most", "2.33e-02 (-0.0223 to 0.02) at most"),
        ("> 你好\n正面\n> /exit", "> 你好\nHello,\nyou\n> /exit"),
    ],
)
def test_what_another_machine_or_moment_changes_is_the_same(one: str, other: str) -> None:
    assert normal(one) == normal(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("exit code 1", "exit code 3"),
        ("✅ pass  mean_kl 0.1", "❌ fail  mean_kl 0.1"),
        ("int4-g128-gptq", "int8-g128-gptq"),
        ("> /help\n/exit  end", "> /help\n/exit  leave"),
        ("  hint: give more", "  hint: give"),
    ],
)
def test_what_a_change_of_the_code_changes_differs(one: str, other: str) -> None:
    assert normal(one) != normal(other)


def test_a_capture_that_says_the_same_keeps_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.captures.files.DIRECTORY", tmp_path)
    assert write_if_changed("demo", 80, "22 s, peak memory 0.95 GB\n")
    assert not write_if_changed("demo", 80, "9 s, peak memory 0.9 GB\n")
    assert stored("demo", 80).read_text(encoding="utf-8").startswith("22 s")
    assert write_if_changed("demo", 80, "9 s, most memory 0.9 GB\n")
