"""The tokenizer of a checkpoint, rebuilt from its data files; no code from the checkpoint runs."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer, processors

from glmquant.core.placeholders import fetch_again
from glmquant.core.protocols import Turn
from glmquant.core.untrusted import shown
from glmquant.errors import CheckpointError, DataError
from glmquant.glm.config import Family, GlmConfig
from glmquant.glm.tokenizers.added_tokens import DeclaredToken, add_declared, declared_tokens
from glmquant.glm.tokenizers.chat import TEMPLATES, TemplateEncoder, takes_tools
from glmquant.glm.tokenizers.files import (
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    TOKENIZER_MODEL,
    has_file,
    read_bytes,
    write_tokenizer_files,
)
from glmquant.glm.tokenizers.generation import GENERATION_CONFIG, Generation, read_generation
from glmquant.glm.tokenizers.sentencepiece_model import sentencepiece_tokenizer, special_pieces
from glmquant.glm.tokenizers.special_names import named_tokens
from glmquant.glm.tokenizers.templates import ShippedTemplates, checked_templates, shipped_templates
from glmquant.glm.tokenizers.tiktoken_model import tiktoken_tokenizer
from glmquant.glm.tokenizers.tokenizer_json import failures_named, json_tokenizer

_MASKS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
_ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")

SENTENCEPIECE_SPECIALS: Final[dict[Family, tuple[str, ...]]] = {
    "chatglm2": _MASKS,
    "codegeex2": _MASKS,
    "chatglm3": _MASKS + _ROLES,
}
"""What the publisher's ``tokenization_chatglm.py`` adds after the SentencePiece vocabulary, in this order."""

TIKTOKEN_SPECIALS: Final = (
    *("<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"),
    *_ROLES,
    *("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"),
)
"""The same for GLM-4, unless ``added_tokens_decoder`` in its ``tokenizer_config.json`` says otherwise."""

TOKENIZER_FILE: Final = Path(TOKENIZER_JSON)
OTHERS_TURN: Final = ("<|user|>", "<|observation|>")


