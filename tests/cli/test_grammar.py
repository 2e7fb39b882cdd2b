"""One grammar: the model first, options anywhere, old spellings with a note, examples that parse."""

import json
import shlex
from pathlib import Path

import pytest
import typer

import glmquant as gq
from glmquant import assets
from glmquant.cli import anywhere
from glmquant.cli.app import app
from glmquant.cli.help import EXAMPLES
from tests.support.paths import CHATGLM2
from tests.test_cli import glmquant

GROUP = typer.main.get_command(app)
COMMANDS = GROUP.commands  # type: ignore[attr-defined]
SMALL = ("--set", "check.num_tokens=256", "--set", "check.seq_len=64")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gq.export(assets.DEMO_MODEL, out=tmp_path_factory.mktemp("demo") / "onnx").path


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_every_example_is_a_line_that_parses(line: str) -> None:
    program, name, *arguments = shlex.split(line.partition(" > ")[0])
    assert program == "glmquant"
    COMMANDS[name].make_context(name, arguments).close()


def test_every_command_has_examples_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(EXAMPLES) == set(COMMANDS)
    for name in COMMANDS:
        assert glmquant(name, "--help") == 0
        told = capsys.readouterr().out
        assert "Example: " in told
        assert "Exit codes: 0 passed" in told


def test_every_command_speaks_json() -> None:
    without = {
        name for name, command in COMMANDS.items() if "--json" not in {o for p in command.params for o in p.opts}
    }
    assert without == set()


def test_the_version_has_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert glmquant("--version") == 0
    assert capsys.readouterr().out == f"glmquant {gq.__version__}\n"


@pytest.mark.parametrize(
    ("line", "moved"),
    [
        ("run m --debug -q", "--debug -q run m"),
        ("--quiet run m", "--quiet run m"),
        ("generate b --debug -- --quiet", "--debug generate b -- --quiet"),
    ],
)
def test_debug_and_quiet_stand_anywhere(line: str, moved: str) -> None:
    assert anywhere.to_the_front(line.split()) == moved.split()


def test_debug_behind_a_command_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert glmquant("inspect", tmp_path / "nowhere", "--debug") == 2
    assert "Traceback" in capsys.readouterr().err


def test_quiet_before_a_command_is_quiet_for_that_one_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert glmquant("-q", "export", assets.DEMO_MODEL, "--out", tmp_path / "a") == 0
    assert capsys.readouterr().err == ""
    assert glmquant("export", assets.DEMO_MODEL, "--out", tmp_path / "b", "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"out": str(tmp_path / "b")}
    assert "exporting: 6 of 6" in captured.err


def test_with_model_runs_argument_is_the_recipe_as_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--out", tmp_path / "out", *SMALL)
    assert glmquant("run", "int8-rtn", "--model", assets.DEMO_MODEL, *given) == 0
    assert "now it is `run MODEL --recipe RECIPE`" in capsys.readouterr().err
    assert glmquant("run", assets.DEMO_MODEL, "--recipe", "int8-rtn", *given) == 0
    told = capsys.readouterr().err
    assert "finished earlier" in told
    assert "old spelling" not in told


def test_checks_report_is_its_out_and_its_old_spelling_works(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check = ("check", bundle, "--baseline", assets.DEMO_MODEL, "--text", assets.DIRECTORY / "held-out-en.txt", *SMALL)
    assert glmquant(*check, "--report", tmp_path / "old") == 4
    assert "now it is `check --out DIR`" in capsys.readouterr().err
    assert (tmp_path / "old" / "report.json").is_file()
    assert glmquant(*check, "--report", tmp_path / "a", "--out", tmp_path / "b") == 2


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_a_run_needs_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert glmquant("run", CHATGLM2, "--out", tmp_path / "out") == 2
    assert "give --recipe" in told(capsys)
    assert glmquant("run", "int8-rtn", "--recipe", "int8-rtn", "--model", CHATGLM2, "--out", tmp_path / "out") == 2
    assert "leave out one" in told(capsys)


@pytest.mark.parametrize("option", ["--recipe", "--model"])
def test_a_recipe_and_a_model_in_each_others_place_are_noticed(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    swapped = (
        ("run", "int8-rtn", "--recipe", CHATGLM2) if option == "--recipe" else ("run", CHATGLM2, "--model", "int8-rtn")
    )
    assert glmquant(*swapped, "--out", tmp_path / "out", "--quiet") == 2
    assert f"hint: swap them: glmquant run {CHATGLM2} --recipe int8-rtn" in told(capsys)
    assert not (tmp_path / "out").exists()


def test_a_bundle_and_its_baseline_in_each_others_place_are_noticed(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert glmquant("check", assets.DEMO_MODEL, "--baseline", bundle, "--quiet") == 2
    assert f"hint: swap them: glmquant check {bundle} --baseline {assets.DEMO_MODEL}" in told(capsys)


def test_an_answer_is_one_line_of_json(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert glmquant("generate", bundle, "Debian", "--raw", "--max-new-tokens", 4, "--json") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["answer"]


def test_a_shell_completes_names_of_recipes() -> None:
    (option,) = [p for p in COMMANDS["run"].params if p.name == "recipe"]
    with COMMANDS["run"].make_context("run", ["m", "--out", "o"]) as context:
        completed = {item.value for item in option.shell_complete(context, "int4-g128-g")}
    assert completed == {"int4-g128-gptq", "int4-g128-gptq-fast"}


def test_recipes_are_listed_with_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert glmquant("recipes") == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("int4-g128-gptq ")]
    assert line.split()[1:] == ["4.135", "bits", "1.0532", "(1.0476", "to", "1.0589)", "0.0695", "47"]
    assert any(line.startswith("moe-int4-g128 ") and "not measured" in line for line in lines)
    assert glmquant("recipes", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in listed] == [*gq.packaged_recipes()]


@pytest.mark.parametrize("name", gq.packaged_recipes())
def test_a_recipe_in_full_is_the_same_recipe(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert glmquant("recipes", name) == 0
    (tmp_path / "full.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
    assert gq.load_recipe(tmp_path / "full.yaml") == gq.load_recipe(name)
    assert "num_samples" in (tmp_path / "full.yaml").read_text(encoding="utf-8")


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert glmquant("recipes", "--schema") == 0
    assert json.loads(capsys.readouterr().out)["title"] == "A recipe of glmquant"
    assert glmquant("recipes", "int4-g128-gtpq") == 2
    assert "int4-g128-gptq" in told(capsys)
