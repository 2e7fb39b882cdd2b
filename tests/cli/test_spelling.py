"""The library speaks Python, the command line its own spelling of the same names."""

import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperOption

import glmquant as gq
from glmquant.cli.app import app
from glmquant.cli.spelling import NAME, OPTIONS, VERBS, as_told
from glmquant.data.reading import Reading
from glmquant.errors import GlmQuantError, Parameter
from glmquant.recipe.load import parse_override

PACKAGE = Path(gq.__file__).parent
LIBRARY = sorted(path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "cli")
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]

COMMAND_LINE_ONLY = {
    "--ci": "how it prints",
    "--compare": "`compare`'s second model",
    "--debug": "how errors are shown",
    "--encoding": "how `classify` reads its file",
    "--file": "`classify`'s texts, from a file",
    "--help": "Typer's own",
    "--host": "where `serve` listens",
    "--inconclusive": "the exit code",
    "--json": "how it prints",
    "--model": "`run`'s first argument, in 0.1",
    "--plugin": "runs a file that registers methods",
    "--port": "where `serve` listens",
    "--queue": "how many wait for `serve`",
    "--quiet": "how it prints",
    "--raw": "`generate`'s `chat`, the other way round",
    "--report": "`check`'s `out`, in 0.1",
    "--schema": "`recipes`' JSON Schema",
    "--text-field": "what `classify` reads of its file",
    "--train-data": "the recipe's train.data",
    "--verbose": "how it prints",
    "--version": "gq.__version__",
}
LITERAL = {"labels", "prompt", "classifier_head", "adapter", "tools"}
"""Backquoted in errors and no public name: keys of a task, a tensor's name, what `adapter` is to be, a chat template's
tools."""

NAMED_AFTER_A_COMMAND = {
    "recipe/reference.py",  # writes a document for both readers
    "reports/junit.py",  # the test suite in JUnit XML
}


def options() -> Iterator[tuple[str, TyperOption]]:
    for name, command in COMMANDS.items():
        yield from ((name, option) for option in command.params if isinstance(option, TyperOption))


FLAGS = {flag for _, option in options() for flag in option.opts if flag.startswith("--")} | {
    "--debug",
    "--quiet",
    "--version",
}
COMMAND = re.compile(rf"\bglmquant (?:{'|'.join(COMMANDS)})\b")
FLAG = re.compile(rf"(?<![\w-])(?:{'|'.join(FLAGS)})(?![\w-])")


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in LIBRARY:
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def strings(tree: ast.AST) -> Iterator[str]:
    """All text but docstrings, the constant parts of f-strings included."""
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
            yield node.value


def advice(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        for keyword in node.keywords if isinstance(node, ast.Call) else ():
            if keyword.arg in ("expected", "hint"):
                yield from strings(keyword.value)


def test_the_library_names_no_flag_and_no_command() -> None:
    speaking = {name for name, tree in trees() if any(COMMAND.search(s) or FLAG.search(s) for s in strings(tree))}
    assert speaking - NAMED_AFTER_A_COMMAND == set()


def test_names_in_backquotes_are_known_to_the_command_line() -> None:
    found = {(name, word) for name, tree in trees() for text in advice(tree) for word in NAME.findall(text)}
    assert {(name, word) for name, word in found if word not in {*VERBS, *OPTIONS, *LITERAL}} == set()
    assert any(word in VERBS for _, word in found)


PYTHON_ALONE = {"recipes"}
"""Of ``compare_recipes``, which is no command."""


def test_parameters_named_in_errors_are_known_to_the_command_line() -> None:
    named = set()
    for _, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Parameter":
                named |= {arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)}
    assert "device" in named
    assert named - PYTHON_ALONE <= set(OPTIONS)


def test_every_option_is_a_parameter_or_the_command_lines_own() -> None:
    assert FLAGS | {"--help"} == set(OPTIONS.values()) | set(COMMAND_LINE_ONLY)


