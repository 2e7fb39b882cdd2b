"""docs/scale-out.md, as a user runs it: with fewer processes, and every machine is this one."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import glmquant as gq
from glmquant import assets
from tests.support.paths import contents, lasting
from tests.support.ranks import ENVIRONMENT, SECONDS

DOCUMENT = Path(__file__).parents[1] / "docs" / "scale-out.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
RUN, STEPS, INSPECT, FIRST, SECOND, SLURM = (text for language, text in BLOCKS if language == "bash")
(KUBERNETES,) = (text for language, text in BLOCKS if language == "yaml")
(RAY,) = (text for language, text in BLOCKS if language == "python")
CALIBRATED = "--set calibration.num_samples=4 --set calibration.seq_len=64"
CHECKED = "--set check.num_tokens=512 --set check.seq_len=64 --set check.tasks=[] --set check.limits.mean_kl=1"
LITTLE = {
    "--recipe int4-g128-gptq --out out": f"--recipe int4-g128-gptq-fast {CALIBRATED} {CHECKED} --out out",
    "--set export.kv_cache": f"{CALIBRATED} --set export.kv_cache",
    "--text held_out.txt": f"--text held_out.txt {CHECKED}",
    "OMP_NUM_THREADS=8": "OMP_NUM_THREADS=1",
}
STAND_INS = {
    "scontrol": "echo localhost; echo other",
    "srun": 'for node in $(seq 0 $((SLURM_NNODES - 1))); do SLURM_NODEID=$node "$@" & done; wait $!',
}
"""Of Slurm: the machines' names, and a process on each of them."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("desk")
    shutil.copytree(assets.DEMO_MODEL, directory / "chatglm2-6b")
    shutil.copy(assets.CALIBRATION_TEXT, directory / "zh_en.txt")
    shutil.copy(assets.DIRECTORY / "held-out-en.txt", directory / "held_out.txt")
    return directory


@pytest.fixture
def desk(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for path in model.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "bin").mkdir()
    for name, does in STAND_INS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


@pytest.fixture(scope="module")
def alone(model: Path) -> Path:
    """What ``run`` writes without ranks."""
    script = little(RUN, 1).replace("torchrun --nproc-per-node 1", "python").replace("--out out", "--out alone")
    finish(start(script, model))
    return model / "alone"


def little(script: str, processes: int) -> str:
    for words, fewer in LITTLE.items():
        script = script.replace(words, fewer)
    return script.replace("--nproc-per-node 4", f"--nproc-per-node {processes}")


def start(script: str, directory: Path, **variables: str) -> "subprocess.Popen[str]":
    environment = os.environ | ENVIRONMENT | variables
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    return subprocess.Popen(
        ["bash", "-euc", script], cwd=directory, env=environment, stdout=-1, stderr=subprocess.STDOUT, text=True
    )


def finish(process: "subprocess.Popen[str]") -> str:
    told, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, told
    return told


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return str(free.getsockname()[1])


def test_scripts_and_manifests_are_well_formed(tmp_path: Path) -> None:
    for script in (RUN, STEPS, INSPECT, FIRST, SECOND, SLURM, job_command()):
        assert subprocess.run(["bash", "-n", "-c", script], check=False).returncode == 0
    service, job = yaml.safe_load_all(KUBERNETES)
    name, spec = job["metadata"]["name"], job["spec"]
    assert service["metadata"]["name"] == spec["template"]["spec"]["subdomain"] == name
    assert service["spec"]["selector"] == {"job-name": name}
    assert spec["completions"] == spec["parallelism"]
    assert f"--nnodes {spec['completions']} " in job_command()
    assert f"--master-addr {name}-0.{name} " in job_command()


def job_command() -> str:
    (container,) = list(yaml.safe_load_all(KUBERNETES))[1]["spec"]["template"]["spec"]["containers"]
    command = container["command"]
    assert command[:2] == ["bash", "-c"]
    return str(command[2])


@pytest.mark.slow
def test_one_machine(desk: Path, alone: Path) -> None:
    finish(start(little(RUN, 2), desk))
    assert lasting(desk / "out") == lasting(alone)
    assert "each rank sends" in finish(start(INSPECT, desk))
    finish(start(little(STEPS, 2), desk))
    again = little(STEPS, 1).replace("torchrun --nproc-per-node 1", "python").replace("--out calibration", "--out once")
    again = again.replace("--out report", "--out reported").replace("--out int4", "--out int4-alone")
    finish(start(again, desk))
    assert contents(desk / "calibration") == contents(desk / "once")
    assert lasting(desk / "report") == lasting(desk / "reported")
    assert contents(desk / "int4") == contents(desk / "int4-alone")


@pytest.mark.slow
def test_two_machines_that_share_no_files(desk: Path) -> None:
    gq.export(assets.DEMO_MODEL, "int8-rtn", out=desk / "out" / "onnx")
    port = free_port()
    (desk / "second").mkdir()
    for name in ("chatglm2-6b", "out", "held_out.txt"):
        (desk / "second" / name).symlink_to(desk / name)
    scripts = [little(script, 1).replace("FIRST", "localhost").replace("29500", port) for script in (FIRST, SECOND)]
    both = [start(script, where) for script, where in zip(scripts, (desk, desk / "second"), strict=True)]
    first, second = map(finish, both)
    assert first.count("next    glmquant") == 1
    assert "next    glmquant" not in second
    assert (desk / "report" / "report.json").is_file()
    assert not (desk / "second" / "report").exists()


@pytest.mark.slow
def test_slurm(desk: Path, alone: Path) -> None:
    script = little(SLURM, 1).replace("29500", free_port())
    told = finish(start(script, desk, SLURM_NNODES="2", SLURM_JOB_NODELIST="node[0-1]"))
    assert told.count("next    glmquant") == 1
    assert lasting(desk / "out") == lasting(alone)


@pytest.mark.slow
def test_kubernetes(desk: Path, alone: Path) -> None:
    """The pods of the Job, both on this machine."""
    script = little(job_command(), 1).replace("glmquant-0.glmquant", "localhost").replace("29500", free_port())
    pods = [start(script, desk, JOB_COMPLETION_INDEX=str(index)) for index in range(2)]
    assert "next    glmquant" in finish(pods[0])
    finish(pods[1])
    assert lasting(desk / "out") == lasting(alone)


@pytest.mark.slow
def test_ray(desk: Path, alone: Path) -> None:
    pytest.importorskip("ray")
    script = RAY.replace("RANKS, CORES = 8, 8", "RANKS, CORES = 2, 1")
    options = [word for value in (CALIBRATED, CHECKED) for word in value.split()]
    script = script.replace('"int4-g128-gptq",', f'"int4-g128-gptq-fast", *{options},')
    (desk / "on_ray.py").write_text(script)
    finish(start(f"{sys.executable} on_ray.py", desk))
    assert lasting(desk / "out") == lasting(alone)
