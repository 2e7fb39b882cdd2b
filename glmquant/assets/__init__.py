"""The files that ship inside the package: a small real model and text. README.md beside them states their sources."""

from pathlib import Path

DIRECTORY = Path(__file__).parent
DEMO_MODEL = DIRECTORY / "demo-model"
CALIBRATION_TEXT = DIRECTORY / "calibration.txt"
SCHEME = "glmquant:"


def resolve(name: str) -> str:
    """``glmquant:reviews.jsonl`` as the path of the packaged file; any other path unchanged."""
    return str(DIRECTORY / name.removeprefix(SCHEME)) if name.startswith(SCHEME) else name
