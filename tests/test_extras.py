"""Extras: those there are, what says that one is missing, and the one that takes another package's place."""

import importlib
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from glmquant.errors import CheckError

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
RUNTIMES = (ROOT / "docs" / "runtimes.md").read_text(encoding="utf-8")
SWAP = re.findall(r"`pip ((?:un)?install [^`]*onnxruntime(?:-gpu)?)`", RUNTIMES)


def test_every_extra_is_told_where_it_is_needed() -> None:
    names = ("docs/data.md", "docs/serve.md", "CONTRIBUTING.md")
    documents = [RUNTIMES, *((ROOT / name).read_text(encoding="utf-8") for name in names)]
    untold = [name for name in EXTRAS if not re.search(rf"\[{name}\]|extra `{name}`", "\n".join(documents))]
    assert untold == []


def test_without_lm_eval_the_harness_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "glmquant.evaluation.harness", raising=False)
    with pytest.raises(CheckError, match=r"pip install 'glmquant\[lm-eval\]'"):
        importlib.import_module("glmquant.evaluation.harness")


def wheel(directory: Path, name: str, requires: str = "") -> None:
    """Of a package that owns the module ``onnxruntime``, as both of them do."""
    information = f"{name.replace('-', '_')}-1.0.dist-info"
    files = {
        "onnxruntime/__init__.py": f"name = {name!r}\n",
        f"{information}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{requires}",
        f"{information}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{information}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{information}/RECORD"])
    with zipfile.ZipFile(directory / f"{name.replace('-', '_')}-1.0-py3-none-any.whl", "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)


@pytest.mark.slow
def test_the_documented_way_puts_onnxruntime_gpu_in_place_of_onnxruntime(tmp_path: Path) -> None:
    for name, requires in (("onnxruntime", ""), ("onnxruntime-gpu", "Requires-Dist: absent\n")):
        wheel(tmp_path, name, requires)
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"

    def pip(command: str) -> None:
        options = ["--no-index", "--find-links", str(tmp_path)] if command.startswith("install") else []
        subprocess.run([python, "-m", "pip", *command.split(), *options], check=True, capture_output=True)

    pip("install onnxruntime")
    assert len(SWAP) == 2
    for command in SWAP:
        pip(command)
    asked = "import onnxruntime, importlib.metadata as m; print(onnxruntime.name, m.packages_distributions())"
    done = subprocess.run([python, "-c", asked], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("onnxruntime-gpu {")
    assert "'onnxruntime': ['onnxruntime-gpu']" in done.stdout
