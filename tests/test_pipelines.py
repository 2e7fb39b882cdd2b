"""The pipelines as published, each run as its runner would: in an empty repository, passing and failing."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

import glmquant as gq
from glmquant import assets
from glmquant.cli.endings import BAD_INPUT, FAULT, INTERRUPTED, TERMINATED
from glmquant.cli.verdict import EXIT_CODES
from glmquant.recipe.load import parse_override
from tests.support.classifiers import golden_classifier
from tests.support.github import Runner, read, shell

ROOT = Path(__file__).parents[1]
PUBLISHED = ("action.yml", "ci", "constraints.txt", "pyproject.toml", "README.md", "LICENSE", "LICENSES", "glmquant")
LITTLE = "check.num_tokens=512\ncheck.seq_len=64\ncheck.limits.mean_kl=2"
WIDE = f"{LITTLE}\ncheck.limits.perplexity_ratio=2"
STRICT = f"{LITTLE}\ncheck.limits.mean_kl=0.001\ncheck.against.mean_kl_rise=0.001"
LABELS = ("one", "two", "three")
DEMO = {
    "model": "my model",
    "recipe": "int8-rtn",
    "calibration-text": "",
    "check-text": "what's held out.txt",
    "set": LITTLE,
}
PULL_REQUEST = "refs/pull/1/merge"
CLASSIFIER = {
    "model": "model",
    "recipe": "classifier-int8",
    "check-text": "",
    "calibration-text": "",
    "task": "test.jsonl",
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This checkout as a repository of its own, changes that are not committed included."""
    directory = tmp_path_factory.mktemp("published") / "glmquant"
    for name in PUBLISHED:
        source, target = ROOT / name, directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q", "-b", "main"], ["add", "."], [*identity, "commit", "-qm", "all"]):
        subprocess.run(["git", "-C", str(directory), *command], check=True)
    return directory


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``ci/install.sh`` makes, of the libraries that are here; itself it runs in the slow test alone."""
    directory = tmp_path_factory.mktemp("environment") / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
    libraries = next(path for path in sys.path if path.endswith("site-packages"))
    (site,) = directory.glob("lib/python*/site-packages")
    (site / "here.pth").write_text(f"{ROOT}\n{libraries}\n")
    command = directory / "bin" / "glmquant"
    command.write_text(f"#!{directory}/bin/python\nfrom glmquant.__main__ import main\nmain()\n")
    command.chmod(0o755)
    return directory


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of a classifier, and of texts labeled as its float model would."""
    directory = tmp_path_factory.mktemp("classifier")
    golden_classifier(directory, "chatglm2-tiny", LABELS).rename(directory / "model")
    lines = (assets.DIRECTORY / "reviews.jsonl").read_text(encoding="utf-8").splitlines()[:300]
    texts = [json.loads(line)["text"] for line in lines]
    answers = gq.classify(gq.export(directory / "model", out=directory / "onnx"), texts)
    by_label: dict[str, list[str]] = {}
    for text, answer in zip(texts, answers, strict=True):
        by_label.setdefault(answer.label, []).append(text)
    few = min(map(len, by_label.values()))
    records = [{"text": text, "label": label} for label, found in by_label.items() for text in found[:few]]
    (directory / "test.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    shutil.rmtree(directory / "onnx")
    return directory


def repository(directory: Path) -> Path:
    """Nothing but a model and a text, with names that a shell and YAML would take apart."""
    directory.mkdir(parents=True)
    (directory / "my model").symlink_to(assets.DEMO_MODEL)
    text = (assets.DIRECTORY / "held-out-en.txt").read_bytes()[-40_000:]
    (directory / "what's held out.txt").write_bytes(text)
    return directory


@pytest.fixture(scope="module")
def on_main(tmp_path_factory: pytest.TempPathFactory, published: Path, environment: Path) -> Runner:
    """A run of the workflow on the main branch, which passes."""
    directory = tmp_path_factory.mktemp("github")
    workspace = repository(directory / "main")
    runner = Runner(workspace, published, directory / "store", "refs/heads/main", environment)
    runner.job(ROOT / "ci" / "github.yml", DEMO)
    return runner


def pull_request(main: Runner, directory: Path, **inputs: str) -> Runner:
    """A run for a pull request, with the caches of the main branch's run."""
    store = directory / "store"
    shutil.copytree(main.store, store)
    runner = Runner(repository(directory / "work"), main.published, store, PULL_REQUEST, main.environment, "2")
    runner.job(ROOT / "ci" / "github.yml", DEMO | inputs)
    return runner


def limits(junit: Path) -> dict[str, str]:
    """How each test case of a JUnit file ended."""
    cases = ElementTree.parse(junit).getroot().iter("testcase")
    ends = {"failure", "skipped"}
    return {case.attrib["name"]: ({part.tag for part in case} & ends or {"pass"}).pop() for case in cases}


def test_the_workflow_passes_and_keeps_what_pull_requests_need(on_main: Runner) -> None:
    assert not on_main.failed, on_main.log
    expected = {"verdict": "pass", "exit-code": "0", "report": "glmquant-out/report", "bundle": "glmquant-out/onnx"}
    assert on_main.outputs == expected
    assert on_main.summary.startswith("# Accuracy check: ✅ pass")
    assert "::error" not in on_main.log
    artifact = on_main.store / "artifacts" / "glmquant-report"
    assert {"report.html", "report.json", "report.md", "junit.xml"} == {path.name for path in artifact.iterdir()}
    assert set(limits(artifact / "junit.xml").values()) == {"pass", "skipped"}
    kept = sorted(path.name.split("%")[1] for path in (on_main.store / "caches").iterdir())
    assert kept == ["answers", "report"]
    assert "baseline, block by block" in on_main.log


def test_a_pull_request_that_loses_accuracy_fails(on_main: Runner, tmp_path: Path) -> None:
    runner = pull_request(on_main, tmp_path, recipe="int4-g128-rtn", set=STRICT, against="main")
    assert runner.failed
    assert runner.outputs["verdict"] == "fail"
    assert runner.outputs["exit-code"] == "1"
    annotated = [line for line in runner.log.splitlines() if line.startswith("::error ")]
    assert any(line.startswith("::error title=mean_kl of text%3A fail::") for line in annotated)
    assert any("against.mean_kl_rise of text%3A fail" in line for line in annotated)
    assert runner.summary.startswith("# Accuracy check: ❌ fail")
    assert "## Beside the main branch" in runner.summary
    assert "baseline, block by block" not in runner.log, "the float model's answers were kept"
    artifact = runner.store / "artifacts" / "glmquant-report"
    assert (artifact / "comparison.html").is_file()
    assert limits(artifact / "junit.xml")["mean_kl"] == "failure"
    assert len(list((runner.store / "caches").iterdir())) == 2, "only the main branch's report is kept"


def test_a_pull_request_without_a_model_fails_at_once(on_main: Runner, tmp_path: Path) -> None:
    runner = pull_request(on_main, tmp_path, model="./nothing")
    assert runner.failed
    assert runner.outputs == {"verdict": "", "exit-code": "2", "report": "", "bundle": ""}
    assert runner.summary == ""
    assert any(line.startswith("::error title=glmquant::") and "nothing" in line for line in runner.log.splitlines())


@pytest.mark.slow
def test_a_pull_request_with_other_texts_is_not_compared_and_passes(on_main: Runner, tmp_path: Path) -> None:
    runner = pull_request(on_main, tmp_path, **{"check-text": "glmquant:held-out-zh.txt", "upload-bundle": "true"})
    assert not runner.failed, runner.log
    assert "::warning title=glmquant::not compared with the main branch" in runner.log
    assert (runner.store / "artifacts" / "glmquant-bundle" / "model.onnx").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("accuracy", "code"), [("0.5", "0"), ("1", "1")])
