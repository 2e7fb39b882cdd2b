"""docs/running.md: the same words from the bundle in every runtime that is here.

``GENAI_PYTHON``, ``OPTIMUM_PYTHON`` and ``NODE_MODULES`` name environments that are there already; others are made.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import glmquant as gq
from glmquant import assets

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs" / "running.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n.*?^```\w+\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL))
PEERS = ROOT / "benchmarks" / "interop"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_bundle(tmp_path_factory.mktemp("desk"), "ort")


@pytest.fixture(scope="module")
def words(desk: Path) -> list[str]:
    return ours(desk)


def with_bundle(directory: Path, profile: str) -> Path:
    """Holds the demo model's bundle under the document's name."""
    recipe = gq.load_recipe("int8-rtn", {"export.profile": profile})
    gq.export(assets.DEMO_MODEL, recipe, out=directory / "out" / "onnx")
    return directory


def ours(desk: Path) -> list[str]:
    """What glmquant's own two commands say: an answer, and a continuation."""
    commands = re.findall(r"^```bash\nglmquant (.*?)\n```", DOCUMENT, re.MULTILINE)
    return [said([sys.executable, "-m", "glmquant", *shlex.split(command)], desk) for command in commands]


def installed(directory: Path, requirements: Path) -> str:
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    subprocess.run([directory / "bin" / "pip", "install", "-q", "-r", requirements], check=True)
    return str(directory / "bin" / "python")


def said(command: list[str], desk: Path) -> str:
    done = subprocess.run(command, cwd=desk, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_plain_onnx_runtime(desk: Path, words: list[str]) -> None:
    assert all(words)
    assert said([sys.executable, "-c", SECTIONS["Python, plain ONNX Runtime"]], desk) == words[1]


@pytest.mark.slow
def test_genai(desk: Path, words: list[str], tmp_path: Path) -> None:
    python = os.environ.get("GENAI_PYTHON") or installed(tmp_path / "genai", PEERS / "requirements-genai.txt")
    assert said([python, "-c", SECTIONS["Python, onnxruntime-genai"]], desk) == words[0]


@pytest.mark.slow
def test_optimum(desk: Path, words: list[str], tmp_path: Path) -> None:
    python = os.environ.get("OPTIMUM_PYTHON") or installed(tmp_path / "optimum", PEERS / "requirements-optimum.txt")
    assert said([python, "-c", SECTIONS["Python, Optimum"]], desk) == words[1]


@pytest.mark.slow
def test_javascript(tmp_path: Path) -> None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("Node.js is not installed")
    desk = with_bundle(tmp_path, "standard")
    (desk / "run.mjs").write_text(SECTIONS["JavaScript, onnxruntime-node"], encoding="utf-8")
    if "NODE_MODULES" in os.environ:
        (desk / "node_modules").symlink_to(os.environ["NODE_MODULES"])
    else:
        # Its script after installation fetches CUDA's libraries, and nothing else.
        packages = ["onnxruntime-node", "@huggingface/tokenizers"]
        subprocess.run([npm, "install", "--ignore-scripts", *packages], cwd=desk, check=True)
    assert said([node, "run.mjs"], desk) == ours(desk)[1]
