"""What files say is shown and never acted on, whichever way it is shown."""

import ast
import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

import glmquant
from glmquant.api import inspect
from glmquant.cli import printing
from glmquant.cli.endings import tell
from glmquant.cli.rendering import summary_text
from glmquant.cli.terminal import progress_on_stderr
from glmquant.errors import CheckpointError, Parameter
from glmquant.inert import InertStream, inert, inert_line, inert_markdown
from glmquant.live import shown
from glmquant.reports.ending import in_short
from glmquant.reports.html import to_html
from glmquant.reports.junit import to_junit
from glmquant.reports.markdown import to_markdown
from tests.support.models import GOLDEN
from tests.support.paths import copied
from tests.support.reports import report

PACKAGE = Path(glmquant.__file__).parent
ACTED_ON = {
    "color": "\x1b[31mred",
    "C1 of the same": "\x9b31mred",
    "title": "\x1b]0;title\x07",
    "carriage return": "honest\rother",
    "backspace": "a\b\b\b",
    "delete": "a\x7f",
    "override": "\u202egnp.exe",
    "isolate": "\u2066x",
    "separator": "a\u2028::error::b",
    "next line": "a\x85::error::b",
    "form feed": "a\f::error::b",
    "GitHub": "::error::pwned",
    "GitHub, behind blanks": "x\n \t::set-output name=a::b",
    "GitHub, before": "a ##[error]b",
    "Azure": "a ##vso[task.complete]b",
    "TeamCity": "##teamcity[buildStatus]",
    "all": "x\n::error::pwned\x1b[31m\n##[add-mask]y",
}


def is_inert(text: str) -> bool:
    """By another way than the package's."""
    lines = text.splitlines()
    commands = any(line.lstrip().startswith("::") for line in lines)
    commands = commands or any(start in text.lower() for start in ("##[", "##vso[", "##teamcity["))
    printable = all(char in "\n\t" or (char.isprintable() or char.isspace()) for char in text)
    controls = any((ord(char) < 32 and char not in "\n\t") or 127 <= ord(char) < 160 for char in text)
    return not commands and printable and not controls and len(lines) == len(text.split("\n")) - text.endswith("\n")


@pytest.mark.parametrize("text", ACTED_ON.values(), ids=ACTED_ON)
def test_nothing_in_it_is_acted_on(text: str) -> None:
    assert not is_inert(text)
    assert is_inert(inert(text))
    assert inert(inert(text)) == inert(text)
    assert "\n" not in inert_line(text)
    assert is_inert(inert_line(text))
    assert is_inert(inert_markdown(text))


@pytest.mark.parametrize("text", ACTED_ON.values(), ids=ACTED_ON)
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_nor_where_it_comes_in_pieces(text: str, size: int) -> None:
    stream = InertStream()
    assert is_inert("".join(stream.push(text[at : at + size]) for at in range(0, len(text), size)))


HONEST = "你好, naïve 👩‍👩‍👧 a::b, C::d()\n\tx[0] # [1] ## two\r\n: :: \nשלום"


def test_honest_text_stays_as_it_is() -> None:
    text = HONEST.replace(": ::", ": a::")
    assert inert(text) == text
    stream = InertStream()
    pieces = text.replace("\r", "")
    assert "".join(map(stream.push, pieces)) == pieces


@pytest.mark.parametrize("text", ACTED_ON.values(), ids=ACTED_ON)
def test_json_stays_the_same_json(text: str) -> None:
    written = json.dumps({text: [text]}, ensure_ascii=False, indent=1)
    assert json.loads(inert(written)) == {text: [text]}


def test_an_error_is_one_line_a_part() -> None:
    bad = ACTED_ON["all"]
    told = str(CheckpointError(bad, where=Parameter("out", bad), expected=bad, hint=bad))
    assert is_inert(told)
    assert len(told.splitlines()) == 4


