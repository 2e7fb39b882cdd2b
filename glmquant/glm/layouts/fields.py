"""Reading ``config.json`` as hostile input: every value is checked before anything is sized by it.

By hand on purpose. As strict pydantic models with aliases this file and ``chatglm.py`` came to 343 lines instead of 293
(pydantic 2.14): types needed their expected values beside their bounds, because pydantic names one bound where an error
here names both, and defaults that depend on the family or must fit the vocabulary, divisors and rope sections still
needed code of their own.
"""

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final, get_args

from glmquant.errors import CheckpointError
from glmquant.glm.config import FloatDtype

LARGEST_SIZE: Final = 2**24
"""No GLM has a dimension or a vocabulary near it; a config that says more is damaged."""

MOST_LAYERS: Final = 1024

DTYPE_SPELLINGS: Final[dict[str, FloatDtype]] = {
    **dict.fromkeys(("float16", "fp16", "f16", "half"), "float16"),
    **dict.fromkeys(("bfloat16", "bf16"), "bfloat16"),
    **dict.fromkeys(("float32", "fp32", "f32", "float"), "float32"),
}


class Fields:
    """Checked access to a configuration's fields.

    A field that is absent or ``null`` takes ``default``; without a default it is required. All readers raise a
    :class:`CheckpointError` naming the file and the field.

    Args:
        values: the parsed JSON object.
        where: what errors name: the file, and the section within it.
    """

    def __init__(self, values: Any, where: Path | str) -> None:
        if not isinstance(values, dict):
            raise CheckpointError(
                f"the configuration is a {type(values).__name__}",
                where=where,
                expected="a JSON object with field names",
            )
        self._values: dict[str, Any] = values
        self._where = where

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    @property
    def values(self) -> Mapping[str, Any]:
        """All of them as they are, unchecked."""
        return self._values

    @property
    def where(self) -> Path | str:
        """What errors name: the file, and the section within it."""
        return self._where

    def raw(self, name: str) -> Any:
        """The value as it is, unchecked; None where absent."""
        return self._values.get(name)

    def error(self, name: str, expected: str, hint: str | None = None) -> CheckpointError:
        """The error for a field whose value cannot be used."""
        value = self.raw(name)
        what = f"{name} is missing" if value is None else f"{name} is {_shown(value)}"
        return CheckpointError(what, where=f"{self._where}, {name}", expected=expected, hint=hint)

    def integer(self, name: str, default: int | None = None, *, low: int = 1, high: int = LARGEST_SIZE) -> int:
        """A whole number from ``low`` to ``high``."""
        value = self._values.get(name)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(name, f"a whole number from {low} to {high}")
        return value

    def number(self, name: str, default: float | None = None, *, low: float = 0.0, high: float = 1e12) -> float:
        """A finite number above ``low`` and at most ``high``."""
        value = self._values.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not low < value <= high:
            raise self.error(name, f"a number above {low:g} and at most {high:g}")
        return float(value)

    def flag(self, name: str, default: bool | None = None) -> bool:
        """``true`` or ``false``, and no number in their place."""
        value = self._values.get(name)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise self.error(name, "true or false")
        return value

    def choice(self, name: str, allowed: Collection[str], default: str) -> str:
        """One of ``allowed``."""
        value = self._values.get(name)
        value = default if value is None else value
        if not isinstance(value, str) or value not in allowed:
            raise self.error(name, "one of " + ", ".join(sorted(allowed)))
        return value

    def text(self, name: str, default: str) -> str:
        """A name."""
        value = self._values.get(name)
        value = default if value is None else value
        if not isinstance(value, str):
            raise self.error(name, "a string")
        return value

    def token_id(self, name: str, vocab_size: int) -> int | None:
        """An id of the vocabulary; None where absent."""
        return None if name not in self else self.integer(name, low=0, high=vocab_size - 1)

    def token_ids(self, name: str, vocab_size: int, default: tuple[int, ...]) -> tuple[int, ...]:
        """One id or a list of ids; at least one."""
        value = self._values.get(name)
        value = list(default) if value is None else value
        ids = value if isinstance(value, list) else [value]
        if not ids or len(ids) > 64 or not all(_is_integer(i) and 0 <= i < vocab_size for i in ids):
            raise self.error(name, f"a token id below {vocab_size}, or a list of them")
        return tuple(ids)

    def refuse_unless(self, name: str, value: object, reason: str) -> None:
        """Refuses a variant that is not implemented; an absent field counts as ``value``."""
        found = self._values.get(name)
        if found is not None and (type(found) is not type(value) or found != value):
            raise self.error(name, f"{_shown(value)}: {reason}")

    def section(self, name: str) -> "Fields":
        """The fields of an object inside this one."""
        return Fields(self.raw(name), f"{self._where}, {name}")


def float_dtype(fields: Fields, default: FloatDtype) -> FloatDtype:
    """The dtype the weights are published in; transformers 5 says ``dtype``, earlier ones ``torch_dtype``.

    ``torch.float16``, ``fp16`` and ``half`` are ``float16``, and so on; ``auto`` counts as absent.
    """
    name = "dtype" if "dtype" in fields else "torch_dtype"
    value = fields.raw(name)
    if value is None or value == "auto":
        return default
    found = DTYPE_SPELLINGS.get(value.lower().removeprefix("torch.")) if isinstance(value, str) else None
    if found is None:
        raise fields.error(name, "one of " + ", ".join(sorted(get_args(FloatDtype))))
    return found


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: object) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = {True: "true", False: "false", None: "null"}[value] if isinstance(value, bool | None) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
