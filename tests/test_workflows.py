"""The repository's own workflows and templates: well formed, bounded, least privileged, and naming what exists."""

import re
import shlex
import subprocess
import sys
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted(GITHUB.glob("workflows/*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WRITES = {
    "release.yml: publish": {"id-token": "write"},
    "release.yml: notes": {"contents": "write"},
    "release.yml: pages": {"pages": "write", "id-token": "write"},
}


def read(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)


def jobs() -> dict[str, dict[str, Any]]:
    return {f"{path.name}: {name}": job for path in WORKFLOWS for name, job in read(path)["jobs"].items()}


def scripts() -> list[str]:
    return [step["run"] for job in jobs().values() for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("path", sorted(GITHUB.rglob("*.yml")), ids=lambda path: path.name)
def test_every_file_is_yaml_with_content(path: Path) -> None:
    assert isinstance(read(path), dict)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_read_and_no_more(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["group"]


def test_jobs_end_in_bounded_time_and_write_only_where_they_publish() -> None:
    for name, job in jobs().items():
        assert 0 < int(job["timeout-minutes"]) <= 120, name
        assert job.get("permissions", {}) == WRITES.get(name, {}), name
    assert WRITES.keys() <= jobs().keys()
    assert jobs()["release.yml: publish"]["environment"] == "release"


def test_what_the_jobs_run_is_there() -> None:
    words = {word for script in scripts() for word in script.split()}
    named = {word for word in words if re.match(r"\.(ci|github)/", word)}
    assert {".ci/run", ".github/release_notes.py"} <= named
    assert [word for word in named if not (ROOT / word).is_file()] == []
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    for script in scripts():
        for constraints in re.findall(r"-c (\S+\.txt)", script):
            assert (ROOT / constraints).is_file()


def test_every_glmquant_command_of_the_jobs_parses() -> None:
    from typer.main import get_command

    from glmquant.cli.app import app

    called = [
        shlex.split(line)[1:]
        for script in scripts()
        for line in script.splitlines()
        if re.match(r'"?\S*glmquant"? ', line) and "/assets" not in line
    ]
    assert ["--version"] in called
    assert sum(arguments[0] == "demo" for arguments in called) == 3
    command = get_command(app)
    for arguments in called:
        if arguments[0] == "demo":
            command.commands["demo"].make_context("demo", arguments[1:])  # type: ignore[attr-defined]
        else:
            assert CliRunner().invoke(app, arguments).exit_code == 0


def test_the_site_is_built_with_what_the_extra_names_and_published_after_the_package() -> None:
    (wanted,) = PROJECT["optional-dependencies"]["docs"]
    for name in ("ci.yml: site", "release.yml: site"):
        runs = [step["run"] for step in jobs()[name]["steps"] if "run" in step]
        assert runs == [f"python -m pip install '{wanted}'", "mkdocs build --strict"]
    assert jobs()["release.yml: pages"]["needs"] == ["site", "publish"]


def test_pythons_and_systems_are_those_the_project_promises() -> None:
    tested = jobs()["ci.yml: test"]["strategy"]["matrix"]["python"]
    promised = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert tested == promised
    assert f">={tested[0]}" == PROJECT["requires-python"]
    assert jobs()["ci.yml: smoke"]["strategy"]["matrix"]["os"] == ["macos-latest", "windows-latest"]


ADDRESS = re.compile(r"github\.com/([\w.-]+/glmquant)\b|repository: ([\w.-]+/glmquant)\b")


def addresses() -> dict[str, list[str]]:
    """Where the project's files name a repository of glmquant, and which."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    found = {}
    for name in filter(None, listed.stdout.split("\0")):
        with suppress(UnicodeDecodeError, FileNotFoundError):
            named = ADDRESS.findall((ROOT / name).read_text(encoding="utf-8"))
            found[name] = [first or second for first, second in named]
    return {name: named for name, named in found.items() if named}


def test_the_repositorys_address_stands_in_pyproject_and_where_a_file_cannot_look_it_up() -> None:
    repository = PROJECT["urls"]["Repository"].removeprefix("https://github.com/")
    found = addresses()
    assert {name for named in found.values() for name in named} == {repository}
    once = (
        *("ci/github.yml", "ci/gitlab.yml", "glmquant/cli/endings.py", "mkdocs.yml"),
        ".github/ISSUE_TEMPLATE/config.yml",
    )
    assert {name: len(named) for name, named in found.items()} == dict.fromkeys(once, 1) | {"pyproject.toml": 3}


SCHEMAS = {
    "github-actions": [ROOT / "action.yml"],
    "github-workflows": [ROOT / "ci" / "github.yml", *WORKFLOWS],
    "gitlab-ci": [ROOT / "ci" / "gitlab.yml"],
    "dependabot": [GITHUB / "dependabot.yml"],
}


@pytest.mark.parametrize(("schema", "files"), SCHEMAS.items(), ids=SCHEMAS)
def test_every_file_is_what_its_runners_schema_says(schema: str, files: list[Path]) -> None:
    transform = ["--data-transform", "gitlab-ci"] if schema == "gitlab-ci" else []
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *transform]
    done = subprocess.run([*command, *map(str, files)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_template_is_bounded_and_reads_only() -> None:
    workflow = read(ROOT / "ci" / "github.yml")
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["group"]
    assert all(int(job["timeout-minutes"]) for job in workflow["jobs"].values())


def test_nothing_that_a_user_gives_is_pasted_into_a_script() -> None:
    """An expression in ``run`` would be bash; values come through the environment."""
    action = [step["run"] for step in read(ROOT / "action.yml")["runs"]["steps"] if "run" in step]
    assert [script for script in (*action, *scripts()) if "${{" in script] == []


@pytest.mark.parametrize("path", sorted(GITHUB.glob("ISSUE_TEMPLATE/[!c]*.yml")), ids=lambda path: path.name)
def test_issue_forms_have_what_github_demands(path: Path) -> None:
    form = read(path)
    assert form["name"]
    assert form["description"]
    identifiers = [part["id"] for part in form["body"]]
    assert len(set(identifiers)) == len(identifiers)
    assert all(part["attributes"]["label"] for part in form["body"])


def test_bug_reports_ask_for_command_and_versions() -> None:
    form = read(GITHUB / "ISSUE_TEMPLATE" / "bug.yml")
    required = {part["id"] for part in form["body"] if part.get("validations", {}).get("required") == "true"}
    assert {"command", "output", "versions"} <= required


def release_notes(*arguments: str) -> subprocess.CompletedProcess[str]:
    script = [sys.executable, str(GITHUB / "release_notes.py"), *arguments]
    return subprocess.run(script, capture_output=True, text=True, encoding="utf-8", check=False)


def test_release_notes_are_the_changelogs_section() -> None:
    done = release_notes(f"v{PROJECT['version']}")
    assert done.returncode == 0, done.stderr
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert done.stdout.strip() in changelog
    assert "## " not in done.stdout.replace("### ", "")


def test_a_tag_of_another_version_is_refused() -> None:
    done = release_notes("v9.9.9")
    assert done.returncode == 1
    assert f"expected tag v{PROJECT['version']}" in done.stderr


def test_the_license_expression_names_every_license_text() -> None:
    named = set(re.findall(r"[\w.-]+", PROJECT["license"])) - {"AND", "OR"}
    texts = {path.stem for path in (ROOT / "LICENSES").glob("*.txt")} | {"Apache-2.0"}
    assert named == texts
