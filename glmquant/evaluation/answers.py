"""Greedy answers of both models to the user's prompts.

The float model goes through its blocks once for many tokens: the candidate drafts an answer, one pass of the float
model says up to which token it would have said the same, and what itself says next; from there the candidate drafts on.
What comes out is the float model's own greedy answer, token by token (speculative decoding, Leviathan, Kalman and
Matias 2023, https://arxiv.org/abs/2211.17192, with greedy choices), in at most one pass more than there are places
where the two differ.

Shape suffixes: T tokens, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from glmquant.core.protocols import Tokenizer
from glmquant.errors import CheckError
from glmquant.evaluation.results import PromptAnswers
from glmquant.evaluation.source import Logits, LogitsSource, Query
from glmquant.glm.tokenizers.chat import Message
from glmquant.recipe.check_options import CheckOptions
from glmquant.runtime.generate import generate
from glmquant.runtime.model import OnnxModel
from glmquant.runtime.sampling import GenerationOptions

MOST_PASSES: Final = 16
"""Of the float model; where the two differ more often, its answer ends early, and says so."""


class Drafter(Protocol):
    """What continues a text greedily."""

    def __call__(self, ids: Sequence[int], count: int) -> list[int]:
        """Up to ``count`` tokens after ``ids``; the last one may be an end."""


def read_prompts(tokenizer: Tokenizer, options: CheckOptions, max_length: int | None) -> list[list[int]]:
    """The ids of each prompt of ``check.prompts``: in the chat template where the model has one, else as text.

    Raises:
        CheckError: one that leaves no room for ``check.answer_tokens``.
    """
    prompts = []
    for number, prompt in enumerate(options.prompts):
        if tokenizer.chat_template is None:
            ids = [*tokenizer.prefix_ids, *tokenizer.encode(prompt)]
        else:
            ids = tokenizer.apply_chat_template([Message("user", prompt)])
        if max_length is not None and len(ids) + options.answer_tokens > max_length:
            raise CheckError(
                f"a prompt of {len(ids)} tokens leaves no room for {options.answer_tokens} more",
                where=f"check.prompts.{number}",
                expected=f"at most {max_length} tokens together, the context length",
                hint="shorten the prompt, or lower check.answer_tokens",
            )
        prompts.append(ids)
    return prompts


def drafter(model: OnnxModel) -> Drafter:
    """The bundle, greedily, with the end that it chose."""

    def draft(ids: Sequence[int], count: int) -> list[int]:
        tokens = list(generate(model, ids, GenerationOptions(max_new_tokens=count)))
        return tokens if len(tokens) == count else [*tokens, model.info.eos_ids[0]]

    return draft


@dataclass
class _Answer:
    """The float model's answer as far as it is known, and what the candidate would say next."""

    prompt: list[int]
    draft: list[int]
    said: list[int] = field(default_factory=list)
    is_done: bool = False

    @property
    def query(self) -> Query:
        """Asks what comes after the prompt and what was said, and after each token of the draft but its last."""
        tokens = [*self.prompt, *self.said, *self.draft[:-1]]
        return Query(np.array(tokens, np.int64), len(self.draft))

    def check(self, logits_TV: Logits, ends: Sequence[int], most: int) -> None:
        """Takes the tokens of the draft that the float model says too, and its own at the first that it does not."""
        for drafted, chosen in zip(self.draft, logits_TV.argmax(-1).tolist(), strict=True):
            if chosen in ends:
                self.is_done = True
                return
            self.said.append(chosen)
            if chosen != drafted:
                break
        self.is_done = len(self.said) >= most


def greedy_answers(
    draft: Drafter, baseline: LogitsSource, tokenizer: Tokenizer, options: CheckOptions, ends: Sequence[int]
) -> tuple[PromptAnswers, ...]:
    """Both models' answers to each of ``check.prompts``.

    Args:
        ends: ids that end an answer.
    """
    most, prompts = options.answer_tokens, read_prompts(tokenizer, options, None)
    drafts = [draft(ids, most) for ids in prompts]
    answers = [_Answer(ids, drafted) for ids, drafted in zip(prompts, drafts, strict=True)]
    for _ in range(MOST_PASSES):
        open_ones = [answer for answer in answers if not answer.is_done]
        if not open_ones:
            break
        for answer, logits_TV in zip(open_ones, baseline.logits([each.query for each in open_ones]), strict=True):
            answer.check(logits_TV, ends, most)
        for answer in open_ones:
            if not answer.is_done:
                answer.draft = draft([*answer.prompt, *answer.said], most - len(answer.said))
    return tuple(
        _shown(prompt, answer, [token for token in drafted if token not in ends], tokenizer)
        for prompt, answer, drafted in zip(options.prompts, answers, drafts, strict=True)
    )


def _shown(prompt: str, answer: _Answer, candidate: list[int], tokenizer: Tokenizer) -> PromptAnswers:
    pairs = zip(answer.said, candidate, strict=False)
    differing = next((place for place, (one, other) in enumerate(pairs) if one != other), None)
    same = min(len(answer.said), len(candidate)) if differing is None else differing
    return PromptAnswers(
        prompt=prompt,
        baseline=tokenizer.decode(answer.said),
        candidate=tokenizer.decode(candidate),
        same_tokens=same,
        baseline_tokens=len(answer.said),
        is_whole=answer.is_done,
    )
