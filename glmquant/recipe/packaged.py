"""The recipes that come with the package, listed without the schema, whose import takes torch's two seconds."""

from pathlib import Path
from typing import Final

import yaml

from glmquant import assets

PACKAGED: Final = Path(assets.__file__).parents[1] / "recipes"


def packaged_recipes() -> dict[str, Path]:
    """The files of the packaged recipes, by name."""
    return {path.stem: path for path in sorted(PACKAGED.glob("*.yaml"))}


def description(path: Path) -> str:
    """What a packaged recipe says it is."""
    return str(yaml.safe_load(path.read_text(encoding="utf-8"))["description"])
