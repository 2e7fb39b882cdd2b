"""Every block of the README and the how-tos runs, on the model in the package under the names the README uses."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from glmquant import assets
from glmquant.recipe.load import load_recipe
from glmquant.recipe.packaged import packaged_recipes
from tests.support.adapters import packaged_adapter
from tests.support.hub import Hub, Repository, running

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
ELSEWHERE = {
    "index.md": "test_start_document.py",
    "index.zh.md": "test_website.py",
    "methods.md": "test_methods_document.py",
    "mixture-of-experts.md": "test_sparse_document.py",
    "pipelines.md": "test_pipelines.py",
    "running.md": "test_running_document.py",
    "scale-out.md": "test_scale_out_document.py",
    "serve.md": "test_serve_document.py",
    "sweeps.md": "test_sweeps_document.py",
}
"""What runs the blocks of pages that want more than the README's models."""

DOCUMENTS = [path for path in sorted((ROOT / "docs").glob("*.md")) if path.name not in ELSEWHERE]
HOW_TOS = [path.read_text(encoding="utf-8") for path in DOCUMENTS]
FENCED = re.findall(r"^```(\w+)\n(.*?)^```", "\n".join([README, *HOW_TOS]), flags=re.MULTILINE | re.DOTALL)
BLOCKS = list(dict.fromkeys(FENCED))
SET_UP = [body for kind, body in BLOCKS if kind == "bash" and "glmquant " not in body.replace(".venv/bin/glmquant", "")]


TRAINS = "classifier-int8"
ACCEPTED = {False: {0}, True: {0, 3}}  # sixty examples may be too few for a verdict on a classifier


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    """Has the model in the package under the id the how-tos use."""
    with running() as hub:
        hub.repositories["THUDM/chatglm2-6b"] = Repository.of(assets.DEMO_MODEL)
        yield hub


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub) -> Path:
    """A working directory that holds what the README's commands name."""
    shutil.copytree(assets.DEMO_MODEL, tmp_path / "chatglm2-6b")
    packaged_adapter(tmp_path / "my-lora", alpha=0.5)
    shutil.copy(assets.CALIBRATION_TEXT, tmp_path / "zh_en.txt")
    shutil.copy(assets.DIRECTORY / "held-out-en.txt", tmp_path / "held_out.txt")
    reviews = (assets.DIRECTORY / "reviews.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    for name, lines in {"reviews": reviews[:40], "test": reviews[:60], "train": reviews[60:260]}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def blocks(kind: str) -> list[str]:
    return [body for found, body in BLOCKS if found == kind and body not in SET_UP]


def test_the_set_up_commands_are_two() -> None:
    assert len(SET_UP) == 2
    assert {kind for kind, _ in BLOCKS} == {"bash", "python", "yaml"}


@pytest.mark.parametrize("script", blocks("bash"), ids=lambda body: body.split("\n")[0][:40])
def test_shell(script: str, desk: Path) -> None:
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=False)
    assert done.returncode in ACCEPTED[TRAINS in script], done.stderr


@pytest.mark.parametrize("script", blocks("python"))
def test_python(script: str, desk: Path) -> None:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert any(word in done.stdout for word in ("Verdict", "pass", "正面", "负面"))


@pytest.mark.parametrize("text", blocks("yaml"))
def test_recipe(text: str, desk: Path) -> None:
    (desk / "my.yaml").write_text(text, encoding="utf-8")
    command = ["glmquant", "run", "chatglm2-6b", "--recipe", "my.yaml", "--out", "out", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_packaged_recipe_is_listed() -> None:
    rows = re.findall(r"^\| (`.*?`) \|", README, re.MULTILINE)
    assert [name for name in packaged_recipes() if not any(f"`{name}`" in row for row in rows)] == []


@pytest.mark.parametrize("name", [name for name in packaged_recipes() if not name.startswith(("classifier", "moe-"))])
def test_packaged_recipes_run(name: str, desk: Path) -> None:
    command = ["glmquant", "run", "chatglm2-6b", "--recipe", name, "--out", "out", "--quiet"]
    fewer = ["calibration.num_samples=16", "calibration.seq_len=256", "check.num_tokens=2048", "check.tasks=[]"]
    limits = [] if name == "demo" else ["check.text=[held_out.txt]"]
    for setting in (*fewer, *limits):
        command += ["--set", setting]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert load_recipe(name).description


@pytest.mark.slow
@pytest.mark.parametrize("command", [body for body in SET_UP if ".ci/run" not in body])
def test_the_first_command_on_a_fresh_clone(command: str, tmp_path: Path) -> None:
    subprocess.run(["git", "clone", "-q", str(ROOT), str(tmp_path / "clone")], check=True)
    done = subprocess.run(
        ["bash", "-euc", command], cwd=tmp_path / "clone", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "clone" / "out" / "onnx" / "model.onnx").is_file()
