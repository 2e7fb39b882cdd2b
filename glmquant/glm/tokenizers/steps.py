"""Which steps ``tokenizer.json`` may put a text through: those that take time and memory in proportion to it.

The library runs what the file says: replacements of one letter by a hundred, one after the other, and regular
expressions that backtrack without end, on which it panics or aborts the process. Here the steps are weighed before the
library sees them: by how much they may grow a text, and by patterns that are either those of published tokenizers or of
a form that cannot backtrack.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from glmquant.core.untrusted import shown
from glmquant.errors import CheckpointError
from glmquant.glm.tokenizers.charsmap import decoded_charsmap, growth, is_match_pattern

LONGEST_PADDING: Final = 1 << 24
MOST_STEPS: Final = 1024
MOST_ADDED: Final = 4096
"""Tokens put around a text; GLM tokenizers put two before it."""

MOST_GROWTH: Final = 256.0
"""Of a text, by all steps together; NFKC makes 18 characters of one, and the fences around them double that."""

LONGEST_PREPENDED: Final = 16
"""Characters put before a text, which are nothing beside it; GLM's put one."""

LONGEST_PATTERN: Final = 1 << 16
MOST_REPEATS: Final = 64

PUBLISHED: Final = frozenset(
    {
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"(?i:[sdmt]|ll|ve|re)",
        r"'(?i:[sdmt]|ll|ve|re)",
        r"'s|'t|'re|'ve|'m|'ll|'d",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"[^\r\n\p{L}\p{N}]?+\p{L}+",
        r"\p{N}{1,3}",
        r" ?\p{L}+",
        r" ?\p{N}+",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r" ?[^\s\p{L}\p{N}]++[\r\n]*",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s*[\r\n]",
        r"\s+(?!\S)",
        r"\s+",
        r"[\s\S]+",
        r"\A ?▁\K +",
        r"\A▁\K +",
        r"\A +",
        r"[ ▁]+\z",
        r" {2,}",
        r"(?m)(?<=[^￰])(?=[^￰])",
    }
)
"""Alternatives of the patterns of GPT-2, cl100k, o200k, Llama 3, Qwen and GLM-4, and what SentencePiece's rules become
(:mod:`glmquant.glm.tokenizers.sentencepiece_model`)."""

CLASS: Final = r"\[\^?(?:\\.|[^\]\\\[])+\]"
ATOM: Final = rf"(?:\\[pP]\{{\^?\w+\}}|\\[^\w]|\\[sSdDwWnrt]|{CLASS}|[^\\^$|?*+()\[\]{{}}])"
BOUNDED: Final = r"(?:\?|\{\d{1,2}(?:,\d{1,2})?\})?"
STRAIGHT: Final = re.compile(rf"(?:{ATOM}{BOUNDED})*?(?:{ATOM}[+*])?")
"""Atoms in a row of which only the last may repeat without bound: once matched, nothing behind it can fail."""


def require_bounded_steps(values: dict[str, Any], where: object) -> None:
    """That the steps of a ``tokenizer.json`` grow a text by no more than :data:`MOST_GROWTH`, and never backtrack.

    Raises:
        CheckpointError: they may not, or are damaged.
    """
    _require_short_padding(values.get("padding"), where)
    _require_few_added(values.get("post_processor"), where)
    charsmaps: list[bytes] = []
    grown, steps = 1.0, 0
    for section in ("normalizer", "pre_tokenizer", "decoder"):
        for step in _steps(values.get(section)):
            steps += 1
            kind = step.get("type")
            if kind == "Precompiled":
                charsmaps.append(decoded_charsmap(step.get("precompiled_charsmap")))
            grown *= _growth(step, charsmaps)
            if steps > MOST_STEPS or grown > MOST_GROWTH:
                raise CheckpointError(
                    f"the tokenizer's steps may make a text {MOST_GROWTH:g} times as long",
                    where=f"{where}, {section}",
                    expected="steps that replace characters by about as many",
                )
    for section in ("normalizer", "pre_tokenizer", "decoder"):
        for step in _steps(values.get(section)):
            _require_straight(step.get("pattern"), charsmaps, f"{where}, {section}")


