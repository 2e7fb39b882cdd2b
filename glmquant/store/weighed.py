"""Fields of ``config.json`` weighed against the tensors: these are believed, and the log tells where they disagree."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from glmquant.glm.config import Family
from glmquant.glm.layouts.fields import DTYPE_SPELLINGS
from glmquant.glm.layouts.layout import Layout, TensorSource
from glmquant.glm.layouts.lineage import Traces
from glmquant.glm.layouts.resolve import resolve_layout
from glmquant.glm.names import HEAD
from glmquant.store.tensors import CHUNK_BYTES, StoredTensor

log = logging.getLogger("glmquant.store")

TIED: Final = "tie_word_embeddings"
DTYPES: Final = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32"}

Stored = Mapping[str, StoredTensor]

_GPTQ_ONLY: Final = (".qzeros", ".scales", ".g_idx")


@dataclass(frozen=True)
class PublishedConfig:
    """A parsed ``config.json`` and what else tells how to read it."""

    values: dict[str, Any]
    path: Path
    family: Family | None
    traces: Traces

    def layout(self, stored: Stored | None = None, fields: Mapping[str, Any] | None = None) -> Layout:
        """The layout, with ``fields`` in place of the published ones."""
        return resolve_layout(
            {**self.values, **(fields or {})},
            config_path=self.path,
            family=self.family,
            tensor_names=None if stored is None else {_float_name(n) for n in stored if not n.endswith(_GPTQ_ONLY)},
            traces=self.traces,
        )

    def weighed(self, stored: Stored, source: TensorSource) -> tuple[Layout, dict[str, StoredTensor]]:
        """The layout that fits the tensors, and the tensors under the names it uses; ``source`` is the embedding's."""
        fields: dict[str, Any] = {}
        head = self._head_of_its_own(stored)
        if head is not None:
            stored = with_one_embedding(stored, source.name, head)
            found = stored.get(source.name)
            if found is not None and found.shape == source.shape and is_untied(stored, source.name, head):
                fields[TIED] = False
        fields |= dtype_field(self.values, stored.get(source.name))
        return self.layout(stored, fields), dict(stored)

    def _head_of_its_own(self, stored: Stored) -> str | None:
        """What the head of a language model that is said to be tied would be called."""
        if self.values.get(TIED) is not True or HEAD not in self.layout(stored).sources:
            return None
        return self.layout(stored, {TIED: False}).sources[HEAD].name


def _float_name(name: str) -> str:
    """The name a quantized linear's weight had before."""
    return name.removesuffix("qweight") + "weight" if name.endswith(".qweight") else name


def dtype_field(values: Mapping[str, Any], embedding: StoredTensor | None) -> dict[str, str]:
    """The dtype of the embedding, where no field names one; a field that names another is told, and stays."""
    found = None if embedding is None else DTYPES.get(embedding.dtype)
    name = "dtype" if values.get("dtype") is not None else "torch_dtype"
    said = values.get(name)
    if found is None:
        return {}
    if said is None or said == "auto":
        return {name: found}
    if isinstance(said, str) and DTYPE_SPELLINGS.get(said.lower().removeprefix("torch.")) not in (found, None):
        log.warning("%s is %s, and the weights are %s: they are read as they are", name, said, found)
    return {}


def with_one_embedding(stored: Stored, embedding: str, head: str) -> dict[str, StoredTensor]:
    """Of a tied model: the head in the embedding's place where only that was saved, as transformers reads it."""
    if embedding in stored or head not in stored:
        return dict(stored)
    log.warning("%s is not there: %s, which is tied to it, is read in its place", embedding, head)
    return {name: tensor for name, tensor in stored.items() if name != head} | {
        embedding: replace(stored[head], name=embedding)
    }


def is_untied(stored: Stored, embedding: str, head: str) -> bool:
    """Whether a model said to be tied has a head of its own: one that is quantized, or has other values."""
    if head.removesuffix(".weight") + ".qweight" in stored:
        return _told(head)
    if head not in stored or embedding not in stored or _are_equal(stored[head], stored[embedding]):
        return False
    return _told(head)


def _told(head: str) -> bool:
    log.warning("%s is true, and %s differs from the embedding: the head is read, as transformers 5 does", TIED, head)
    return True


def _are_equal(one: StoredTensor, other: StoredTensor) -> bool:
    """Compared some rows at a time, up to the first difference."""
    if one.shape != other.shape or len(one.shape) != 2:
        return False
    if one.path == other.path and one.offset == other.offset and one.dtype == other.dtype:
        return True
    rows, columns = one.shape
    step = max(1, CHUNK_BYTES // max(1, columns * max(one.dtype.itemsize, other.dtype.itemsize)))
    for start in range(0, rows, step):
        part = (start, min(start + step, rows))
        if not torch.equal(one.read(part).float(), other.read(part).float()):
            return False
    return True
