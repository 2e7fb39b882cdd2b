"""Commands on several ranks: the bytes of one, one voice, one exit code, whatever happens to a rank."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

import glmquant as gq
from glmquant import assets
from glmquant.cli.several import Ending, outcome, require_ranked
from glmquant.core.ranks import Ranks
from glmquant.store.checkpoint import open_checkpoint
from glmquant.store.output import require_seen
from tests.hints.follow import follows, refused
from tests.quantization.test_threads import scaled
from tests.support.checkpoints import tiny_config, write_checkpoint
from tests.support.moe import write_moe
from tests.support.paths import contents, lasting
from tests.support.ranks import ENVIRONMENT, SECONDS, command, torchrun
from tests.test_sparse_document import SHAPES

MODEL = assets.DEMO_MODEL
SEVERAL = [2, pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]
RANGES = {"export.kv_cache": "int8", "calibration.num_samples": 17, "calibration.seq_len": 683}
"""Samples of two leaves."""

TEXTS = ["glmquant:held-out-en.txt", "glmquant:held-out-zh.txt"]
CHECK = {
    "check.num_tokens": 1536,
    "check.seq_len": 96,
    "check.text": TEXTS,
    "check.tasks": [],
    "check.limits.mean_kl": 1,
}
KILLED = "stopped without a word"


def settings(values: dict[str, object]) -> list[str]:
    return [item for key, value in values.items() for item in ("--set", f"{key}={json.dumps(value)}")]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "onnx"
    gq.export(MODEL, "int8-rtn", out=out)
    return out


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("task") / "reviews.jsonl"
    lines = (assets.DIRECTORY / "reviews.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:24]), encoding="utf-8")
    return path


def checking(bundle: Path, task: Path, out: Path) -> list[object]:
    kept = ["--cache", out / "cache", "--save-baseline", out / "saved.safetensors", "--out", out / "report"]
    return ["check", bundle, "--baseline", MODEL, "--task", task, *kept, *settings(CHECK)]


def alone(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "glmquant", *map(str, arguments)]
    return subprocess.run(line, env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def calibrated_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "calibration"
    gq.calibrate(MODEL, gq.load_recipe(None, RANGES), out=out)
    return out


@pytest.fixture(scope="module")
def checked_alone(bundle: Path, task: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    assert alone(*checking(bundle, task, out)).returncode == 0
    return out


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_calibration_is_the_same_bytes(count: int, calibrated_alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "calibration"
    done = torchrun(count, "-m", "glmquant", "calibrate", MODEL, "--out", out, *settings(RANGES))
    assert (done.returncode, done.stdout) == (0, f"{out}\n"), done.stderr
    assert contents(out) == contents(calibrated_alone)
    assert [path.name for path in tmp_path.iterdir()] == ["calibration"]
    assert done.stderr.count("calibrating: 6 of 6") == 1


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with the packaged one's tokenizer."""
    config = replace(tiny_config(), vocab_size=5440, max_position_embeddings=1024, head_dim=32, rotary_dim=16)
    model = write_checkpoint(tmp_path_factory.mktemp("tiny") / "model", config, scaled(config))
    open_checkpoint(MODEL).tokenizer.save(model)
    return model