def test_the_workflow_on_a_classifier(
    accuracy: str, code: str, classifier: Path, published: Path, environment: Path, tmp_path: Path
) -> None:
    shutil.copytree(classifier, tmp_path / "work")
    runner = Runner(tmp_path / "work", published, tmp_path / "store", PULL_REQUEST, environment)
    runner.job(ROOT / "ci" / "github.yml", CLASSIFIER | {"set": limits_of_accuracy(accuracy)})
    assert runner.outputs["exit-code"] == code, runner.log


def limits_of_accuracy(lowest: str) -> str:
    return f"check.limits={{accuracy: {{value: {lowest}, on: estimate}}, accuracy_drop: 0.5}}"


class Server(SimpleHTTPRequestHandler):
    """GitLab's API, as far as the job asks: one file, for those who have the job's token."""

    def do_GET(self) -> None:
        wanted = "/projects/7/jobs/artifacts/main/raw/glmquant-out/report/report.json?job=quantize"
        if self.path != wanted or self.headers["JOB-TOKEN"] != "secret":
            self.send_error(404)
            return
        self.path = "/report.json"
        super().do_GET()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def gitlab(on_main: Runner) -> Iterator[str]:
    """Address of its API, which has the main branch's report."""
    directory = on_main.workspace / "glmquant-out" / "report"
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=str(directory))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def run_gitlab(
    workspace: Path, published: Path, environment: Path | None, api: str, **variables: str
) -> tuple[int, str, Mapping[str, Any]]:
    """Exit code of the job, what its scripts said, and the job."""
    (job,) = read(ROOT / "ci" / "gitlab.yml").values()
    predefined = {"CI_PROJECT_DIR": str(workspace), "CI_PROJECT_ID": "7", "CI_JOB_NAME": "quantize", "CI": "true"}
    predefined |= {"CI_DEFAULT_BRANCH": "main", "CI_JOB_TOKEN": "secret", "CI_API_V4_URL": api, "no_proxy": "127.0.0.1"}
    given = job["variables"] | {"GLMQUANT_REPOSITORY": f"file://{published}"} | variables
    given = predefined | {name: value.replace("$CI_PROJECT_DIR", str(workspace)) for name, value in given.items()}
    steps = [*job["before_script"], *job["script"]]
    if environment is not None:
        (workspace / ".cache").mkdir(exist_ok=True)
        (workspace / ".cache" / "environment").symlink_to(environment)
        steps = [step for step in steps if "ci/install.sh" not in step]
    done = shell("\n".join(steps), workspace, given)
    after = shell("\n".join(job["after_script"]), workspace, given)
    return done.returncode, done.stdout + done.stderr + after.stdout + after.stderr, job


