"""What the rest of the house needs of a tokenizer."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Turn(Protocol):
    """A turn of a conversation."""

    @property
    def role(self) -> str:
        """``system``, ``user``, ``assistant``, or ``observation`` for a tool's answer."""

    @property
    def content(self) -> str:
        """The text."""

    @property
    def metadata(self) -> str:
        """What follows the role, such as the name of the tool that an assistant calls; mostly empty."""


class Tokenizer(Protocol):
    """Turns text into token ids. Special tokens written in the text are text like any other."""

    @property
    def prefix_ids(self) -> tuple[int, ...]:
        """What every input starts with (``[gMASK] sop`` for ChatGLM2); may be empty."""

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Every id that ends an answer."""

    @property
    def chat_template(self) -> str | None:
        """How a conversation is written; None where there is no template."""

    @property
    def takes_tools(self) -> bool:
        """Whether the template has a place for descriptions of tools."""

    @property
    def sha256(self) -> str:
        """Identifies the tokenizer: equal digests, equal ids."""

    def encode(self, text: str) -> list[int]:
        """The ids of ``text``, without the prefix."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text that ``ids`` stand for."""

    def token(self, index: int) -> str | None:
        """How the vocabulary spells one id; None where it has none."""

    def apply_chat_template(
        self,
        messages: Sequence[Turn],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> list[int]:
        """The ids of a conversation, prefix included; with ``add_generation_prompt`` they end where the assistant's
        turn begins.

        Args:
            tools: descriptions, as OpenAI's API has them.

        Raises CheckpointError where there is no template, or it refuses the messages.
        """
