"""The pipeline steps: their own commands, run from a clean directory."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from glmquant import assets

ROOT = Path(__file__).parents[1]
# Limits are wide: two samples calibrate badly.
SMALL = (
    "calibration.num_samples=2\ncalibration.seq_len=32\ncheck.num_tokens=512\ncheck.seq_len=64\ncheck.tasks=[]\n"
    "check.limits.mean_kl=2\ncheck.limits.perplexity_ratio=2\n"
)


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def shell(command: str, directory: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs as a pipeline would, with ``glmquant`` of this checkout."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": str(directory), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    script = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", command]
    return subprocess.run(script, cwd=directory, env=environment, capture_output=True, text=True, check=False)


def run_step(directory: Path, **inputs: str) -> tuple[subprocess.CompletedProcess[str], dict[str, str], str]:
    """The action's second step, with its inputs put in as GitHub does; then its outputs and its summary."""
    action = read("action.yml")
    values = {name: spec.get("default", "") for name, spec in action["inputs"].items()} | inputs
    (step,) = [step for step in action["runs"]["steps"] if step["name"] == "Run"]
    variables = {
        name: re.sub(r"\$\{\{ inputs\.(\w+) }}", lambda match: values[match[1]], text)
        for name, text in step["env"].items()
    }
    summary, outputs = directory / "summary.md", directory / "outputs.txt"
    done = shell(step["run"], directory, GITHUB_STEP_SUMMARY=str(summary), GITHUB_OUTPUT=str(outputs), **variables)
    pairs = dict(line.split("=", 1) for line in outputs.read_text().splitlines()) if outputs.exists() else {}
    return done, pairs, summary.read_text() if summary.exists() else ""


def test_the_action(tmp_path: Path) -> None:
    shutil.copytree(assets.DEMO_MODEL, tmp_path / "my model")
    done, outputs, summary = run_step(tmp_path, model="my model", recipe="demo", set=SMALL, out="the out")
    assert done.returncode == 0, done.stderr
    assert outputs == {"verdict": "pass", "report": "the out/report", "bundle": "the out/onnx"}
    assert summary.startswith("# Accuracy check: ✅ pass")
    assert done.stdout.startswith("✅ pass: onnx, ")
    assert (tmp_path / "the out/onnx/model.onnx").is_file()

    again = {"model": "my model", "recipe": "int8-rtn", "against": "the out/report/report.json"}
    limits = "check.text=[glmquant:held-out-en.txt, glmquant:held-out-zh.txt]\ncheck.against.perplexity_ratio=0.1\n"
    done, outputs, _ = run_step(tmp_path, **again, set=SMALL.split("\n", 2)[2] + limits)
    assert (done.returncode, outputs["verdict"]) == (1, "fail"), done.stderr


def test_the_action_with_a_model_that_is_not_there(tmp_path: Path) -> None:
    done, outputs, summary = run_step(tmp_path, model="nothing")
    assert (done.returncode, outputs, summary) == (2, {}, "")


def test_every_output_of_the_action_is_set() -> None:
    action = read("action.yml")
    (step,) = [step for step in action["runs"]["steps"] if step.get("id") == "run"]
    for output in action["outputs"].values():
        name = re.fullmatch(r"\$\{\{ steps\.run\.outputs\.(\w+) }}", output["value"])
        assert name is not None
        assert f'"{name[1]}=' in step["run"]


def test_the_examples_use_inputs_that_there_are() -> None:
    (step,) = [step for step in read("ci/github.yml")["jobs"]["quantize"]["steps"] if step.get("id") == "glmquant"]
    assert set(step["with"]) <= set(read("action.yml")["inputs"])


def test_the_gitlab_job(tmp_path: Path) -> None:
    job = read("ci/gitlab.yml")["quantize"]
    shutil.copytree(assets.DEMO_MODEL, tmp_path / "model")
    (tmp_path / "held_out.txt").write_bytes((assets.DIRECTORY / "held-out-en.txt").read_bytes()[-40_000:])
    (tmp_path / "demo.yaml").write_text(
        "version: 1\n"
        "calibration: {num_samples: 2, seq_len: 32}\n"
        "rules: [{match: '*', spec: {bits: 4, group_size: 128}, method: {kind: gptq}}]\n"
        "check: {num_tokens: 512, seq_len: 64, limits: {perplexity_ratio: 2}}\n"
    )
    variables = job["variables"] | {"RECIPE": "demo.yaml", "CI_PROJECT_DIR": str(tmp_path)}
    done = shell("\n".join(job["script"]), tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    for name in [*job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"], ".cache/baseline"]:
        assert (tmp_path / name).exists()
    assert json.loads((tmp_path / "report/report.json").read_text())["verdict"] == "pass"


@pytest.mark.slow
def test_the_actions_installation(tmp_path: Path) -> None:
    """Run with: pytest -m slow tests/test_pipelines.py. Dependencies come from this environment."""
    environment = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    libraries = next(path for path in sys.path if path.endswith("site-packages"))
    next(environment.glob("lib/python*/site-packages")).joinpath("outer.pth").write_text(libraries)
    (step,) = [step for step in read("action.yml")["runs"]["steps"] if step["name"] == "Install"]
    install = f". {environment}/bin/activate\n{step['run']}\ncd {tmp_path}\n{environment}/bin/glmquant recipes"
    done = shell(install, tmp_path, GITHUB_ACTION_PATH=str(ROOT), PYTHONPATH="")
    assert done.returncode == 0, done.stderr
    assert "int4-g128-gptq" in done.stdout