def _require_short_padding(padding: Any, where: object) -> None:
    """Nothing here pads as the file says, but other readers of it do."""
    strategy = padding.get("strategy") if isinstance(padding, dict) else None
    lengths = [strategy.get("Fixed") if isinstance(strategy, dict) else None]
    lengths.append(padding.get("pad_to_multiple_of") if isinstance(padding, dict) else None)
    for length in lengths:
        if isinstance(length, int) and length > LONGEST_PADDING:
            raise CheckpointError(
                f"the tokenizer pads to {shown(length)} tokens",
                where=f"{where}, padding",
                expected=f"at most {LONGEST_PADDING:,}",
            )


def _require_few_added(processor: Any, where: object) -> None:
    added = 0
    for step in _steps(processor):
        specials = step.get("special_tokens")
        lengths = {name: _number_of_ids(each) for name, each in specials.items()} if isinstance(specials, dict) else {}
        for template in ("single", "pair"):
            pieces = step.get(template)
            for piece in pieces if isinstance(pieces, list) else ():
                special = piece.get("SpecialToken") if isinstance(piece, dict) else None
                name = special.get("id") if isinstance(special, dict) else None
                added += max(1, lengths.get(name, 0) if isinstance(name, str) else 0)
    if added > MOST_ADDED:
        raise CheckpointError(
            f"the tokenizer puts {added:,} tokens around a text",
            where=f"{where}, post_processor",
            expected=f"at most {MOST_ADDED:,}",
        )


def _number_of_ids(special: Any) -> int:
    ids = special.get("ids") if isinstance(special, dict) else None
    return len(ids) if isinstance(ids, list) else 0


def _steps(step: Any) -> Iterator[dict[str, Any]]:
    """A step and those within it, in their order."""
    waiting = [step]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            yield each
            waiting += [inner for name in INNER if isinstance(each.get(name), list) for inner in reversed(each[name])]


INNER: Final = ("normalizers", "pretokenizers", "decoders", "processors")


def _growth(step: dict[str, Any], charsmaps: list[bytes]) -> float:
    """How many characters a step may make of one."""
    kind, pattern = step.get("type"), step.get("pattern")
    if kind == "Precompiled":
        return growth(charsmaps[-1])
    if kind == "Prepend" and len(str(step.get("prepend", ""))) > LONGEST_PREPENDED:
        return 1.0 + len(str(step["prepend"]))
    if kind != "Replace":
        return 1.0
    content = str(step.get("content", ""))
    text = pattern.get("String") if isinstance(pattern, dict) else None
    if isinstance(text, str) and text:
        return max(1.0, len(content) / len(text))
    return 1.0 + len(content)


def _require_straight(pattern: Any, charsmaps: list[bytes], where: str) -> None:
    regex = pattern.get("Regex") if isinstance(pattern, dict) else None
    if regex is None:
        return
    safe = isinstance(regex, str) and (is_straight(regex) or any(is_match_pattern(regex, each) for each in charsmaps))
    if not safe:
        raise CheckpointError(
            f"the tokenizer's regular expression may take forever: {shown(regex)}",
            where=where,
            expected="those of published tokenizers, or characters in a row of which only the last repeats without end",
        )


def is_straight(pattern: str) -> bool:
    """Whether matching a pattern takes time in proportion to the text."""
    if len(pattern) > LONGEST_PATTERN:
        return False
    return all(each in PUBLISHED or _is_straight_alternative(each) for each in _alternatives(pattern))


def _is_straight_alternative(pattern: str) -> bool:
    repeats = sum(int(number) for number in re.findall(r"(?<!\\)\{(?:\d+,)?(\d+)\}", pattern))
    return repeats <= MOST_REPEATS and STRAIGHT.fullmatch(pattern) is not None


def _alternatives(pattern: str) -> list[str]:
    """Cut at every ``|`` that is in no class and no group."""
    parts, start, depth = [], 0, 0
    for match in re.finditer(rf"\\.|{CLASS}|[()|]", pattern, re.DOTALL):
        token = match[0]
        depth += (token == "(") - (token == ")")
        if token == "|" and depth == 0:
            parts.append(pattern[start : match.start()])
            start = match.end()
    return [*parts, pattern[start:]]
