"""docs/methods.md, as a user runs it: the method saved, compared, and taken as a plugin, another version of it too."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from glmquant import assets

DOCUMENT = Path(__file__).parents[1] / "docs" / "methods.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
METHOD, COMPARE = (body for kind, body in BLOCKS if kind == "python")
(RUN,) = (body for kind, body in BLOCKS if kind == "bash")


def less(script: str) -> str:
    """With less to calibrate and to check on."""
    return re.sub(r"(num_samples\W+?)16|(num_tokens\W+?)2048", lambda m: f"{m[1]}4" if m[1] else f"{m[2]}512", script)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(assets.DEMO_MODEL, tmp_path / "chatglm2-6b")
    shutil.copy(assets.CALIBRATION_TEXT, tmp_path / "zh_en.txt")
    shutil.copy(assets.DIRECTORY / "held-out-en.txt", tmp_path / "held_out.txt")
    (tmp_path / "clip.py").write_text(METHOD, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_the_method_is_about_twelve_lines() -> None:
    body = METHOD[METHOD.index("@gq.register_method") :]
    assert len([line for line in body.splitlines() if line.strip()]) <= 13


def test_the_comparison_is_fair_and_printed_by_the_user_alone(desk: Path) -> None:
    done = subprocess.run([sys.executable, "-c", less(COMPARE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    head, *rows, page = done.stdout.splitlines()
    assert [row.split()[0] for row in (head, *rows)] == ["candidate", "rtn", "clipped", "gptq"]
    assert all(re.search(r"\d \(\S+ to \S+\)", row) for row in rows[1:])
    assert page == "compared/comparison.html"
    assert "clipped" in (desk / page).read_text(encoding="utf-8")


def test_the_plugin_is_run_and_another_version_is_another_run(desk: Path) -> None:
    def run() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["bash", "-euc", less(RUN)], capture_output=True, text=True, check=False)

    first = run()
    assert first.returncode in (0, 1, 3), first.stderr
    assert "running clip.py: it is code of your own" in first.stderr
    again = run()
    assert (again.returncode, "finished earlier" in again.stderr) == (first.returncode, True)
    (desk / "clip.py").write_text(METHOD.replace("/ 10 *", "/ 5 *"), encoding="utf-8")
    changed = run()
    assert changed.returncode == 2
    assert "a finished run with other inputs" in changed.stderr
