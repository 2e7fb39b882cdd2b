"""Tokenizers for tests: a letter a token, and the publisher's own SentencePiece model."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import sentencepiece

GOLDEN = Path(__file__).parents[1] / "golden"


class Letters:
    """Each character is its code point; with or without a prefix of two."""

    def __init__(self, prefix: tuple[int, ...] = ()) -> None:
        self.prefix_ids = prefix
        self.sha256 = "letters"

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(i) for i in ids)

    def token(self, index: int) -> str | None:
        return chr(index)


class Publisher:
    """The golden ChatGLM2 tokenizer as SentencePiece runs it."""

    prefix_ids = (2044, 2046)

    def __init__(self) -> None:
        path = GOLDEN / "chatglm2-tiny/tokenizer.model"
        self.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        self._model = sentencepiece.SentencePieceProcessor(model_file=str(path))

    def encode(self, text: str) -> list[int]:
        return list(self._model.encode(text))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._model.decode(list(ids)))

    def token(self, index: int) -> str | None:
        return str(self._model.id_to_piece(index))
