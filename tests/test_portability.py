"""The commands on platforms that lack what Linux has: the same bytes come out, under names every file system takes.

The platforms are pretended: a bootstrap takes modules and functions away before the command line is imported. Libraries
that have code of their own for each platform (psutil, torch, subprocess) keep what they need.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import CHATGLM2, copied

BOOTSTRAP = """
import builtins, io, os, sys
modules, names = (text.split(",") for text in sys.argv[1:3])
del sys.argv[1:3]
OURS = "glmquant"

def asked_by_us(depth=2):
    return sys._getframe(depth).f_globals.get("__name__", "").partition(".")[0] == OURS

real_import = builtins.__import__
def refusing_import(name, *args, **kwargs):
    if name in modules and asked_by_us():
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return real_import(name, *args, **kwargs)
builtins.__import__ = refusing_import

real_open = io.open
def refusing_open(file, *args, **kwargs):
    frame = sys._getframe(1)  # pathlib opens for others
    while frame is not None and frame.f_globals.get("__name__") in ("pathlib", "__main__"):
        frame = frame.f_back
    ours = frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == OURS
    if ours and str(file).startswith("/proc"):
        raise FileNotFoundError(2, "No such file or directory", str(file))
    return real_open(file, *args, **kwargs)
builtins.open = io.open = refusing_open

import psutil, torch, subprocess  # have code of their own for each platform
for name in names:
    if hasattr(os, name):
        delattr(os, name)
sys.argv[0] = "glmquant"
from glmquant.cli import main
main()
"""
MODULES = ("fcntl", "resource", "pwd", "grp", "termios")
MACOS = ("posix_fadvise", "RWF_NOWAIT", "O_DIRECT")
WINDOWS = (*MACOS, "preadv", "pwritev", "pread", "pwrite", "register_at_fork", "sysconf", "fork")
LACKING = {"linux": ((), ()), "macos": ((), MACOS), "windows": (MODULES, WINDOWS)}

RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
FORBIDDEN = re.compile(r'[<>:"\\|?*\x00-\x1f]|[ .]$')
BINARY = (".safetensors", ".onnx", ".data", ".bin", ".model")
SMALL = ("--set", "calibration.num_samples=4", "--set", "calibration.seq_len=32")
CHECK = ("--set", "check.num_tokens=64", "--set", "check.seq_len=32")


def run(platform: str, directory: Path, *arguments: object) -> str:
    modules, names = LACKING[platform]
    command = [sys.executable, "-c", BOOTSTRAP, ",".join(modules), ",".join(names), *map(str, arguments)]
    result = subprocess.run(command, cwd=directory, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr.decode()
    assert b"Traceback" not in result.stderr
    return result.stdout.decode()


@pytest.fixture(scope="module", params=LACKING)
def outputs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, str]:
    """Everything that the commands write on a platform, and what ``generate`` prints there."""
    platform: str = request.param
    root = tmp_path_factory.mktemp(platform)
    copied(CHATGLM2, root)
    text = Path("text.txt")
    (root / text).write_text("The house stands on the hill, and nobody knows since when. 你好，世界。\n" * 60)
    run(platform, root, "calibrate", "model", "--data", text, "--out", "out/calibration", *SMALL)
    run(
        platform, root, "quantize", "model", "--recipe", "int4-g128-gptq", "--calibration", "out/calibration",
        "--memory-limit", "64GB", "--out", "out/gptq",
    )  # fmt: skip
    run(platform, root, "quantize", "model", "--recipe", "int8-rtn", "--out", "out/rtn")
    run(platform, root, "export", "out/rtn", "--out", "out/bundle")
    said = run(platform, root, "generate", "out/bundle", "hello", "--max-new-tokens", "4")
    run(
        platform, root, "check", "out/bundle", "--baseline", "model", "--text", text, "--out", "out/report",
        "--cache", "out/cache", *CHECK,
    )  # fmt: skip
    return platform, root / "out", said


_linux: dict[str, object] = {}


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def test_the_bytes_are_those_of_linux(outputs: tuple[str, Path, str]) -> None:
    platform, directory, said = outputs
    # A report holds times; what it decides is compared by the rest of the suite.
    found = {name: data for name, data in contents(directory).items() if not name.startswith("report/")} | {"": said}
    if platform == "linux":
        _linux.update(found)
    assert len(found) > 20
    assert found.keys() == _linux.keys()
    assert [name for name in found if found[name] != _linux[name]] == []


def test_every_file_system_takes_the_names(outputs: tuple[str, Path, str]) -> None:
    paths = [path.relative_to(outputs[1]) for path in outputs[1].rglob("*")]
    lowered = [str(path).casefold() for path in paths]
    assert len(lowered) == len(set(lowered))
    assert [path for path in paths if RESERVED.fullmatch(path.name) or FORBIDDEN.search(path.name)] == []


def test_text_has_plain_line_ends(outputs: tuple[str, Path, str]) -> None:
    texts = {name: data for name, data in contents(outputs[1]).items() if not name.endswith(BINARY)}
    assert len(texts) > 10
    assert [name for name, data in texts.items() if b"\r" in data] == []
    for data in texts.values():
        data.decode("utf-8")


@pytest.mark.parametrize("code", ["import fcntl", "open('/proc/self/stat')", "import os; os.sysconf('SC_PAGE_SIZE')"])
def test_the_pretended_platform_lacks_what_it_should(tmp_path: Path, code: str) -> None:
    """Code of the package's own, that is: a module of that name is run in place of the command line."""
    (tmp_path / "glmquant").mkdir()
    (tmp_path / "glmquant" / "__init__.py").write_text("")
    (tmp_path / "glmquant" / "cli.py").write_text(f"def main():\n    {code}\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    modules, names = LACKING["windows"]
    command = [sys.executable, "-c", BOOTSTRAP, ",".join(modules), ",".join(names)]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert re.search(r"No module named 'fcntl'|No such file or directory: '/proc|no attribute 'sysconf'", result.stderr)
