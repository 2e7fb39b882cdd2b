"""A recipe as its reader knows it: the packaged one that it is, and each key with another value than there."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final

from glmquant import assets
from glmquant.recipe.load import load_recipe
from glmquant.recipe.packaged import description, packaged_recipes
from glmquant.recipe.schema import Recipe

SECTIONS: Final = ("model", "calibration", "rules", "allocate", "fit", "store", "train", "export", "check")
FILES: Final = ("data", "text")
"""Keys that name files, which are shown without their directories."""

UNTOLD: Final = ("check.limits",)
"""Which a report shows by themselves."""

LONGEST: Final = 300


def named(values: Mapping[str, Any]) -> tuple[str | None, tuple[str, ...]]:
    """Name and changes of a recipe.

    Args:
        values: sections of a recipe in values that JSON has; those that are missing are not compared.

    Returns:
        the name of the packaged recipe that has the same description, None where none has; and ``key=value`` for each
        key that is another there, or, without such a recipe, another than its default.
    """
    name = next((n for n, path in packaged_recipes().items() if description(path) == values.get("description")), None)
    base = load_recipe(name).model_dump(mode="json") if name else Recipe(version=1).model_dump(mode="json")
    chosen = base.get("allocate") is not None and values.get("allocate") == base["allocate"]
    sections = [each for each in SECTIONS if each in values and not (chosen and each == "rules")]
    pairs = (pair for section in sections for pair in _differing(section, values[section], base[section]))
    return name, tuple(f"{key}={_text(value)}" for key, value in pairs if not key.startswith(UNTOLD))


def _differing(key: str, value: Any, base: Any) -> Iterator[tuple[str, Any]]:
    """The deepest keys at which the two are not the same."""
    value, base = _plain(key, value), _plain(key, base)
    if value == base:
        return
    if isinstance(value, Mapping) and isinstance(base, Mapping) and value.get("kind") == base.get("kind"):
        for name in value:
            yield from _differing(f"{key}.{name}", value[name], base.get(name))
    elif _is_list(value) and _is_list(base) and len(value) == len(base) and any(isinstance(x, Mapping) for x in value):
        for number, pair in enumerate(zip(value, base, strict=True)):
            yield from _differing(f"{key}.{number}", *pair)
    else:
        yield key, value


def _plain(key: str, value: Any) -> Any:
    """Names of files without the directories of this machine."""
    if key.rpartition(".")[2] not in FILES:
        return list(value) if isinstance(value, tuple) else value
    return [_file(each) for each in value] if _is_list(value) else _file(value)


def _file(name: Any) -> Any:
    return name if not isinstance(name, str) or name.startswith(assets.SCHEME) else PurePath(name).name


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _text(value: Any) -> str:
    words = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return words if len(words) <= LONGEST else f"{words[:LONGEST]}…"
