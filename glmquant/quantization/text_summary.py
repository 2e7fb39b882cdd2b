"""What a checkpoint says of text: its tokenizer, its chat templates, how it generates; each opened as export will."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from glmquant.errors import GlmQuantError
from glmquant.glm.tokenizers.added_tokens import declared_tokens
from glmquant.glm.tokenizers.files import read_bytes
from glmquant.glm.tokenizers.generation import read_generation
from glmquant.glm.tokenizers.special_names import named_tokens
from glmquant.glm.tokenizers.templates import checked_templates
from glmquant.glm.tokenizers.tokenizer import tokenizer_path
from glmquant.store.checkpoint import Checkpoint


@dataclass(frozen=True)
class Problem:
    """Why a checkpoint cannot be used, in the parts of a :class:`GlmQuantError`."""

    what: str
    where: str | None
    expected: str | None
    hint: str | None

    def as_error(self) -> GlmQuantError:
        return GlmQuantError(self.what, where=self.where, expected=self.expected, hint=self.hint)


@dataclass(frozen=True)
class StopToken:
    """An id at which an answer ends, and its text; None where the tokenizer has none."""

    id: int
    text: str | None


@dataclass(frozen=True)
class TextSummary:
    """A checkpoint's tokenizer and what lies beside it.

    Attributes:
        tokenizer: ``SentencePiece``, ``tiktoken`` or ``tokenizers``.
        num_ids: that it knows; a model's vocabulary may be padded to more.
        template: whose the chat template is; None where there is none.
        template_from: file and field of the checkpoint's own one.
        other_templates: names of templates for other occasions.
        stop_tokens: where an answer ends.
        sampling: defaults that ``generation_config.json`` states.
        notes: where files disagree, and what is made of that.
    """

    tokenizer: str
    num_ids: int
    template: Literal["checkpoint", "family"] | None
    template_from: str | None
    other_templates: tuple[str, ...]
    stop_tokens: tuple[StopToken, ...]
    sampling: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def describe_text(checkpoint: Checkpoint) -> TextSummary:
    """Of a checkpoint whose tokenizer can be used.

    Raises:
        CheckpointError: it cannot; see :func:`text_problems`.
    """
    tokenizer = checkpoint.tokenizer
    own = tokenizer.shipped.default is not None
    return TextSummary(
        tokenizer=tokenizer.kind,
        num_ids=tokenizer.vocab_size,
        template="checkpoint" if own else "family" if tokenizer.chat_template is not None else None,
        template_from=tokenizer.shipped.where if own else None,
        other_templates=tuple(tokenizer.shipped.others),
        stop_tokens=tuple(StopToken(index, tokenizer.token(index)) for index in tokenizer.eos_ids),
        sampling=tokenizer.generation.sampling.stated(),
        notes=tokenizer.notes,
    )


def text_problems(checkpoint: Checkpoint) -> tuple[Problem, ...]:
    """Everything that is wrong with the tokenizer's files and those beside it, each once; empty where all is well."""
    found = {problem: None for check in _checks(checkpoint) for problem in _failed(check)}
    return tuple(found)


def _checks(checkpoint: Checkpoint) -> Iterator[Callable[[], object]]:
    path, vocabulary = checkpoint.path, checkpoint.config.vocab_size
    yield lambda: checkpoint.tokenizer
    yield lambda: read_bytes(path, tokenizer_path(path, checkpoint.config).name)
    yield lambda: declared_tokens(path)
    yield lambda: named_tokens(path)
    yield lambda: checked_templates(path)
    yield lambda: read_generation(path, vocabulary)


def _failed(check: Callable[[], object]) -> Iterator[Problem]:
    try:
        check()
    except GlmQuantError as error:
        yield Problem(error.what, None if error.where is None else str(error.where), error.expected, error.hint)
