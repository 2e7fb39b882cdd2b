"""A checkpoint or artifact directory, opened: everything about it is checked, no weight is read yet."""

import hashlib
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

from torch import Tensor

from glmquant.core.untrusted import file_inside, read_json
from glmquant.errors import CheckpointError
from glmquant.glm.block import Block
from glmquant.glm.classifier import ClassificationHead
from glmquant.glm.config import Family, GlmConfig
from glmquant.glm.layouts.lineage import Traces, Vocabulary
from glmquant.glm.linear import Linear
from glmquant.glm.names import EMBEDDING
from glmquant.glm.tokenizers.files import TOKENIZER_CONFIG, TOKENIZER_MODEL
from glmquant.glm.tokenizers.tokenizer import GlmTokenizer, load_tokenizer
from glmquant.store.canonical import TensorTable
from glmquant.store.diagnosis import refuse_what_is_no_model
from glmquant.store.gptq_config import QUANTIZE_CONFIG, read_gptq_format
from glmquant.store.manifest import MANIFEST, Manifest, read_manifest
from glmquant.store.recognize import ADAPTER_CONFIG, CONFIG, existing_directory, without_config
from glmquant.store.shards import Shards, find_shards
from glmquant.store.tensors import StoredTensor, update_digest
from glmquant.store.weighed import PublishedConfig
from glmquant.store.wrapped_names import unwrapped

log = logging.getLogger("glmquant.store")

Quantization = Literal["gptq", "rows"]
"""``rows``: by the publisher, a scale a row."""

TIKTOKEN_LINE: Final = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")
SENTENCEPIECE: Final = b"\n"
"""The first field of a SentencePiece model, its list of pieces, as protobuf writes it."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A GLM on disk, float or quantized, native or canonical; tensors load on demand and are not kept.

    Every method that reads raises :class:`CheckpointError` for NaN, Inf or a file cut short.

    Attributes:
        path: the directory.
        config: the model's canonical description.
        manifest: ``glmquant.json``, where glmquant wrote the directory.
    """

    path: Path
    config: GlmConfig
    manifest: Manifest | None
    _table: TensorTable
    _shards: Shards

    def __repr__(self) -> str:
        kind = "float" if self.quantization is None else f"quantized ({self.quantization})"
        return f"<Checkpoint {self.path}: {self.config.family}, {self.config.num_hidden_layers} layers, {kind}>"

    @property
    def quantization(self) -> Quantization | None:
        """How the linear layers are quantized; None where they are float."""
        if self._table.gptq is not None:
            return "gptq"
        return "rows" if self._table.has_quantized_rows else None

    @property
    def is_quantized(self) -> bool:
        return self.quantization is not None

    @cached_property
    def tensor_bytes(self) -> int:
        """Bytes of the tensors that the model is made of."""
        return sum(tensor.nbytes for tensor in set(self._table.used()))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the configuration, the index and the weight files; how much of those: :func:`update_digest`."""
        stored: dict[Path, list[StoredTensor]] = {}
        for tensor in self._shards.stored.values():
            stored.setdefault(tensor.path, []).append(tensor)
        configs = [(self.path / name, name) for name in (CONFIG, QUANTIZE_CONFIG) if (self.path / name).exists()]
        digest = hashlib.sha256()
        for path, name in (*configs, *zip(self._shards.files, self._shards.names, strict=True)):
            update_digest(digest, path, stored.get(path, []), name)
        return digest.hexdigest()

    @cached_property
    def tokenizer(self) -> GlmTokenizer:
        """The checkpoint's own tokenizer, built once.

        Raises:
            CheckpointError: a tokenizer file that is missing, damaged, or does not fit the model.
        """
        return load_tokenizer(self.path, self.config)

    def stored(self) -> Iterator[StoredTensor]:
        """Every tensor of the model, as it lies in its file."""
        return iter(dict.fromkeys(self._table.used()))

    def embedding(self) -> Tensor:
        """Token embeddings ``[V, D]`` in their stored dtype."""
        return self._table.embedding()

    def block(self, layer: int) -> Block:
        """A block's weights, float ones in their stored dtype."""
        return self._table.block(layer)

    def final_norm(self) -> Tensor:
        """Gain ``[D]`` of the last norm."""
        return self._table.final_norm()

    def lm_head(self) -> Linear:
        """The head ``[V, D]``; the embedding, where they are tied. A classifier has none."""
        return self._table.lm_head()

    def head(self) -> Linear:
        """The head, whichever the model has, as a linear layer."""
        return self.classification_head().linear if self.config.num_labels else self.lm_head()

    def classification_head(self) -> ClassificationHead:
        """A classifier's head, in its stored dtype; a language model has none."""
        return self._table.classification_head()


def open_checkpoint(directory: str | Path, *, family: Family | None = None) -> Checkpoint:
    """Opens a checkpoint directory: configuration, names, shapes and file bounds are checked; no code of it runs.

    Names that a training framework wrapped are unwrapped, and where a field of ``config.json`` and the tensors disagree
    the tensors are believed; the log (``glmquant.store``) says so.

    Args:
        directory: ``config.json`` with weights beside it, in safetensors or as ``torch.save`` writes them; or the
            ``models--ORG--NAME`` of the hub's cache.
        family: lineage of a native checkpoint whose own files do not tell it.

    Raises:
        CheckpointError: what is wrong with it, naming file and field.
    """
    path = existing_directory(directory)
    config_path = _config_path(path)
    values = read_json(config_path)
    manifest = read_manifest(file_inside(path, MANIFEST, where=path)) if (path / MANIFEST).exists() else None
    config = PublishedConfig(values, config_path, family or (manifest.family if manifest else None), _traces(path))
    embedding = config.layout().sources[EMBEDDING]  # the layout's errors come before those of the weights
    shards = find_shards(path)
    layout, stored = config.weighed(unwrapped(shards.stored, embedding.name), embedding)
    refuse_what_is_no_model(stored, layout, config_path)
    table = TensorTable(layout, stored, read_gptq_format(path, values, stored))
    table.verify()
    _tell_of_adapter(path)
    return Checkpoint(path, layout.config, manifest, table, shards)


def _config_path(directory: Path) -> Path:
    if not os.path.lexists(directory / CONFIG):
        raise without_config(directory)
    return file_inside(directory, CONFIG, where=directory)


def _tell_of_adapter(directory: Path) -> None:
    if (directory / ADAPTER_CONFIG).exists():
        log.warning("%s lies beside the weights; they are read without that adapter", ADAPTER_CONFIG)


def _traces(directory: Path) -> Traces:
    """What the tokenizer's files tell of the lineage; what is wrong with them is for the tokenizer's reader to say."""
    return Traces(_tokenizer_config(directory), _vocabulary(directory))


def _tokenizer_config(directory: Path) -> dict[str, Any]:
    try:
        return read_json(file_inside(directory, TOKENIZER_CONFIG, where=directory))
    except CheckpointError:
        return {}


def _vocabulary(directory: Path) -> Vocabulary | None:
    try:
        with file_inside(directory, TOKENIZER_MODEL, where=directory).open("rb") as file:
            start = file.read(64)
    except (CheckpointError, OSError):
        return None
    if TIKTOKEN_LINE.match(start):
        return "tiktoken"
    return "sentencepiece" if start.startswith(SENTENCEPIECE) else None
