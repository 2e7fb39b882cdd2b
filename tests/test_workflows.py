"""The repository's own workflows and templates: well formed, bounded, least privileged, and naming what exists."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted(GITHUB.glob("workflows/*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WRITES = {"release.yml: publish": {"id-token": "write"}, "release.yml: notes": {"contents": "write"}}


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


def test_pythons_and_systems_are_those_the_project_promises() -> None:
    tested = jobs()["ci.yml: test"]["strategy"]["matrix"]["python"]
    promised = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert tested == promised
    assert f">={tested[0]}" == PROJECT["requires-python"]
    assert jobs()["ci.yml: smoke"]["strategy"]["matrix"]["os"] == ["macos-latest", "windows-latest"]


def test_every_address_names_one_repository() -> None:
    (repository,) = re.findall(r"uses: (\S+)@main", (ROOT / "ci" / "github.yml").read_text(encoding="utf-8"))
    addresses = [*PROJECT["urls"].values(), read(GITHUB / "ISSUE_TEMPLATE" / "config.yml")["contact_links"][0]["url"]]
    assert all(address.startswith(f"https://github.com/{repository}") for address in addresses)


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
