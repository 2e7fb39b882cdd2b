"""Tokens that a fine-tune adds behind the vocabulary, in whichever of three files they are written.

transformers has written them as ``added_tokens.json`` (text to id), as ``added_tokens_decoder`` of
``tokenizer_config.json`` (id to text), and as names alone in ``additional_special_tokens``; a saved tokenizer may have
all of them. They decide ids and text, so they are held against each other and against the tokenizer.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer

from glmquant.core.untrusted import shown
from glmquant.errors import CheckpointError
from glmquant.glm.tokenizers.files import ADDED_TOKENS, SPECIAL_TOKENS_MAP, TOKENIZER_CONFIG, has_file, read_object

MOST_TOKENS: Final = 2**14
LONGEST_CONTENT: Final = 512
LARGEST_GAP: Final = 1024
DECODER: Final = "added_tokens_decoder"
NAMES: Final = ("additional_special_tokens", "extra_special_tokens")
"""transformers 5 renamed them."""


@dataclass(frozen=True)
class DeclaredToken:
    """A token as a file declares it.

    Attributes:
        index: its id; None where only its text is told.
        where: the file and field, for errors.
    """

    content: str
    index: int | None
    where: str
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False

    def __str__(self) -> str:
        return f"{shown(self.content, 60)} is {self.index}"

    def added(self) -> AddedToken:
        """For ``tokenizers``. A bare word counts as special only by itself: "eop" is in "people"."""
        alone = self.single_word or (self.special and self.content.isalpha())
        return AddedToken(
            self.content,
            single_word=alone,
            lstrip=self.lstrip,
            rstrip=self.rstrip,
            normalized=False,
            special=self.special,
        )


def declared_tokens(directory: Path) -> list[DeclaredToken]:
    """Every token that the files beside the tokenizer declare, those with an id first, in rising order.

    Raises:
        CheckpointError: a file that is damaged, or two declarations that contradict each other.
    """
    config = read_object(directory, TOKENIZER_CONFIG) if has_file(directory, TOKENIZER_CONFIG) else {}
    listed = read_object(directory, ADDED_TOKENS) if has_file(directory, ADDED_TOKENS) else {}
    special = read_object(directory, SPECIAL_TOKENS_MAP) if has_file(directory, SPECIAL_TOKENS_MAP) else {}
    decoder = list(_from_decoder(config.get(DECODER), f"{directory / TOKENIZER_CONFIG}, {DECODER}"))
    named = [
        *_named(config, directory / TOKENIZER_CONFIG),
        *_named(special, directory / SPECIAL_TOKENS_MAP),
    ]
    names = {token.content for token in named}
    tokens = [*decoder, *_from_list(listed, directory / ADDED_TOKENS, names)]
    if len(tokens) + len(named) > MOST_TOKENS:
        raise CheckpointError(f"{len(tokens) + len(named)} added tokens", where=directory, expected=f"{MOST_TOKENS}")
    _refuse_contradictions(tokens)
    unique: dict[str, DeclaredToken] = {}
    for token in (*tokens, *named):
        unique.setdefault(token.content, token)
    found = [replace(token, special=token.special or token.content in names) for token in unique.values()]
    return sorted(found, key=lambda token: (token.index is None, token.index or 0))


def add_declared(tokenizer: Tokenizer, declared: list[DeclaredToken], vocab_size: int, path: Path) -> None:
    """Adds to ``tokenizer`` what it lacks of ``declared``, under the ids that are declared.

    Args:
        vocab_size: of the model; ids lie below it.
        path: the tokenizer's file, for errors.

    Raises:
        CheckpointError: an id beyond the model's vocabulary, or that the tokenizer has for another token.
    """
    if not declared:
        return
    known = tokenizer.get_added_tokens_decoder().keys()
    size = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    for token in declared:
        found = tokenizer.token_to_id(token.content)
        if found is None:
            index = size if token.index is None else token.index
            _refuse_id(tokenizer, token, index, size, vocab_size, path)
            _append(tokenizer, token, index, size, path)
            size = index + 1
        elif token.index is not None and found != token.index:
            raise _clash(token, f"{shown(token.content, 60)} is {found}", path)
        elif found not in known:
            tokenizer.add_tokens([token.added()])


def _refuse_id(tokenizer: Tokenizer, token: DeclaredToken, index: int, size: int, vocab_size: int, path: Path) -> None:
    taken = tokenizer.id_to_token(index)
    if taken is not None:
        raise _clash(token, f"{index} is {shown(taken, 60)}", path)
    if index >= vocab_size:
        raise CheckpointError(
            f"the added token {shown(token.content, 60)} has id {index}",
            where=token.where,
            expected=f"an id below {vocab_size}, the model's vocabulary in config.json",
            hint="take config.json, weights and tokenizer files from one saved checkpoint, its embedding resized",
        )
    if not 0 <= index - size <= LARGEST_GAP:
        raise CheckpointError(
            f"the added token {shown(token.content, 60)} has id {index}",
            where=token.where,
            expected=f"an id that follows those before it, {size}",
            hint="take all tokenizer files from one saved checkpoint",
        )


def _append(tokenizer: Tokenizer, token: DeclaredToken, index: int, size: int, path: Path) -> None:
    """tokenizers numbers added tokens without a gap: a gap is filled by tokens that no text spells."""
    tokenizer.add_special_tokens([AddedToken(f"<|unused_{i}|>", normalized=False) for i in range(size, index)])
    tokenizer.add_tokens([token.added()])
    if tokenizer.token_to_id(token.content) != index:
        raise _clash(token, f"{shown(token.content, 60)} would be {tokenizer.token_to_id(token.content)}", path)


def _clash(token: DeclaredToken, other: str, path: Path) -> CheckpointError:
    return CheckpointError(
        f"the tokenizer's files contradict each other: {token if token.index is not None else shown(token.content)} "
        f"in one, {other} in the other",
        where=f"{token.where}, and {path}",
        expected="one id for each token",
        hint="take all tokenizer files from one saved checkpoint",
    )


def _refuse_contradictions(tokens: list[DeclaredToken]) -> None:
    by_index: dict[int | None, DeclaredToken] = {}
    by_content: dict[str, DeclaredToken] = {}
    for token in tokens:
        same = by_index.setdefault(token.index, token), by_content.setdefault(token.content, token)
        for other in same:
            if (other.content, other.index) != (token.content, token.index):
                places = token.where if token.where == other.where else f"{other.where}, and {token.where}"
                raise CheckpointError(
                    f"added tokens contradict each other: {other}, and {token}",
                    where=places,
                    expected="one id for each token",
                    hint="take all tokenizer files from one saved checkpoint",
                )


def _from_decoder(value: Any, where: str) -> Iterator[DeclaredToken]:
    if value is None:
        return
    if not isinstance(value, dict):
        raise _malformed(where, "an object from ids to tokens")
    for key, entry in value.items():
        if not (key.isascii() and key.isdigit() and len(key) < 10 and isinstance(entry, dict)):
            raise _malformed(where, "ids, each with an object that has a content")
        flags = {name: entry.get(name) is True for name in ("lstrip", "rstrip", "single_word")}
        special = entry.get("special", True) is not False
        yield DeclaredToken(_content(entry.get("content"), where), int(key), where, special, **flags)


def _from_list(values: dict[str, Any], path: Path, special: set[str]) -> Iterator[DeclaredToken]:
    """It does not say which tokens are special: ``special`` names them, as in other files of the directory."""
    for content, index in values.items():
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < 10**9:
            raise _malformed(str(path), "tokens, each with its id")
        yield DeclaredToken(_content(content, str(path)), index, str(path), content in special)


def _named(values: dict[str, Any], path: Path) -> Iterator[DeclaredToken]:
    for name in NAMES:
        listed = values.get(name)
        for entry in listed if isinstance(listed, list) else ():
            content = entry.get("content") if isinstance(entry, dict) else entry
            yield DeclaredToken(_content(content, f"{path}, {name}"), None, f"{path}, {name}")


def _content(value: Any, where: str) -> str:
    usable = isinstance(value, str) and 0 < len(value) <= LONGEST_CONTENT
    if not usable or any("\ud800" <= char <= "\udfff" for char in value):
        raise _malformed(where, f"tokens of 1 to {LONGEST_CONTENT} characters")
    text: str = value
    return text


def _malformed(where: str, expected: str) -> CheckpointError:
    return CheckpointError(
        "the added tokens are not as transformers writes them",
        where=where,
        expected=expected,
        hint="mend it there, or take all tokenizer files from one saved checkpoint",
    )