@dataclass(frozen=True, eq=False)
class GlmTokenizer:
    """Text to ids and back.

    Attributes:
        prefix_ids: what every input starts with (``[gMASK] sop``); empty where the family has none.
        pad_id: fills the left of shorter rows.
        eos_ids: every id that ends an answer.
        bos_id: the id of the beginning token, if any; nothing adds it.
        chat_template: Jinja text, the prefix in it; None for a tokenizer without one.
        max_length: the longest input the model takes, in tokens.
        kind: of its file: ``SentencePiece``, ``tiktoken`` or ``tokenizers``.
        shipped: the chat templates that came with it; where there are none, ``chat_template`` is the family's, if any.
        generation: what ``generation_config.json`` says.
        eos_token: the text of the token that the tokenizer's files name so; None for that of the first of ``eos_ids``.
        notes: where its files disagree, and what is made of that.
    """

    prefix_ids: tuple[int, ...]
    pad_id: int
    eos_ids: tuple[int, ...]
    bos_id: int | None
    chat_template: str | None
    max_length: int
    _tokenizer: Tokenizer = field(repr=False)
    kind: str = "tokenizers"
    shipped: ShippedTemplates = field(default_factory=ShippedTemplates)
    generation: Generation = field(default_factory=Generation)
    eos_token: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def vocab_size(self) -> int:
        """Ids the tokenizer knows; a model's vocabulary may be padded to more."""
        size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        return size

    def token(self, index: int) -> str | None:
        """The text of one id; None where it has none."""
        text: str | None = self._tokenizer.id_to_token(index)
        return text

    def encode(self, text: str) -> list[int]:
        """The ids of ``text`` without the prefix; special tokens written in it are text like any other.

        Raises:
            DataError: half of a surrogate pair, which is no character.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"the text is not Unicode: character {error.start} is {error.object[error.start]!a}",
                expected="text that can be written as UTF-8",
                hint="look at the JSON escapes (\\ud800 to \\udfff come in pairs) where the text comes from",
            ) from error
        with failures_named(TOKENIZER_FILE):
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of ``ids``; bytes that are no UTF-8 become U+FFFD, ids beyond the vocabulary nothing."""
        with failures_named(TOKENIZER_FILE):
            text: str = self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text

    def apply_chat_template(
        self,
        messages: Sequence[Turn],
        *,
        add_generation_prompt: bool = True,
        thinking: bool | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> list[int]:
        """The ids of a conversation, prefix included, ending where the assistant's turn begins unless that is not
        wanted.

        Args:
            thinking: whether the model is to think before it answers; None for the template's own default.
            tools: descriptions, as OpenAI's API has them.

        Raises:
            CheckpointError: the checkpoint has no chat template, or the template refuses the messages, has no switch
                for thinking, or no place for tools.
        """
        if self.chat_template is None:
            raise CheckpointError(
                "the checkpoint has no chat template",
                where="tokenizer_config.json, chat_template",
                hint="give plain text, or set model.family if the checkpoint is of a family with a known template",
            )
        specials = self._named_specials
        return self._template_encoder.ids(
            self.chat_template, messages, specials, add_generation_prompt, thinking, tools
        )

    @cached_property
    def takes_tools(self) -> bool:
        """Whether the chat template has a place for descriptions of tools."""
        return self.chat_template is not None and takes_tools(self.chat_template)

    @cached_property
    def sha256(self) -> str:
        """Identifies the tokenizer by what decides its ids: equal digests, equal ids."""
        return self._digest("added_tokens", "normalizer", "pre_tokenizer", "model")

    @cached_property
    def vocabulary_sha256(self) -> str:
        """As ``sha256``, without the pre-tokenizer: a bundle has one that splits nothing, where there was none."""
        return self._digest("added_tokens", "normalizer", "model")

    def _digest(self, *names: str) -> str:
        parts = json.loads(self._tokenizer.to_str())
        kept = {name: parts[name] for name in names}
        text = json.dumps({**kept, "prefix": self.prefix_ids}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def save(self, directory: Path) -> None:
        """Writes ``tokenizer.json``, ``tokenizer_config.json`` and ``special_tokens_map.json``.

        ``AutoTokenizer`` then gives the same ids as this tokenizer, prefix included. It reads special tokens written in
        a text as special, as transformers does by default.

        Raises:
            CheckpointError: a damaged tokenizer that the library can write and not read again.
        """
        with failures_named(directory / TOKENIZER_JSON):
            saved = Tokenizer.from_str(self._tokenizer.to_str())
        saved.enable_padding(direction="left", pad_id=self.pad_id, pad_token=self._tokenizer.id_to_token(self.pad_id))
        text = saved.to_str(pretty=True) + "\n"
        write_tokenizer_files(
            directory, text, self._named_specials, self.chat_template, self.shipped.others, self.max_length
        )

    @cached_property
    def _named_specials(self) -> dict[str, str]:
        ids = {"bos_token": self.bos_id, "eos_token": self.eos_ids[0], "pad_token": self.pad_id}
        names = {name: str(self._tokenizer.id_to_token(index)) for name, index in ids.items() if index is not None}
        return names if self.eos_token is None else names | {"eos_token": self.eos_token}

    @cached_property
    def _template_encoder(self) -> TemplateEncoder:
        added = self._tokenizer.get_added_tokens_decoder()
        specials = {token.content: index for index, token in added.items() if token.special}
        whole_words = frozenset(token.content for token in added.values() if token.special and token.single_word)
        return TemplateEncoder(specials, whole_words, self.encode)


class StreamDecoder:
    """Decodes a growing answer id by id; the parts joined are its text, and none ends inside a character."""

    def __init__(self, tokenizer: GlmTokenizer) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []
        self._pending: list[int] = []

    def push(self, index: int) -> str:
        """The text that ``index`` completes; may be empty."""
        self._pending.append(index)
        text = self._pending_text()
        return "" if not text or text.endswith("\ufffd") else self._emit(text)

    def finish(self) -> str:
        """What is left when no more ids come."""
        return self._emit(self._pending_text())

    def _pending_text(self) -> str:
        context = self._tokenizer.decode(self._context)
        return self._tokenizer.decode(self._context + self._pending)[len(context) :]

    def _emit(self, text: str) -> str:
        # Decoding trims the space at the start of a text, so what follows is decoded behind a letter.
        self._context = self._context or self._letter()
        self._pending = []
        return text

    def _letter(self) -> list[int]:
        return self._tokenizer.encode("a")[-1:]


def load_tokenizer(directory: Path, config: GlmConfig, *, compile_template: bool = True) -> GlmTokenizer:
    """The tokenizer of the checkpoint in ``directory``, with what the files beside it say of it.

    Args:
        directory: holds ``tokenizer.model`` (native layouts) or ``tokenizer.json`` (``glm`` and ``glm4``).
        config: the checkpoint's canonical description; its family says what the publisher adds to the file.
        compile_template: see now whether its chat templates compile; else when one is used.

    Raises:
        CheckpointError: a tokenizer file that is missing, damaged, of a kind that is not implemented, or that does not
            fit the model's vocabulary or another file; or a chat template that does not compile.
    """
    path = tokenizer_path(directory, config)
    native = _NATIVE[config.family] if path.name == TOKENIZER_MODEL else None
    declared = declared_tokens(directory)
    tokenizer = native(directory, config.family, declared) if native else json_tokenizer(directory)
    tokenizer.encode_special_tokens = True
    tokenizer.no_padding()
    tokenizer.no_truncation()
    _check_size(tokenizer, config, path)
    add_declared(tokenizer, declared, config.vocab_size, path)
    _check_ids(tokenizer, config, path)
    if native:
        _add_prefix(tokenizer, str(tokenizer.id_to_token(config.eos_token_ids[0])), path)
    names, generation = named_tokens(directory), read_generation(directory, config.vocab_size)
    shipped = checked_templates(directory) if compile_template else shipped_templates(directory)
    eos = _Ends(tokenizer, config, generation, names.get("eos_token"))
    return GlmTokenizer(
        prefix_ids=_prefix(tokenizer, path),
        pad_id=config.pad_token_id,
        eos_ids=eos.ids,
        bos_id=_bos_id(tokenizer, config, names.get("bos_token")),
        chat_template=shipped.default or TEMPLATES.get(config.family),
        max_length=config.max_position_embeddings,
        _tokenizer=tokenizer,
        kind=_KINDS[native] if native else "tokenizers",
        shipped=shipped,
        generation=generation,
        eos_token=eos.token,
        notes=(*eos.notes, *shipped.notes, *generation.notes),
    )


def tokenizer_path(directory: Path, config: GlmConfig) -> Path:
    """The file that the tokenizer of a checkpoint is read from, whether it is there or not."""
    converted = has_file(directory, TOKENIZER_JSON) and not has_file(directory, TOKENIZER_MODEL)
    return directory / (TOKENIZER_JSON if converted or config.family not in _NATIVE else TOKENIZER_MODEL)


def _from_sentencepiece(directory: Path, family: Family, declared: Sequence[DeclaredToken]) -> Tokenizer:
    path = directory / TOKENIZER_MODEL
    content = read_bytes(directory, TOKENIZER_MODEL)
    tokenizer = sentencepiece_tokenizer(content, path)
    _add_specials(tokenizer, special_pieces(content, path), SENTENCEPIECE_SPECIALS[family], path)
    return tokenizer


def _from_tiktoken(directory: Path, family: Family, declared: Sequence[DeclaredToken]) -> Tokenizer:
    """The publisher's special tokens follow the ranks, unless the files declare others there."""
    path = directory / TOKENIZER_MODEL
    tokenizer = tiktoken_tokenizer(read_bytes(directory, TOKENIZER_MODEL), path)
    if not any(token.index == tokenizer.get_vocab_size() for token in declared):
        _add_specials(tokenizer, [], TIKTOKEN_SPECIALS, path)
    return tokenizer


_Native = Callable[[Path, Family, Sequence[DeclaredToken]], Tokenizer]
_NATIVE: Final[dict[Family, _Native]] = {
    **dict.fromkeys(SENTENCEPIECE_SPECIALS, _from_sentencepiece),
    "glm-4": _from_tiktoken,
}
_KINDS: Final[dict[_Native, str]] = {_from_sentencepiece: "SentencePiece", _from_tiktoken: "tiktoken"}


def _add_specials(tokenizer: Tokenizer, own: Sequence[str], added: Sequence[str], path: Path) -> None:
    """Marks ``own`` tokens of the file as special and puts ``added`` ones behind it."""
    first = tokenizer.get_vocab_size()
    # "eop" is in "people": a bare word counts as special only by itself.
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, single_word=token.isalpha()) for token in (*own, *added)]
    )
    if [tokenizer.token_to_id(token) for token in added] != list(range(first, first + len(added))):
        raise CheckpointError(
            "the tokenizer already has some of the special tokens that its family adds",
            where=path,
            expected=f"none of {', '.join(added)}",
            hint="leave model.family out, or set it to the family that the tokenizer is of",
        )


def _add_prefix(tokenizer: Tokenizer, end: str, path: Path) -> None:
    """Every input starts with the prefix; a pair of texts, and only a pair, ends with ``end``."""
    prefix = [token for token in ("[gMASK]", "sop", "<sop>") if tokenizer.token_to_id(token) is not None]
    if len(prefix) != 2:
        raise CheckpointError(
            "the tokenizer lacks the tokens every input starts with", where=path, expected="[gMASK], sop"
        )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*prefix, "$A"],
        pair=[*prefix, "$A", "$B", end],
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (*prefix, end)],
    )


def _check_size(tokenizer: Tokenizer, config: GlmConfig, path: Path) -> None:
    size = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    if size > config.vocab_size:
        raise CheckpointError(
            f"the tokenizer has {size} ids",
            where=path,
            expected=f"at most the model's vocabulary, {config.vocab_size}",
            hint=f"is it another model's? {fetch_again(path)}",
        )


def _check_ids(tokenizer: Tokenizer, config: GlmConfig, path: Path) -> None:
    named = {"pad": config.pad_token_id, "eos": config.eos_token_ids[0], "bos": config.bos_token_id}
    for name, index in named.items():
        if index is not None and tokenizer.id_to_token(index) is None:
            raise CheckpointError(
                f"the tokenizer has no token {index}, but {tokenizer.get_vocab_size()} ids",
                where=path,
                expected=f"the {name}_token_id of config.json, whose vocabulary is {config.vocab_size}",
                hint=f"is it another model's? {fetch_again(path)}",
            )


def _prefix(tokenizer: Tokenizer, path: Path) -> tuple[int, ...]:
    """What the post-processor puts before a text."""
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.encode("a").ids
    if whole[len(whole) - len(plain) :] != plain:
        raise CheckpointError(
            "the tokenizer puts special tokens after a text", where=path, expected="a prefix, as GLM tokenizers have"
        )
    return tuple(whole[: len(whole) - len(plain)])


def _bos_id(tokenizer: Tokenizer, config: GlmConfig, named: str | None) -> int | None:
    if config.bos_token_id is not None or named is None:
        return config.bos_token_id
    index: int | None = tokenizer.token_to_id(named)
    return index


class _Ends:
    """Where an answer ends: at any id that a file names, and at the tokens that open another's turn.

    The publisher's chat stops on those too. transformers listens to ``generation_config.json`` alone, vLLM to the
    tokenizer too, and a fine-tune's tools change one file or the other.
    """

    def __init__(self, tokenizer: Tokenizer, config: GlmConfig, generation: Generation, named: str | None) -> None:
        own = None if named is None else tokenizer.token_to_id(named)
        stated = dict.fromkeys((*config.eos_token_ids, *generation.eos_ids))
        added = tokenizer.get_added_tokens_decoder()
        turns = [index for index, token in added.items() if token.special and token.content in OTHERS_TURN]
        self.ids = tuple(dict.fromkeys((*stated, *([] if own is None else [own]), *turns)))
        self.token = None if own is None else named
        notes = []
        if generation.eos_ids and set(generation.eos_ids) != set(config.eos_token_ids):
            notes.append(
                f"config.json ends an answer at {_listed(config.eos_token_ids)}, {GENERATION_CONFIG} at "
                f"{_listed(generation.eos_ids)}: it ends at each of them"
            )
        if named is not None and own is None:
            notes.append(f"{TOKENIZER_CONFIG} names the eos_token {shown(named)}, which the tokenizer does not have")
        elif own is not None and own not in stated and named not in OTHERS_TURN:
            notes.append(f"an answer also ends at {own}, the eos_token {shown(named)} of {TOKENIZER_CONFIG}")
        self.notes = tuple(notes)


def _listed(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids))
