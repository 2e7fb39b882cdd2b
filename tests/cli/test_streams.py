"""Terminals, pipes and numbers as people have them: none ends in a traceback or in a code that means something else.

Sources of the situations: TheR1D/shell_gpt#659 and knownsec/aipyapp#47 (emoji in GBK), Pythagora-io/gpt-pilot#831 (a
byte order mark in GBK), N0rz3/Eyes#3 (box drawing in a charmap), LlamaFactory#3311;
Backblaze/B2_Command_Line_Tool#1071, getslash/slash#967, Sherin-SEF-AI/CanLab#24 (``| head``, unbuffered too);
rgthree-comfy#90, SimpleTuner#97 (seed -1).
"""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import glmquant as gq
from glmquant import assets
from glmquant.cli.streams import ESCAPED, as_typed, open_streams
from glmquant.errors import DataError
from tests.support.classifiers import golden_classifier

POSIX = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
TERMINALS = {
    "gbk: TheR1D/shell_gpt#659": {"PYTHONIOENCODING": "gbk"},
    "ascii: LlamaFactory#3311": {"PYTHONIOENCODING": "ascii"},
    "cp1252: N0rz3/Eyes#3": {"PYTHONIOENCODING": "cp1252"},
    "posix": POSIX,
    "posix, unbuffered: Sherin-SEF-AI/CanLab#24": {**POSIX, "PYTHONUNBUFFERED": "1"},
    "gb18030: ChatGLM-webui#11": {"PYTHONIOENCODING": "gb18030"},
    "gbk, strict: knownsec/aipyapp#47": {"PYTHONIOENCODING": "gbk:strict"},
}


def ran(
    *arguments: object, env: dict[str, str] | None = None, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "glmquant", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, env={**os.environ, **(env or {})}, check=False)


def shell(script: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    """Bash with ``glmquant`` in it; stdout is the pipe's exit codes."""
    prefix = f'glmquant() {{ "{sys.executable}" -m glmquant "$@"; }}\n'
    return subprocess.run(
        ["bash", "-c", prefix + script], capture_output=True, env={**os.environ, **(env or {})}, check=False
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gq.export(assets.DEMO_MODEL, out=tmp_path_factory.mktemp("demo") / "onnx").path


@pytest.mark.parametrize("env", TERMINALS.values(), ids=TERMINALS)
def test_an_answer_is_printed_in_any_encoding(bundle: Path, env: dict[str, str]) -> None:
    done = ran("generate", bundle, "很好😀", "--raw", "--max-new-tokens", 4, env=env)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.strip()


@pytest.mark.parametrize("env", TERMINALS.values(), ids=TERMINALS)
def test_the_answer_itself_does_not_depend_on_the_encoding(bundle: Path, env: dict[str, str]) -> None:
    options = gq.GenerationOptions(max_new_tokens=4)
    expected = "".join(gq.generate(bundle, "很好，非常喜欢", chat=False, options=options)) + "\n"
    encoding = env.get("PYTHONIOENCODING", "ascii").partition(":")[0]
    open_streams()  # registers the way to escape
    done = ran("generate", bundle, "很好，非常喜欢", "--raw", "--max-new-tokens", 4, env=env)
    assert done.stdout == expected.encode(encoding, ESCAPED)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("classifier")
    source = golden_classifier(directory, "chatglm2-tiny", ("差😡", "好", "中"))
    return gq.export(source, out=directory / "onnx").path


@pytest.mark.parametrize("env", TERMINALS.values(), ids=TERMINALS)
def test_a_label_and_its_text_are_printed_in_any_encoding(classifier: Path, env: dict[str, str]) -> None:
    """The report terminal-encoding: ``classify BUNDLE '很好😀'``; and JSON stays JSON."""
    encoding = env.get("PYTHONIOENCODING", "ascii").partition(":")[0]
    open_streams()
    plain = ran("classify", classifier, "很好😀", "--quiet", env=env)
    assert (plain.returncode, plain.stderr) == (0, b"")
    assert plain.stdout.endswith(b"\t" + "很好😀\n".encode(encoding, ESCAPED))
    as_json = ran("classify", classifier, "很好😀", "--quiet", "--json", env=env)
    (result,) = json.loads(as_json.stdout.decode(encoding))
    assert result["label"] in ("差😡", "好", "中")


@pytest.mark.parametrize("env", TERMINALS.values(), ids=TERMINALS)
def test_a_chat_reads_and_writes_in_any_encoding(bundle: Path, env: dict[str, str]) -> None:
    done = ran("chat", bundle, "--max-new-tokens", 2, env=env, stdin="很好😀\n".encode())
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    assert done.stdout.endswith(b"\n")


@pytest.mark.parametrize("env", TERMINALS.values(), ids=TERMINALS)
def test_what_cannot_be_encoded_stays_json(env: dict[str, str], tmp_path: Path) -> None:
    model = tmp_path / "模型😀"
    model.symlink_to(assets.DEMO_MODEL)
    done = ran("inspect", model.parent / "模型😀", "--json", "--quiet", env=env)
    encoding = env.get("PYTHONIOENCODING", "ascii").partition(":")[0]
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout.decode(encoding))["config"]["family"] == "chatglm2"


@pytest.mark.parametrize("env", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "gbk"}], ids=["ascii", "gbk"])
def test_an_error_is_told_in_any_encoding(env: dict[str, str]) -> None:
    done = ran("inspect", "没有😀", env=env)
    assert (done.returncode, b"Traceback" in done.stderr) == (2, False)
    assert b"does not exist" in done.stderr