def test_the_gitlab_job_passes(on_main: Runner, published: Path, environment: Path, tmp_path: Path) -> None:
    workspace = with_answers(on_main, tmp_path / "work")
    settings = {"MODEL": "my model", "RECIPE": "int8-rtn", "CHECK_TEXT": "what's held out.txt"}
    settings |= {"CALIBRATION_TEXT": "", "OVERRIDES": LITTLE}
    code, said, job = run_gitlab(workspace, published, environment, "http://127.0.0.1:9", **settings)
    assert code == 0, said
    assert "not compared with main" in said
    report = workspace / job["artifacts"]["reports"]["junit"]
    assert set(limits(report).values()) == {"pass", "skipped"}
    assert [f"{report.relative_to(workspace).parent}/"] == job["artifacts"]["paths"]


def with_answers(main: Runner, directory: Path) -> Path:
    """A repository where the cache has what the float model said on the main branch."""
    (answers,) = (main.store / "caches").glob("*answers*")
    shutil.copytree(answers, repository(directory) / ".cache" / "answers")
    return directory


@pytest.mark.slow
def test_the_gitlab_job_passes_on_a_classifier(
    classifier: Path, published: Path, environment: Path, tmp_path: Path, gitlab: str
) -> None:
    shutil.copytree(classifier, tmp_path / "work")
    settings = {"CHECK_TEXT": "", "CALIBRATION_TEXT": "", "TASK": "test.jsonl", "RECIPE": "classifier-int8"}
    settings["OVERRIDES"] = limits_of_accuracy("0.5")
    code, said, job = run_gitlab(tmp_path / "work", published, environment, gitlab, **settings)
    assert code == 0, said
    report = tmp_path / "work" / job["artifacts"]["reports"]["junit"]
    assert limits(report) == {"accuracy": "pass", "accuracy_drop": "pass"}


def test_the_gitlab_job_fails_where_accuracy_is_lost(
    on_main: Runner, published: Path, environment: Path, tmp_path: Path, gitlab: str
) -> None:
    workspace = with_answers(on_main, tmp_path / "work")
    settings = {"MODEL": "my model", "RECIPE": "int4-g128-rtn", "CHECK_TEXT": "what's held out.txt"}
    settings |= {"CALIBRATION_TEXT": "", "OVERRIDES": STRICT}
    code, said, job = run_gitlab(workspace, published, environment, gitlab, **settings)
    assert code == 1, said
    assert limits(workspace / job["artifacts"]["reports"]["junit"])["mean_kl"] == "failure"
    assert "::error" not in said
    assert "baseline, block by block" not in said
    assert (workspace / "glmquant-out" / "report" / "comparison.html").is_file()


def test_an_inconclusive_gitlab_job_is_a_warning_and_nothing_else_is() -> None:
    (job,) = read(ROOT / "ci" / "gitlab.yml").values()
    assert job["allow_failure"] == {"exit_codes": "3"}


