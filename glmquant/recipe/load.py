"""Finding a recipe by name or path, applying overrides, and saying precisely what is wrong with it."""

import logging
import re
from collections.abc import Hashable, Iterator, Mapping
from copy import deepcopy
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from glmquant import assets
from glmquant.core.near import did_you_mean, nearest
from glmquant.core.untrusted import shown
from glmquant.data.streams import STDIN
from glmquant.errors import GlmQuantError, RecipeError
from glmquant.methods import METHODS
from glmquant.methods.registry import kinds
from glmquant.recipe.packaged import packaged_recipes
from glmquant.recipe.reference import known_keys
from glmquant.recipe.schema import Recipe

log = logging.getLogger("glmquant.recipe")

LARGEST_RECIPE_BYTES: Final = 1 << 20
MOST_VALUES: Final = 1 << 15
"""Of one recipe; PyYAML reads about 15,000 a second."""

MOST_BITS: Final = 64
MOST_PROBLEMS: Final = 10
EXPECTED: Final = {
    "model_type": "keys and values",
    "model_attributes_type": "keys and values",
    "dataclass_type": "keys and values",
    "dict_type": "keys and values",
    "tuple_type": "a list",
}
"""What pydantic's types are called in YAML."""

MERGE_KEY: Final = "tag:yaml.org,2002:merge"
TEXT: Final = "tag:yaml.org,2002:str"
PERCENT: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")
MOST_ADDED: Final = 50
"""Percent: below it somebody means so much more, from it on so much of the baseline's."""

QUOTE_IT: Final = (
    "put the text in quotes: without them, YAML reads yes, no, on and off as true or false, and 1 as a number"
)
REFERENCE: Final = "docs/recipe.md describes every key"
OWN: Final = "or one of your own, registered first (docs/methods.md)"
FILES: Final = ("calibration.data", "check.text", "train.data", "check.tasks.*.data", "check.tasks.*.few_shot.data")
"""Keys that name files; ``*`` stands for each item of a list."""

RENAMED: Final = {
    "fit.compensate": "fit.error_propagation",
    "rules.*.method.descent": "rules.*.method.coordinate_descent",
}
"""Keys that had another name, to the name they have now. Only a key's last part may change."""

RENAMED_VALUES: Final = {"check.tasks.*.scoring": {"length_normalised": "length_normalized"}}
"""Values that had another name, by key."""