@pytest.fixture(scope="module")
def run_alone(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    done = alone(*running(tiny, out))
    assert done.returncode == 1, done.stderr
    return out


def running(model: Path, out: Path) -> list[object]:
    """All that is shared: bits allocated, samples of two leaves, ranges, a check; which fails."""
    values = CHECK | RANGES | {"check.limits": {"mean_kl": 1e-9}}
    return ["run", model, "--recipe", "int4-auto-4.25", "--out", out, *settings(values)]


@pytest.mark.parametrize("count", SEVERAL)
def test_a_run_is_the_same_bytes_and_ends_with_its_verdict(
    count: int, tiny: Path, run_alone: Path, tmp_path: Path
) -> None:
    done = torchrun(count, "-m", "glmquant", *running(tiny, tmp_path / "run"))
    assert lasting(tmp_path / "run") == lasting(run_alone), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert done.stderr.count("exitcode  : 1 ") == count
    assert done.stdout.count("next    glmquant") == 1


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_run_whose_rank_is_killed_goes_on_with_its_finished_steps(
    count: int, tiny: Path, run_alone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    line = command(2, "-m", "glmquant", *running(tiny, out))
    with subprocess.Popen(line, env=os.environ | ENVIRONMENT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for told in process.stderr:
            if "baseline, block by block" in told:
                break
        rank_of(process, count % 2).kill()
        process.communicate(timeout=SECONDS)
    assert not out.exists()
    done = torchrun(count, "-m", "glmquant", *running(tiny, out))
    assert "1 of 1 check" in done.stderr
    assert "quantizing" not in done.stderr
    assert lasting(out) == lasting(run_alone)
    again = torchrun(count, "-m", "glmquant", *running(tiny, out))
    assert "finished earlier" in again.stderr
    assert again.stderr.count("exitcode  : 1 ") == count


@pytest.mark.slow
def test_a_run_that_trains_is_the_same_bytes(tiny: Path, task: Path, tmp_path: Path) -> None:
    """The first rank trains."""
    given = ["run", tiny, "--recipe", "classifier-int8", "--train-data", task, "--set", "train.mode=head", "--out"]
    assert "Accuracy check" in alone(*given, tmp_path / "alone").stdout
    done = torchrun(2, "-m", "glmquant", *given, tmp_path / "run")
    assert lasting(tmp_path / "run") == lasting(tmp_path / "alone"), done.stderr


@pytest.mark.parametrize("count", SEVERAL)
def test_a_check_is_the_same_bytes(count: int, bundle: Path, task: Path, checked_alone: Path, tmp_path: Path) -> None:
    """So is what it keeps of the baseline: of a cache, and of a stored one."""
    done = torchrun(count, "-m", "glmquant", *checking(bundle, task, tmp_path))
    assert done.returncode == 0, done.stderr
    assert lasting(tmp_path) == lasting(checked_alone)
    assert done.stdout.count("next    glmquant") == 1
    assert done.stderr.count("comparing, tokens: ") <= 3


def test_a_check_of_routed_experts_is_the_same_bytes(tmp_path: Path) -> None:
    model = tmp_path / "model"
    write_moe(model, "glm4_moe_lite", **SHAPES)
    open_checkpoint(MODEL).tokenizer.save(model)
    gq.export(model, gq.load_recipe("moe-int4-g128", {"export.kv_cache": "float"}), out=tmp_path / "onnx")
    given = ["check", tmp_path / "onnx", "--baseline", model, *settings(CHECK | {"check.limits.routing_change": 1})]
    assert alone(*given, "--out", tmp_path / "alone").returncode == 0
    done = torchrun(2, "-m", "glmquant", *given, "--out", tmp_path / "report")
    assert done.returncode == 0, done.stderr
    assert lasting(tmp_path / "report") == lasting(tmp_path / "alone")
    assert gq.read_report(tmp_path / "report").routing is not None


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_a_check_of_a_classifier_is_the_same_bytes(count: int, task: Path, tmp_path: Path) -> None:
    model, recipe = tmp_path / "model", gq.load_recipe("classifier-int8", {"train.mode": "head"})
    gq.train_classifier(MODEL, task, recipe, out=model)
    gq.export(model, recipe, out=tmp_path / "onnx")
    common = ["check", tmp_path / "onnx", "--task", task, "--baseline"]
    for directory in ("alone", "ranks"):
        (tmp_path / directory).mkdir()
        kept = ["--save-baseline", tmp_path / directory / "saved", "--out", tmp_path / directory / "report"]
        given = [*common, model, *kept]
        done = alone(*given) if directory == "alone" else torchrun(count, "-m", "glmquant", *given)
        assert "Accuracy check" in done.stdout, done.stderr
    assert lasting(tmp_path / "ranks") == lasting(tmp_path / "alone")
    again = [*common, tmp_path / "ranks" / "saved", "--out", tmp_path / "again"]
    assert "Accuracy check" in torchrun(count, "-m", "glmquant", *again).stdout
    assert (tmp_path / "again" / "report.json").read_bytes() == (tmp_path / "alone/report/report.json").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_what_was_kept_of_the_baseline_serves_any_number_of_ranks(
    count: int, bundle: Path, task: Path, checked_alone: Path, tmp_path: Path
) -> None:
    common = ["--task", task, *settings(CHECK), "--out"]
    stored = ["--baseline", checked_alone / "saved.safetensors"]
    cached = ["--baseline", MODEL, "--cache", checked_alone / "cache"]
    for name, baseline in (("stored", stored), ("cached", cached)):
        done = torchrun(count, "-m", "glmquant", "check", bundle, *baseline, *common, tmp_path / name)
        assert done.returncode == 0, done.stderr
        assert "baseline, block by block" not in done.stderr
        expected = (checked_alone / "report" / "report.json").read_bytes()
        assert (tmp_path / name / "report.json").read_bytes() == expected


def test_bad_input_is_told_once(bundle: Path, tmp_path: Path) -> None:
    given = ["--baseline", MODEL, "--text", tmp_path / "nothing.txt", "--out", tmp_path / "report"]
    done = torchrun(2, "-m", "glmquant", "check", bundle, *given)
    assert done.stderr.count("glmquant: no such file") == 1
    assert done.stderr.count("exitcode  : 2 ") == 2
    assert done.stderr.count("Traceback") == 1, "but torchrun's own"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_mistyped_option_is_told_once(bundle: Path) -> None:
    done = torchrun(2, "-m", "glmquant", "check", bundle, "--nothing")
    assert done.stderr.count("No such option") == 1
    assert done.stderr.count("exitcode  : 2 ") == 2


@pytest.mark.slow
def test_ranks_that_compute_otherwise_are_refused(tmp_path: Path) -> None:
    """The second one without the instructions that this machine has."""
    line = f"{sys.executable} -m glmquant calibrate {MODEL} --out {tmp_path / 'out'}"
    mixed = f"[ $RANK = 0 ] || export ATEN_CPU_CAPABILITY=default; exec {line}"
    done = torchrun(2, "--no-python", "bash", "-c", mixed)
    assert done.stderr.count("glmquant: the ranks differ in processor\n  where: rank 0: ") == 1
    assert "; rank 1: " in done.stderr
    assert done.stderr.count("exitcode  : 2 ") == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_ranks_of_different_commands_are_refused(tmp_path: Path) -> None:
    line = f"{sys.executable} -m glmquant calibrate {MODEL} --out {tmp_path / 'out'}"
    done = torchrun(2, "--no-python", "bash", "-c", f"exec {line} --set calibration.num_samples=$((RANK + 2))")
    assert "glmquant: the ranks differ in the command" in done.stderr


def started(bundle: Path, out: Path) -> "subprocess.Popen[str]":
    """A long check on two ranks, as it passes its first block."""
    values = CHECK | {"check.num_tokens": 24000}
    given = ["check", bundle, "--baseline", MODEL, "--out", out, *settings(values)]
    line = command(2, "-m", "glmquant", *given)
    process = subprocess.Popen(line, env=os.environ | ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for told in process.stderr:
        if told.startswith("baseline, block by block"):
            break
    return process


def rank_of(process: "subprocess.Popen[str]", rank: int) -> psutil.Process:
    (found,) = [each for each in psutil.Process(process.pid).children() if each.environ().get("RANK") == str(rank)]
    return found


@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_killed_rank_ends_the_others(rank: int, bundle: Path, tmp_path: Path) -> None:
    process = started(bundle, tmp_path / "report")
    others = psutil.Process(process.pid).children()
    killed = time.monotonic()
    rank_of(process, rank).kill()
    _, stderr = process.communicate(timeout=SECONDS)
    assert time.monotonic() - killed < 40
    assert process.returncode != 0
    assert f"rank {rank}" in "".join(line for line in stderr.splitlines() if "word" in line), stderr
    assert not any(each.is_running() for each in others)
    assert not (tmp_path / "report").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_who_stops_torchrun_stops_all(number: int, word: str, bundle: Path, tmp_path: Path) -> None:
    process = started(bundle, tmp_path / "report")
    others = psutil.Process(process.pid).children()
    process.send_signal(number)
    _, stderr = process.communicate(timeout=SECONDS)
    assert process.returncode != 0
    assert [line for line in stderr.splitlines() if line.startswith(word)] == [word], stderr
    assert not any(each.is_running() for each in others)


@pytest.mark.parametrize(
    ("endings", "expected"),
    [
        ({0: Ending("error", 2, "glmquant: no"), 1: Ending("error", 2, "glmquant: no")}, (2, "glmquant: no")),
        ({0: Ending("error", 2, "glmquant: no"), 1: Ending("lost", 2, "x")}, (2, "glmquant: no")),
        ({0: Ending("lost", 2, "x"), 1: Ending("error", 70, "glmquant: no")}, (70, "glmquant: rank 1 stopped: no")),
        ({0: Ending("stopped", 143, "terminated"), 1: Ending("lost", 2, "x")}, (143, "terminated")),
        ({0: Ending("stopped", 143, "terminated")}, (143, "terminated; no word of rank 1")),
        ({0: Ending("lost", 2, "x"), 1: Ending("lost", 2, "y")}, (2, "glmquant: the ranks lost each other: x")),
    ],
)
def test_how_all_end_together(endings: dict[int, Ending], expected: tuple[int, str]) -> None:
    assert outcome(endings, 2) == expected


def test_a_rank_that_says_nothing_is_named() -> None:
    code, message = outcome({0: Ending("lost", 2, "x"), 2: Ending("stopped", 143, "terminated")}, 3)
    assert (code, KILLED in message, "rank 1" in message) == (2, True, True)


@follows("start it without torchrun: glmquant {} …")
def test_a_command_that_cannot_share_its_work_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused(lambda: require_ranked("export"), "glmquant export")
    require_ranked("check")
    monkeypatch.delenv("WORLD_SIZE")
    require_ranked("export")


@follows("choose an output directory that every machine has under the same path")
def test_a_machine_that_does_not_see_the_output_says_so(tmp_path: Path) -> None:
    error = refused(lambda: require_seen(tmp_path / "out.partial", Ranks(1, 2)))
    assert "rank 1" in str(error)
    (tmp_path / "out.partial").mkdir()
    require_seen(tmp_path / "out.partial", Ranks(1, 2))
