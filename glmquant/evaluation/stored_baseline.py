"""What the float side of a check said, as a file: for checks where the float checkpoint is not at hand.

A safetensors file with

    rows      float32 [N, D]  hidden states of all queries: before the final norm, or of a classifier what is pooled
    norm      [D]             gain of the final norm
    head      [V, D]          the head as stored; float32 where it was quantized
    head_bias [V]             where there is one
    experts   int16 [L, M, k] experts that tokens met, in ascending order, of a language model that has routed ones

and the rest in its metadata: configuration, tokenizer, fingerprint, a digest of the queries, and a hash of the file.
With the head, logits are the very same as the checkpoint's; hidden states take much less than logits.

Shape suffixes: N rows of all queries, D hidden size, V vocabulary or labels, L layers with routed experts, M tokens of
the queries whose routing is measured, k experts of a token.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from glmquant.core.files import why_not_writable, write_atomically
from glmquant.core.untrusted import parse_json
from glmquant.errors import CheckError, CheckpointError, OutputError, Parameter
from glmquant.evaluation.baseline_cache import Answers, AnswerStore, unpacked_answers
from glmquant.evaluation.source import Query, digest_of
from glmquant.glm.block import Block
from glmquant.glm.config import GlmConfig
from glmquant.glm.hf_config import to_hf_config
from glmquant.glm.layouts.hf_config import parse_bundle_config
from glmquant.glm.linear import Linear
from glmquant.store.checkpoint import Checkpoint
from glmquant.store.recognize import CONFIG
from glmquant.store.safetensors_file import read_metadata, read_safetensors
from glmquant.store.sealed_tensors import require_seal, write_sealed
from glmquant.store.tensors import StoredTensor

FORMAT: Final = "2"
ABOUT: Final = "glmquant.baseline"
TENSORS: Final = frozenset(("rows", "norm", "head", "head_bias", "experts"))
AGAIN: Final = "make it again: check with the float checkpoint and `save_baseline`"


@dataclass(frozen=True)
class Description:
    """What a stored baseline is of.

    Attributes:
        name, tensor_bytes, fingerprint: the checkpoint's.
        config: in transformers' form.
        vocabulary: the tokenizer's :attr:`~glmquant.glm.tokenizers.tokenizer.GlmTokenizer.vocabulary_sha256`.
        queries: digest of the sequences that it answers.
    """

    name: str
    tensor_bytes: int
    fingerprint: str
    config: dict[str, Any]
    vocabulary: str
    queries: str


@dataclass(frozen=True, eq=False)
class StoredBaseline:
    """A stored baseline, opened; it stands for its checkpoint wherever only those queries are asked."""

    path: Path
    description: Description
    config: GlmConfig
    _tensors: dict[str, StoredTensor]

    @property
    def name(self) -> str:
        return self.description.name

    @property
    def tensor_bytes(self) -> int:
        return self.description.tensor_bytes

    @property
    def fingerprint(self) -> str:
        return self.description.fingerprint

    def final_norm(self) -> Tensor:
        return self._tensors["norm"].read()

    def head(self) -> Linear:
        bias = self._tensors.get("head_bias")
        return Linear(self._tensors["head"].read(), None if bias is None else bias.read())

    def embedding(self) -> Tensor:
        raise self._has_no_weights()

    def block(self, layer: int) -> Block:
        raise self._has_no_weights()

    def read(self, queries: Sequence[Query]) -> Answers:
        """What was said of the queries.

        Raises:
            CheckError: it answers other queries, or is damaged.
        """
        if digest_of(queries) != self.description.queries:
            raise CheckError(
                "the stored baseline answers other texts or tasks than these",
                where=Parameter("baseline", str(self.path)),
                expected="the texts, tasks, check.num_tokens and check.seq_len that it was made with",
                hint=f"give those, or {AGAIN}",
            )
        experts = self._tensors.get("experts")
        try:
            packed = None if experts is None else experts.read()
            return unpacked_answers(self._tensors["rows"].read(), packed, queries, self.config)
        except ValueError as error:
            raise CheckError(f"the stored baseline is damaged: {error}", where=self.path, hint=AGAIN) from error

    def write(self, queries: Sequence[Query], answers: Answers) -> None:
        """Nothing: all that it answers is stored."""

    def _has_no_weights(self) -> CheckError:
        return CheckError("a stored baseline holds no blocks", where=self.path, hint=AGAIN)


def open_stored_baseline(path: Path) -> StoredBaseline:
    """Opens what a :class:`BaselineWriter` wrote; everything about it is checked, its hash included.

    Raises:
        CheckError: a file that is none, is damaged, or does not fit its own configuration.
    """
    if (path.parent / CONFIG).is_file() and path.suffix in (".json", ".bin", ".model"):
        raise CheckError("a checkpoint is a directory, this is a file", where=path, hint=f"give {path.parent}")
    try:
        tensors, metadata = read_safetensors(path), read_metadata(path)
        about = metadata.get(ABOUT)
        if not isinstance(about, str):
            raise CheckError(
                "the file is no stored baseline",
                where=path,
                expected="a float checkpoint's directory, or a file that `check` wrote with `save_baseline`",
            )
        description = _description(parse_json(about.encode(), path), path)
        config = parse_bundle_config(description.config, path)
        require_seal(path)
    except CheckpointError as error:
        raise CheckError(
            f"no stored baseline, or a damaged one: {error.what}", where=error.where, hint=AGAIN
        ) from error
    _require_fitting(tensors, config, path)
    return StoredBaseline(path, description, config, tensors)


def require_writable_baseline(path: Path) -> None:
    """Raises OutputError where a stored baseline cannot be written, or would take the place of another file."""
    if not path.parent.is_dir():
        raise OutputError("there is no such directory", where=path.parent, hint="make it, or choose another file")
    if why := why_not_writable(path.parent):
        raise OutputError(f"cannot write the baseline: {why}", where=path, hint="choose another file")
    if not path.exists():
        return
    try:
        open_stored_baseline(path)
    except (CheckError, OSError) as error:
        raise OutputError(
            "a file is in the way that is no stored baseline", where=path, hint="choose another file"
        ) from error


def _description(values: dict[str, Any], path: Path) -> Description:
    known = {"format": str, "name": str, "tensor_bytes": int, "fingerprint": str}
    known |= {"config": dict, "vocabulary": str, "queries": str}
    if values.get("format") != FORMAT:
        raise CheckError(f"a stored baseline of format {values.get('format')!r:.40}", where=path, hint=AGAIN)
    if values.keys() != known.keys() or not all(isinstance(values[name], kind) for name, kind in known.items()):
        raise CheckError("the stored baseline's description is damaged", where=f"{path}, {ABOUT}", hint=AGAIN)
    return Description(**{name: value for name, value in values.items() if name != "format"})


def _require_fitting(tensors: Mapping[str, StoredTensor], config: GlmConfig, path: Path) -> None:
    hidden, outputs = config.hidden_size, config.num_labels or config.vocab_size
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    rows = shapes.get("rows", ())
    fits = len(rows) == 2 and rows[1] == hidden and tensors["rows"].dtype == torch.float32
    fits = fits and shapes.get("norm") == (hidden,) and shapes.get("head") == (outputs, hidden)
    fits = fits and shapes.get("head_bias", (outputs,)) == (outputs,)
    if not fits or not shapes.keys() <= TENSORS:
        raise CheckError("the stored baseline's tensors do not fit its configuration", where=path, hint=AGAIN)


@dataclass(frozen=True)
class BaselineWriter:
    """Takes the place of a cache: writes what the float side said about the queries it is asked.

    Attributes:
        beneath: a cache that is asked first, and told.
    """

    path: Path
    checkpoint: Checkpoint
    beneath: AnswerStore | None = None

    def read(self, queries: Sequence[Query]) -> Answers | None:
        answers = None if self.beneath is None else self.beneath.read(queries)
        if answers is not None:
            self._save(queries, answers)
        return answers

    def write(self, queries: Sequence[Query], answers: Answers) -> None:
        if self.beneath is not None:
            self.beneath.write(queries, answers)
        self._save(queries, answers)

    def _save(self, queries: Sequence[Query], answers: Answers) -> None:
        head = self.checkpoint.head()
        weight = head.weight if isinstance(head.weight, Tensor) else head.dense()
        tensors = {"rows": torch.cat(list(answers.rows)), "norm": self.checkpoint.final_norm(), "head": weight}
        if head.bias_N is not None:
            tensors["head_bias"] = head.bias_N
        if answers.routes is not None:
            tensors["experts"] = answers.routes.packed()
        try:
            with write_atomically(self.path) as unfinished:
                write_sealed(unfinished, tensors, {ABOUT: json.dumps({"format": FORMAT, **self._about(queries)})})
        except OSError as error:
            raise OutputError(
                f"cannot write the baseline: {error.strerror}", where=self.path, hint="choose another file"
            ) from error

    def _about(self, queries: Sequence[Query]) -> dict[str, Any]:
        checkpoint = self.checkpoint
        return {
            "name": checkpoint.name,
            "tensor_bytes": checkpoint.tensor_bytes,
            "fingerprint": checkpoint.fingerprint,
            "config": to_hf_config(checkpoint.config),
            "vocabulary": checkpoint.tokenizer.vocabulary_sha256,
            "queries": digest_of(queries),
        }
