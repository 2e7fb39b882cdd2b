"""Which release a checkpoint of the publisher's own layout descends from: its names and its tokenizer are weighed.

ChatGLM2, ChatGLM3, CodeGeeX2 and GLM-4 share one ``model_type``. What tells them apart is a hub id, wherever one is
left (``_name_or_path``, the repository in ``auto_map``, the same two in ``tokenizer_config.json``), and the kind of
``tokenizer.model``. A path of directories says where somebody kept a file, not what is in it, and decides nothing.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from glmquant.errors import CheckpointError
from glmquant.glm.config import Family
from glmquant.glm.layouts.fields import Fields

FAMILIES: Final[dict[Family, str]] = {
    "chatglm2": r"chatglm-?2",
    "chatglm3": r"chatglm-?3",
    "codegeex2": r"codegeex-?2",
    "glm-4": r"(?<!chat)glm-?4-9b|codegeex-?4",
}
"""How each lineage is recognized in a hub id, in small letters."""

Vocabulary = Literal["sentencepiece", "tiktoken"]
VOCABULARIES: Final[dict[Family, Vocabulary]] = {
    "chatglm2": "sentencepiece",
    "chatglm3": "sentencepiece",
    "codegeex2": "sentencepiece",
    "glm-4": "tiktoken",
}

BASES: Final[dict[Family, Family]] = {"codegeex2": "chatglm2"}
"""A lineage that kept the tokenizer of another, with its name."""

GLM4_TOKENIZER: Final = "ChatGLM4Tokenizer"
_ID: Final = re.compile(r"(?:[\w-][\w.-]*/)?([\w-][\w.-]*)")
_CACHED: Final = re.compile(r"models--[^/\\]+--([\w.-]+)")


@dataclass(frozen=True)
class Traces:
    """What lies beside ``config.json`` and tells of its lineage.

    Attributes:
        tokenizer_config: the parsed ``tokenizer_config.json``; empty where there is none.
        vocabulary: the kind of ``tokenizer.model``; None where there is none, or it is neither.
    """

    tokenizer_config: Mapping[str, Any] = field(default_factory=dict)
    vocabulary: Vocabulary | None = None

    @property
    def kind(self) -> Vocabulary | None:
        """The kind of vocabulary, by the file itself, else by the class that reads it."""
        is_glm4 = self.tokenizer_config.get("tokenizer_class") == GLM4_TOKENIZER
        return self.vocabulary or ("tiktoken" if is_glm4 else None)


def published_names(config: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> Iterator[str]:
    """Names of hub repositories, without their owners, that the files give."""
    for values, name in ((config, "_name_or_path"), (tokenizer_config, "name_or_path")):
        yield from _repository(values.get(name))
        for reference in _references(values.get("auto_map")):
            repository, separator, _ = reference.partition("--")
            if separator:
                yield from _repository(repository)


def _references(auto_map: Any) -> Iterator[str]:
    if isinstance(auto_map, Mapping):
        for value in auto_map.values():
            yield from (each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str))


def _repository(name: Any) -> Iterator[str]:
    """The repository a name stands for; none for a path, unless it leads into the hub's cache."""
    if not isinstance(name, str):
        return
    found = _ID.fullmatch(name) or _CACHED.search(name)
    if found is not None:
        yield found[1]


def lineage(fields: Fields, family: Family | None, traces: Traces) -> Family:
    """The lineage: ``family`` where it is asked for, else the only one that names and tokenizer leave.

    Raises:
        CheckpointError: they leave several or none, or contradict what is asked for.
    """
    named = _named(fields, traces)
    possible = [each for each in FAMILIES if traces.kind in (None, VOCABULARIES[each])]
    agreed = [each for each in possible if each in named]
    if family is not None:
        return _confirmed(fields, family, agreed, traces)
    choices = agreed if named else possible
    if len(choices) == 1:
        return choices[0]
    if named and not agreed:
        raise fields.error(
            "_name_or_path",
            f"the name of a model with a {traces.kind} vocabulary, which tokenizer.model is: {', '.join(possible)}",
            f"if the tokenizer is right, say which it is: model.family={possible[0]}",
        )
    raise fields.error(
        "_name_or_path",
        f"a name that tells which of {', '.join(choices)} this is: they differ in rope_ratio and chat template alone",
        "say which it is by the recipe's key model.family, for example "
        f"model.family={'chatglm3' if 'chatglm3' in choices else choices[0]}",
    )


def _named(fields: Fields, traces: Traces) -> list[Family]:
    names = " ".join(published_names(fields.values, traces.tokenizer_config)).lower()
    found = [family for family, pattern in FAMILIES.items() if re.search(pattern, names)]
    bases = {BASES.get(family) for family in found}
    return [family for family in found if family not in bases]


def _confirmed(fields: Fields, family: Family, agreed: list[Family], traces: Traces) -> Family:
    if family not in FAMILIES:
        expected = f"one of {', '.join(FAMILIES)}"
        raise CheckpointError(f"model.family is {family!r}", where="model.family", expected=expected)
    if traces.kind not in (None, VOCABULARIES[family]):
        possible = [each for each, kind in VOCABULARIES.items() if kind == traces.kind]
        raise CheckpointError(
            f"model.family is {family}, and tokenizer.model is a {traces.kind} vocabulary",
            where="model.family",
            expected=f"one of {', '.join(possible)}, or the tokenizer.model of {family}",
        )
    if agreed and family not in agreed:
        raise fields.error(
            "_name_or_path",
            f"a {family} checkpoint, since model.family says so",
            f"leave model.family out, or set it to {agreed[0]}; if the name in config.json is wrong, mend it there",
        )
    return family