def load_recipe(name_or_path: str | Path | None, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe by name (``int4-g128-gptq``) or path, with ``overrides`` of dotted keys (``calibration.seq_len``).

    None stands for the recipe that quantizes nothing and has no limits: every key at its default. Files named inside a
    recipe are relative to the recipe; files named in overrides, to the working directory. Keys and values that had
    another name in an earlier release are read, with a note in the log.

    Raises:
        RecipeError: no such recipe, not YAML, a key given twice, an unknown key or a bad value; it names file and key.
    """
    path = None if name_or_path is None else _find(str(name_or_path))
    values: dict[str, Any] = {"version": 1}
    if path is not None:
        values = _read_yaml(path)
        _tell(use_current_names(values, path), path)
        _anchor_files(values, path.parent)
    for key, value in (overrides or {}).items():
        _override(values, *_renamed_override(key, value))
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise _explained(error, _where(path, overrides or {})) from None


def parse_override(text: str) -> tuple[str, Any]:
    """``key=value`` as a person types it; the value is YAML.

    Raises:
        RecipeError: no ``=``, no key, or a value that is not YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise RecipeError(
            f"{shown(text)} is no override of a recipe's key",
            expected="key=value, e.g. calibration.seed=1",
            hint=REFERENCE,
        )
    try:
        return key, _parse_yaml(value)
    except yaml.YAMLError as error:
        raise RecipeError(
            f"the value is not YAML: {error}", where=f"the override {shown(text)}", hint="quote it, as in key='[a, b]'"
        ) from None


def use_current_names(values: dict[str, Any], where: object) -> list[str]:
    """Gives renamed keys and values of a recipe the names they have now, in place; a sentence for each.

    Raises:
        RecipeError: a key under its old name and its new one.
    """
    notes = []
    for old, new in RENAMED.items():
        old_name, name = old.rpartition(".")[2], new.rpartition(".")[2]
        for place in _parents(values, old):
            if old_name not in place:
                continue
            if name in place:
                raise RecipeError(f"both {old_name!r} and {name!r}, its name now, are given", where=f"{where}, {new}")
            place[name] = place.pop(old_name)
            notes.append(f"{old} is now called {name}")
    for key, names in RENAMED_VALUES.items():
        name = key.rpartition(".")[2]
        for place in _parents(values, key):
            value = place.get(name)
            if isinstance(value, str) and value in names:
                place[name] = names[value]
                notes.append(f"{key}: {value} is now called {names[value]}")
    return list(dict.fromkeys(notes))


def _renamed_override(key: str, value: Any) -> tuple[str, Any]:
    """An override under the names of today; a copy, since rules and overrides below it are written into it."""
    parts, tree = key.split("."), deepcopy(value)
    for part in reversed(parts):
        tree = {part: tree}
    _tell(use_current_names(tree, f"the override of {key}"), f"the override of {key}")
    renamed = []
    for _ in parts:
        ((part, tree),) = tree.items()
        renamed.append(part)
    return ".".join(renamed), tree


def _tell(notes: list[str], where: object) -> None:
    for note in notes:
        log.warning("%s: %s", where, note)


def _parents(values: Any, key: str) -> Iterator[dict[str, Any]]:
    """The mappings that may hold the last part of ``key``, whose ``*`` stands for each item of a list."""
    part, _, rest = key.partition(".")
    if part == "*":
        items = values.values() if isinstance(values, dict) else values if isinstance(values, list | tuple) else ()
        for item in items:
            yield from _parents(item, rest)
    elif isinstance(values, dict):
        if rest:
            yield from _parents(values.get(part), rest)
        else:
            yield values


def _find(name: str) -> Path:
    packaged = packaged_recipes()
    if name in packaged:
        return packaged[name]
    path = Path(name)
    if path.is_file():
        return path
    raise RecipeError(
        f"no recipe {shown(name)}",
        expected=f"a YAML file, or one of: {', '.join(packaged)}",
        hint=_recipe_meant(path, packaged),
    )


def _recipe_meant(path: Path, packaged: Mapping[str, Path]) -> str | None:
    if path.is_dir():
        return f"{path} is a directory: were recipe and model swapped?"
    near = nearest(path.name, packaged)
    of_package = f"did you mean {near}?" if near else None
    of_disk = did_you_mean(path, "file")
    return (of_disk or of_package) if path.suffix else (of_package or of_disk)


class _Loader(yaml.SafeLoader):
    """YAML's safe types alone; a key is the text it is written as, `no` and `1` too, and given twice an error. So are
    more values than any recipe has, and numbers of more bits than any key takes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._values = getattr(self, "_values", 0) + 1
        if self._values > MOST_VALUES:
            raise yaml.MarkedYAMLError(problem=f"more than {MOST_VALUES:,} values")
        return super().compose_node(parent, index)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        number = super().construct_yaml_int(node)
        if number.bit_length() > MOST_BITS:
            raise yaml.MarkedYAMLError(problem=shown(number), problem_mark=node.start_mark)
        return number

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[Hashable] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.tag != MERGE_KEY:
                    key.tag = TEXT
                if (key.tag, key.value) in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {shown(key.value)} is given twice", problem_mark=key.start_mark
                    )
                seen.add((key.tag, key.value))
        return node


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _parse_yaml(text: str) -> Any:
    """Raises YAMLError whatever is wrong; PyYAML itself lets through what a date or a tagged value fails with."""
    try:
        return yaml.load(text, _Loader)
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise yaml.YAMLError(f"a value cannot be read: {str(error)[:200]}") from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_RECIPE_BYTES:
            raise RecipeError("the recipe is larger than 1 MiB", where=path, expected="a short YAML file")
        values = _parse_yaml(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise RecipeError(f"the recipe is not UTF-8: {error}", where=path) from None
    except yaml.YAMLError as error:
        raise RecipeError(f"the recipe is not YAML: {error}", where=path) from None
    if not isinstance(values, dict):
        raise RecipeError(f"the recipe is a {type(values).__name__}", where=path, expected="keys and values")
    return values


def _anchor_files(values: dict[str, Any], directory: Path) -> None:
    def anchored(name: Any) -> Any:
        named = isinstance(name, str) and name != STDIN and not name.startswith(assets.SCHEME)
        return str(directory / name) if named else name

    for key in FILES:
        name = key.rpartition(".")[2]
        for place in {id(place): place for place in _parents(values, key)}.values():
            files = place.get(name)
            if files is not None:
                place[name] = [anchored(file) for file in files] if isinstance(files, list) else anchored(files)


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
    if isinstance(place, list) and part.isdecimal() and int(part) < len(place):
        return place[int(part)]
    raise RecipeError(
        f"the recipe has no key {key!r} to override", where=f"the override of {key}", expected=f"{part!r} to exist"
    )


def _where(path: Path | None, overrides: Mapping[str, Any]) -> Path | str:
    if path is not None and not overrides:
        return path
    keys = f"the overrides of {', '.join(overrides)}" if overrides else "the recipe"
    return keys if path is None else f"{path} and {keys}"


def _explained(error: ValidationError, where: Path | str) -> RecipeError:
    details = error.errors(include_url=False)
    problems = [_problem(one) for one in details[:MOST_PROBLEMS]]
    if len(details) > MOST_PROBLEMS:
        problems.append(f"and {len(details) - MOST_PROBLEMS} more")
    meant = [near for one in details[:MOST_PROBLEMS] if (near := _meant(one))]
    question = f"did you mean {', '.join(dict.fromkeys(meant))}? " if meant else ""
    ways = dict.fromkeys(f"{how}; " for one in details[:MOST_PROBLEMS] if (how := _how_to_write(one)))
    return RecipeError("; ".join(problems), where=where, hint=f"{question}{''.join(ways)}{REFERENCE}")


def _how_to_write(details: Any) -> str | None:
    """The way to write in YAML what was meant, where YAML or the key's unit is another than was thought; or the hint
    of an error of ours."""
    value, kind, cause = details["input"], details["type"], details.get("ctx", {}).get("error")
    if isinstance(cause, GlmQuantError):
        return cause.hint
    if kind == "string_type" and isinstance(value, bool | int | float):
        return QUOTE_IT
    percent = PERCENT.fullmatch(value) if kind == "float_parsing" and isinstance(value, str) else None
    if percent is None:
        return None
    if "perplexity_ratio" in details["loc"] and float(percent[1]) < MOST_ADDED:
        return f"a ratio of {percent[1]} % more is written {1 + float(percent[1]) / 100:g}"
    if "perplexity_ratio" in details["loc"]:
        return f"a ratio of {percent[1]} % is written {float(percent[1]) / 100:g}"
    return f"a share of {percent[1]} % is written {float(percent[1]) / 100:g}"


def _problem(details: Any) -> str:
    key, kind, context = _key(details["loc"]), details["type"], details.get("ctx", {})
    if _is_unknown(details):
        return f"unknown key {key!r}"
    if kind == "missing":
        return f"{key} is missing"
    if kind == "union_tag_invalid":
        return f"{key}: unknown method kind {shown(context['tag'])}; expected one of {', '.join(kinds())}, " + OWN
    cause = context.get("error")
    if isinstance(cause, GlmQuantError):
        return f"{key}: {cause.what}" + (f"; expected {cause.expected}" if cause.expected else "")
    expected = EXPECTED.get(kind) or details["msg"].removeprefix("Input should be ").partition(", unable to")[0]
    if expected != details["msg"]:
        return f"{key} is {_described(details['input'])}; expected {expected}"
    message = details["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" if key else message


def _meant(details: Any) -> str | None:
    """The key, or the value of a key that takes a few, that is most like what is given."""
    key = _key(details["loc"])
    if _is_unknown(details):
        return _nearest(key)
    if details["type"] != "literal_error" or not isinstance(details["input"], str):
        return None
    allowed = re.findall(r"'([^']*)'", details["ctx"]["expected"])
    near = get_close_matches(details["input"][:200].lower(), allowed, n=1)
    return f"{key}={near[0]}" if near else None


def _is_unknown(details: Any) -> bool:
    return details["type"] in ("extra_forbidden", "unexpected_keyword_argument")


def _key(location: tuple[int | str, ...]) -> str:
    """The dotted key; pydantic names the kind of a method as well."""
    parts = [
        str(part)
        for before, part in zip(("", *location), location, strict=False)
        if not (before == "method" and part in METHODS)
    ]
    return ".".join(parts)


def _nearest(key: str) -> str | None:
    """The key that exists and is most like ``key``; numbers of rules and tasks stay as they are."""
    parts = key.split(".")
    candidates = {
        ".".join(
            parts[place] if part == "*" and place < len(parts) and parts[place].isdecimal() else part
            for place, part in enumerate(known.split("."))
        )
        for known in known_keys()
    }
    if key in candidates:  # of another method
        return None
    others = sorted(each for each in candidates if not key.startswith(f"{each}."))
    return next(iter(get_close_matches(key[:200], others, n=1)), None)


def _described(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple) else shown(value)
