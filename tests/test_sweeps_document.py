"""docs/sweeps.md, as a user runs it, on less text."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from glmquant import assets
from tests.support.paths import contents
from tests.support.ranks import ENVIRONMENT, SECONDS

DOCUMENT = Path(__file__).parents[1] / "docs" / "sweeps.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
(SWEEP,) = (text for language, text in BLOCKS if language == "python")
ARRAY, COMPARE = (text for language, text in BLOCKS if language == "bash")
FEW = ["--set", "check.num_tokens=512", "--set", "check.seq_len=64", "--set", "check.tasks=[]"]


def run(arguments: list[str], directory: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    paths = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | ENVIRONMENT | {"PATH": paths} | variables
    return subprocess.run(
        arguments, cwd=directory, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS
    )


def test_scripts_are_well_formed() -> None:
    compile(SWEEP, "sweep.py", "exec")
    for script in (ARRAY, COMPARE):
        assert subprocess.run(["bash", "-n", "-c", script], check=False).returncode == 0


@pytest.mark.slow
def test_a_sweep_ends_in_one_table_and_does_nothing_again(tmp_path: Path) -> None:
    """By the executor, and by the array's tasks, which find the same done."""
    shutil.copytree(assets.DEMO_MODEL, tmp_path / "chatglm2-6b")
    (tmp_path / "sweep.py").write_text(SWEEP.replace('"--inconclusive", "pass"', f'"--inconclusive", "pass", *{FEW}'))
    done = run([sys.executable, "sweep.py"], tmp_path)
    assert (tmp_path / "sweep" / "chatglm2.html").is_file(), done.stderr
    assert all(name in done.stdout for name in ("int8-rtn", "int4-g128-rtn"))
    assert len(list((tmp_path / "sweep" / "cache").iterdir())) == 1, "one model and one text: one pass of the baseline"
    before = contents(tmp_path / "sweep" / "chatglm2")

    script = ARRAY.replace("--inconclusive pass", " ".join(["--inconclusive pass", *FEW]))
    for task in ("0", "1"):
        told = run(["bash", "-euc", script], tmp_path, SLURM_ARRAY_TASK_ID=task, SLURM_CPUS_PER_TASK="1")
        assert "finished earlier" in told.stderr
    assert contents(tmp_path / "sweep" / "chatglm2") == before
    assert "int4-g128-rtn" in run(["bash", "-euc", COMPARE], tmp_path).stdout
    assert (tmp_path / "sweep.html").is_file()