@pytest.mark.parametrize("debug", [False, True])
def test_an_error_is_told_inertly(capsys: pytest.CaptureFixture[str], debug: bool) -> None:
    for error in (CheckpointError(ACTED_ON["all"]), OSError(5, ACTED_ON["all"], ACTED_ON["all"]), KeyError("\x1b[31m")):
        tell(error, debug=debug)
    assert is_inert(capsys.readouterr().err)


def test_notes_and_stages_are_inert(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_on_stderr(quiet=False) as progress:
        for words in (ACTED_ON["all"], "w " * 60 + "::error::pwned"):
            logging.getLogger("glmquant").warning("%s", words)
            progress(words, 1, 2)
    said = capsys.readouterr().err
    assert "pwned" in said
    assert is_inert(said)


def test_python_is_told_inertly(capsys: pytest.CaptureFixture[str]) -> None:
    with shown(True) as progress:
        logging.getLogger("glmquant").warning("%s", ACTED_ON["all"])
        progress(ACTED_ON["all"], 1, 2)
    said = capsys.readouterr().err
    assert "pwned" in said
    assert is_inert(said)


def test_pieces_are_shown_inertly(capsys: pytest.CaptureFixture[str]) -> None:
    printing.show_pieces(["a\n", ":", ":error", "::x\x1b"])
    assert is_inert(capsys.readouterr().out)


def hostile_report():
    bad = ACTED_ON["all"] + "<script>|`"
    honest = report()
    setting = replace(honest.setting, candidate=replace(honest.setting.candidate, name=bad), recipe=bad)
    limits = tuple(replace(limit, subject=bad, reason=bad) for limit in honest.limits)
    return replace(honest, setting=setting, limits=limits, notes=(bad,))


@pytest.mark.parametrize("form", [to_html, to_markdown, to_junit, in_short])
def test_a_report_is_inert(form) -> None:
    written = form(hostile_report())
    assert "pwned" in written
    assert is_inert(written)
    if form is to_junit:
        ElementTree.fromstring(written)


def calls_and_imports(path: Path) -> set[str]:
    """Names of what a file calls and imports, as far as they can write to a stream."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            found.add(ast.unparse(node.func))
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def test_nothing_goes_round_the_one_way_out() -> None:
    """Only ``cli/printing.py`` prints, and ``live.py`` for Python, inertly; Rich draws in ``cli/terminal.py`` alone.

    ``rich.cells`` only measures.
    """
    ways = ("print", "pprint", "sys.stdout.write", "sys.stderr.write", "typer.echo", "click.echo")
    drawn = ("rich", "warnings.warn", "traceback.print_exception", "traceback.print_exc", "logging.StreamHandler")
    round_it = []
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        found = calls_and_imports(path)
        if name not in ("cli/printing.py", "live.py"):
            round_it += [f"{name}: {way}" for way in ways if way in found]
        if name != "cli/terminal.py":
            drawing = {way for way in found if way.partition(".")[0] == "rich" or way in drawn} - {"rich.cells"}
            round_it += [f"{name}: {way}" for way in drawing]
    assert round_it == []


def test_what_goes_round_it_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import sys\nfrom rich.text import Text\nprint(1)\nsys.stderr.write('')\n")
    assert {"print", "sys.stderr.write", "rich.text"} <= calls_and_imports(tmp_path / "a.py")


def test_streams_of_bytes_are_not_left_open() -> None:
    """Of the raw streams, only the one that reads data from stdin and those that wrap them are named."""
    named = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if ".buffer" in path.read_text()}
    assert named <= {"data/streams.py", "cli/streams.py"}
    assert sys.stdout is not None


def test_a_summary_has_no_line_of_a_files(tmp_path: Path) -> None:
    """A directory's name, and what a checkpoint's files say of themselves."""
    bad = ACTED_ON["all"]
    summary = inspect(copied(GOLDEN / "chatglm2-tiny", tmp_path / "model"), predict=False)
    honest = summary_text(summary)
    hostile = summary_text(replace(summary, path=bad, readers=(bad,)))
    assert is_inert(hostile)
    assert len(hostile.splitlines()) == len(honest.splitlines()) + (not summary.readers)
