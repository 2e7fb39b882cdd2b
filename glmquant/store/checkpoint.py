"""A checkpoint or artifact directory, opened: everything about it is checked, no weight is read yet."""

import hashlib
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

from torch import Tensor

from glmquant.core.origin import Origin
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
from glmquant.store.adapted import AdaptedTable, adapted
from glmquant.store.adapter import Adapter
from glmquant.store.adapter_notes import adapter_notes
from glmquant.store.canonical import TensorTable
from glmquant.store.diagnosis import refuse_what_is_no_model
from glmquant.store.gptq_config import QUANTIZE_CONFIG, read_gptq_format
from glmquant.store.manifest import MANIFEST, Manifest, named_with, read_manifest
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

UNTIED: Final = "embedding and head, which the model ties, are trained apart by the adapter: the merged model has both"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A GLM on disk, float or quantized, native or canonical; tensors load on demand and are not kept.

    Every method that reads raises :class:`CheckpointError` for NaN, Inf or a file cut short.

    Attributes:
        path: the directory.
        config: the model's canonical description.
        manifest: ``glmquant.json``, where glmquant wrote the directory.
        adapter: the LoRA adapter that is merged into what is read; None where there is none.
        adapter_notes: what about it is worth a look.
        origin: the repository it was published in, where that is known.
    """

    path: Path
    config: GlmConfig
    manifest: Manifest | None
    origin: Origin | None
    _table: TensorTable
    _shards: Shards
    adapter: Adapter | None = None
    adapter_notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        kind = "float" if self.quantization is None else f"quantized ({self.quantization})"
        path = named_with(str(self.path), None if self.adapter is None else self.adapter.name)
        return f"<Checkpoint {path}: {self.config.family}, {self.config.num_hidden_layers} layers, {kind}>"

    @property
    def source_name(self) -> str:
        """The repository's name, or the directory's, without the path to it; what is no UTF-8 in that is U+FFFD."""
        return self.origin.name if self.origin else os.fsencode(self.path.name).decode("utf-8", "replace")

    @property
    def name(self) -> str:
        """As :attr:`source_name`, with the adapter's."""
        return named_with(self.source_name, None if self.adapter is None else self.adapter.name)

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
        """sha256 over the configuration, the index and the weight files; how much of those: :func:`update_digest`. And
        over the adapter, where there is one."""
        stored: dict[Path, list[StoredTensor]] = {}
        for tensor in self._shards.stored.values():
            stored.setdefault(tensor.path, []).append(tensor)
        configs = [(self.path / name, name) for name in (CONFIG, QUANTIZE_CONFIG) if (self.path / name).exists()]
        digest = hashlib.sha256()
        for path, name in (*configs, *zip(self._shards.files, self._shards.names, strict=True)):
            update_digest(digest, path, stored.get(path, []), name)
        if self.adapter is not None:
            digest.update(self.adapter.fingerprint.encode())
        return digest.hexdigest()

    @cached_property
    def tokenizer(self) -> GlmTokenizer:
        """The checkpoint's own tokenizer, built once.

        Raises:
            CheckpointError: a tokenizer file that is missing, damaged, or does not fit the model.
        """
        return load_tokenizer(self.path, self.config)

    @property
    def adapted_tensors(self) -> tuple[str, ...]:
        """Canonical tensors that the adapter changes."""
        return tuple(self._table.changes) if isinstance(self._table, AdaptedTable) else ()

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


def open_checkpoint(directory: str | Path, *, family: Family | None = None, origin: Origin | None = None) -> Checkpoint:
    """Opens a checkpoint directory: configuration, names, shapes and file bounds are checked; no code of it runs.

    Names that a training framework wrapped are unwrapped, and where a field of ``config.json`` and the tensors disagree
    the tensors are believed; the log (``glmquant.store``) says so.

    Args:
        directory: ``config.json`` with weights beside it, in safetensors or as ``torch.save`` writes them; or the
            ``models--ORG--NAME`` of the hub's cache.
        family: lineage of a native checkpoint whose own files do not tell it.
        origin: the repository that the directory is a copy of.

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
    return Checkpoint(path, layout.config, manifest, origin, table, shards)


def with_adapter(checkpoint: Checkpoint, adapter: Adapter) -> Checkpoint:
    """The checkpoint with a LoRA adapter merged into each tensor as it is read; nothing is written.

    Raises:
        CheckpointError: a quantized checkpoint, one with an adapter already, or an adapter of another model.
    """
    if checkpoint.is_quantized or checkpoint.adapter is not None:
        raise CheckpointError(
            f"the checkpoint {'is quantized' if checkpoint.is_quantized else 'has an adapter'} already",
            where=checkpoint.path,
            expected="a float checkpoint, to merge an adapter into",
            hint="give the float model that the adapter was trained on, and quantize with the `adapter`",
        )
    values = read_json(_config_path(checkpoint.path))
    table = adapted(checkpoint._table, adapter, values)
    config = table.layout.config
    notes = adapter_notes(adapter, checkpoint.path, values)
    if config.tie_word_embeddings != checkpoint.config.tie_word_embeddings:
        notes = (*notes, UNTIED)
    for note in notes:
        log.info("%s", note)
    return replace(checkpoint, config=config, _table=table, adapter=adapter, adapter_notes=notes)


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
