"""docs/scale-out.md, as a user runs it: with fewer processes, and the second machine is the first one again."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import glmquant as gq
from glmquant import assets
from tests.support.paths import contents
from tests.support.ranks import ENVIRONMENT, SECONDS

DOCUMENT = Path(__file__).parents[1] / "docs" / "scale-out.md"
ONE, FIRST, SECOND = re.findall(r"^```bash\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
LITTLE = {
    "--set export.kv_cache": "--set calibration.num_samples=4 --set calibration.seq_len=64 --set export.kv_cache",
    "--text held_out.txt": "--text held_out.txt --set check.num_tokens=512 --set check.seq_len=64 --set check.tasks=[]",
    "--baseline": "--set check.limits.mean_kl=1 --baseline",
    "OMP_NUM_THREADS=8": "OMP_NUM_THREADS=1",
}
pytestmark = pytest.mark.slow


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(assets.DEMO_MODEL, tmp_path / "chatglm2-6b")
    shutil.copy(assets.CALIBRATION_TEXT, tmp_path / "zh_en.txt")
    shutil.copy(assets.DIRECTORY / "held-out-en.txt", tmp_path / "held_out.txt")
    gq.export(assets.DEMO_MODEL, "int8-rtn", out=tmp_path / "out" / "onnx")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def little(script: str, processes: int) -> str:
    for words, fewer in LITTLE.items():
        script = script.replace(words, fewer)
    return script.replace("--nproc-per-node 4", f"--nproc-per-node {processes}")


def start(script: str, directory: Path) -> "subprocess.Popen[str]":
    environment = os.environ | ENVIRONMENT
    return subprocess.Popen(
        ["bash", "-euc", script], cwd=directory, env=environment, stdout=-1, stderr=subprocess.STDOUT, text=True
    )


def finish(process: "subprocess.Popen[str]") -> str:
    told, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, told
    return told


def test_one_machine(desk: Path) -> None:
    finish(start(little(ONE, 2), desk))
    alone = little(ONE, 1).replace("torchrun --nproc-per-node 1", "python").replace("--out calibration", "--out alone")
    alone = alone.replace("--out report", "--out reported").replace("--out int4", "--out int4-alone")
    finish(start(alone, desk))
    assert contents(desk / "calibration") == contents(desk / "alone")
    assert contents(desk / "report") == contents(desk / "reported")
    assert contents(desk / "int4") == contents(desk / "int4-alone")


def test_two_machines_that_share_no_files(desk: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    (desk / "second").mkdir()
    for name in ("chatglm2-6b", "out", "held_out.txt"):
        (desk / "second" / name).symlink_to(desk / name)
    scripts = [
        little(script, 1).replace("FIRST", "localhost").replace("29500", str(port)) for script in (FIRST, SECOND)
    ]
    both = [start(script, where) for script, where in zip(scripts, (desk, desk / "second"), strict=True)]
    first, second = map(finish, both)
    assert first.count("next    glmquant") == 1
    assert "next    glmquant" not in second
    assert (desk / "report" / "report.json").is_file()
    assert not (desk / "second" / "report").exists()
