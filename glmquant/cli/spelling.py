"""How the command line spells what errors call by their Python names."""

import re
from shlex import quote
from typing import Final

from glmquant.errors import GlmQuantError, Parameter, message

OPTIONS: Final = {
    "adapter": "--adapter",
    "against": "--against",
    "baseline": "--baseline",
    "cache": "--cache",
    "calibration": "--calibration",
    "data": "--data",
    "device": "--device",
    "force": "--force",
    "max_new_tokens": "--max-new-tokens",
    "memory_limit": "--memory-limit",
    "out": "--out",
    "overrides": "--set",
    "predict": "--predict",
    "private": "--private",
    "provider": "--provider",
    "ranks": "--ranks",
    "recipe": "--recipe",
    "save_baseline": "--save-baseline",
    "repetition_penalty": "--repetition-penalty",
    "seed": "--seed",
    "system": "--system",
    "tasks": "--task",
    "temperature": "--temperature",
    "text": "--text",
    "thinking": "--thinking",
    "top_k": "--top-k",
    "top_p": "--top-p",
    "upload": "--yes",
}
"""Parameter of a public function: the option that sets it."""

VERBS: Final = (
    "calibrate",
    "check",
    "classify",
    "export",
    "generate",
    "inspect",
    "push",
    "quantize",
    "recipes",
    "report",
    "run",
    "train_classifier",
    "verify",
)
"""Public functions that are commands of the same name, with ``-`` for ``_``."""

NAME = re.compile(r"`(\w+)`")
STRING = r'"(?:[^"\\]|\\.)*"'
VALUE = rf"""{STRING}|\[(?:{STRING}|[^\]"])*\]|[^\s,;)]*[^\s,;.)]"""
SETTING = re.compile(rf"\bset (\w+(?:\.\w+)+=(?:{VALUE}))")
"""A recipe's key with a value: ``set calibration.num_samples=26``; a value with blanks is in quotes or brackets."""


def as_told(error: GlmQuantError) -> str:
    """The whole error in the command line's words."""
    return message(error.what, _place(error.where), _respelled(error.expected), _respelled(error.hint))


def _place(where: object) -> object:
    if not isinstance(where, Parameter) or where.name not in OPTIONS:
        return where
    return OPTIONS[where.name] if where.value is None else f"{OPTIONS[where.name]} {where.value}"


def _respelled(text: str | None) -> str | None:
    if text is None:
        return None
    return SETTING.sub(
        lambda found: f"give --set {quote(found[1])}", NAME.sub(lambda found: f"`{_spelling(found[1])}`", text)
    )


def _spelling(name: str) -> str:
    return f"glmquant {name.replace('_', '-')}" if name in VERBS else OPTIONS.get(name, name)
