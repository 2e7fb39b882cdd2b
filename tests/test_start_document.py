"""docs/index.md, block by block in one directory, as somebody new runs it; the installation is README's own."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
INSTALL, ASK, FAIL = BLOCK.findall((ROOT / "docs" / "index.md").read_text(encoding="utf-8"))
LITTLE = (
    "glmquant demo --out out --set calibration.num_samples=16 --set calibration.seq_len=256 "
    "--set check.num_tokens=2048 --set check.tasks=[]"
)


def test_the_first_block_is_the_readmes() -> None:
    assert INSTALL in (ROOT / "README.md").read_text(encoding="utf-8")
    assert INSTALL.endswith("glmquant demo --out out\n")


def test_a_bundle_is_made_asked_verified_and_failed(tmp_path: Path) -> None:
    (tmp_path / "glmquant").symlink_to(ROOT / "glmquant")
    paths = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = "\n".join([LITTLE, ASK.replace(". .venv/bin/activate\n", ""), FAIL])
    command = ["bash", "-euc", script]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PATH": paths}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("exit code 1\n")
    assert (tmp_path / "failing" / "report.json").is_file()