def test_every_name_in_the_table_is_public() -> None:
    verbs = [getattr(gq, name) for name in gq.__all__ if name.islower()]
    parameters = {name for verb in (*verbs, gq.GenerationOptions) for name in inspect.signature(verb).parameters}
    assert set(OPTIONS) - parameters == set()
    assert set(VERBS) - {"recipes"} <= set(gq.__all__)
    assert {verb.replace("_", "-") for verb in VERBS} <= set(COMMANDS)


@pytest.mark.parametrize(
    ("error", "python", "command_line"),
    [
        (GlmQuantError("no", where=Parameter("device", "cuda")), "where: device='cuda'", "where: --device cuda"),
        (GlmQuantError("no", where=Parameter("memory_limit")), "where: memory_limit", "where: --memory-limit"),
        (
            GlmQuantError("no", hint="use `train_classifier`, and give it as `calibration`"),
            "hint: use `train_classifier`, and give it as `calibration`",
            "hint: use `glmquant train-classifier`, and give it as `--calibration`",
        ),
        (GlmQuantError("no", expected="what `run` wrote"), "what `run` wrote", "what `glmquant run` wrote"),
        (GlmQuantError("no", hint="run `cp -rL`"), "hint: run `cp -rL`", "hint: run `cp -rL`"),
        (GlmQuantError("no", where="check.text"), "where: check.text", "where: check.text"),
        (
            GlmQuantError("no", hint="give more text, or set calibration.num_samples=26"),
            "or set calibration.num_samples=26",
            "or give --set calibration.num_samples=26",
        ),
        (GlmQuantError("a `run` of 3"), "a `run` of 3", "a `run` of 3"),
    ],
)
def test_one_error_in_both_spellings(error: GlmQuantError, python: str, command_line: str) -> None:
    assert python in str(error)
    assert command_line in as_told(error)
    assert len(as_told(error).splitlines()) == len(str(error).splitlines())


IMPERATIVES = (
    *("Answer", "Calibrate", "Chat", "Check", "Classify", "Compare", "Compute", "Continue", "Divide", "Estimate"),
    *(
        "Export",
        "Generate",
        "Keep",
        "Let",
        "Limit",
        "List",
        "Listen",
        "Log",
        "Make",
        "Measure",
        "Merge",
        "Override",
        "Penalize",
    ),
    *(
        "Print",
        "Publish",
        "Quantize",
        "Read",
        "Render",
        "Run",
        "Sample",
        "Seed",
        "Serve",
        "Show",
        "Start",
        "Stop",
        "Tell",
    ),
    *("Train", "Treat", "Upload", "Use", "Write"),
)


def test_every_help_starts_with_a_verb_in_the_imperative() -> None:
    helps = [command.help for command in COMMANDS.values()]
    helps += [parameter.help for command in COMMANDS.values() for parameter in command.params]
    assert [text for text in helps if (text or "").split(" ")[0].strip(",") not in IMPERATIVES] == []


def test_nothing_but_the_command_line_prints_or_exits() -> None:
    found = []
    for name, tree in trees():
        for node in ast.walk(tree):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called in ("print", "input", "exit", "quit", "sys.exit", "os._exit", "Console"):
                found.append(f"{name}: {called}")
    assert found == []


@pytest.mark.parametrize(
    ("value", "path"),
    [("review text", "my reviews.jsonl"), ("it's", "a, b.csv"), ("$HOME", "[x].csv"), ("1", "no.csv")],
)
def test_a_setting_that_is_copied_into_a_shell_says_the_same_there(value: str, path: str) -> None:
    for section in ("calibration", "check.tasks"):
        advice = Reading(section).advice("text_field", value, Path(path))
        told = as_told(GlmQuantError("no text", hint=f"{advice}; or give another file"))
        words = shlex.split(told.rpartition("hint: ")[2])
        key, given = parse_override(words[2].removesuffix(";"))
        if section == "calibration":
            assert (words[:2], key, given) == (["give", "--set"], "calibration.text_field", value)
        else:
            assert (key, given) == ("check.tasks", [{"data": path, "text_field": value}])
