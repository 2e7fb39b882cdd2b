"""Where test data lies."""

import shutil
from pathlib import Path

GOLDEN = {name: Path(__file__).parents[1] / "golden" / name for name in ("chatglm2-tiny", "chatglm3-tiny")}
CHATGLM2 = GOLDEN["chatglm2-tiny"]


def copied(checkpoint: Path, directory: Path) -> Path:
    """A copy to be damaged."""
    target = directory / "model"
    shutil.copytree(checkpoint, target)
    return target


OTHER_EACH_TIME = ("run.json", "report.html")
"""Files that say when, where and how fast."""


def lasting(directory: Path) -> dict[str, bytes]:
    """Of :func:`contents`, what is the same each time."""
    return {name: data for name, data in contents(directory).items() if Path(name).name not in OTHER_EACH_TIME}


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below a directory by relative path."""
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }
