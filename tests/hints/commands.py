"""Commands as hints print them, between backquotes, and what runs them."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

COMMAND = re.compile(r"`(\w+ [^`]+)`")


def commands(hint: str | None) -> list[str]:
    """All that a hint prints to be typed."""
    return COMMAND.findall(hint or "")


def shell(command: str, directory: Path) -> None:
    """Runs a command as it is printed; skips the test where the program is not installed here."""
    program = shlex.split(command)[0]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    subprocess.run(["sh", "-ec", command], cwd=directory, check=True, env=os.environ | {"LC_ALL": "C.UTF-8"})


def hub_command(command: str) -> None:
    """Runs ``hf ...`` in this process."""
    from huggingface_hub.cli.hf import app

    program, *arguments = shlex.split(command)
    assert program == "hf"
    app(arguments, standalone_mode=False)
