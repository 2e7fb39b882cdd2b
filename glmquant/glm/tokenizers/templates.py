"""The chat templates that come with a checkpoint, from each of the places in which transformers has kept them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from glmquant.core.untrusted import parse_text, shown
from glmquant.errors import CheckpointError
from glmquant.glm.tokenizers.chat import check_compiles
from glmquant.glm.tokenizers.files import (
    TEMPLATE_DIRECTORY,
    TEMPLATE_FILE,
    TEMPLATE_JSON,
    TOKENIZER_CONFIG,
    has_file,
    read_bytes,
    read_object,
)

DEFAULT: Final = "default"
MOST_TEMPLATES: Final = 32
FIELD: Final = "chat_template"
NAME: Final = re.compile(r"[\w][\w.-]{0,63}", re.ASCII)
"""A template's name becomes a file's."""


@dataclass(frozen=True)
class ShippedTemplates:
    """What a checkpoint ships.

    Attributes:
        default: the template of a plain conversation; None where it ships none.
        where: the file and field of it.
        others: templates for other occasions by name (``tool_use``, ``rag``).
        notes: where files disagree.
    """

    default: str | None = None
    where: str = ""
    others: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def shipped_templates(directory: Path) -> ShippedTemplates:
    """The chat templates of a checkpoint, in files of their own or in ``tokenizer_config.json``.

    Of several default ones the first is taken, as transformers does, and the difference noted.

    Raises:
        CheckpointError: a file that is damaged, or a list of templates none of which is the default.
    """
    found = [(where, text) for where, text in _sources(directory) if text]
    named: dict[str, str] = {}
    for _, templates in reversed(found):
        named |= templates
    if len(named) > MOST_TEMPLATES:
        raise CheckpointError(f"{len(named)} chat templates", where=directory, expected=f"at most {MOST_TEMPLATES}")
    if not named:
        return ShippedTemplates()
    defaults = [(where, templates[DEFAULT]) for where, templates in found if DEFAULT in templates]
    if not defaults:
        return _only_one(named, found[0][0])
    where, default = defaults[0]
    others = {name: text for name, text in sorted(named.items()) if name != DEFAULT}
    differing = [place for place, text in defaults[1:] if text.strip() != default.strip()]
    notes = tuple(f"the chat templates of {where} and {place} differ: the first is used" for place in differing)
    return ShippedTemplates(default, where, others, notes)


def checked_templates(directory: Path) -> ShippedTemplates:
    """:func:`shipped_templates`, each of which compiles.

    Raises:
        CheckpointError: as there, or one that does not compile.
    """
    shipped = shipped_templates(directory)
    if shipped.default is not None:
        check_compiles(shipped.default, shipped.where)
    for name, template in shipped.others.items():
        check_compiles(template, f"{directory}, chat template {name!r}")
    return shipped


def _only_one(named: dict[str, str], where: str) -> ShippedTemplates:
    if len(named) > 1:
        raise CheckpointError(
            f"none of the {len(named)} chat templates is the default: {', '.join(sorted(named))}",
            where=where,
            expected=f"one named {DEFAULT!r}",
            hint=f"name the one to chat with {DEFAULT!r} there, or save it as {TEMPLATE_FILE}",
        )
    ((name, text),) = named.items()
    return ShippedTemplates(text, where, notes=(f"the one chat template is named {name!r}: it is taken for all chats",))


def _sources(directory: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Templates by name, in the order in which they count."""
    if has_file(directory, TEMPLATE_FILE):
        path = directory / TEMPLATE_FILE
        yield str(path), _given({DEFAULT: parse_text(read_bytes(directory, TEMPLATE_FILE), path)})
    if has_file(directory, TEMPLATE_DIRECTORY):
        yield str(directory / TEMPLATE_DIRECTORY), _given(dict(_files_of(directory)))
    for name in (TOKENIZER_CONFIG, TEMPLATE_JSON):
        if has_file(directory, name):
            where = f"{directory / name}, {FIELD}"
            yield where, _given(_by_name(read_object(directory, name).get(FIELD), where))


def _files_of(directory: Path) -> Iterator[tuple[str, str]]:
    try:
        files = sorted(path.name for path in (directory / TEMPLATE_DIRECTORY).iterdir() if path.suffix == ".jinja")
    except OSError as error:
        raise CheckpointError(f"cannot read: {error.strerror}", where=directory / TEMPLATE_DIRECTORY) from error
    for name in files[: MOST_TEMPLATES + 1]:
        file = f"{TEMPLATE_DIRECTORY}/{name}"
        yield (
            _checked_name(Path(name).stem, directory / file),
            parse_text(read_bytes(directory, file), directory / file),
        )


def _by_name(value: Any, where: str) -> dict[str, str]:
    """A template alone is the default; a list has names, and so has an object."""
    if isinstance(value, list):
        pairs = [(each.get("name"), each.get("template")) if isinstance(each, dict) else (None, each) for each in value]
    elif isinstance(value, dict):
        pairs = list(value.items())
    else:
        pairs = [] if value is None else [(DEFAULT, value)]
    templates = {_checked_name(name, where): _checked_text(text, where) for name, text in pairs}
    if len(templates) != len(pairs):
        raise CheckpointError("two chat templates have one name", where=where, hint="mend it, or remove the wrong one")
    return templates


def _checked_name(name: Any, where: object) -> str:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise CheckpointError(
            f"a chat template is named {shown(name)}", where=where, expected="letters, digits, _, . and -"
        )
    return name


def _checked_text(text: Any, where: str) -> str:
    if not isinstance(text, str) or any("\ud800" <= char <= "\udfff" for char in text):
        raise CheckpointError(f"{FIELD} is a {type(text).__name__}", where=where, expected="a string of Unicode")
    return text


def _given(templates: dict[str, str]) -> dict[str, str]:
    """Those with any text: an empty one stands for none."""
    return {name: text for name, text in templates.items() if text.strip()}