def test_a_choice_of_the_users_own_is_kept(bundle: Path) -> None:
    arguments = ["generate", bundle, "很好，非常喜欢", "--raw", "--max-new-tokens", 12]
    assert b"?" in ran(*arguments, env={"PYTHONIOENCODING": "ascii:replace"}).stdout
    assert b"\\u" in ran(*arguments, env={"PYTHONIOENCODING": "ascii"}).stdout


def test_bytes_of_another_encoding_are_told() -> None:
    typed = "很好".encode("gbk").decode("ascii", "surrogateescape")
    with pytest.raises(DataError, match="neither ascii") as caught:
        as_typed(typed, "ascii")
    assert "PYTHONUTF8=1" in str(caught.value)


def test_the_hint_works_when_followed(bundle: Path) -> None:
    gbk = "很好".encode("gbk")
    command: list[bytes | str] = [sys.executable, "-m", "glmquant", "generate", str(bundle), gbk, "--raw"]
    refused = subprocess.run(command, capture_output=True, env={**os.environ, **POSIX}, check=False)
    assert (refused.returncode, b"PYTHONUTF8=1" in refused.stderr) == (2, True)
    command[5] = "很好".encode()
    followed = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONUTF8": "1"}, check=False)
    assert followed.returncode == 0


@pytest.mark.parametrize(
    "command",
    [
        "recipes",
        "--help",
        "run --help",
        "inspect MODEL --quiet",
        "inspect MODEL --quiet --json -r int8-rtn --no-predict",
        "--version",
    ],
)
@pytest.mark.parametrize(
    "env", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "unbuffered: Sherin-SEF-AI/CanLab#24"]
)
def test_a_reader_that_stops_is_no_error(command: str, env: dict[str, str]) -> None:
    """Backblaze/B2_Command_Line_Tool#1071, getslash/slash#967, browser-history#281."""
    command = command.replace("MODEL", str(assets.DEMO_MODEL))
    for reader in ("head -1 > /dev/null", "true"):
        done = shell(f"glmquant {command} | {reader}; echo ${{PIPESTATUS[0]}}", env)
        assert (done.stdout, done.stderr) == (b"0\n", b"")


def test_an_answer_nobody_reads_any_more_is_not_generated_to_its_end(bundle: Path) -> None:
    done = shell(f"glmquant generate {bundle} Debian --raw --max-new-tokens 400 | true; echo ${{PIPESTATUS[0]}}")
    assert (done.stdout, done.stderr) == (b"0\n", b"")


