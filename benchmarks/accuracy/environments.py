"""Peers' environments: one for each requirements file beside this script, made when first needed."""

import hashlib
import subprocess
import sys
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
MARKER = "requirements.sha256"


class Environments:
    """Virtual environments under one directory, each with a note of the requirements it was made from."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory.resolve()

    def ready(self, name: str | None) -> bool:
        """Whether the environment is there and holds what its requirements file asks for."""
        if name is None:
            return True
        marker = self._directory / name / MARKER
        return marker.exists() and marker.read_text() == _digest(name)

    def python(self, name: str | None) -> str:
        """The interpreter of an environment, which is made where it is not ready; None stands for this one."""
        if name is None:
            return sys.executable
        place = self._directory / name
        python = place / "bin" / "python"
        if not self.ready(name):
            requirements = _requirements(name)
            print(f"installing {requirements.name}", file=sys.stderr, flush=True)
            if not python.exists():
                subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
            subprocess.run([str(python), "-m", "pip", "install", "-q", "-r", str(requirements)], check=True)
            (place / MARKER).write_text(_digest(name))
        return str(python)


def _requirements(name: str) -> Path:
    return HERE / f"requirements-{name}.txt"


def _digest(name: str) -> str:
    return hashlib.sha256(_requirements(name).read_bytes()).hexdigest()


@cache
def versions(python: str, packages: tuple[str, ...]) -> dict[str, str]:
    """Installed versions by package."""
    code = "import sys; from importlib.metadata import version\nfor name in sys.argv[1:]: print(version(name))"
    done = subprocess.run([python, "-c", code, *packages], check=True, capture_output=True, text=True)
    return dict(zip(packages, done.stdout.split(), strict=True))
