"""Finding a recipe by name or path, applying overrides, and saying precisely what is wrong with it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from glmquant import assets
from glmquant.errors import GlmQuantError, Parameter, RecipeError
from glmquant.recipe.packaged import packaged_recipes
from glmquant.recipe.schema import Recipe

LARGEST_RECIPE_BYTES = 1 << 20
DATA_KEYS = (("calibration", "data"), ("check", "text"), ("train", "data"))


def load_recipe(name_or_path: str | Path | None, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe by name (``int4-g128-gptq``) or path, with ``overrides`` of dotted keys (``calibration.seq_len``).

    None stands for the recipe that quantizes nothing and has no limits: every key at its default. Files named inside a
    recipe are relative to the recipe; files named in overrides, to the working directory.

    Raises:
        RecipeError: no such recipe, not YAML, an unknown key or a bad value; it names file and key.
    """
    path = None if name_or_path is None else _find(str(name_or_path))
    values: dict[str, Any] = {"version": 1}
    if path is not None:
        values = _read_yaml(path)
        _anchor_files(values, path.parent)
    for key, value in (overrides or {}).items():
        _override(values, key, value)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise _explained(error, path or Parameter("overrides")) from None


def parse_override(text: str) -> tuple[str, Any]:
    """``key=value`` from a command line; the value is YAML.

    Raises:
        RecipeError: no ``=``, no key, or a value that is not YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise RecipeError(
            f"cannot read the override {text!r}",
            where=Parameter("overrides"),
            expected="key=value, e.g. calibration.seed=1",
        )
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(
            f"the value of the override {text!r} is not YAML: {error}", where=Parameter("overrides")
        ) from None


def _find(name: str) -> Path:
    packaged = packaged_recipes()
    if name in packaged:
        return packaged[name]
    path = Path(name)
    if path.is_file():
        return path
    raise RecipeError(f"no recipe {name!r}", expected=f"a YAML file, or one of: {', '.join(packaged)}")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_RECIPE_BYTES:
            raise RecipeError("the recipe is larger than 1 MiB", where=path, expected="a short YAML file")
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise RecipeError(f"the recipe is not UTF-8: {error}", where=path) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise RecipeError(f"the recipe is not YAML: {error}", where=path) from None
    if not isinstance(values, dict):
        raise RecipeError(f"the recipe is a {type(values).__name__}", where=path, expected="keys and values")
    return values


def _anchor_files(values: dict[str, Any], directory: Path) -> None:
    def anchored(name: Any) -> Any:
        named = isinstance(name, str) and not name.startswith(assets.SCHEME)
        return str(directory / name) if named else name

    for section, key in DATA_KEYS:
        files = values[section].get(key) if isinstance(values.get(section), dict) else None
        if files is not None:
            values[section][key] = [anchored(name) for name in files] if isinstance(files, list) else anchored(files)
    tasks = values["check"].get("tasks") if isinstance(values.get("check"), dict) else None
    for task in tasks if isinstance(tasks, list) else ():
        for place in (task, task.get("few_shot")) if isinstance(task, dict) else ():
            if isinstance(place, dict) and "data" in place:
                place["data"] = anchored(place["data"])


def _override(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    place: Any = values
    for part in parents:
        place = place.setdefault(part, {}) if isinstance(place, dict) else _item(place, part, key)
    if isinstance(place, dict):
        place[last] = value
    else:
        _item(place, last, key)
        place[int(last)] = value


def _item(place: Any, part: str, key: str) -> Any:
    if isinstance(place, list) and part.isdigit() and int(part) < len(place):
        return place[int(part)]
    raise RecipeError(
        f"the recipe has no key {key!r} to override", where=Parameter("overrides", key), expected=f"{part!r} to exist"
    )


def _explained(error: ValidationError, where: object) -> RecipeError:
    return RecipeError(
        "; ".join(_problem(details) for details in error.errors()),
        where=where,
        hint="compare with the recipes that come with glmquant",
    )


def _problem(details: Any) -> str:
    key = ".".join(str(part) for part in details["loc"])
    if details["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown key {key!r}"
    cause = details.get("ctx", {}).get("error")
    if isinstance(cause, GlmQuantError):
        return f"{key}: {cause.what}; expected {cause.expected}"
    return f"{key}: {details['msg'].removeprefix('Value error, ')}"
