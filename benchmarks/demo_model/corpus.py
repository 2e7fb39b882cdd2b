"""The text of the demonstration model: reading, splitting, and its SentencePiece tokenizer."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import sentencepiece as spm

EN_HELD_OUT = 0.18
ZH_HELD_OUT = 0.30
NUM_PIECES = 5400
SPECIAL_TOKENS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
POSITIVE, NEGATIVE = "正面", "负面"
SHIPPED_REVIEWS = 500
CALIBRATION_BYTES = 200_000
REVIEW_CHARACTERS = range(4, 401)


@dataclass(frozen=True)
class Review:
    text: str
    label: str

    @property
    def prompt(self) -> str:
        """What the model reads before it names the label: the form of training and of evaluation."""
        return f"评价：{self.text}\n情感："


@dataclass(frozen=True)
class Handbook:
    """One language of the handbook, cut at a paragraph: `held_out` follows `train` in the book."""

    train: str
    held_out: str


@dataclass(frozen=True)
class Reviews:
    train: list[Review]
    validation: list[Review]
    test: list[Review]

    def shipped(self) -> list[Review]:
        """A balanced sample of the test part; the part is already in random order."""
        half = SHIPPED_REVIEWS // 2
        sides = [[r for r in self.test if r.label == label][:half] for label in (POSITIVE, NEGATIVE)]
        return [review for pair in zip(*sides, strict=True) for review in pair]


@dataclass(frozen=True)
class Corpus:
    en: Handbook
    zh: Handbook
    reviews: Reviews


def read_handbook(path: Path, held_out: float) -> Handbook:
    """Cut the file after the paragraph that crosses `1 - held_out` of its characters."""
    text = path.read_text(encoding="utf-8")
    cut = text.index("\n", int(len(text) * (1 - held_out))) + 1
    return Handbook(text[:cut], text[cut:])


def read_reviews(directory: Path, seed: int) -> Reviews:
    """Split 80/10/10. A text that occurs twice is kept once, one with both labels not at all."""
    labels: dict[str, set[str]] = {}
    for name, label in (("pos.txt", POSITIVE), ("neg.txt", NEGATIVE)):
        for line in (directory / name).read_text(encoding="utf-8").split("\n"):
            text = " ".join(line.split())
            if len(text) in REVIEW_CHARACTERS:
                labels.setdefault(text, set()).add(label)
    reviews = [Review(text, *found) for text, found in sorted(labels.items()) if len(found) == 1]
    random.Random(seed).shuffle(reviews)
    tenth = len(reviews) // 10
    return Reviews(reviews[2 * tenth :], reviews[tenth : 2 * tenth], reviews[:tenth])


def read_corpus(handbook_dir: Path, reviews_dir: Path, seed: int) -> Corpus:
    return Corpus(
        en=read_handbook(handbook_dir / "handbook-en.txt", EN_HELD_OUT),
        zh=read_handbook(handbook_dir / "handbook-zh.txt", ZH_HELD_OUT),
        reviews=read_reviews(reviews_dir, seed),
    )


def tokenizer_sentences(corpus: Corpus) -> Iterator[str]:
    """Training text alone; the handbook three times, so that the reviews do not crowd it out."""
    for _ in range(3):
        yield from corpus.en.train.splitlines()
        yield from corpus.zh.train.splitlines()
    for review in corpus.reviews.train:
        yield review.text
        yield f"情感：{review.label}"


def train_tokenizer(corpus: Corpus) -> bytes:
    """A `tokenizer.model` with the publisher's settings: BPE, bytes for the rest, nothing normalized."""
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=tokenizer_sentences(corpus),
        model_writer=model,
        model_type="bpe",
        vocab_size=NUM_PIECES,
        character_coverage=0.995,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        pad_id=-1,
        max_sentence_length=65536,
        num_threads=2,
        minloglevel=1,
    )
    return model.getvalue()


class Tokenizer:
    """SentencePiece ids plus the publisher's special ids, which follow the pieces."""

    eos = 2

    def __init__(self, model: bytes) -> None:
        self.model = model
        self._pieces = spm.SentencePieceProcessor(model_proto=model)
        first = self._pieces.vocab_size()
        self.special = {name: first + i for i, name in enumerate(SPECIAL_TOKENS)}
        self.prefix = [self.special["[gMASK]"], self.special["sop"]]
        self.num_words = first + len(SPECIAL_TOKENS)
        # The dummy space that begins a text must not come between a prompt and its label.
        stem = self.encode("情感：")
        self.label_ids = {label: self._continuation(stem, label) for label in (POSITIVE, NEGATIVE)}

    def encode(self, text: str) -> list[int]:
        """Ids without the prefix."""
        ids: list[int] = self._pieces.encode(text)
        return ids

    def _continuation(self, stem: list[int], label: str) -> int:
        ids = self.encode(f"情感：{label}")
        if ids[:-1] != stem:
            raise ValueError(f"{label} is not one token after 情感：, but {ids[len(stem) :]}")
        return ids[-1]


def calibration_text(corpus: Corpus) -> str:
    """The first part of both languages, half the bytes each, in blocks of ten paragraphs that alternate."""
    blocks = []
    for handbook in (corpus.en, corpus.zh):
        size, kept = 0, []
        for line in handbook.train.splitlines(keepends=True):
            size += len(line.encode())
            if size > CALIBRATION_BYTES // 2:
                break
            kept.append(line)
        blocks.append(["".join(kept[i : i + 10]) for i in range(0, len(kept), 10)])
    longest = max(map(len, blocks))
    return "".join(side[i] for i in range(longest) for side in blocks if i < len(side))


def write_samples(corpus: Corpus, directory: Path) -> None:
    """The text files that lie beside the model."""
    samples = {
        "calibration.txt": calibration_text(corpus),
        "held-out-en.txt": corpus.en.held_out,
        "held-out-zh.txt": corpus.zh.held_out,
        "reviews.jsonl": "".join(
            json.dumps({"text": r.text, "label": r.label}, ensure_ascii=False) + "\n" for r in corpus.reviews.shipped()
        ),
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in samples.items():
        (directory / name).write_text(text, encoding="utf-8", newline="\n")
