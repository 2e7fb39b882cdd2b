"""What the documents show in Python is what type checkers, at their strictest, accept of the public names.

pyright, which needs Node: ``pip install 'pyright[nodejs]'; pytest -m slow tests/test_typed.py``.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/lora.md", "docs/sweeps.md", "docs/text-classification.md")
"""Whose blocks import nothing but glmquant and Python's own."""

BIN = Path(sys.executable).parent
PYRIGHT = shutil.which("pyright", path=str(BIN))
WRONG = "import glmquant as gq\n\ngq.load_recipe(1)\nprint(gq.generate('onnx', 'x').text)\n"


def blocks() -> dict[str, str]:
    found = {}
    for page in PAGES:
        bodies = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)
        assert bodies, page
        found |= {f"{re.sub(r'[^a-z]', '_', page.lower())}_{n}.py": body for n, body in enumerate(bodies)}
    return found


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    for name, body in blocks().items():
        (tmp_path / name).write_text(body, encoding="utf-8")
    return sorted(tmp_path.glob("*.py"))


def mypy(*files: Path) -> "subprocess.CompletedProcess[str]":
    """Started where its cache of glmquant's own check lies."""
    command = [sys.executable, "-m", "mypy", "--strict", *map(str, files)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def pyright(*files: Path) -> list[str]:
    (files[0].parent / "pyrightconfig.json").write_text(
        json.dumps({"typeCheckingMode": "strict", "extraPaths": [str(ROOT)]}), encoding="utf-8"
    )
    assert PYRIGHT is not None
    command = [PYRIGHT, "--outputjson", "--pythonpath", sys.executable, "--project", str(files[0].parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    told = json.loads(done.stdout)
    assert told["summary"]["filesAnalyzed"] == len(files)
    return [f"{Path(each['file']).name}: {each['message']}" for each in told["generalDiagnostics"]]


def test_mypy_accepts_what_the_documents_show(files: list[Path]) -> None:
    done = mypy(*files)
    assert done.returncode == 0, done.stdout


def test_mypy_refuses_what_the_names_do_not_take(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(WRONG, encoding="utf-8")
    assert re.findall(r"\[([\w-]+)\]$", mypy(wrong).stdout, re.M) == ["arg-type", "attr-defined"]


@pytest.mark.slow
@pytest.mark.skipif(PYRIGHT is None, reason="needs pip install 'pyright[nodejs]'")
def test_pyright_accepts_what_the_documents_show(files: list[Path]) -> None:
    assert pyright(*files) == []


@pytest.mark.slow
@pytest.mark.skipif(PYRIGHT is None, reason="needs pip install 'pyright[nodejs]'")
def test_pyright_refuses_what_the_names_do_not_take(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(WRONG, encoding="utf-8")
    assert len(pyright(wrong)) >= 2
