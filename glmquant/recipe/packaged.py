"""The recipes that come with the package, listed without the schema, whose import takes torch's two seconds."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from glmquant import assets

PACKAGED: Final = Path(assets.__file__).parents[1] / "recipes"
MEASURED: Final = PACKAGED / "measured.json"
SCHEMA: Final = PACKAGED / "recipe.schema.json"


@dataclass(frozen=True)
class Measured:
    """What a recipe cost one model, as a committed result says it.

    Attributes:
        source: the result in the project's repository, and ``row``, the row's name there.
        size: average bits of a weight in the linear layers of the blocks, or the bundle's bytes.
        perplexity_ratio: to FP16, with its 95 % interval.
        mean_kl: nats.
        seconds: to quantize, on two processor cores.
    """

    source: str
    row: str
    size: str
    perplexity_ratio: str
    mean_kl: str
    seconds: str


def packaged_recipes() -> dict[str, Path]:
    """The files of the packaged recipes, by name."""
    return {path.stem: path for path in sorted(PACKAGED.glob("*.yaml"))}


def description(path: Path) -> str:
    """What a packaged recipe says it is."""
    return str(yaml.safe_load(path.read_text(encoding="utf-8"))["description"])


def measured() -> tuple[str, dict[str, Measured]]:
    """On which model packaged recipes were measured, and what came out, for those that were."""
    values = json.loads(MEASURED.read_text(encoding="utf-8"))
    return values["model"], {name: Measured(**row) for name, row in values["rows"].items()}