def test_a_reader_that_stops_does_not_change_a_verdict(tmp_path: Path) -> None:
    fast = "--set check.num_tokens=512 --set check.seq_len=64 --set check.tasks=[]"
    limit = "--set check.limits.perplexity_ratio=0.5"
    script = f"glmquant demo -o {tmp_path}/out -r int8-rtn --json {fast} {limit} 2>&1 | head -1 > /dev/null"
    assert shell(f"{script}; echo ${{PIPESTATUS[0]}}").stdout == b"1\n"
    assert (tmp_path / "out" / "report" / "report.json").is_file()


def test_a_full_disk_for_the_output_is_told() -> None:
    done = shell("glmquant recipes > /dev/full; echo $?")
    assert (done.stdout, b"the disk is full" in done.stderr) == (b"2\n", True)
    assert b"Exception" not in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_from_the_start(closed: str, bundle: Path) -> None:
    for command, code in (("recipes", 0), ("inspect nowhere", 2), (f"chat {bundle} --max-new-tokens 1", 0)):
        done = shell(
            f"glmquant {command} {closed} < /dev/null; exit $?" if "<" not in closed else f"glmquant {command} {closed}"
        )
        assert done.returncode == code
        assert b"Traceback" not in done.stderr


NUMBERS = {
    "--seed -1 --temperature 1: rgthree-comfy#90": (["--seed", "-1", "--temperature", "1"], 0),
    "--seed -1, greedy": (["--seed", "-1"], 0),
    "--seed -2": (["--seed", "-2"], 2),
    "--seed 10**40: mlx-engine#39": (["--seed", str(10**40), "--temperature", "1"], 0),
    "--seed 10**5000": (["--seed", "9" * 5000], 2),
    "--seed 1.5": (["--seed", "1.5"], 2),
    "--temperature nan": (["--temperature", "nan"], 2),
    "--temperature inf": (["--temperature", "inf"], 2),
    "--temperature 1e-320": (["--temperature", "1e-320"], 0),
    "--temperature 1e308": (["--temperature", "1e308"], 0),
    "--temperature -1": (["--temperature", "-1"], 2),
    "--top-p 0: SimpleTuner#97": (["--top-p", "0", "--temperature", "1"], 2),
    "--top-p nan": (["--top-p", "nan"], 2),
    "--top-p 1e-300": (["--top-p", "1e-300", "--temperature", "1"], 0),
    "--top-k -1": (["--top-k", "-1"], 2),
    "--top-k 10**30": (["--top-k", str(10**30), "--temperature", "1"], 0),
    "--max-new-tokens 0": (["--max-new-tokens", "0"], 2),
    "--max-new-tokens 10**30": (["--max-new-tokens", str(10**30)], 2),
    "--repetition-penalty nan": (["--repetition-penalty", "nan"], 2),
    "--repetition-penalty 1e-300": (["--repetition-penalty", "1e-300"], 2),
    "--repetition-penalty 1e300": (["--repetition-penalty", "1e300"], 2),
    "--repetition-penalty 0": (["--repetition-penalty", "0"], 2),
}


@pytest.mark.parametrize(("options", "code"), NUMBERS.values(), ids=NUMBERS)
def test_odd_numbers(bundle: Path, options: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    from glmquant.cli import main

    few = [] if "--max-new-tokens" in options else ["--max-new-tokens", "2"]
    with pytest.raises(SystemExit) as stopped:
        main(["generate", str(bundle), "hi", "--raw", *few, *options])
    assert stopped.value.code == code
    assert "Traceback" not in capsys.readouterr().err


def test_text_is_left_as_it_is_where_it_is_text() -> None:
    assert [as_typed(text) for text in ("", "a", "很好😀")] == ["", "a", "很好😀"]


def test_streams_that_are_no_files_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin, stdout = io.StringIO("a"), io.StringIO()
    monkeypatch.setattr("sys.stdin", stdin)
    monkeypatch.setattr("sys.stdout", stdout)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    open_streams()
    assert (sys.stdin, sys.stdout) == (stdin, stdout)