def run_script(directory: Path, **variables: str) -> list[str]:
    """The arguments that ``ci/quantize.sh`` gives glmquant."""
    (directory / "bin").mkdir(exist_ok=True)
    stub = directory / "bin" / "glmquant"
    stub.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    stub.chmod(0o755)
    done = shell(str(ROOT / "ci" / "quantize.sh"), directory, {"GLMQUANT_ENVIRONMENT": str(directory), **variables})
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_names_of_files_reach_the_recipe_as_they_are(tmp_path: Path) -> None:
    names = ["it's", 'a "b"', "$(touch x) `touch x`", "- [a, b]: {c}", "文本.txt", "back\\slash"]
    given = dict.fromkeys(("CALIBRATION_TEXT", "CHECK_TEXT", "TASK"), "\n".join(["", *names, ""]))
    arguments = run_script(tmp_path, MODEL="a model", **given)
    overrides = dict(parse_override(each) for name, each in pairwise(arguments) if name == "--set")
    assert overrides == {
        "calibration.data": names,
        "check.text": names,
        "check.tasks": [{"data": name} for name in names],
    }
    assert arguments[:6] == ["run", "a model", "--recipe", "int4-g128-gptq", "--out", "glmquant-out"]
    assert not (tmp_path / "x").exists()


def test_every_variable_of_the_scripts_is_told_and_set_by_the_action() -> None:
    steps = {step["name"]: step for step in read(ROOT / "action.yml")["runs"]["steps"]}
    for script, step in (("quantize.sh", "Run"), ("install.sh", "Install")):
        text = (ROOT / "ci" / script).read_text(encoding="utf-8")
        head, _, body = text.partition("set -euo pipefail")
        told = set(re.findall(r"[A-Z_]+", " ".join(re.findall(r"^# ([A-Z_, ]+)  ", head, re.MULTILINE))))
        used = {name for name in told if f"${{{name}" in body or f"${name}" in body}
        assert told == used
        given = set(steps[step]["env"]) - {"PIP_CACHE_DIR"}
        assert given | {"GLMQUANT"} == told | {"GLMQUANT"}


DOCUMENT = (ROOT / "docs" / "pipelines.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
LESS = {"num_samples=32": "num_samples=2", "seq_len=512": "seq_len=32", "check.num_tokens=16384": WIDE}


def test_the_documents_lines_run_on_any_runner(on_main: Runner, environment: Path, tmp_path: Path) -> None:
    (tmp_path / "glmquant").symlink_to(on_main.published)
    (tmp_path / "chatglm2-6b").symlink_to(assets.DEMO_MODEL)
    (tmp_path / "environment").symlink_to(environment)
    (tmp_path / "held_out.txt").symlink_to(on_main.workspace / "what's held out.txt")
    (tmp_path / "zh_en.txt").symlink_to(assets.CALIBRATION_TEXT)
    lines, compare = (body for kind, body in BLOCKS if kind == "bash")
    lines = lines.replace("glmquant/ci/install.sh environment\n", "")
    for words, fewer in LESS.items():
        assert words in lines
        lines = lines.replace(words, fewer)
    done = shell(lines, tmp_path, {})
    assert done.returncode == 0, done.stderr
    shutil.copytree(tmp_path / "out" / "report", tmp_path / "main" / "report")
    assert shell(compare, tmp_path, {}).returncode == 0
    assert (tmp_path / "comparison.html").is_file()


def test_the_documents_steps_use_inputs_that_there_are() -> None:
    inputs = read(ROOT / "action.yml")["inputs"]
    (block,) = [body for kind, body in BLOCKS if kind == "yaml"]
    (step,) = yaml.safe_load(block)
    assert set(step["with"]) <= set(inputs)
    named = re.findall(r"`([a-z]+(?:-[a-z]+)+|against|inconclusive): ", DOCUMENT)
    assert {"against", "inconclusive", "upload-bundle"} <= set(named) <= set(inputs)


def test_every_exit_code_is_in_the_documents_table() -> None:
    rows = re.findall(r"^\| ([\d, ]+) \| (.*?) \| (\w+)", DOCUMENT, re.MULTILINE)
    told = {int(code): step for codes, _, step in rows for code in codes.split(", ")}
    codes = {*EXIT_CODES.values(), BAD_INPUT, FAULT, INTERRUPTED, TERMINATED}
    assert told == {code: "fails" if code else "passes" for code in codes}


@pytest.mark.slow
def test_the_gitlab_job_with_its_installation(published: Path, tmp_path: Path) -> None:
    """Nothing but the scripts: a checkout, an environment of its own, all dependencies from pip's own index."""
    workspace = repository(tmp_path / "work")
    settings = {"MODEL": "my model", "RECIPE": "int8-rtn", "CHECK_TEXT": "what's held out.txt", "CALIBRATION_TEXT": ""}
    settings |= {"OVERRIDES": LITTLE, "TORCH_INDEX_URL": os.environ.get("TORCH_INDEX_URL", "")}
    code, said, _ = run_gitlab(workspace, published, None, "http://127.0.0.1:9", **settings)
    assert code == 0, said
    assert "✅ pass: onnx" in said
