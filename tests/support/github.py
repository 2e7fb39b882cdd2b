"""GitHub's runner, as far as the project's templates need it: a job's steps and those of composite actions, with the
variables, files and expressions that it gives them. Actions of GitHub's own are played by a directory."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*}}")
TOKEN = re.compile(r"'[^']*'|[\w.-]+|&&|\|\||==|!=|!|[(),]")
OPERATORS = {"&&": " and ", "||": " or ", "!": " not "}
FUNCTIONS = ("always", "success", "failure", "format")


def read(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)


def shell(script: str, directory: Path, variables: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """A script as runners start it, with nothing of the test's own environment but where programs are."""
    mine = str(Path(sys.executable).parent)
    path = os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if part != mine)
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    environment = {"PATH": path, "HOME": str(directory), "OMP_NUM_THREADS": "1", **variables}
    environment |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)


@dataclass
class Runner:
    """One job in one workspace.

    Attributes:
        workspace: of the repository whose workflow runs.
        published: checkout of glmquant that ``actions/checkout`` gives for another repository.
        store: directory of caches and artifacts, shared by runs.
        environment: what stands in for the step that installs; None runs that step.
    """

    workspace: Path
    published: Path
    store: Path
    ref: str
    environment: Path | None
    run_id: str = "1"
    log: str = ""
    failed: bool = False
    outputs: dict[str, str] = field(default_factory=dict)
    summary: str = ""

    def __post_init__(self) -> None:
        self.temp = self.workspace.with_name(f"{self.workspace.name}-temp")
        self.temp.mkdir()
        self._after: list[Callable[[], None]] = []

    def job(self, workflow: Path, inputs: Mapping[str, str]) -> None:
        """The one job of a workflow, with further inputs for the action it uses."""
        (job,) = read(workflow)["jobs"].values()
        steps = [
            step | {"with": step["with"] | inputs} if step.get("id") == "glmquant" else step for step in job["steps"]
        ]
        self.outputs = self._steps(steps, {}, self.workspace).get("glmquant", {})
        for save in reversed(self._after):
            save()

    def _steps(self, steps: list[Any], inputs: Mapping[str, str], action: Path) -> dict[str, dict[str, str]]:
        done: dict[str, dict[str, str]] = {}
        for step in steps:
            condition = str(step.get("if", "")).removeprefix("${{").removesuffix("}}").strip()
            context = {"inputs": inputs, "steps": {name: {"outputs": each} for name, each in done.items()}}
            if not self._holds(condition, context):
                continue
            given = {name: self._filled(str(value), context) for name, value in step.get("with", {}).items()}
            if "run" in step:
                variables = {name: self._filled(value, context) for name, value in step.get("env", {}).items()}
                outputs = self._run(step, variables, action)
            elif step["uses"].startswith("./"):
                outputs = self._composite(self.workspace / step["uses"], given)
            else:
                outputs = self._use(step["uses"].partition("@")[0], given)
            done[step.get("id", str(len(done)))] = outputs
        return done

    def _composite(self, directory: Path, given: Mapping[str, str]) -> dict[str, str]:
        action = read(directory / "action.yml")
        assert set(given) <= set(action["inputs"])
        inputs = {name: given.get(name, spec.get("default", "")) for name, spec in action["inputs"].items()}
        done = self._steps(action["runs"]["steps"], inputs, directory)
        context = {"steps": {name: {"outputs": each} for name, each in done.items()}}
        return {name: self._filled(spec["value"], context) for name, spec in action["outputs"].items()}

    def _run(self, step: Any, variables: Mapping[str, str], action: Path) -> dict[str, str]:
        if step["name"] == "Install" and self.environment is not None:
            (self.temp / "glmquant").mkdir(exist_ok=True)
            (self.temp / "glmquant" / "environment").symlink_to(self.environment)
            return {}
        files = {name: self.temp / name for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
        for path in files.values():
            path.write_text("")
        github = {"GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": str(self.workspace), "GITHUB_ACTION_PATH": str(action)}
        github |= {"RUNNER_TEMP": str(self.temp), "CI": "true", **{name: str(path) for name, path in files.items()}}
        done = shell(step["run"], self.workspace, github | variables)
        self.log += done.stdout + done.stderr
        self.failed = self.failed or done.returncode != 0
        self.summary += files["GITHUB_STEP_SUMMARY"].read_text(encoding="utf-8")
        return dict(line.split("=", 1) for line in files["GITHUB_OUTPUT"].read_text(encoding="utf-8").splitlines())

    def _use(self, name: str, given: Mapping[str, str]) -> dict[str, str]:
        if name == "actions/setup-python":
            return {"python-path": sys.executable}
        if name == "actions/checkout":
            if "repository" in given:
                shutil.copytree(self.published, self.workspace / given["path"])
            return {}
        if name == "actions/upload-artifact":
            shutil.copytree(
                self.workspace / given["path"], self.store / "artifacts" / given["name"], dirs_exist_ok=True
            )
            return {}
        kept, path = self.store / "caches" / given["key"].replace("/", "%"), Path(given["path"])
        if name == "actions/cache/save":
            self._save(path, kept)
            return {}
        assert name in ("actions/cache", "actions/cache/restore")
        if name == "actions/cache" and not kept.exists():
            self._after.append(lambda: None if self.failed else self._save(path, kept))
        prefix = given.get("restore-keys", "").replace("/", "%")
        older = sorted(kept.parent.glob(f"{prefix}*"), key=os.path.getmtime) if prefix else []
        for found in [kept, *reversed(older)]:
            if found.exists():
                shutil.copytree(found, path)
                return {"cache-hit": str(found == kept).lower()}
        return {}

    def _save(self, path: Path, kept: Path) -> None:
        if path.exists() and not kept.exists():
            shutil.copytree(path, kept)

    def _holds(self, condition: str, context: Mapping[str, Any]) -> bool:
        status = re.search(r"\b(always|success|failure)\(", condition)
        if self.failed and status is None:
            return False
        return not condition or bool(self._value(condition, context))

    def _filled(self, text: str, context: Mapping[str, Any]) -> str:
        return EXPRESSION.sub(lambda found: str(self._value(found[1], context)), text)

    def _value(self, expression: str, context: Mapping[str, Any]) -> Any:
        """An expression of operators, functions and names; a name that is not there is empty."""
        values: dict[str, Any] = {
            **context,
            "github": {"ref": self.ref, "run_id": self.run_id, "run_attempt": "1"},
            "runner": {"temp": str(self.temp), "os": "Linux", "arch": "X64"},
        }

        def look(name: str) -> Any:
            found: Any = values
            for part in name.split("."):
                found = found.get(part, "") if isinstance(found, Mapping) else ""
            return found

        def word(token: str) -> str:
            if token in OPERATORS or token in ("==", "!=", "(", ")", ",") or token in FUNCTIONS:
                return OPERATORS.get(token, token)
            return repr(token[1:-1]) if token.startswith("'") else f"look({token!r})"

        assert TOKEN.sub("", expression).strip() == "", expression
        functions = {"always": lambda: True, "success": lambda: not self.failed, "failure": lambda: self.failed}
        code = "".join(map(word, TOKEN.findall(expression)))
        return eval(code, {"look": look, "format": lambda text, *values: text.format(*values), **functions})
